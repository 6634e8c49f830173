"""The ways to split words that llama.cpp knows: it reads a tokenizer only if it has one of them."""

import json

from schemas.errors import UserError
from training.tokenizer import Tokenizer

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA_3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS = {  # regex that splits words, whether words of the vocabulary are kept whole -> llama.cpp's name
    (None, False): "gpt-2",
    (LLAMA_3, True): "llama-bpe",
    (LLAMA_3.replace("{1,3}", ""), False): "qwen2",
}

UNKNOWN_TO_LLAMA = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")  # of a BPE


def pre_tokenizer(tokenizer: Tokenizer) -> str:
    """llama.cpp's name for this tokenizer's way to split words.

    Raises `UserError`, naming the part of tokenizer.json, if llama.cpp would read texts otherwise.
    """
    read = json.loads(tokenizer.json)
    model, pre = read["model"], read["pre_tokenizer"] or {}
    steps = pre["pretokenizers"] if pre.get("type") == "Sequence" else [pre]
    *splits, last = steps
    regex = splits[0]["pattern"].get("Regex") if len(splits) == 1 and splits[0]["type"] == "Split" else None
    byte_level = last.get("type") == "ByteLevel" and not last["add_prefix_space"]
    known = PRE_TOKENIZERS.get((regex, bool(model.get("ignore_merges"))))
    whole = len(splits) <= 1 and last.get("use_regex", True) == (not splits)
    other = None
    if model["type"] != "BPE":
        other = f"model.type {model['type']}"
    elif extra := [key for key in UNKNOWN_TO_LLAMA if model.get(key)]:
        other = f"model.{extra[0]} {model[extra[0]]!r}"
    elif read["normalizer"]:
        other = f"normalizer {read['normalizer'].get('type')}"
    elif not (byte_level and whole and known):
        other = f"pre_tokenizer {', '.join(str(step.get('type')) for step in steps)}"
        other += " with model.ignore_merges" if model.get("ignore_merges") else ""
    if other or not known:
        raise UserError(f"{tokenizer.path}: llama.cpp cannot read its {other}; train with a byte-level BPE as GPT-2's, "
                        "Llama 3's or Qwen 2's, without a normalizer and without dropout")  # fmt: skip
    return known
