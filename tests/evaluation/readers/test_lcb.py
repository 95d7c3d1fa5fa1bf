"""The Language Confusion Benchmark's files: prompts in folders and archives, words, completions."""

from __future__ import annotations

import csv
import lzma
import zipfile
from pathlib import Path

import pytest

from neuronsteer.errors import TextError
from neuronsteer.evaluation.readers import EvaluationData, lcb
from neuronsteer.evaluation.readers.files import read_rows

MONOLINGUAL = 'prompt,source,language\n"Was ist\n\nein Fluss, bitte?",native_prompts,de\nJa?,,de\n'
CROSSLINGUAL = "prompt,location,language,source\nReply in German.,End,de,complex_prompts\n"
FILES = {
    "monolingual/native/de.csv": MONOLINGUAL,
    "monolingual/native/fr.csv": MONOLINGUAL,
    "crosslingual/complex_prompts/de.csv": CROSSLINGUAL,
    "words": "River\nbridge\n",
    "outputs/de.csv": "no prompts\n",
}
PROMPTS = [
    ("Reply in German.", "crosslingual", "complex_prompts"),
    ("Was ist\n\nein Fluss, bitte?", "monolingual", "native_prompts"),
    ("Ja?", "monolingual", "native"),
]
LABELS = ["deu_Latn", "zh"]


def unpacked(folder: Path) -> Path:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


def compressed(folder: Path) -> Path:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.xz").write_bytes(lzma.compress(text.encode()))
    return folder


def archived(folder: Path, words: bool = True) -> Path:
    with zipfile.ZipFile(folder / "test_sets.zip", "w") as archive:
        archive.writestr("__MACOSX/test_sets/monolingual/native/._de.csv", b"\x00\xff")
        for name, text in FILES.items():
            if words or name != "words":
                archive.writestr(f"test_sets/{name}", text)
    return folder / "test_sets.zip"


def beside_the_archive(folder: Path) -> Path:
    (folder / "words.txt").write_text(FILES["words"])
    return archived(folder, words=False)


def folder_of_the_archive(folder: Path) -> Path:
    return archived(folder).parent


@pytest.mark.parametrize(
    "laid_out", [unpacked, compressed, archived, beside_the_archive, folder_of_the_archive]
)
def test_prompts_and_words(tmp_path: Path, laid_out):
    data = EvaluationData({"lcb": laid_out(tmp_path)}, LABELS)
    assert data.has("lcb") and not EvaluationData(None, LABELS).has("lcb")
    found = data.get("lcb")
    assert found.labels == ["deu_Latn"], "as the labels spell it, and none without prompts"
    rows = [(row["prompt"], row["task"], row["source"]) for row in found.items["deu_Latn"]]
    assert rows == PROMPTS
    assert {row["language"] for row in found.items["deu_Latn"]} == {"deu_Latn"}
    assert data.english_words() == {"River", "bridge"}


def test_a_folder_called_lcb_is_found(tmp_path: Path):
    unpacked(tmp_path / "eval" / "lcb")
    assert EvaluationData(tmp_path, LABELS).get("lcb").labels == ["deu_Latn"]


def test_what_is_not_the_benchmark_is_told(tmp_path: Path):
    (tmp_path / "note.txt").write_text("x")
    for place, message in ((tmp_path, "holds no prompts"), (tmp_path / "note.txt", "no zip arch")):
        with pytest.raises(TextError, match=message):
            EvaluationData({"lcb": place}, LABELS).get("lcb")
    with pytest.raises(TextError, match="There is no list of English words.* 'words' there"):
        EvaluationData({"lcb": tmp_path}, LABELS).english_words()
    with pytest.raises(TextError, match="holds nothing for the labels zh"):
        EvaluationData({"lcb": unpacked(tmp_path)}, ["zh"]).get("lcb")
    with pytest.raises(TextError, match="folder or zip archive; got address 'hf://a/b/"):
        EvaluationData({"lcb": "hf://a/b/{label}"}, LABELS).get("lcb")
    (tmp_path / "monolingual/native/de.csv").write_text("question\nWas?\n")
    with pytest.raises(TextError, match="no 'prompt'; the columns are question"):
        EvaluationData({"lcb": tmp_path}, LABELS).get("lcb")


def test_damaged_archives_are_told(tmp_path: Path):
    whole = archived(tmp_path).read_bytes()
    at = whole.index(b"Was ist")
    (tmp_path / "test_sets.zip").write_bytes(whole[:at] + b"XXX" + whole[at + 3 :])
    with pytest.raises(TextError, match="CRC"):
        EvaluationData({"lcb": tmp_path / "test_sets.zip"}, LABELS).get("lcb")


def completions(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_completions(tmp_path: Path):
    row = {"completion": 'Ja, "so"\n\nist es.\r\n', "source": "okapi", "language": "de"}
    found = lcb.read_completions(completions(tmp_path / "my-model.csv", [row]))
    assert found == [{**row, "model": "my-model", "task": "-"}]
    row |= {"model": "a", "task": "monolingual", "id": "0"}
    assert lcb.read_completions(completions(tmp_path / "b.csv", [row])) == [row]
    assert read_rows(tmp_path / "b.csv") == [row]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no completions"),
        ("completion,source,language\n", "holds no completions"),
        ("completoin,source,language\na,b,de\n", "'completion'.*Did you mean 'completoin'"),
        ("completion,source,language\na,b,\n", "completion 1 has no language"),
        ("completion,source,language\na,b\n", "line 2 has fewer cells than .*completion, source"),
        ("completion,source,language\na,b,de,x\n", "line 2 has more cells"),
        ('completion,source,language\n"a,b,de\n', "is not CSV after line 1: unexpected end"),
        ("completion,source,language\n\xe9,b,de\n", "line 2 is not UTF-8"),
    ],
)
def test_wrong_completions_are_told(tmp_path: Path, text: str, message: str):
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(TextError, match=message):
        lcb.read_completions(tmp_path / "a.csv")
