"""Packs the selected samples into WebDataset shards with an index.

Image bytes are copied unchanged, unless an image is beyond a bound of the set: see
`pipelines.stages.bounded_images`. A tar and its index are written under names with their digest; nothing names them
until the card of their set does.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import duckdb

from pipelines.catalog.catalog import connect, stage_files
from pipelines.catalog.whole_files import Listed
from pipelines.engine.commit import Commit, commit_json, digest
from pipelines.engine.ledger import Ledger
from pipelines.engine.parquet import parquet_bytes
from pipelines.engine.payload import read_payload
from pipelines.engine.releases import read_card
from pipelines.engine.root import Root, new_file, point
from pipelines.engine.tar import TarWriter
from pipelines.stages.bounded_images import BoundedImages
from pipelines.stages.sample_sql import PLACE, members
from pipelines.stages.samples import SampleImage, add_sample
from pipelines.stages.shard_layout import PackItem, WantedShard
from pipelines.stages.shards import ShardSet, item_of
from schemas.arrow import Row
from schemas.errors import naming
from schemas.shards import ShardEntry


@dataclass(frozen=True)
class PackShards:
    """The work of this stage, for Beam: an item is a `PackItem`."""

    stage: ShardSet
    root: Root
    ledger: Ledger
    payloads: Mapping[int, str | None]  # partition -> the tar of its images
    listed: Listed = field(default_factory=dict, compare=False)  # folders that this process has listed

    name = "shards"

    def make(self, pack: PackItem) -> None:
        self.ledger.check()
        files = stage_files(self.root, self.stage.stages, pack.partitions)
        query = members(self.stage.set, self.stage.config, self.stage.own)
        settings = {"threads": "1", "memory_limit": "1GB"}
        with connect(self.root, files, self.stage.earlier, [query], self.listed, **settings) as connection:
            for shard in pack.wanted:
                self._pack(connection, pack, shard)

    def _pack(self, connection: duckdb.DuckDBPyConnection, pack: PackItem, shard: WantedShard) -> None:
        started = time.time()
        chosen = members(self.stage.set, self.stage.config, self.stage.own, f"{PLACE} % $n = $index")
        batches = connection.sql(
            f"SELECT * EXCLUDE (place, bytes) FROM ({chosen}) ORDER BY place, key",
            params={"n": pack.shards, "index": shard.index},
        ).to_arrow_reader(1_000)
        samples = ({**row, "payload": self.payloads[row["partition"]]} for b in batches for row in b.to_pylist())
        commit = pack_shard(self.root, self.stage, shard, samples, self._earlier(pack))
        self.ledger.record(
            "shards", item_of(self.stage.set, shard.number), commit.fingerprint, [], partition=shard.number,
            rows=commit.rows, kept=commit.kept, made=commit.rows, started=started,
        )  # fmt: skip

    def _earlier(self, pack: PackItem) -> Iterator[ShardEntry]:
        """The shards that may have images of a shard: the likely ones, then those that its group had. The card is read
        only if they are asked for."""
        yield from pack.likely
        card = read_card(self.root, self.stage.set) if pack.others else None
        yield from (entry for entry in (card["shards"] if card else ()) if entry["number"] in pack.others)


def pack_shard(
    root: Root, stage: ShardSet, shard: WantedShard, samples: Iterator[Row], earlier: Iterable[ShardEntry] = ()
) -> Commit:
    """Writes one tar and its index; nothing names them until the card does."""
    temporary, index = root.temporary("shards"), []
    with naming(temporary), new_file(temporary) as file:
        tar = TarWriter(file)
        bounded = BoundedImages(root, stage.config, tar, earlier) if stage.config.encodes else None
        for sample in samples:
            originals = [{**sample, **picture} for picture in sample["pictures"]]
            if bounded:
                images = [bounded.fit(original) for original in originals]
            else:
                images = [
                    SampleImage(read_payload(root, "images", o, whole=True), o["ext"], o["sha256"]) for o in originals
                ]
            index.append(add_sample(tar, sample, images, stage.config))
            if bounded:
                bounded.packed(index[-1])
        tar_sha256 = tar.close()
    name = f"{item_of(stage.set, shard.number)}-{digest([shard.fingerprint, tar_sha256])[:16]}"
    root.put(temporary, f"shards/{name}.tar")
    point("shards:payload")
    commit = Commit(
        "shards", shard.number, stage.version, stage.settings(), {}, shard.fingerprint,
        payload=f"{name}.tar", payload_sha256=tar_sha256,
    )  # fmt: skip
    commit = replace(commit, rows=len(index), kept=len(index))
    root.write(f"shards/{name}.parquet", parquet_bytes(index, stage.schema, commit_json(commit)))
    point("shards:committed")
    return commit
