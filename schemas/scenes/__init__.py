"""The world of generated scenes: what is drawn, how it is spoken of, and what is true of it."""
