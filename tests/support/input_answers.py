"""The inputs of docs/inputs.md that have questions with answers, conversations or pairs."""

import json
from pathlib import Path

from support.corpora import ONE_PROCESS, build, say
from support.inputs import (
    CAPTIONS,
    IMAGE,
    PICTURES,
    TEXT,
    Sample,
    captioned,
    dataset,
    datasets,
    held,
    makes,
    write_pictures,
    write_shards,
)

QUESTION, ANSWER = "What is printed below the square?", "There is a word in dark letters."


@makes("Questions with answers on the Hub")
def hub_answers(here: Path) -> list[Sample]:
    (here / "vqa").mkdir()
    features = {"image": IMAGE, "question": TEXT, "answer": TEXT}
    data = dataset(features, image=held(0, 1, 2), question=[QUESTION] * 3, answer=[ANSWER, "Nothing.", ""])
    data.to_parquet(here / "vqa/validation.parquet")
    return [((QUESTION, ANSWER), [PICTURES[0]]), ((QUESTION, "Nothing."), [PICTURES[1]])]


@makes("Questions with choices")
def scienceqa(here: Path) -> list[Sample]:
    (here / "scienceqa").mkdir()
    choices = [["Maine", "Ohio"], ["yes", "no"], ["a", "b", "c"], ["red", "blue"]]
    features = {"image": IMAGE, "question": TEXT, "choices": datasets.List(TEXT), "answer": datasets.Value("int64")}
    dataset(
        features | {"hint": TEXT}, image=[*held(0, 1, 2), None], question=CAPTIONS[:4], choices=choices,
        answer=[1, 0, 2, 0], hint=["", "x", "", ""],
    ).to_parquet(here / "scienceqa/test-00000-of-00001.parquet")  # fmt: skip
    said = ["Ohio", "yes", "c"]
    return [((CAPTIONS[number], said[number]), [PICTURES[number]]) for number in range(3)]


@makes("Conversations on the Hub")
def hub_conversations(here: Path) -> list[Sample]:
    (here / "llava").mkdir()
    turn = [{"role": TEXT, "content": TEXT}]
    asked = [{"role": "user", "content": f"<image>\n{QUESTION}"}, {"role": "assistant", "content": ANSWER}]
    images = [held(0), held(1, 2), []]
    two = [{"role": "user", "content": f"<image>\n<image>\n{QUESTION}"}, asked[1]]
    data = dataset({"images": datasets.Sequence(IMAGE), "messages": turn}, images=images, messages=[asked, two, asked])
    data.to_parquet(here / "llava/train.parquet")
    return [
        ((f"<image>\n{QUESTION}", ANSWER), [PICTURES[0]]),
        ((f"<image_00>\n<image_01>\n{QUESTION}", ANSWER), PICTURES[1:3]),
    ]


# Conversations in JSON


def talk(*said: str, form: str = "openai") -> list[dict]:
    """Turns of the user and the assistant by turns."""
    roles, names = {
        "openai": (("user", "assistant"), ("role", "content")),
        "llava": (("human", "gpt"), ("from", "value")),
    }[form]
    return [{names[0]: roles[at % 2], names[1]: text} for at, text in enumerate(said)]


@makes("LLaVA's JSON")
def llava(here: Path) -> list[Sample]:
    write_pictures(here / "images/coco/train2017", 0, 1)
    said = [(f"<image>\n{QUESTION}", ANSWER), (f"{QUESTION}\n<image>", ANSWER, "Are you sure?", "Yes, I am.")]
    entries = [
        {"id": f"{n}", "image": f"coco/train2017/{n}.png", "conversations": talk(*turns, form="llava")}
        for n, turns in enumerate(said)
    ]
    entries += [
        {"id": "text", "model": "", "conversations": talk("What is two and two?", "Four.", form="llava")},
        {"id": "blind", "conversations": talk(*said[0], form="llava")},
    ]
    (here / "llava_v1_5_mix665k.json").write_text(json.dumps(entries))
    return [*((turns, [PICTURES[n]]) for n, turns in enumerate(said)), (("What is two and two?", "Four."), [])]


@makes("ShareGPT's JSON")
def sharegpt(here: Path) -> list[Sample]:
    write_pictures(here / "images", 0, 1, 2)
    entries = [
        {"messages": talk(f"<image>{QUESTION}", ANSWER), "images": ["0.png"]},
        {"messages": talk(f"<image><image>{QUESTION}", ANSWER), "images": ["1.png", "2.png"]},
    ]
    (here / "sharegpt.json").write_text(json.dumps(entries))
    return [
        ((f"<image>{QUESTION}", ANSWER), [PICTURES[0]]),
        ((f"<image_00><image_01>{QUESTION}", ANSWER), PICTURES[1:3]),
    ]


@makes("MiniCPM-V's JSON")
def minicpm(here: Path) -> list[Sample]:
    write_pictures(here / "images", 0, 1, 2)
    said = [(f"<image>\n{QUESTION}", ANSWER), ("Compare <image_00> with <image_01>.", "Both show a square.")]
    entries = [
        {"id": "0", "image": "0.png", "conversations": talk(*said[0])},
        {"id": "1", "image": {"<image_00>": "1.png", "<image_01>": "2.png"}, "conversations": talk(*said[1])},
        {"id": "2", "conversations": talk("What is two and two?", "Four.")},
    ]
    (here / "train.json").write_text(json.dumps(entries))
    return [(said[0], [PICTURES[0]]), (said[1], PICTURES[1:3]), (("What is two and two?", "Four."), [])]


@makes("VQA v2")
def vqa(here: Path) -> list[Sample]:
    (here / "vqa").mkdir()
    write_pictures(here / "val2014", 0, 1)
    for number in range(2):
        (here / f"val2014/{number}.png").rename(here / f"val2014/COCO_val2014_{number:012d}.jpg")
    asked = [(0, "Is it red?", "yes"), (0, "How many squares are there?", "1"), (1, "What is below?", "words")]
    head = {"info": {}, "data_type": "mscoco", "data_subtype": "val2014", "license": {}}
    questions = [
        {"image_id": n, "question": text, "question_id": n * 1000 + at} for at, (n, text, _) in enumerate(asked)
    ]
    annotations = [
        {
            "question_type": "is it", "answer_type": "other", "multiple_choice_answer": answer, "image_id": n,
            "question_id": n * 1000 + at,
            "answers": [{"answer": answer, "answer_confidence": "yes", "answer_id": one} for one in range(1, 11)],
        }
        for at, (n, _, answer) in enumerate(asked)
    ]  # fmt: skip
    name = "task_type", "Open-Ended"
    (here / "vqa/v2_OpenEnded_mscoco_val2014_questions.json").write_text(
        json.dumps(head | dict([name]) | {"questions": questions})
    )
    (here / "vqa/v2_mscoco_val2014_annotations.json").write_text(json.dumps(head | {"annotations": annotations}))
    return [((text, answer), [PICTURES[n]]) for n, text, answer in asked]


# Pairs


@makes("RLAIF-V-Dataset")
def rlaif_v(here: Path) -> list[Sample]:
    (here / "RLAIF-V-Dataset").mkdir()
    said = [(f"What is in picture {n}?", f"A square, number {n}.", f"A cat, number {n}.") for n in range(3)]
    columns = {
        "ds_name": ["RLAIF-V"] * 3, "image": held(0, 1, 2), "question": [pair[0] for pair in said],
        "chosen": [pair[1] for pair in said], "rejected": [pair[2] for pair in said],
        "origin_dataset": ["LCS-558K"] * 3, "origin_split": ['{"model": "m"}'] * 3,
        "idx": [str(n) for n in range(3)], "image_path": [f"{n}.jpg" for n in range(3)],
    }  # fmt: skip
    data = dataset({name: IMAGE if name == "image" else TEXT for name in columns}, **columns)
    data.to_parquet(here / "RLAIF-V-Dataset/RLAIF-V-Dataset_000.parquet")
    return [(pair, [PICTURES[n]]) for n, pair in enumerate(said)]


@makes("TRL's preference pairs")
def trl(here: Path) -> list[Sample]:
    (here / "trl").mkdir()
    said = [(f"What is in picture {n}?", f"A square, number {n}.", f"A cat, number {n}.") for n in range(2)]
    turn = [{"role": TEXT, "content": TEXT}]
    columns = {
        "images": [held(0), held(1)],
        "prompt": [talk(pair[0]) for pair in said],
        "chosen": [[{"role": "assistant", "content": pair[1]}] for pair in said],
        "rejected": [[{"role": "assistant", "content": pair[2]}] for pair in said],
    }
    features = {"images": datasets.Sequence(IMAGE), "prompt": turn, "chosen": turn, "rejected": turn}
    dataset(features, **columns).to_parquet(here / "trl/train.parquet")
    return [(pair, [PICTURES[n]]) for n, pair in enumerate(said)]


# Together


@makes("An export of Shardmill")
def export(here: Path) -> list[Sample]:
    write_pictures(here / "photos", 0, 1, 2, beside="txt")
    (here / "first.toml").write_text(
        f'root = "first"\n[source]\nkind = "folder"\npath = "photos"\n[sets.train]\n{ONE_PROCESS}'
    )
    build(here / "first.toml")
    said = say("export-set", here / "first", "train", here / "exported", "--form", "huggingface")
    assert said.code == 0, said.err
    return captioned(0, 1, 2)


@makes("Several sources at once")
def several_sources(here: Path) -> list[Sample]:
    write_pictures(here / "photos", 0, 1, 2, beside="txt")
    write_shards(here / "shards", 3, 4, 5, 6)
    return captioned(*range(7))
