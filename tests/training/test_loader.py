"""Batches of packed samples from published shards: what is in them, in which order, and what becomes of damage."""

import json
from collections import Counter
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from support.corpora import build
from support.releases import captions, drawn, flip, publish, small_tokenizer
from torch.utils.data import DataLoader

from schemas.errors import UserError
from training.layout import IGNORED
from training.loader import Batch, Lost, Mixture, Part, load
from training.packs import PADDING
from training.pixels import LEVELS, patches
from training.samples import SampleEncoder, Slicing
from training.shards import Shards
from training.shuffle import Cut, Cuts

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
SCENES = """
[source]
kind = "scenes"
count = 150
side = 160
planted = 0
rows_per_partition = 50
[sets.train]
samples_per_shard = 30
[sets.some]
where = "width >= 64"
weight = 0.4
samples_per_shard = 30
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> SampleEncoder:
    tokenizer = small_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    return SampleEncoder(tokenizer, queries=4, length=256, slicing=Slicing(side=112))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> str:
    """Two sets of generated scenes, made by the pipeline."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "my.toml").write_text(f'root = "corpus"\n{SCENES}')
    return build(folder / "my.toml").url


@pytest.fixture(scope="module")
def mixture(scenes, recipe) -> Mixture:
    return Mixture([Part(scenes, "train"), Part(scenes, "some", 1.5)], recipe, seed=5)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return publish(tmp_path / "corpus", "train", captions(40), each=10)


@pytest.mark.slow
def test_what_cannot_be_loaded_is_refused_before_the_first_batch_is_asked_for(mixture):
    with pytest.raises(ValueError, match=r"^start is -1; it is the number of steps that are done"):
        load(mixture, 2, start=-1)
    with pytest.raises(ValueError, match=r"^rank 3 of 3 "):
        load(mixture, 4, rank=3, ranks=3)


def digest(batch: Batch) -> str:
    """Of all that a batch of one pack holds."""
    tensors = (batch.ids, batch.labels, batch.documents, batch.positions, batch.patches, batch.grids)
    assert len(batch.ids) == 1
    return sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def trained(mixture: Mixture, **options) -> dict[int, tuple[tuple[str, ...], str]]:
    """What a rank trains one by one: place in the sequence -> names of the samples and digest of everything."""
    batches = zip(cuts_of(**options), load(mixture, **options), strict=True)
    return {cut.start: (one.samples[0], digest(one)) for cut, one in batches}


def cuts_of(workers: int = 0, **options) -> list[Cut]:
    return list(Cuts(**options))


# Content


@pytest.mark.slow
def test_a_batch_holds_what_its_samples_say(scenes, root, recipe):
    mixture = Mixture([Part(scenes, "train", 0.5), Part(str(root), "train")], recipe)
    marks, shards, grids = recipe.tokenizer.marks, {}, []
    for one in mixture.shards:
        shards |= {sample["__key__"]: sample for sample in one}
    for batch in load(mixture, 6, micro=3, stop=4):
        grids += batch.grids.tolist()
        view, patch = 0, 0
        for row, names in enumerate(batch.samples):
            at = 0
            for number, name in enumerate(names):
                tokens = recipe.tokens(shards[name])
                place = slice(at, at := at + len(tokens.ids))
                assert batch.ids[row, place].tolist() == tokens.ids.tolist()
                assert batch.labels[row, place].tolist() == tokens.labels.tolist()
                assert batch.documents[row, place].unique().tolist() == [number]
                assert batch.positions[row, place].tolist() == list(range(len(tokens.ids)))
                for pixels in recipe.views(shards[name], tokens):
                    rows, columns = batch.grids[view].tolist()
                    assert (rows, columns) == (pixels.shape[0] // 14, pixels.shape[1] // 14)
                    raw = batch.patches[patch : patch + rows * columns]
                    assert np.array_equal(torch.from_numpy(LEVELS)[raw.int()].numpy(), patches(pixels))
                    view, patch = view + 1, patch + rows * columns
            assert (batch.ids[row, at:] == marks.end).all() and (batch.labels[row, at:] == IGNORED).all()
            assert (batch.documents[row, at:] == PADDING).all()
        assert (view, patch) == (len(batch.grids), len(batch.patches))
        assert (batch.ids == marks.query).sum() == view * recipe.queries
        assert batch.ids.dtype == torch.int64 and batch.patches.dtype == torch.uint8 and batch.lost == ()
    assert any(rows > columns for rows, columns in grids) and any(rows < columns for rows, columns in grids)


@pytest.mark.slow
def test_an_epoch_has_every_sample_as_often_as_its_set_says(scenes, recipe):
    mixture = Mixture([Part(scenes, "train"), Part(scenes, "some", 2)], recipe)
    end = sum(mixture.order.before(1))
    seen = Counter(name for batch in load(mixture, end, micro=end, stop=1) for pack in batch.samples for name in pack)
    once = [sample["__key__"] for sample in Shards(scenes, "train")]
    twice = [sample["__key__"] for sample in Shards(scenes, "some")]
    assert seen == Counter(once) + Counter(2 * twice) and len(once) == 150 and 30 < len(twice) < 90


def test_text_alone_and_several_images_stand_in_packs_with_the_rest(tmp_path, recipe):
    def said(*turns: str) -> list[dict[str, str]]:
        return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]

    chats = [
        ("f" * 16, said("Hi", "Hello."), []),
        ("e" * 16, said("<image_01> or <image_00>?", "The first."), ["<image_00>", "<image_01>"]),
        ("d" * 16, said("Go on.", "Yes."), []),
    ]
    chats = [
        (f"{key}-conversation", {
            **{f"{n}.png": drawn(n) for n, _ in enumerate(marks)},
            "json": json.dumps({"conversation": {"turns": turns, "images": marks}}).encode(),
        })
        for key, turns, marks in chats
    ]  # fmt: skip
    root = publish(tmp_path, "train", [*captions(5), *chats], each=4)
    mixture = Mixture([Part(str(root), "train")], recipe)
    (batch,) = load(mixture, packs := len(mixture.planned[0]), micro=packs, stop=1)
    assert sorted(name for pack in batch.samples for name in pack) == sorted(n for n, _ in [*captions(5), *chats])
    assert len(batch.grids) == (batch.ids == recipe.tokenizer.marks.query).sum() / recipe.queries
    only_text = next(row for row, pack in enumerate(batch.samples) if f"{'f' * 16}-conversation" in pack)
    document = batch.samples[only_text].index(f"{'f' * 16}-conversation")
    ids = batch.ids[only_text][batch.documents[only_text] == document]
    assert recipe.tokenizer.decode(ids.tolist()) == "user\nHi\nassistant\nHello."


def test_packs_of_text_alone_have_no_views(tmp_path, recipe):
    root = publish(tmp_path, "train", [(f"{n:016x}-caption", {"txt": b"Only text."}) for n in range(9)], each=9)
    (batch,) = load(Mixture([Part(str(root), "train")], recipe), 1, stop=1)
    assert batch.patches.shape == (0, 588) and batch.grids.shape == (0, 2) and len(batch.samples[0]) == 9


# Order


@pytest.fixture(scope="module")
def one_run(mixture) -> dict[int, tuple[tuple[str, ...], str]]:
    """Steps 0 to 6 of 8 packs on one rank, in one go."""
    return trained(mixture, batch=8, stop=7)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_ranks_and_workers_train_the_same(mixture, one_run, workers, ranks):
    found = {}
    for rank in range(ranks):
        mine = trained(mixture, batch=8, rank=rank, ranks=ranks, start=1, stop=4, workers=workers)
        assert not mine.keys() & found.keys()
        found |= mine
    assert found == {place: one for place, one in one_run.items() if 8 <= place < 32}


@pytest.mark.slow
def test_a_run_that_stops_and_goes_on_elsewhere_trains_the_same(mixture, one_run):
    found, done = {}, 0
    for ranks, workers, steps in [(1, 0, 2), (4, 1, 1), (3, 0, 3), (2, 3, 1)]:
        for rank in range(ranks):
            batches = load(mixture, 8, rank=rank, ranks=ranks, start=done, workers=workers)
            mine, of = [], cuts_of(batch=8, rank=rank, ranks=ranks, start=done, stop=done + steps)
            for cut, batch in zip(of, batches, strict=False):
                mine.append((cut.start, (batch.samples[0], digest(batch))))
            found |= dict(mine)
        done += steps
    assert found == one_run and done == 7


def test_the_last_batch_of_a_step_says_so(mixture):
    batches = list(load(mixture, 7, micro=2, rank=1, ranks=2, start=3, stop=5))
    assert [(one.step, one.last, len(one.ids)) for one in batches] == [
        (3, False, 2), (3, True, 2), (4, False, 2), (4, True, 2),
    ]  # fmt: skip
    assert [len(one.ids) for one in load(mixture, 7, micro=2, rank=0, ranks=2, stop=1)] == [2, 1]


@pytest.mark.slow
def test_steps_run_across_the_ends_of_epochs(mixture):
    end = sum(mixture.order.before(1))
    batches = list(load(mixture, end - 1, micro=end - 1, stop=2))
    assert batches[0].epochs == (0,) * (end - 1) and batches[1].epochs == (0, *(1,) * (end - 2))


def test_the_order_depends_on_the_seed_and_not_on_the_folder(mixture, scenes, recipe, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(scenes)
    parts = [Part(str(elsewhere), "train"), Part(str(elsewhere), "some", 1.5)]
    same, other = Mixture(parts, recipe, seed=5), Mixture(parts, recipe, seed=6)
    assert trained(same, batch=4, stop=2) == trained(mixture, batch=4, stop=2) != trained(other, batch=4, stop=2)
    assert same.identity == mixture.identity != other.identity
    assert Mixture(parts[:1], recipe, seed=5).identity != mixture.identity


def test_nothing_outside_is_drawn_from(mixture):
    torch.manual_seed(0)
    expected = torch.rand(3).tolist()
    torch.manual_seed(0)
    list(load(mixture, 4, stop=1, workers=1))
    assert torch.rand(3).tolist() == expected


@pytest.mark.slow
def test_processes_that_share_no_memory_train_the_same(mixture, one_run):
    loader = DataLoader(
        mixture, batch_size=None, sampler=Cuts(8, stop=2), num_workers=2, multiprocessing_context="spawn",
        collate_fn=tuple_of,
    )  # fmt: skip
    assert [digest(batch) for (batch,) in loader] == [one_run[place][1] for place in range(16)]


def tuple_of(batch: Batch) -> tuple[Batch]:
    return (batch,)


# Damage


def damage(root: Path, mixture: Mixture, ext: str, at: int = -1) -> tuple[str, str]:
    """Flips a byte of a member of one sample; returns its name and its tar."""
    row = mixture.planned[0][3][0]
    member = next(member for member in row["members"] if member["ext"] == ext)
    flip(root / "shards" / row["tar"], member["byte_offset"] + at % member["size"])
    return row["sample"], row["tar"]


def everything(mixture: Mixture, workers: int = 0) -> list[Batch]:
    return list(load(mixture, 4, stop=-(-len(mixture.planned[0]) // 4), workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("ext", ["png", "txt"])
def test_a_flipped_byte_is_named_and_the_rest_of_the_pack_is_trained(root, recipe, ext, workers):
    mixture = Mixture([Part(str(root), "train")], recipe)
    whole = everything(mixture)
    name, tar = damage(root, mixture, ext)
    hurt = everything(mixture, workers)
    (lost,) = {lost for batch in hurt for lost in batch.lost}
    assert lost[:3] == (name, tar, "damaged") and f"{tar}: {ext} of {name} is not what was published" in lost.detail
    for before, after in zip(whole, hurt, strict=True):
        if name not in before.samples[0]:
            assert digest(before) == digest(after)
            continue
        kept = tuple(other for other in before.samples[0] if other != name)
        assert kept and after.samples == (kept,)
        rest = before.documents[0] != before.samples[0].index(name)
        length = int((before.documents[0][rest] != PADDING).sum())
        assert after.ids[0, :length].tolist() == before.ids[0][rest][:length].tolist()
        assert after.labels[0, :length].tolist() == before.labels[0][rest][:length].tolist()
        assert (after.labels[0, length:] == IGNORED).all() and (after.documents[0, length:] == PADDING).all()
        assert len(after.grids) == (after.ids == recipe.tokenizer.marks.query).sum() / recipe.queries


@pytest.mark.parametrize("workers", [0, 2])
def test_a_strict_mixture_stops_instead_in_one_line(root, recipe, workers):
    mixture = Mixture([Part(str(root), "train")], recipe, strict=True)
    name, tar = damage(root, mixture, "png")
    with pytest.raises(UserError) as error:
        everything(mixture, workers)
    assert str(error.value).startswith(f"{tar}: {name} cannot be read: damaged: ") and "\n" not in str(error.value)


def test_without_digests_what_decodes_is_trained_and_what_does_not_is_named(root, recipe):
    mixture = Mixture([Part(str(root), "train")], recipe, check=False)
    name, tar = damage(root, mixture, "png", at=60)
    (lost,) = {lost for batch in everything(mixture) for lost in batch.lost}
    assert lost[:3] == (name, tar, "unreadable_image")


def test_a_text_that_is_another_than_was_planned_is_named_too(root, recipe):
    mixture = Mixture([Part(str(root), "train")], recipe, check=False)
    row = mixture.planned[0][3][0]
    text = next(member for member in row["members"] if member["ext"] == "txt")
    with (root / "shards" / row["tar"]).open("r+b") as file:
        file.seek(text["byte_offset"])
        file.write(b"q" * text["size"])  # a token each
    (lost,) = {lost for batch in everything(mixture) for lost in batch.lost}
    assert lost[:3] == (row["sample"], row["tar"], "not_as_planned")
    assert lost.detail.startswith(f"{row['tokens']} tokens were planned, it has ")


def test_a_pack_whose_samples_are_all_lost_is_empty(tmp_path, recipe):
    root = publish(tmp_path, "train", captions(1), each=1)
    mixture = Mixture([Part(str(root), "train")], recipe)
    shard = Shards(root, "train").shards[0]
    flip(Path(shard.tar), shard.index[1][0].as_py() + 600)
    (batch,) = load(mixture, 1, stop=1)
    assert batch.samples == ((),) and len(batch.lost) == 1 and (batch.documents == PADDING).all()
    assert (batch.labels == IGNORED).all() and len(batch.grids) == 0


def test_samples_that_are_in_no_pack_are_counted_and_named(tmp_path, recipe):
    samples = [*captions(5), ("a" * 16 + "-caption", {"txt": b"long " * 300}), ("b" * 16 + "-poem", {"txt": b"x"})]
    root = publish(tmp_path, "train", samples, each=4)
    mixture = Mixture([Part(str(root), "train")], recipe)
    assert [(lost.sample, lost.reason) for lost in mixture.lost()] == [
        ("a" * 16 + "-caption", "too_long"), ("b" * 16 + "-poem", "unknown_task"),
    ]  # fmt: skip
    assert all(isinstance(lost, Lost) and lost.tar.startswith("train-000001-") for lost in mixture.lost())
    assert mixture.counts[0]["reasons"] == {"too_long": 1, "unknown_task": 1}


def test_a_tar_that_is_gone_stops_the_run(root, recipe):
    mixture = Mixture([Part(str(root), "train")], recipe)
    for tar in (root / "shards").glob("*.tar"):
        tar.unlink()
    with pytest.raises(UserError, match="train-00000"):
        everything(mixture)


# Mistakes


def test_a_mixture_without_packs_says_why(tmp_path, recipe):
    root = publish(tmp_path, "train", [("a" * 16 + "-poem", {"txt": b"x"})], each=4)
    with pytest.raises(UserError, match=r"^train: has nothing to train on; left out of 1 samples: 1 unknown"):
        Mixture([Part(str(root), "train")], recipe)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(root, recipe, weight):
    with pytest.raises(UserError, match="train: a weight of"):
        Mixture([Part(str(root), "train", weight)], recipe)


def test_batches_go_to_a_device_as_a_whole(mixture):
    (batch,) = islice(load(mixture, 2, micro=2), 1)
    moved = batch.to("meta")
    assert moved.ids.is_meta and moved.patches.is_meta and moved.samples == batch.samples and moved.step == batch.step
