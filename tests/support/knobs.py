"""Configurations as plain data, and random changes of them."""

import json
import random
from copy import deepcopy


def toml(table: dict, path: str = "") -> str:
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in table.items() if not isinstance(value, dict)]
    inner = {f"{path}.{name}".strip("."): value for name, value in table.items() if isinstance(value, dict)}
    return "".join(lines) + "".join(f"[{name}]\n{toml(value, name)}" for name, value in inner.items())


KNOBS = {
    "images": {"min_side": (10, 50, 200), "max_bytes": (50_000_000, 2_000, 1_500), "max_aspect_ratio": (20, 2)},
    "ocr": {"good_confidence": (0.9, 0.99, 0.5), "min_confidence": (0.5, 0.97), "good_length": (3, 5)},
    "duplicates": {
        "near": (3, -1, 0, 8),
        "compare": ("hashes", "pixels"),
        "exclude": ((), ("keep-out",), ("keep-out.txt",)),
    },
    "captions": {"rewrite": ("weak", "all"), "temperature": (0.0, 0.5), "min_words": (4, 6), "image": (False, True)},
    "responses": {"draws": (2, 3), "temperature": (0.7, 0.5)},
    "instructions": {"questions": (("What is it?",), ("What is it?", "What is written there?")), "per_image": (1, 2)},
    "pairs": {"per_instruction": (2, 0), "min_margin": (1, 2), "length_balance": (True, False)},
}
CONDITIONS = ("true", "width >= 200", "text LIKE '%e%'", "extra.n::INTEGER % 2 = 0", "alt_text IS NOT NULL")
OF_A_SET = {"weight": (1.0, 0.5), "seed": (0, 1), "samples_per_shard": (3, 5, 1000)}


def set_anew(config: dict, draws: random.Random, name: str = "") -> None:
    """Changes a setting, or adds or removes a shard set."""
    tables = [name for name in KNOBS if name in config]
    what = draws.choice([*tables, *(["stages"] if "stages" in config else []), "sets", "sets", "set"])
    if what == "stages":
        config["stages"]["short"]["callable"] = draws.choice(("mine.py:short", "mine.py:shorter"))
        return
    if what in KNOBS:
        knob = draws.choice([*KNOBS[what]])
        config[what][knob] = draws.choice(KNOBS[what][knob])
        hashed = config[what].get("exclude") == ("keep-out.txt",) or config[what].get("compare") == "pixels"
        if config[what].get("near") == -1 and hashed:
            config[what]["near"] = 3  # both need perceptual hashes
    elif what == "set" and config["sets"]:
        one = config["sets"][draws.choice([*config["sets"]])]
        knob = draws.choice(["where", *OF_A_SET])
        if one.get("task") == "preference":
            one[knob] = draws.choice(("true", "margin >= 2") if knob == "where" else OF_A_SET[knob])
        else:
            one[knob] = draws.choice(CONDITIONS if knob == "where" else OF_A_SET[knob])
    else:
        name = name or draws.choice(("train", "other", "more"))
        if name in config["sets"] and len(config["sets"]) > 1:
            del config["sets"][name]
        else:
            tasks = ["caption", *(["ocr", "reconstruct"] * ("ocr" in config))]
            tasks += ["preference"] * ("responses" in config)
            tasks += ["conversation"] * (config["source"]["kind"] == "conversations")
            config["sets"][name] = {"task": draws.choice(tasks), "samples_per_shard": draws.choice((3, 5))}


def switch(config: dict, draws: random.Random, optional: dict[str, dict]) -> None:
    """Adds a stage, or takes one out with the sets that need it."""
    name = draws.choice([*optional])
    if name not in config:
        config[name] = deepcopy(optional[name])
        return
    del config[name]
    needs = {"ocr": ("ocr", "reconstruct"), "responses": ("preference",)}.get(name, ())
    config["sets"] = {n: one for n, one in config["sets"].items() if one.get("task", "caption") not in needs}
    config["sets"] = config["sets"] or {"train": {"samples_per_shard": 3}}
