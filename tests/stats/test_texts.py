"""Every kind of input gives the same texts; every broken one is refused by name."""

import bz2
import gzip
import json
import lzma

import datasets
import pytest

from neuronsteer.errors import TextError
from neuronsteer.stats.texts import read_sources

LINES = ["first line", "zweite Zeile ü", "третья \u2028 строка", "  indented"]


def read(texts, **options):
    return {source.label: list(source.read()) for source in read_sources(texts, **options)}


def write_lines(path, opener=open):
    with opener(path, "wb") as file:
        file.write(("\ufeff" + "\n\n".join(LINES) + "\r\n").encode())
    return path


def write_records(path, opener=open):
    with opener(path, "wb") as file:
        for line in LINES:
            file.write((json.dumps({"text": line, "id": 3}) + "\n").encode())
    return path


@pytest.mark.parametrize(
    ("suffix", "opener"),
    [("", open), (".gz", gzip.open), (".xz", lzma.open), (".bz2", bz2.open)],
)
def test_files(tmp_path, suffix, opener):
    plain = write_lines(tmp_path / f"x.txt{suffix}", opener)
    records = write_records(tmp_path / f"y.jsonl{suffix}", opener)
    assert read({"x": plain, "y": str(records)}) == {"x": LINES, "y": LINES}


def test_a_folder_has_one_file_per_label(tmp_path):
    write_lines(tmp_path / "fr.txt")
    write_records(tmp_path / "zh-Hant.jsonl.xz", lzma.open)
    (tmp_path / "README.md").write_text("not a text")
    (tmp_path / ".hidden.txt").write_text("not a text")
    (tmp_path / "sub").mkdir()
    assert read(tmp_path) == {"fr": LINES, "zh-Hant": LINES}
    assert read(str(tmp_path)) == {"fr": LINES, "zh-Hant": LINES}
    write_lines(tmp_path / "fr.txt.gz", gzip.open)
    with pytest.raises(TextError, match=r"'fr\.txt' and 'fr\.txt\.gz'.*label 'fr'"):
        read(tmp_path)


def test_iterables_pairs_and_records():
    pairs = [("p", "r"), ["p", "r"], {"prompt": "p", "response": "r"}]
    assert read({"x": pairs}) == {"x": [("p", "r")] * 3}
    assert read({"x": (line for line in LINES)}) == {"x": LINES}
    assert read({"x": [{"body": "b"}]}, field="body") == {"x": ["b"]}
    assert read({"x": tuple(LINES)}) == {"x": LINES}


def test_datasets():
    data = datasets.Dataset.from_dict({"text": LINES, "id": [1, 2, 3, 4]})
    assert read({"x": data}) == {"x": LINES}
    assert read({"x": data.to_iterable_dataset()}) == {"x": LINES}
    assert read(datasets.DatasetDict({"x": data, "y": data})) == {"x": LINES, "y": LINES}
    sizes = {s.label: s.size for s in read_sources({"x": data, "y": data.to_iterable_dataset()})}
    assert sizes == {"x": 4, "y": None}


def test_sources_can_be_read_twice_unless_they_are_generators():
    source = read_sources({"x": LINES})[0]
    assert list(source.read()) == list(source.read()) == LINES


def test_nothing_is_read_ahead():
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield "text"

    source = read_sources({"x": endless()})[0]
    items = source.read()
    assert [next(items) for _ in range(3)] == ["text"] * 3
    assert len(taken) == 3


def test_marks_tell_texts_apart(tmp_path):
    def mark(value):
        return read_sources({"x": value})[0].mark

    assert mark(LINES) == mark(tuple(LINES))
    assert mark(LINES) != mark(LINES[:3])
    assert mark(LINES) != mark(["other", *LINES[1:]])
    one, two = tmp_path / "a.txt", tmp_path / "b.txt"
    one.write_text("same\nlonger")
    two.write_text("same\nlonger still")
    assert mark(one) != mark(two)


BROKEN = {
    "damaged.txt.gz": b"not gzip at all",
    "damaged.txt.xz": b"not xz at all",
    "cut.txt.gz": gzip.compress(b"line\n" * 5000)[:40],
    "cut.jsonl.xz": lzma.compress(b'{"text": "x"}\n' * 5000)[:60],
    "latin.txt": "gut\nschön".encode("latin-1"),
    "broken.jsonl": b'{"text": "fine"}\n{"text": \n',
    "number.jsonl": b"3\n",
    "fields.jsonl": b'{"body": "x"}\n',
    "empty.txt": b"",
    "blank.txt": b"\n \n\t\n",
    "table.csv": b"a,b\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_by_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    with pytest.raises(TextError) as caught:
        read({"x": path})
    assert name in str(caught.value)


def test_messages_say_where_and_what(tmp_path):
    (tmp_path / "l.txt").write_bytes(b"fine\nsch\xf6n")
    with pytest.raises(TextError, match=r"line 2 is not UTF-8 \(byte 0xf6 at column 4\)"):
        read({"x": tmp_path / "l.txt"})
    (tmp_path / "f.jsonl").write_text('{"body": "x"}')
    with pytest.raises(TextError, match=r"line 1 has no text field 'text'.*'body'.*text_field="):
        read({"x": tmp_path / "f.jsonl"})


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({}, "no labels"),
        ({"x": []}, "holds no text"),
        ({"x": iter(())}, "holds no text"),
        ({"x": "no such file"}, "put it in a list"),
        ({"x": "long " * 9999}, "put it in a list"),
        ({"x": 3}, "neither a path nor an iterable"),
        ({"x": [3]}, "item 0 is a int"),
        ({"x": [("a", "b", "c")]}, "item 0 is a tuple"),
        ({"": ["a"]}, "non-empty string"),
        ({3: ["a"]}, "non-empty string"),
        (["a"], "mapping from labels"),
        ("/no/such/folder", "does not exist"),
    ],
)
def test_mistakes_are_explained(texts, message):
    with pytest.raises(TextError, match=message):
        read(texts)


def test_an_empty_folder_is_explained(tmp_path):
    with pytest.raises(TextError, match=r"No text files.*\.jsonl"):
        read(tmp_path)
    with pytest.raises(TextError, match="is a folder"):
        read({"x": tmp_path})
