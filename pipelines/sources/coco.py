"""JSON of COCO: captions of images, and VQA's questions with their answers in a second file."""

from collections.abc import Iterator
from typing import Any

from schemas.errors import UserError

Record = dict[str, Any]


def listed(value: Any, file: str) -> Iterator[Record]:
    """The records in a JSON file: those of a list, or an image of COCO each, with a list of its captions.

    Raises `UserError`.
    """
    if isinstance(value, list):
        yield from (record if isinstance(record, dict) else {"json": record} for record in value)
        return
    if not is_coco(value):
        raise UserError(f"source.path: {file} holds neither a list of records nor captions of COCO")
    captions: dict[Any, list[Any]] = {}
    for annotation in value["annotations"]:
        if isinstance(annotation, dict) and "caption" in annotation:
            captions.setdefault(_id(annotation.get("image_id")), []).append(annotation["caption"])
    if value["annotations"] and not captions:
        raise UserError(f"source.path: {file} has annotations of COCO, but no captions; use captions_*.json")
    for image in value["images"]:
        if isinstance(image, dict):
            yield image | {"caption": captions.pop(_id(image.get("id")), [])}
        else:
            yield {"json": image}
    for number, texts in captions.items():  # of images that the file does not list
        yield {"id": number, "file_name": None, "caption": texts}


def is_coco(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), list) for name in ("images", "annotations"))


def is_vqa(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("questions"), list)


def vqa_entries(questions: Record, annotations: Any) -> Iterator[Record]:
    """An entry of a conversation for each question of VQA, answered by the answer that most people gave."""
    listed = annotations.get("annotations") if isinstance(annotations, dict) else None
    answers = {_id(one.get("question_id")): one for one in listed or () if isinstance(one, dict)}
    folder = questions.get("data_subtype")
    for question in questions["questions"]:
        if not isinstance(question, dict):
            yield {"json": question}
            continue
        annotation = answers.get(_id(question.get("question_id")), {})
        answer, image = annotation.get("multiple_choice_answer"), question.get("image_id")
        name = question.get("image") or (
            f"COCO_{folder}_{image:012d}.jpg" if folder and isinstance(image, int) else image
        )
        entry = {
            "id": question.get("question_id"), "image": name,
            "conversations": [
                {"role": "user", "content": question.get("question")}, {"role": "assistant", "content": answer},
            ],
        }  # fmt: skip
        more = {name: annotation[name] for name in ("question_type", "answer_type") if name in annotation}
        yield entry | more


def annotations_of(file: str, others: list[str]) -> str | None:
    """The file of answers to a file of VQA's questions, by its name: v2_OpenEnded_mscoco_train2014_questions.json
    belongs to v2_mscoco_train2014_annotations.json."""
    if not file.lower().endswith("questions.json"):
        return None
    return next((other for other in others if other.lower().endswith("annotations.json")
                 and _words(other) == _words(file)), None)  # fmt: skip


def _words(file: str) -> tuple[str, frozenset[str]]:
    folder, _, name = file.rpartition("/")
    words = name.lower().removesuffix(".json").split("_")
    return folder, frozenset(words) - {"openended", "multiplechoice", "questions", "annotations"}


def _id(value: Any) -> Any:
    """An identifier that can be looked up."""
    return value if isinstance(value, str | int) else str(value)
