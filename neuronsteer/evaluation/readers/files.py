"""Rows of local files: plain lines, JSON, JSON lines, CSV or TSV, possibly compressed."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ...errors import TextError
from ...languages import canonical
from ...stats.texts import OPENERS, read_lines, suffix_of, whole_lines

SUFFIXES = (".txt", ".jsonl", ".ndjson", ".json", ".tsv", ".csv")
# FLORES names its files fra_Latn.dev and fra_Latn.devtest.
_BARE = (".dev", ".devtest")
# Of several files of a label, the first of these is what papers report on.
_SPLITS = ("test", "devtest", "validation", "val", "dev", "train")

Record = dict[str, Any]


def read_rows(path: Path) -> list[Record]:
    """Return the rows of a file; a plain line is `{"text": line}`.

    A TSV file without a header has the columns of MGSM, `question` and `answer`. A SQuAD-like JSON
    file is flattened to one row per question.

    Raises:
        TextError: If the file is missing, damaged or of an unknown kind.
    """
    kind = suffix_of(path)
    if kind == ".csv":
        return read_csv(path)
    lines = read_lines(path)
    if kind == ".json":
        return _json(path, "\n".join(line for _, line in lines))
    if kind == ".tsv":
        return _table([line for _, line in lines])
    if kind in (".jsonl", ".ndjson"):
        return [_object(path, number, line) for number, line in lines]
    return [{"text": line.strip()} for _, line in lines]


def read_csv(path: Path, opener: Callable[[Path], Any] | None = None) -> list[Record]:
    """Return the rows of a comma-separated file whose first row names the columns.

    Args:
        path: The file.
        opener: Opens it; default: what its suffix asks for.

    Raises:
        TextError: If it cannot be read, or a row has more or fewer cells than there are columns.
    """
    lines = csv.DictReader((line for _, line in whole_lines(path, opener)), strict=True)
    rows: list[Record] = []
    try:
        for row in lines:
            if None in row or None in row.values():
                names = ", ".join(lines.fieldnames or ())
                raise TextError(
                    f"{str(path)!r}: the row that ends in line {lines.line_num} has "
                    f"{'more' if None in row else 'fewer'} cells than there are columns ({names}). "
                    "Put cells in quotes that hold a comma or a line break."
                )
            rows.append(row)
    except csv.Error as error:
        raise TextError(
            f"{str(path)!r} is not CSV after line {lines.line_num}: {error}. Expected cells "
            "separated by commas, those with a comma, quote or line break in double quotes."
        ) from error
    return rows


def per_label(folder: Path, labels: Iterable[str]) -> dict[str, Path]:
    """Return the file of each label in a folder: its name, or its folder's, contains the label.

    Of several files per label the test split is taken, then the validation split.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file() and _readable(file))
    found: dict[str, Path] = {}
    for label in labels:
        code = canonical(label)
        own = [file for file in files if code in _codes(file.relative_to(folder))]
        if own:
            found[label] = min(own, key=lambda file: (_rank(file.relative_to(folder)), str(file)))
    return found


def _readable(path: Path) -> bool:
    return not path.name.startswith(".") and suffix_of(path) in (*SUFFIXES, *_BARE)


def _codes(path: Path) -> set[str]:
    """Return the language codes that the parts of a path can stand for."""
    name = path.name
    while Path(name).suffix in (*OPENERS, *SUFFIXES, *_BARE):
        name = Path(name).stem
    # `multiway_xcopa` holds no language, `mgsm_de` and `fra_Latn` do.
    parts = [*path.parts[:-1], name, *re.split(r"[._\-]", name)]
    return {canonical(part) for part in parts if part}


def _rank(path: Path) -> int:
    parts = set(re.split(r"[._\-/\\]", str(path)))
    return next((i for i, split in enumerate(_SPLITS) if split in parts), len(_SPLITS))


def _table(text: list[str]) -> list[Record]:
    lines = list(csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE))
    lines = [line for line in lines if any(cell.strip() for cell in line)]
    names: Sequence[str] = ("question", "answer")
    if lines and {"question", "premise", "sentence", "text"} & set(lines[0]):
        names, lines = lines[0], lines[1:]
    return [dict(zip(names, line, strict=False)) for line in lines]


def _object(path: Path, number: int, line: str) -> Record:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise TextError(f"{str(path)!r}, line {number} is not JSON: {error}.") from error
    if not isinstance(value, dict):
        raise TextError(f"{str(path)!r}, line {number} is not a JSON object.")
    return value


def _json(path: Path, text: str) -> list[Record]:
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        raise TextError(f"{str(path)!r} is not JSON: {error}.") from error
    value = value.get("data", value) if isinstance(value, dict) else value
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise TextError(f"{str(path)!r} does not hold a list of objects.")
    if not any("paragraphs" in each for each in value):
        return value
    return [
        {
            "context": paragraph["context"],
            "question": asked["question"],
            "answers": [answer["text"] for answer in asked["answers"]],
        }
        for article in value
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]
