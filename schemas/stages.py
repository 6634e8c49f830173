"""The table of stages, in order. Everything that must know every stage is derived from it: the catalog's views,
accounting, `verify`, what is packed, plans, the report, and the audit of a takedown."""

from collections.abc import Iterable
from itertools import pairwise

from schemas import (
    captions,
    claims,
    duplicates,
    images,
    instructions,
    measures,
    ocr,
    pairs,
    response_measures,
    responses,
    rows,
    selection,
    translations,
    verdicts,
)
from schemas.stage import StageInfo

Stages = dict[str, StageInfo]  # by name, in order

STAGES: Stages = {
    stage.name: stage
    for stage in (
        rows.STAGE,
        images.STAGE,
        duplicates.STAGE,
        ocr.STAGE,
        captions.STAGE,
        translations.STAGE,
        measures.STAGE,
        selection.STAGE,
        instructions.STAGE,
        responses.STAGE,
        response_measures.STAGE,
        claims.STAGE,
        verdicts.STAGE,
        pairs.STAGE,
    )
}


def with_own(infos: Iterable[StageInfo]) -> Stages:
    """The table with users' stages in it. `infos`: some stages in order; a user's follows the one before it."""
    table = list(STAGES.values())
    for before, info in pairwise(infos):
        if info.own:
            table.insert([stage.name for stage in table].index(before.name) + 1, info)
    return {stage.name: stage for stage in table}


def of_corpus(stages: Stages) -> Stages:
    """The stages that have a row for each image."""
    return {name: stage for name, stage in stages.items() if stage.per_image}
