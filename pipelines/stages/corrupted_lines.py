"""Which lines of an image's text a set of the task `reconstruct` corrupts, and at which level, as SQL."""

from schemas.selection import LEVELS, RECONSTRUCT, SetConfig
from schemas.views import TARGETS, literal, lot

# Letters or digits of a line that is corrupted, at least; and pixels of its box, either way
LETTERS, SIDE = 2, 4


def target_sql(config: SetConfig, of: str = "") -> str:
    """What a sample of a set teaches to say; null if the row has nothing of the kind. `of`: the table's prefix."""
    if config.task != RECONSTRUCT:
        return of + TARGETS[config.task]
    return f"array_to_string([{of}ocr_lines[line.line + 1].text for line in {corrupted_sql(config, of)}], chr(10))"


def corrupted_sql(config: SetConfig, of: str = "") -> str:
    """The corrupted lines in order, as {line: place in `ocr_lines` from 0 on, level}; null if no text is good.

    An image's lines are drawn by their lots, hash(seed, key, line), the lowest first: its share of them, at least one.
    """
    wide, high = (
        " - ".join(f"{end}({', '.join(f'line.box[{n}]' for n in corners)})" for end in ("greatest", "least"))
        for corners in ((1, 3, 5, 7), (2, 4, 6, 8))
    )
    fits = f"regexp_matches(line.text, '([\\p{{L}}\\p{{N}}].*){{{LETTERS}}}') AND {wide} >= {SIDE} AND {high} >= {SIDE}"
    salt, place = f"reconstruct/{config.seed}", f"{of}key || '/' || n"
    drawn = f"{{'lot': {lot(salt, place)}, 'line': n - 1, 'level': {_level(config, place)}, 'fits': {fits}}}"
    lines = f"list_filter(list_transform({of}ocr_lines, lambda line, n: {drawn}), lambda line: line.fits)"
    share = f"lines[:greatest(1, round({config.corrupted} * len(lines))::BIGINT)]"
    share = f"list_transform([list_sort({lines})], lambda lines: {share})[1]"
    chosen = f"list_sort([{{'line': line.line, 'level': line.level}} for line in {share}])"
    return f"CASE WHEN {of}ocr_target IS NOT NULL THEN {chosen} END"


def _level(config: SetConfig, place: str) -> str:
    """The level of a line, drawn by another lot of it."""
    weights = config.levels or dict.fromkeys(LEVELS, 1.0)
    given = {level: weights.get(level, 0.0) for level in LEVELS if weights.get(level)}
    cases, end = "", 0.0
    for level, weight in [*given.items()][:-1]:
        end += weight / sum(given.values())
        cases += f" WHEN {lot(f'reconstruct/{config.seed}/level', place)} < {end} THEN {literal(level)}"
    last = literal([*given][-1])
    return f"CASE{cases} ELSE {last} END" if cases else last
