"""Stages that ask models: an image goes out of a root once, however many questions there are about it."""

import asyncio
from hashlib import sha256

from support.corpora import picture

from pipelines.engine.root import Root
from pipelines.models.endpoints import image_part
from pipelines.models.model_stage import MessageImages


def test_an_image_is_read_once_though_all_questions_about_it_come_at_the_same_moment(monkeypatch):
    root, data, reads = Root("memory://asked-about"), picture(0)[0], []
    root.write("images/00000.tar", data)
    cat_file = root.fs.cat_file
    monkeypatch.setattr(root.fs, "cat_file", lambda *place, **more: reads.append(place) or cat_file(*place, **more))
    row = {"key": "k", "payload": "00000.tar", "byte_offset": 0, "size": len(data), "format": "PNG"}
    row |= {"sha256": sha256(data).hexdigest()}

    async def all_at_once() -> list[dict]:
        images = MessageImages(root)
        return await asyncio.gather(*(images.part(row) for _ in range(10)))

    assert asyncio.run(all_at_once()) == [image_part(data, "PNG")] * 10
    assert len(reads) == 1
