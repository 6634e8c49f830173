"""Mistakes in configurations, each with what its answer must say."""

from pathlib import Path

KINDS = "folder, webdataset, laion, conversations, instructions, huggingface, scenes"
GOOD = """
root = "corpus"
[source]
kind = "webdataset"
path = "source"
"""


def where(condition: str) -> str:
    return f"{GOOD}[sets.train]\nwhere = {condition!r}"


def gate(condition: str) -> str:
    return f"{GOOD}[gates]\nenough = {condition!r}"


def source(path: str, more: str = "", kind: str = "webdataset") -> str:
    return f'root = "corpus"\n[source]\nkind = "{kind}"\npath = "{path}"\n{more}'


def several(first: str, second: str) -> str:
    first = f'[[source]]\n{first}\nkind = "webdataset"\npath = "source"\n'
    return f'root = "corpus"\n{first}[[source]]\n{second}\nkind = "folder"\npath = "text"\n'


def at(path: str) -> str:
    return GOOD.replace('"corpus"', f'"{path}"')


def endpoint(more: str) -> str:
    return f'{GOOD}[endpoints.a]\nmodel = "m"\nurl = "http://127.0.0.1:9"\n{more}'


STEAL = "true); copy (select 1) to 'stolen.csv'; select (true"

# What is in the file, and what must stand in the answer: the place, and the fix.
MISTAKES = {
    "a field": (GOOD + "[ocr]\nmin_confidense = 1", "ocr.min_confidense: unknown; did you mean `min_confidence`?"),
    "a set's field": (GOOD + "[sets.train]\nwere = 'true'", "sets.train.were: unknown; did you mean `where`?"),
    "a table's name": (GOOD + "[image]\nmin_side = 3", "image: unknown; did you mean `images`?"),
    "a name like no other": (GOOD + "[images]\nzzz = 3", "images.zzz: unknown; known here: max_aspect_ratio, "),
    "a type": (GOOD + "[images]\nmin_side = 'ten'", "images.min_side: write a whole number, not 'ten'"),
    "a list": (GOOD + "[sets.train]\nwhere = ['a']", "sets.train.where: write a text, in quotes, not "),
    "out of range": (GOOD + "[sets.train]\nweight = 2", "sets.train.weight: input should be less than or equal"),
    "not a number": (GOOD + "[sets.train]\nweight = nan", "sets.train.weight: input should be "),
    "a kind": (
        GOOD.replace("webdataset", "webdatset"),
        f"source.kind: unknown source 'webdatset'; choose from {KINDS}",
    ),
    "a task": (GOOD + "[sets.train]\ntask = 'vqa'", "sets.train.task: write 'caption', 'ocr', 'reco"),
    "a set's name": (GOOD + "[sets.'../a']", "sets.../a: name it with small letters, digits and _"),
    "a set without a name": (GOOD + "[sets]\nwhere = 'true'", "sets.where: write a table, [sets.NAME], not 'true'"),
    "a table that is a word": ("ocr = true" + GOOD, "ocr: write a table, [ocr], not 'True'"),
    "a source that is a word": ("source = 'folder'\nroot = 'corpus'", "source: write a table, [source], not 'folder'"),
    "no source in a list": ("source = []\nroot = 'corpus'", "source: write a table, [source]"),
    "a source in a list that is a word": (
        "source = ['a', 'b']\nroot = 'corpus'",
        "source.1: write a table, [[source]], not 'a'",
    ),
    "two sources without names": (several("", ""), "source.2.name: missing; only one of several sources"),
    "two sources of one name": (
        several('name = "web"', 'name = "web"'),
        "source.2.name: 'web' is the name of another source; choose another name",
    ),
    "a source's name": (
        several("", 'name = "My web"'),
        "source.My web.name: write small letters, digits and _, a letter first, not 'My web'",
    ),
    "a field of the second source": (several("", 'name = "web"\nroof = 3'), "source.web.roof: unknown; known here: "),
    "the second source's kind": (
        several("", 'name = "web"').replace("folder", "fodler"),
        f"source.web.kind: unknown source 'fodler'; choose from {KINDS}",
    ),
    "a second source without a path": (
        several('name = "one"', 'name = "web"').replace('path = "text"', ""),
        'source.web.path: missing; add path = "…"',
    ),
    "a second source that is not there": (
        several("", 'name = "web"').replace('"text"', '"nowhere"'),
        "source.web.path: {here}/nowhere does not exist",
    ),
    "a second source without images": (several("", 'name = "web"'), "source.web.path: no images and no caption tables"),
    "a root in the second source": (
        several("", 'name = "web"').replace('"corpus"', '"text/corpus"'),
        "root: lies in source.web.path and would be read as a source",
    ),
    "a word for a list": (GOOD + "[duplicates]\nexclude = 'a'", "duplicates.exclude: write a list: [\"…\"], not 'a'"),
    "a size with its unit": (
        GOOD + "[images]\nmax_bytes = '10MB'",
        "images.max_bytes: write a whole number, not '10MB'",
    ),
    "a share in per cent": (GOOD + "[sets.train]\nweight = '10%'", "sets.train.weight: write a number, not '10%'"),
    "no root": (GOOD.replace("root", "#"), "root: missing; add it above the first [table]"),
    "a root in a table": (
        "[source]\nroot = 'corpus'\nkind = 'scenes'",
        "root: missing; add it above the first [table]",
    ),
    "an empty root": (at(""), "root: write at least one character, not ''"),
    "no source": ("root = 'corpus'", "source: missing; add the table [source] with its kind"),
    "a misspelt source": ("root = 'corpus'\n[sorce]\nkind = 'scenes'", "sorce: unknown; did you mean `source`?"),
    "a misspelt path": (GOOD.replace("path", "paht"), "source.paht: unknown; did you mean `path`?"),
    "a misspelt needed key": (
        GOOD + "[fetch]\ncontakt = 'a@example.org'",
        "fetch.contakt: unknown; did you mean `contact`?",
    ),
    "a needed key": (GOOD + "[fetch]", "fetch.contact: missing; add it (`shardmill keys fetch` explains it)"),
    "no source path": (GOOD.replace("path", "#"), 'source.path: missing; add path = "…"'),
    "an empty source path": (source(""), "source.path: write at least one character, not ''"),
    "syntax": (GOOD + "[ocr\n", "not valid TOML: Expected ']' at the end of a table declaration (at line 6, "),
    "a number of 5,000 digits": (
        f"{GOOD}[images]\nmin_side = {'9' * 5000}",
        "not valid TOML: a whole number has at most 64 bits",
    ),
    "a number of 5,000 hex digits": (
        f"{GOOD}[images]\nmin_side = 0x{'f' * 5000}",
        "not valid TOML: images.min_side: a whole number has at most 64 bits",
    ),
    "a number of 65 bits in a list": (
        f"{GOOD}[beam]\noptions = [1, {1 << 65}]",
        "not valid TOML: beam.options.2: a whole number has at most 64 bits",
    ),
    "5,000 lists in each other": (
        f"{GOOD}[images]\nmin_side = {'[' * 5000}",
        "not valid TOML: has more than 50 levels",
    ),
    "60 tables in each other": (f"{GOOD}[a{'.a' * 60}]", "not valid TOML: has more than 50 levels"),
    "2,000 inline tables": (f"{GOOD}x = {'{a = ' * 2000}1{'}' * 2000}", "not valid TOML: has more than 50 levels"),
    "a text without quotes": (
        "root = corpus",
        "not valid TOML: Invalid value (at line 1, column 8); a text needs quotes, and true and false lower case",
    ),
    "a table twice": (GOOD + "[ocr]\n[ocr]", "not valid TOML: Cannot declare ('ocr',) twice"),
    "a column": (where("widht > 3"), 'sets.train.where: unknown column "widht"; similar names: "width"'),
    "a value": (where("width"), "sets.train.where: 'width' is of type bigint; write a condition"),
    "null": (where("null"), "sets.train.where: 'null' is of type \"null\"; write a condition"),
    "two conditions": (where("true, true"), "sets.train.where: "),
    "many columns": (where("columns(*)"), "sets.train.where: "),
    "an empty condition": (where(" "), "sets.train.where: empty; write a condition"),
    "a second statement": (where("true; select 1"), "sets.train.where: Parser Error"),
    "a way out of the brackets": (where("true) or (false"), "sets.train.where: Parser Error"),
    "a condition that writes": (where(STEAL), "sets.train.where: Parser Error"),
    "a sum": (where("count(*) > 3"), "sets.train.where: Binder Error"),
    "a parameter": (where("width > ?"), "sets.train.where: "),
    "an open comment": (where("true /* all"), "sets.train.where: Parser Error: unterminated /* comment"),
    "pairs without responses": (
        f'{GOOD}[sets.dpo]\ntask = "preference"',
        "sets.dpo: pairs need the table [responses]; add it",
    ),
    "a column of pairs": (
        f'{GOOD}[sets.dpo]\ntask = "preference"\nwhere = "margins > 1"',
        'sets.dpo.where: unknown column "margins"; similar names: "margin"',
    ),
    "a figure": (gate("kept_shar > 1"), 'gates.enough: unknown column "kept_shar"; similar names: "kept_share"'),
    "a gate that is a value": (gate("kept"), "gates.enough: 'kept' is of type bigint; write a condition"),
    "a gate that is no text": (GOOD + "[gates]\na = 3", "gates.a: write a text, in quotes, not '3'"),
    "a gate that is no SQL": (gate("not a word"), "gates.enough: Parser Error"),
    "a gate that writes": (gate(STEAL), "gates.enough: Parser Error"),
    "a source that is not there": (source("sauce"), "source.path: {here}/sauce does not exist"),
    "a pattern in no folder": (source("sauce/*.tar"), "source.path: {here}/sauce/*.tar does not exist"),
    "a pattern of braces": (source("sauce/{0..9}.tar"), "{0..9}.tar does not exist; patterns are of * and ?"),
    "a pattern without a match": (source("source/*.tgz"), "source.path: no .tar under {here}/source/*.tgz"),
    "a folder without tars": (source("text"), "source.path: no .tar under {here}/text; it has a.txt"),
    "a folder without images": (
        source("text", kind="folder"),
        "source.path: no images and no caption tables under {here}/text; it has a.txt",
    ),
    "tars as tables": (
        source("source", kind="huggingface"),
        'no .parquet and no .arrow under {here}/source; it has 0.tar; kind = "webdataset" reads such files',
    ),
    "a table as a tar": (
        source("captions"),
        'source.path: no .tar under {here}/captions; it has a.csv; kind = "folder" reads such files',
    ),
    "a protocol": (source("s4://a/b"), "source.path: s4://a/b: Protocol not known: s4"),
    "captions without the usual columns": (
        source("captions", kind="folder"),
        "source.image_column: a.csv has none of the columns image, image_path, file_name, filename, path; it has img",
    ),
    "a column of images": (
        source("captions", 'image_column = "imgs"', "folder"),
        "source.image_column: a.csv has no column 'imgs'; it has img, words",
    ),
    "a column of captions": (
        source("captions", 'image_column = "img"\ntext_column = "word"', "folder"),
        "source.text_column: a.csv has no column 'word'; it has img, words",
    ),
    "the root's protocol": (at("s4://a/b"), "s4://a/b: Protocol not known: s4"),
    "a root that is a file": (at("text/a.txt"), "{here}/text/a.txt: is not a folder; choose another"),
    "a root in a file": (at("text/a.txt/b"), "{here}/text/a.txt/b: is not a folder; choose another"),
    "a root with other things": (at("text"), "{here}/text: holds a.txt but no root.json: not a Shardmill root;"),
    "a root of something else": (at("other"), "{here}/other/root.json: is damaged, or not of this Shardmill: files: "),
    "a root that is the source": (at("source"), "root: lies in source.path"),
    "a root within the source": (at("source/corpus"), "root: lies in source.path"),
    "a root that a pattern reaches": (source("./**/*.tar"), "root: lies in source.path"),
    "verdicts without responses": (
        GOOD + '[verdicts]\nlabelers = ["a"]',
        "verdicts: needs the table [responses]; add it",
    ),
    "a labeler twice": (GOOD + '[verdicts]\nlabelers = ["a", "b", "a"]', "verdicts.labelers: name each labeler once"),
    "a blank question": (GOOD + '[instructions]\nquestions = ["What?", " "]', "instructions.questions.1: is blank; "),
    "responses to no questions": (
        'root = "corpus"\n[source]\nkind = "scenes"\n[responses]\nendpoint = "a"',
        "instructions.questions: missing; [responses] needs questions",
    ),
    "texts that are not read": (
        GOOD + '[sets.read]\ntask = "ocr"',
        "sets.read: the task 'ocr' needs the table [ocr]; add it",
    ),
    "a date for a server": (
        endpoint("extra = {d = 2020-01-01}"),
        "endpoints.a.extra: write only values of JSON: no dates",
    ),
    "no number for a server": (
        endpoint("extra = {d = {e = [inf]}}"),
        "endpoints.a.extra: write only values of JSON: no d",
    ),
    "a source path with NUL": (
        source("a\\u0000b"),
        "source.path: write a path without the character NUL, not 'a\\x00b'",
    ),
    "a list with NUL": (
        GOOD + '[duplicates]\nexclude = ["a\\u0000b"]',
        "duplicates.exclude.0: write a path without the character NUL",
    ),
    "the root of nobody": (
        at("~nobodyx/r"),
        "root: begins with ~ and an unknown user name; write the folder, not ",
    ),
    "the source of nobody": (source("~nobodyx/r"), "source.path: begins with ~ and an unknown user name"),
    "a model of nobody": (
        GOOD + '[endpoints.a]\nmodel = "~nobodyx/m"',
        "endpoints.a.model: begins with ~ and an unknown user name",
    ),
    "weights of nobody": (
        GOOD + '[ocr.easyocr]\nmodels = "~nobodyx/m"',
        "ocr.easyocr.models: begins with ~ and an unknown ",
    ),
    "a font of nobody": (
        'root = "corpus"\n[source]\nkind = "scenes"\nfonts = ["~nobodyx/a.ttf"]',
        "source.fonts.0: begins with ~ and an unknown user name",
    ),
}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def one_line(said) -> str:
    """What a mistake is answered with: one line, exit code 2, nothing on standard output."""
    assert (said.code, said.out) == (2, "")
    (line,) = said.err.splitlines()
    assert line.startswith("shardmill: ")
    return line.removeprefix("shardmill: ")
