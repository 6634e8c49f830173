"""Tables of text: encodings, delimiters, quotes, and lines that are not like the first."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.corpora import facts, rows_of, say


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json"])
def test_a_byte_order_mark_says_which_unicode_it_is(name, encoding, pictures):
    texts = {
        "a.csv": 'image,text\n0.png,"Käse, Öl"\n', "a.tsv": "image\ttext\n0.png\tKäse, Öl\n",
        "a.jsonl": '{"image": "0.png", "text": "Käse, Öl"}\n', "a.json": '[{"image": "0.png", "text": "Käse, Öl"}]',
    }  # fmt: skip
    (pictures / name).write_bytes(texts[name].encode(encoding))
    assert facts(rows_of("folder", pictures / name), "file", "text", "extra") == [("0.png", "Käse, Öl", "{}")]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_another_encoding_is_asked_for_and_never_guessed(name, pictures, configure):
    lines = {
        "a.csv": ["image,text", "0.png,Käse", "1.png,plain"], "a.tsv": ["image\ttext", "0.png\tKäse", "1.png\tplain"],
        "a.jsonl": ['{"image": "0.png", "text": "Käse"}', '{"image": "1.png", "text": "plain"}'],
    }[name]  # fmt: skip
    (pictures / name).write_bytes("\n".join(lines).encode("latin-1"))
    toml = '[source]\nkind = "folder"\npath = "pictures"\n'
    said = say("plan", configure(toml))
    line = 1 if name == "a.jsonl" else 2
    assert (said.code, said.err) == (
        2,
        f'shardmill: source.encoding: {name}, line {line}, is not UTF-8; write encoding = "latin-1" or whatever it '
        'is; with "utf-8", such rows are left out\n',
    )
    assert facts(rows_of("folder", pictures, encoding="latin-1"), "text") == [("Käse",), ("plain",)]
    rows = rows_of("folder", pictures, encoding="utf-8")
    assert facts(rows, "text", "reason", "detail") == [
        (None, "bad_text", f"{name}, line {line}, has 1 characters that are not utf-8"), ("plain", None, None),
    ]  # fmt: skip
    said = say("plan", configure(f'{toml}encoding = "klingon"'))
    assert said.code == 2 and "source.encoding: unknown encoding; write one of Python's" in said.err


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_utf_16_without_its_mark_is_not_read_as_utf_8(pictures, configure, name, encoding):
    text = {
        "a.csv": "image,text\n0.png,one\n", "a.tsv": "image\ttext\n0.png\tone\n",
        "a.jsonl": '{"image": "0.png", "text": "one"}\n',
    }[name]  # fmt: skip
    (pictures / name).write_bytes(text.encode(encoding))
    said = say("plan", configure('[source]\nkind = "folder"\npath = "pictures"\n'))
    why = f'{name}, line 1, has null characters; write encoding = "utf-16-le" or what it is'
    assert (said.code, said.err) == (2, f"shardmill: source.encoding: {why}\n")
    assert facts(rows_of("folder", pictures, encoding=encoding), "text") == [("one",)]


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.csv", "image,text\n0.png,o\0ne\n1.png,two\n"), ("a.tsv", "image\ttext\n0.png\to\0ne\n1.png\ttwo\n"),
     ("a.jsonl", '{"image": "1.png", "text": "two"}\n{"image": "0.png", "text": "o\0ne"}\n'),
     ("a.json", '[{"image": "1.png", "text": "two"}, {"image": "0.png", "text": "o\0ne"}]')],
)  # fmt: skip
def test_a_null_character_is_a_character(pictures, name, text):
    """As in the texts beside images, and in Parquet."""
    (pictures / name).write_text(text)
    assert sorted(facts(rows_of("folder", pictures), "text", "reason")) == [("o\0ne", None), ("two", None)]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_line_of_utf_16_among_others_loses_that_line(pictures, name):
    lines = {"a.csv": ["image,text", "0.png,one", "1.png,two"],
             "a.jsonl": ['{"image": "0.png", "text": "one"}', '{"image": "1.png", "text": "two"}']}[name]  # fmt: skip
    *whole, last = lines
    (pictures / name).write_bytes("".join(f"{line}\n" for line in whole).encode() + last.encode("utf-16-le"))
    kept, lost = rows_of("folder", pictures)
    assert (kept["text"], kept["reason"], lost["text"], lost["reason"]) == ("one", None, None, "bad_text")
    assert f"{name}, line {len(lines)}, holds " in lost["detail"] and "as UTF-16 does" in lost["detail"]


# Lines


def test_lines_of_csv_with_other_fields_than_the_first_have_a_reason(pictures):
    (pictures / "a.csv").write_bytes(
        b'\xef\xbb\xbfimage,text\n0.png,a\n1.png,b,c,d\n2.png\n\n3.png,"x" y\n0.png,"a ""b"", c"\n1.png,say "hi"\n'
        b'2.png,"two\nlines"\n3.png,"no end\n0.png,found\n'
    )
    rows = rows_of("folder", pictures)
    assert facts(rows, "file", "text", "reason") == [
        ("0.png", "a", None), (None, None, "wrong_fields"), (None, None, "wrong_fields"), (None, None, "wrong_fields"),
        ("0.png", 'a "b", c', None), ("1.png", 'say "hi"', None), ("2.png", "two\nlines", None),
        (None, None, "wrong_fields"), ("0.png", "found", None),
    ]  # fmt: skip
    assert [row["detail"] for row in rows if row["detail"]] == [
        "a.csv, line 3: 4 fields, the first line has 2", "a.csv, line 4: 1 fields, the first line has 2",
        "a.csv, line 6: ',' expected after '\"'", "a.csv, line 11: unexpected end of data",
    ]  # fmt: skip


SWALLOWED = {  # a quote that opens in one line and closes in another, though each line is a record of its own
    "closes": (['0.png,"Hello', '1.png,world"', "2.png,plain"], [None, 'world"', "plain"]),
    "closes later": (['0.png,"Hello', "1.png,a", "2.png,b", '3.png,c"', "4.png,d"], [None, "a", "b", 'c"', "d"]),
    "ends nowhere": (['0.png,"Hello', "1.png,a", "2.png,b"], [None, "a", "b"]),
    "another opens": (['0.png,"Hello', '1.png,"world"', "2.png,b"], [None, "world", "b"]),
    "numbers": (['7,"Hello', '8,world"', "9,b"], [None, 'world"', "b"]),
    "URLs": (['http://a.example/1,"Hello', 'http://a.example/2,world"'], [None, 'world"']),
}


@pytest.mark.parametrize("case", SWALLOWED)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_quote_that_does_not_close_loses_no_other_line(name, case, tmp_path):
    lines, texts = SWALLOWED[case]
    text = "\n".join(["image,text", *lines]) + "\n"
    (tmp_path / name).write_text(text.replace(",", "\t") if name == "a.tsv" else text)
    rows = rows_of("folder", tmp_path / name)
    assert {row["reason"] for row in rows} <= {"wrong_fields", "no_image"}
    if name == "a.tsv":  # where quotes are plain characters
        assert [row["text"] for row in rows] == ['"Hello', *texts[1:]]
        return
    assert [row["text"] for row in rows] == texts
    (bad,) = (row for row in rows if row["reason"] == "wrong_fields")
    assert bad["detail"].startswith("a.csv, line 2: ")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_texts_of_several_lines_are_read_whole(name, tmp_path):
    rows = [("image", "text", "n"), ("0.png", "two\nlines", "1"), ("1.png", 'a "b",\n\n\tc', "2"), ("2.png", "\n", "3")]
    rows += [("3.png", "1, 2\n3, 4\n", "4"), ("4.png", "See 4.png, and\n5.png\r\nhere", "5")]
    with open(tmp_path / name, "w", newline="") as file:
        csv.writer(file, delimiter="\t" if name == "a.tsv" else ",").writerows(rows)
    read = rows_of("folder", tmp_path / name)
    assert [row["text"] for row in read] == [row[1] for row in rows[1:]]


def test_a_quote_runs_over_a_bounded_number_of_lines(tmp_path):
    (tmp_path / "a.csv").write_text('image,text\n0.png,"' + "\n" * 2000 + "1.png,b\n")
    first, second = rows_of("folder", tmp_path / "a.csv")
    assert first["detail"] == "a.csv, line 2: a quote runs over more than 1000 lines" and second["text"] == "b"


@pytest.mark.parametrize(
    ("line", "text"), [('0.png\t"Hello" he said', '"Hello" he said'), ('0.png\t5" wide', '5" wide'),
                       ('0.png\t"a ""b"""', 'a "b"'), ('0.png\t"a\tb"', "a\tb"), ('"0.png\tb"', 'b"')],
)  # fmt: skip
def test_quotes_in_tsv_are_those_of_csv_where_they_fit(line, text, tmp_path):
    (tmp_path / "a.tsv").write_text(f"image\ttext\n{line}\n")
    (row,) = rows_of("folder", tmp_path / "a.tsv")
    assert row["text"] == text


@pytest.mark.parametrize(
    ("head", "line", "extra"),
    [(",image,text", "0,0.png,a", {"": "0"}), (",image,text,", "0,0.png,a,z", {"": "0", "column 4": "z"}),
     ("image,text,,,n", "0.png,a,x,y,1", {"": "x", "column 4": "y", "n": "1"})],
)  # fmt: skip
def test_columns_without_a_name_are_all_kept(head, line, extra, tmp_path):
    (tmp_path / "a.csv").write_text(f"{head}\n{line}\n")
    (row,) = rows_of("folder", tmp_path / "a.csv")
    assert json.loads(row["extra"]) == extra and row["text"] == "a"
    names, cells = head.split(","), [[cell] for cell in line.split(",")]
    pq.write_table(pa.table(cells, names=names), tmp_path / "a.parquet")
    (row,) = rows_of("folder", tmp_path / "a.parquet")
    assert json.loads(row["extra"]) == extra and row["text"] == "a"


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=5), st.sampled_from([",", "\t"]))
@settings(max_examples=200, deadline=None)
def test_what_python_writes_as_csv_is_read_as_it_was(tmp_path_factory, rows, delimiter):
    from pipelines.sources.csv_lines import csv_records

    rows = [(a.replace("\0", ""), b.replace("\0", "")) for a, b in rows]
    rows = [row for row in rows if all(c < "\ud800" or c > "\udfff" for cell in row for c in cell)]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("one", "two"), *rows])
    raw = io.BytesIO(text.getvalue().encode())
    assert list(csv_records(raw, "a.csv", None, delimiter)) == [{"one": a or None, "two": b or None} for a, b in rows]


def test_a_line_without_end_is_a_reason(pictures, monkeypatch):
    monkeypatch.setattr("pipelines.sources.lines.MAX_LINE", 100)
    (pictures / "a.jsonl").write_text(
        '{"image": "0.png", "text": "%s"}\n{"image": "1.png", "text": ""}\n' % ("x" * 1000)
    )
    assert facts(rows_of("folder", pictures), "file", "reason") == [(None, "bad_text"), ("1.png", None)]


@pytest.mark.parametrize(("name", "delimiter", "fix"), [
    ("a.csv", "|", "|"), ("a.csv", ";", ";"), ("a.csv", "\t", r"\t"), ("a.tsv", ",", ","),
])  # fmt: skip
def test_another_delimiter_is_asked_for(name, delimiter, fix, tmp_path, configure):
    lines = [("image_name", " comment_number", " comment"), ("0.png", " 0", " One, two, three"), ("1.png", " 0", " A")]
    (tmp_path / name).write_text("".join(delimiter.join(line) + "\n" for line in lines))
    toml = f'[source]\nkind = "folder"\npath = "{name}"\nimage_column = "image_name"\ntext_column = " comment"\n'
    setting = f'delimiter = "{fix}"'
    said = f'shardmill: source.delimiter: {name} has "{fix}" between its columns; write {setting} in [source]\n'
    assert say("plan", configure(toml)) == (2, "", said)
    assert say("plan", configure(toml + setting)).code == 0
    names = {"image_column": "image_name", "text_column": " comment"}
    rows = rows_of("folder", tmp_path / name, delimiter=delimiter, **names)
    assert facts(rows, "text", "reason") == (
        [(None, "wrong_fields"), (" A", "no_image")] if delimiter == "," else
        [(" One, two, three", "no_image"), (" A", "no_image")]
    )  # fmt: skip
