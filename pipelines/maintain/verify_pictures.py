"""Checks the images of shard sets with bounds: each is what its sample says, made from an image of the corpus."""

from collections.abc import Collection, Iterator, Mapping

from pipelines.engine.commit import file_of
from pipelines.engine.parquet import Corrupt, read_rows
from pipelines.engine.releases import read_index
from pipelines.engine.root import Root
from schemas.arrow import Row
from schemas.pictures import open_image
from schemas.selection import encodes
from schemas.shards import Card, checked_document


def check_pictures(sample: Row, members: Mapping[str, bytes]) -> Iterator[str]:
    """What is wrong with the images of a sample. `sample`: its row of the index; `members`: the bytes by suffix."""
    try:
        told = checked_document(members.get("json", b"")).get("pictures", [])
    except ValueError as error:
        yield f"the .json of {sample['sample']} is not that of a set with bounds: {error}"
        return
    digests = {member["ext"]: member["sha256"] for member in sample["members"]}
    images = [(picture["ext"], digests.get(picture["ext"])) for picture in sample["pictures"]]
    if [(row["member"], row["sha256"]) for row in told] != images:
        yield f"the .json of {sample['sample']} names other images than it has"
        return
    for picture, row in zip(sample["pictures"], told, strict=True):
        name = f"{sample['sample']}.{picture['ext']}"
        if row["original"]["sha256"] != picture["original_sha256"]:
            yield f"the .json of {name} names another original than the index"
        if digests[picture["ext"]] == picture["original_sha256"]:
            continue  # a copy, which was measured by the stage `images`
        try:
            image = open_image(members[picture["ext"]])
        except Exception as error:  # decoders may raise anything
            yield f"{name} cannot be read as an image: {error}"
            continue
        if (image.format, *image.size) != (picture["format"], picture["width"], picture["height"]):
            yield f"{name} is {image.format} {image.width}x{image.height}, but the index says otherwise"


def lost_originals(root: Root, card: Card, partitions: Collection[int]) -> tuple[int, str | None] | None:
    """How many images of a set with bounds were not made from an image of these partitions, and the first one's
    sample. None if a file is damaged, which is reported elsewhere."""
    if not encodes(card["settings"]):
        return 0, None
    try:
        kept = {row["sha256"] for p in partitions for row in read_rows(root, file_of("images", p), ["sha256"])}
        indexes = [read_index(root, entry, ["sample", "pictures"]) for entry in card["shards"]]
    except Corrupt:
        return None
    pictures = [(row["sample"], picture) for rows in indexes for row in rows for picture in row["pictures"] or ()]
    lost = [name for name, picture in pictures if picture["original_sha256"] not in kept]
    return len(lost), lost[0] if lost else None
