"""img2dataset's three outputs are read when a source points at them.

tests/data/img2dataset.tar.gz holds what the package img2dataset 1.47.0 made of five URLs of small pictures, the fourth
of which was answered with 404, for each FORMAT of webdataset, files and parquet:

    img2dataset --url_list=urls.parquet --input_format=parquet --url_col=url --caption_col=caption \
        --save_additional_columns='["NSFW","LICENSE","similarity"]' --output_format=FORMAT --output_folder=FORMAT \
        --processes_count=1 --thread_count=2 --resize_mode=no --skip_reencode=True --number_sample_per_shard=3
"""

import json
import tarfile

import pytest
from support.corpora import build, facts, rows_of
from support.paths import TESTS

from pipelines.catalog.catalog import query
from pipelines.maintain.verify import verify_root

NUMBERS = (0, 1, 2, 4)


@pytest.fixture
def made(tmp_path):
    with tarfile.open(TESTS / "data/img2dataset.tar.gz") as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path


OUTPUTS = [("webdataset", "webdataset"), ("folder", "files"), ("huggingface", "parquet")]  # kind of source, output


@pytest.mark.parametrize(("kind", "output"), OUTPUTS)
def test_texts_urls_and_licences_are_kept(kind, output, made):
    rows = sorted(rows_of(kind, made / output), key=lambda row: row["url"])
    failed = [row for row in rows if row["reason"]]  # only Parquet has what could not be downloaded
    assert facts(failed, "url", "reason") == [("http://127.0.0.1:8765/3.jpg", "no_image")] * (output == "parquet")
    rows = [row for row in rows if not row["reason"]]
    assert facts(rows, "text", "url", "host", "reason") == [
        (f"a picture of rectangles, number {n}", f"http://127.0.0.1:8765/{n}.jpg", "127.0.0.1", None) for n in NUMBERS
    ]
    for row, n in zip(rows, NUMBERS, strict=False):
        extra = json.loads(row["extra"])
        assert (extra["NSFW"], extra["LICENSE"], extra["similarity"]) == ("UNLIKELY", "CC-BY 4.0", 0.3 + n / 100)
        assert row["sha256"] == extra["sha256"], "the bytes are those that img2dataset downloaded"


@pytest.mark.slow
def test_the_three_outputs_give_the_same_images(made, configure):
    found = {}
    for kind, output in OUTPUTS:
        config = f'[source]\nkind = "{kind}"\npath = "{output}"\n[sets.train]'
        root = build(configure(config, root=output + "-corpus"), "images")
        found[output] = query(
            root, "SELECT sha256, text, url FROM candidates WHERE reason IS NULL ORDER BY url"
        ).to_pylist()
        assert verify_root(root).problems == []
    assert len(found["files"]) == 4 and found["files"] == found["webdataset"] == found["parquet"]
