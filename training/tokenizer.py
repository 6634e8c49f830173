"""A tokenizer for the layout: marks are found by name, and plain text never becomes a mark.

    tokenizer = Tokenizer("my-tokenizer")       # a folder with tokenizer.json, as transformers saves it, or that file
    layout = Layout(tokenizer.encode, tokenizer.marks, queries=64)

`python -m training.tokenizer ROOT SET OUT --vocab 2048` trains a byte-level BPE on the texts of a shard set.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import cast

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from schemas.errors import UserError, answered
from schemas.shards import Damaged
from training.layout import Marks, SampleRejected
from training.options import program
from training.places import TOKENIZER, check_place
from training.sample_text import texts
from training.shards import Shards
from training.whole_files import replace


@dataclass(frozen=True)
class Names:
    """The tokenizer's name for each mark; by default as in MiniCPM-V 2.6."""

    image: tuple[str, str] = ("<image>", "</image>")
    slice: tuple[str, str] = ("<slice>", "</slice>")
    query: str = "<unk>"
    turn: tuple[str, str] = ("<|im_start|>", "<|im_end|>")
    begin: str | None = None
    end: str = "<|endoftext|>"

    def all(self) -> list[str]:
        return [self.end, self.query, *self.turn, *self.image, *self.slice, *([self.begin] if self.begin else [])]


def marks_in(text: str, names: Names = Names()) -> list[str]:
    """The names of marks that a text spells, those of numbered images too, in order; they are plain text there."""
    spelled = "|".join([r"<image_\d+>", *map(re.escape, names.all())])
    return re.findall(spelled, text)


class Tokenizer:
    """A `tokenizers` tokenizer, read from its JSON and immutable.

    Raises `UserError` if it lacks one of the marks: llama.cpp finds them by their exact names, and fails silently.
    """

    def __init__(self, path: str | Path, names: Names = Names()):
        path = Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        try:
            self.json = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read: {error}; give a folder with tokenizer.json") from None
        self.path, self.names = path, names
        self._open()

    def _open(self) -> None:
        try:
            inner = tokenizers.Tokenizer.from_str(self.json)
        except Exception as error:  # it raises no other kind
            raise UserError(f"{self.path}: is not a valid tokenizer.json: {error}") from None
        if dropout := json.loads(self.json)["model"].get("dropout"):
            raise UserError(
                f"{self.path}: model.dropout: {dropout} makes other tokens of a text each time; set it to null"
            )
        inner.no_truncation()
        inner.no_padding()
        inner.encode_special_tokens = True  # special tokens in a text are words; pickling loses this
        self._inner = inner
        special = {token.content for token in inner.get_added_tokens_decoder().values() if token.special}
        if missing := [name for name in self.names.all() if name not in special]:
            raise UserError(f"{self.path}: has no special token {missing[0]}; add it to its added_tokens")
        self._check_ids(inner)
        if len(line_break := self.encode("\n")) != 1:
            raise UserError(f"{self.path}: a line break is {len(line_break)} tokens; llama.cpp needs it to be one")
        names = self.names

        def id_of(name: str) -> int:
            return cast(int, inner.token_to_id(name))  # it exists: see above

        self.marks = Marks(
            image=(id_of(names.image[0]), id_of(names.image[1])),
            slice=(id_of(names.slice[0]), id_of(names.slice[1])),
            line_break=line_break[0],
            query=id_of(names.query),
            turn=(id_of(names.turn[0]), id_of(names.turn[1])),
            begin=id_of(names.begin) if names.begin else None,
            end=id_of(names.end),
        )
        self.identity = sha256(json.dumps([self.json, asdict(names)]).encode()).hexdigest()

    def _check_ids(self, inner: tokenizers.Tokenizer) -> None:
        """Raises `UserError` if an added token has another id than in its file, because exports use the file's."""
        added = json.loads(self.json).get("added_tokens") or []
        for token in added:
            if (taken := inner.token_to_id(token["content"])) != token["id"]:
                raise UserError(
                    f"{self.path}: added_tokens: {token['content']} has the id {token['id']}, but is taken as {taken}; "
                    f"give it the id {taken}: added tokens follow the vocabulary without a hole"
                )
        self.largest = max(inner.get_vocab().values(), default=0)

    def check_room(self, vocab: int) -> None:
        """Raises `UserError` if an id has no embedding among `vocab`."""
        if self.largest >= vocab:
            raise UserError(f"{self.path}: {len(self)} tokens with ids up to {self.largest}; the shape has room for "
                            f"{vocab}")  # fmt: skip

    def __len__(self) -> int:
        """The number of ids, marks included."""
        return self._inner.get_vocab_size()

    def vocabulary(self) -> tuple[dict[str, int], set[int]]:
        """All tokens with their ids, and the ids of those that were added, such as marks."""
        return self._inner.get_vocab(with_added_tokens=True), {*self._inner.get_added_tokens_decoder()}

    def __getstate__(self) -> tuple[str, Path, Names]:
        return self.json, self.path, self.names

    def __setstate__(self, state: tuple[str, Path, Names]) -> None:
        self.json, self.path, self.names = state
        self._open()

    def encode(self, text: str) -> list[int]:
        """The ids of plain text: nothing is added around it, and no mark is read in it."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, without marks."""
        return self._inner.decode(list(ids), skip_special_tokens=True)


def train(lines: Iterable[str], vocab: int, names: Names = Names()) -> tokenizers.Tokenizer:
    """A byte-level BPE (llama.cpp's `gpt-2`) of at most `vocab` tokens: the marks first, then the bytes.

    Raises `UserError` if marks and bytes alone are more.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab < (least := len(names.all()) + len(alphabet)):
        raise UserError(f"--vocab: {vocab} is too few: the marks and the bytes alone are {least}")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=names.all(), initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def save(tokenizer: tokenizers.Tokenizer, folder: str | Path, names: Names = Names()) -> None:
    """Writes the folder that `Tokenizer` and `transformers.AutoTokenizer` read."""
    os.makedirs(folder, exist_ok=True)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": names.begin, "eos_token": names.turn[1],
        "pad_token": names.end, "unk_token": names.query, "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    replace(Path(folder, "tokenizer_config.json"), json.dumps(config, indent=1))
    replace(Path(folder, "tokenizer.json"), tokenizer.to_str(pretty=True))


def _lines(shards: Shards) -> Iterator[str]:
    """All texts of a set. Raises `UserError` for a sample whose texts cannot be read."""
    for sample in shards:
        try:
            yield from texts(sample)
        except SampleRejected as error:
            raise UserError(f"{shards.release}: {sample['__key__']}: {error}; leave it out of the set") from None


def main() -> None:
    parser = program("training.tokenizer", str(train.__doc__).split("\n")[0])
    parser.add_argument("root", help="folder or URL of a corpus")
    parser.add_argument("set", help="a published shard set")
    parser.add_argument("out", help="the folder to write")
    parser.add_argument("--vocab", type=int, default=2048, help="largest number of tokens")
    options = parser.parse_args()
    with answered(OSError, Damaged):
        check_place(Path(options.out), TOKENIZER)
        shards = Shards(options.root, options.set)
        if not any(text.strip() for text in _lines(shards)):
            raise UserError(f"{options.root}: the set {options.set} has no texts; choose another")
        save(train(_lines(shards), options.vocab), options.out)
        tokenizer = Tokenizer(options.out)
    print(f"{options.out}: {len(tokenizer)} tokens, of {len(shards)} samples; {tokenizer.identity[:12]}")


if __name__ == "__main__":
    main()
