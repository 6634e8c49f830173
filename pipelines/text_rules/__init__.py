"""Texts judged and taken apart by plain rules, no model asked: weak captions, and the claims of English sentences."""
