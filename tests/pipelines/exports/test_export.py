"""Pairs and conversations as other trainers read them, each file read by what it is for."""

import json
import shutil
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
import webdataset
from support.corpora import build, data_files, picture, rows_of, say
from support.paths import SHARED
from support.preferences import ASKING, Response, build_preferences, yes_or_no
from support.scripted_server import Scripted
from support.small_llava import tiny_llava

from pipelines.catalog.catalog import query
from pipelines.engine.commit import replace_rows
from pipelines.engine.ledger import Ledger
from pipelines.engine.parquet import read_rows
from pipelines.engine.root import Root
from pipelines.exports.export import export
from pipelines.exports.forms import FORMS
from pipelines.maintain.verify import verify_root
from pipelines.stages.pairs import DrawPairs
from schemas.errors import UserError
from schemas.pairs import PairsConfig

PAIRS = '[sets.dpo]\ntask = "preference"\nsamples_per_shard = 8\n'


def answer(instruction: dict) -> list[Response]:
    """Five responses: of the same length, with 0, 1 or 2 rejected claims."""
    return [
        Response(f"Answer {draw} to “{instruction['name']}”, naïve.", yes_or_no(True, *draw % 3 * [False]))
        for draw in range(5)
    ]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Root:
    """RLAIF-V's 15 example instructions with their real images, and two pairs of each."""
    shared = SHARED / "rlaifv"
    if not shared.exists():
        pytest.skip("the folder of real data is not here")
    folder = tmp_path_factory.mktemp("pairs")
    source = f'[source]\nkind = "instructions"\npath = "{shared}"\n'
    (folder / "my.toml").write_text(f'root = "corpus"\n{source}{ASKING}{PAIRS}')
    return build_preferences(folder / "my.toml", answer)


def preferences(root: Root) -> dict[str, dict]:
    return {row["key"]: row for row in query(root, "FROM preferences").to_pylist()}


def image_of(digest: str) -> bytes:
    """The image as the source has it."""
    folder = SHARED / "rlaifv/images"
    return next(data for path in folder.iterdir() if sha256(data := path.read_bytes()).hexdigest() == digest)


# Shards


@pytest.mark.slow
def test_shards_of_pairs_hold_what_the_trainer_asks_for(corpus):
    found = verify_root(corpus)
    assert (found.problems, found.garbage, found.samples) == ([], [], 30)
    wanted = preferences(corpus)
    seen = {}
    for sample in webdataset.WebDataset(say("urls", corpus.url, "dpo").out.split(), shardshuffle=False):
        key, task = sample["__key__"].split("-")
        assert task == "preference"
        said, row = json.loads(sample["json"]), wanted[key]
        seen[key] = {name: said["pair"][name] for name in ("question", "chosen", "rejected", "margin", "agreement")}
        assert seen[key] == {name: row[name] for name in seen[key]}
        assert "txt" not in sample
        (picture,) = sample.keys() & {"jpg", "webp"}
        assert sample[picture] == image_of(row["sha256"])
    assert seen.keys() == wanted.keys()


def test_the_dpo_trainer_reads_them(corpus, tmp_path):
    from training.dpo import Pairs as PairsToLearn
    from training.loader import Part
    from training.samples import SampleEncoder
    from training.shuffle import Cut
    from training.tokenizer import Tokenizer, save, train

    texts = [row[name] for row in preferences(corpus).values() for name in ("question", "chosen", "rejected")]
    save(train(texts, 400), tmp_path)
    pairs = PairsToLearn([Part(corpus.url, "dpo")], SampleEncoder(Tokenizer(tmp_path), queries=4, length=1024))
    assert pairs.lost() == []
    batch = pairs[Cut(0, 0, 4, True)]
    assert len({name for (name,) in batch.samples}) == 4
    learned = [batch.ids[row][batch.labels[row] >= 0] for row in range(8)]
    assert all(len(one) and len(other) for one, other in pairwise(learned))


@pytest.mark.slow
def test_a_condition_on_preferences_chooses_what_goes_into_a_set(configure, tmp_path, shared):
    sets = PAIRS + 'where = "margin = 2 and chosen_draw < 2"\n[sets.half]\ntask = "preference"\nweight = 0.5\n'
    config = configure(f'[source]\nkind = "instructions"\npath = "{shared}/rlaifv"\n{ASKING}{sets}')
    root = build_preferences(config, answer)
    rows = preferences(root)
    packed = {
        name: {row["key"] for row in query(root, f"FROM shards WHERE set = '{name}'").to_pylist()}
        for name in ("dpo", "half")
    }
    assert packed["dpo"] == {k for k, row in rows.items() if row["margin"] == 2 and row["chosen_draw"] < 2}
    assert 0 < len(packed["dpo"]) < len(rows)
    assert 5 < len(packed["half"]) < 25
    assert verify_root(root).problems == []
    before = data_files(Path(root.url))
    build_preferences(config, answer)
    assert data_files(Path(root.url)) == before
    config.write_text(config.read_text().replace("margin = 2 and", ""))
    build_preferences(config, answer)
    assert {row["key"] for row in query(root, "FROM shards WHERE set = 'dpo'").to_pylist()} > packed["dpo"]
    assert verify_root(root).problems == []


def test_a_pair_that_is_lost_or_added_in_a_set_is_found_by_verify(corpus, tmp_path):
    shutil.copytree(corpus.url, tmp_path / "corpus")
    root = Root(str(tmp_path / "corpus"))
    root.create()
    card = json.loads(root.read("shards/dpo.json"))
    card["settings"]["where"] = "margin = 2"
    for name in ("dpo", f"dpo@{card['release']}"):
        root.write(f"shards/{name}.json", json.dumps(card).encode())
    (problem,) = verify_root(root).problems
    assert "not selected, but in its shards" in problem


def test_a_response_that_is_lost_is_found_by_verify(corpus, tmp_path):
    shutil.copytree(corpus.url, tmp_path / "corpus")
    root = Root(str(tmp_path / "corpus"))
    root.create()
    rows = read_rows(root, "pairs/00000.parquet")
    replace_rows(root, Ledger.start(root, "my.toml", "0"), DrawPairs(PairsConfig()), 0, rows[1:])
    problems = verify_root(root).problems
    assert any(p.startswith("pairs/00000.parquet: ") and "not accounted for" in p for p in problems)


# TRL


def exported(root: Root, set_name: str, form: str, folder: Path, *question: str) -> list[Path]:
    """The data files of an export."""
    done = export(root, set_name, form, Root(str(folder)), *question)
    files = [
        path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (".export.json", "README.md")
    ]
    assert len(files) == done.files
    return files


@pytest.mark.slow
def test_trl_s_columns_hold_every_pair(corpus, tmp_path):
    files = exported(corpus, "dpo", "trl", tmp_path / "trl")
    assert len(files) == 4
    loaded = datasets.load_dataset(str(tmp_path / "trl"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == ["images", "prompt", "chosen", "rejected"]
    wanted = {(row["question"], row["chosen"], row["rejected"]) for row in preferences(corpus).values()}
    assert {tuple(row[name][0]["content"] for name in ("prompt", "chosen", "rejected")) for row in loaded} == wanted
    roles = {tuple(row[name][0]["role"] for name in ("prompt", "chosen", "rejected")) for row in loaded}
    assert roles == {("user", "assistant", "assistant")}
    assert all(len(row["images"]) == 1 and row["images"][0].size > (64, 64) for row in loaded)


@pytest.mark.slow
def test_trl_s_dpo_trainer_takes_steps_on_them(corpus, tmp_path, monkeypatch):
    """A tiny LLaVA on the CPU: the pictures and the words of both answers come to the model."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import torch
    from trl import DPOConfig, DPOTrainer

    exported(corpus, "dpo", "trl", tmp_path / "trl")
    loaded = datasets.load_dataset(str(tmp_path / "trl"), split="train", cache_dir=str(tmp_path / "cache"))
    texts = [row["question"] + row["chosen"] for row in preferences(corpus).values()]
    model, processor = tiny_llava(texts, tmp_path / "llava")
    before = model.lm_head.weight.detach().clone()
    config = DPOConfig(
        output_dir=str(tmp_path / "out"), per_device_train_batch_size=2, max_steps=2, learning_rate=1e-2, report_to=[],
        use_cpu=True, bf16=False, max_length=None, logging_steps=1, save_strategy="no", gradient_checkpointing=False,
    )  # fmt: skip
    trainer = DPOTrainer(model=model, args=config, train_dataset=loaded, processing_class=processor)
    batch = trainer.data_collator([loaded[0], loaded[1]])
    assert batch["pixel_values"].shape == (4, 3, 28, 28)
    words = [
        processor.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    answers = [loaded[n][name][0]["content"] for name in ("chosen", "rejected") for n in (0, 1)]
    assert all(said.startswith(wanted) for said, wanted in zip(words, answers, strict=True))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-3)
    assert not torch.equal(model.lm_head.weight, before)


# RLAIF-V-Dataset


def test_rlaif_v_s_columns_are_read_as_its_loader_reads_them(corpus, tmp_path):
    """Field by field as `RLAIFVDataset` of the public code takes a sample apart."""
    exported(corpus, "dpo", "rlaif-v", tmp_path / "out")
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.column_names == [
        "ds_name", "image", "question", "chosen", "rejected", "origin_dataset", "origin_split", "idx", "image_path",
    ]  # fmt: skip
    assert all(loaded.features[name].dtype == "string" for name in loaded.column_names if name != "image")
    raw = loaded.cast_column("image", datasets.Image(decode=False))
    wanted = preferences(corpus)
    for sample in raw:
        row = wanted.pop(sample["idx"])
        assert (sample["question"], sample["chosen"], sample["rejected"]) == (
            row["question"], row["chosen"], row["rejected"],
        )  # fmt: skip
        assert sample["image"]["bytes"] == image_of(row["sha256"])
        assert json.loads(sample["origin_split"])["margin"] == row["margin"]
    assert wanted == {}


# MiniCPM-V


@pytest.fixture
def talk(tmp_path, pictures, configure) -> Root:
    """Conversations of one image, of two, and of none."""
    turns = [{"role": "user", "content": "<image>\nWhat is this?"}, {"role": "assistant", "content": "A square."}]
    two = [
        {"role": "user", "content": "Is <image_00> like <image_01>? Ünïcode!"}, {"role": "assistant", "content": "Yes."}
    ]  # fmt: skip
    none = [{"role": "user", "content": "Two and two?"}, {"role": "assistant", "content": "Four."}]
    said = [
        {"id": "one", "image": "0.png", "conversations": turns},
        {"id": "two", "image": {"<image_00>": "1.png", "<image_01>": "2.png"}, "conversations": two},
        {"id": "none", "conversations": none},
    ]
    (tmp_path / "all.json").write_text(json.dumps(said))
    source = '[source]\nkind = "conversations"\npath = "all.json"\nimages = "pictures"\n'
    return build(configure(source + '[sets.talk]\ntask = "conversation"\n'))


@pytest.mark.slow
def test_conversations_are_read_as_minicpm_v_s_fine_tuning_reads_them(talk, tmp_path, monkeypatch):
    """Entry by entry as `SupervisedDataset` and `preprocess` of the public code do."""
    from PIL import Image

    exported(talk, "talk", "minicpm-v", tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    found = {}
    for entry in json.loads(Path("conversations.json").read_text()):
        image = entry.get("image")
        pictures = {"<image>": image} if isinstance(image, str) else image or {}
        sizes = {mark: Image.open(path).convert("RGB").size for mark, path in pictures.items()}
        talk_of = entry["conversations"]
        assert len(talk_of) > 1
        assert talk_of[0]["role"] == "user"
        assert all(mark in talk_of[0]["content"] for mark in sizes)
        found[talk_of[0]["content"]] = (sizes, [Path(path).read_bytes() for path in pictures.values()])
    assert found == {
        "<image>\nWhat is this?": ({"<image>": (224, 224)}, [picture(0)[0]]),
        "Is <image_00> like <image_01>? Ünïcode!": (
            {"<image_00>": (224, 224), "<image_01>": (224, 224)}, [picture(1)[0], picture(2)[0]],
        ),
        "Two and two?": ({}, []),
    }  # fmt: skip


@pytest.mark.slow
def test_our_own_source_reads_them_back(talk, tmp_path):
    exported(talk, "talk", "minicpm-v", tmp_path / "out")
    rows = rows_of("conversations", tmp_path / "out/conversations.json")
    said = query(talk, "SELECT conversation FROM samples WHERE conversation IS NOT NULL").to_pylist()
    assert {row["conversation"] for row in rows} - {None} == {row["conversation"] for row in said}
    assert len(rows) == 4
    assert {row["reason"] for row in rows} == {None}


def test_the_chosen_answers_of_pairs_can_be_learned_as_conversations(corpus, tmp_path):
    exported(corpus, "dpo", "minicpm-v", tmp_path / "out")
    rows = rows_of("conversations", tmp_path / "out/conversations.json")
    said = [json.loads(row["conversation"])["turns"] for row in rows if not row["part_of"]]
    assert sorted((one["content"], two["content"]) for one, two in said) == sorted(
        (f"<image>\n{row['question']}", row["chosen"]) for row in preferences(corpus).values()
    )
    assert {row["reason"] for row in rows} == {None}


# All of them


@pytest.mark.slow
def test_public_instructions_go_through_all_stages_into_all_exports(shared, configure, tmp_path):
    """A server answers, rules divide what it says, and its verdicts make the pairs."""
    with Scripted() as server:
        models = ASKING.replace("http://127.0.0.1:9/v1", server.url)
        source = f'[source]\nkind = "instructions"\npath = "{shared}/rlaifv"\n'
        root = build(configure(source + models + "[pairs]\nlength_balance = false\n" + PAIRS))
    found = verify_root(root)
    assert (found.problems, found.garbage) == ([], [])
    pairs = preferences(root)
    assert {row["image"] for row in pairs.values()} == {
        row["key"] for row in query(root, "SELECT key FROM images").to_pylist()
    }
    for form in FORMS:
        exported(root, "dpo", form, tmp_path / form)
    for form, texts in (("trl", lambda row: row["chosen"][0]["content"]), ("rlaif-v", lambda row: row["chosen"])):
        loaded = datasets.load_dataset(str(tmp_path / form), split="train", cache_dir=str(tmp_path / "cache"))
        assert sorted(map(texts, loaded)) == sorted(row["chosen"] for row in pairs.values())
    assert len(rows_of("conversations", tmp_path / "minicpm-v/conversations.json")) == len(pairs)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_release_gives_the_same_bytes(corpus, talk, tmp_path, form):
    root, name = (talk, "talk") if form in ("minicpm-v", "llava") else (corpus, "dpo")
    release = json.loads(root.read(f"shards/{name}.json"))["release"]
    for folder, one in (("a", name), ("b", f"{name}@{release}"), ("b", name)):
        assert len(exported(root, one, form, tmp_path / folder)) > 1
    assert data_files(tmp_path / "a") == data_files(tmp_path / "b")


@pytest.mark.slow
def test_a_set_of_another_task_is_answered_in_one_line(talk, tmp_path):
    with pytest.raises(UserError, match="talk has the task 'conversation'; rlaif-v needs preference"):
        export(talk, "talk", "rlaif-v", Root(str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "form", "said"),
    [
        ("nope", "trl", "export-set: unknown shard set 'nope'; choose from dpo"),
        ("dpo", "csv", "--form: unknown form 'csv'; choose from huggingface, trl, rlaif-v, llava, minicpm-v"),
    ],
)
def test_what_cannot_be_exported_is_answered_in_one_line(corpus, tmp_path, name, form, said):
    with pytest.raises(UserError) as error:
        export(corpus, name, form, Root(str(tmp_path)))
    assert str(error.value) == said
    there = say("export-set", corpus.url, name, tmp_path / "out", "--form", form)
    assert (there.code, there.err) == (2, f"shardmill: {said}\n")


def test_the_command_writes_them(corpus, tmp_path):
    said = say("export-set", corpus.url, "dpo", tmp_path / "out", "--form", "rlaif-v")
    assert (said.code, said.out) == (0, f"wrote 30 samples in 4 files to {tmp_path / 'out'}\n")
    assert sum(pq.read_metadata(file).num_rows for file in (tmp_path / "out").rglob("*.parquet")) == 30
    card = json.loads(corpus.read("shards/dpo.json"))
    note = {"set": "dpo", "release": card["release"], "form": "rlaif-v"}
    assert json.loads((tmp_path / "out/.export.json").read_text()) == note
