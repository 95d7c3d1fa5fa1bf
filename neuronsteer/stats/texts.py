"""Calibration text: from whatever the user has to one iterable of items per label.

An item is a text or a `(prompt, response)` pair. Sources are read lazily and may be endless;
nothing here holds a corpus in memory.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import itertools
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ..errors import ParameterError, TextError

#: A text, or a prompt with the response to it.
Item = str | tuple[str, str]

#: How compressed files are opened, by their suffix.
OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.GzipFile,
    ".xz": lzma.LZMAFile,
    ".bz2": bz2.BZ2File,
}
# What reading a file raises that is missing, damaged or locked.
_UNREADABLE = (
    OSError,
    EOFError,
    lzma.LZMAError,
    zlib.error,
    zipfile.BadZipFile,
    NotImplementedError,
)
_LINES = (".txt",)
_RECORDS = (".jsonl", ".ndjson")
_READABLE = ", ".join((*_LINES, *_RECORDS)) + ", each also as " + ", ".join(OPENERS)


@dataclass(frozen=True)
class Source:
    """The texts of one label.

    Attributes:
        label: The label.
        name: What it is called in the record of the calibration data, e.g. the file's name.
        read: Returns a fresh iterator, or the only one there is for a generator.
        size: Number of items if known.
        mark: Changes when the texts do, as far as the first one and the size tell.
    """

    label: str
    name: str
    read: Callable[[], Iterator[Item]]
    size: int | None = None
    mark: str = ""


def read_sources(texts: Any, field: str = "text") -> tuple[Source, ...]:
    """Return one source per label.

    Args:
        texts: A mapping from labels to iterables of texts, of `(prompt, response)` pairs or of
            records, to paths of files, or to Hugging Face datasets; or a folder with one file per
            label. Files are plain lines or JSON lines, possibly compressed.
        field: Key of the text in records.

    Raises:
        TextError: If there is nothing to read, or a file cannot be read.
    """
    if isinstance(texts, str | Path):
        texts = _folder(Path(texts))
    if not isinstance(texts, Mapping):
        raise TextError(
            f"Cannot tell which text belongs to which label in a {type(texts).__name__}; expected "
            f"a mapping from labels to texts, such as {{'fr': [...], 'en': 'en.txt'}}, or a folder "
            f"with one file per label."
        )
    if not texts:
        raise TextError("There are no labels: the mapping of texts is empty.")
    sources: list[Source] = []
    for label, value in cast("Mapping[Any, Any]", texts).items():
        if not isinstance(label, str) or not label:
            raise TextError(f"Label {label!r} is not a non-empty string.")
        sources.append(_source(label, value, field))
    return tuple(_checked(source) for source in sources)


def _source(label: str, value: Any, field: str) -> Source:
    if isinstance(value, Path):
        return _file(label, value, field)
    if isinstance(value, str):
        path = Path(value)
        try:
            exists = path.exists()
        except OSError:  # a text that is too long for a file name
            exists = False
        if not exists:
            shown = value if len(value) <= 60 else value[:57] + "…"
            raise TextError(
                f"Label {label!r}: there is no file {shown!r}. Expected a path or an iterable of "
                f"texts; to pass a single text, put it in a list."
            )
        return _file(label, path, field)
    if not isinstance(value, Iterable):
        raise TextError(
            f"Label {label!r}: a {type(value).__name__} is neither a path nor an iterable of texts."
        )
    size = None
    if isinstance(value, Sequence) or hasattr(value, "__len__"):
        size = len(cast("Sequence[Any]", value))
    iterable = cast("Iterable[Any]", value)

    def read() -> Iterator[Item]:
        for position, item in enumerate(iterable):
            yield _item(item, field, f"Label {label!r}, item {position}")

    return Source(label, _describe(value), read, size)


def _describe(value: Any) -> str:
    # A Hugging Face dataset knows where it came from.
    info = getattr(value, "info", None)
    parts = [getattr(info, name, None) for name in ("dataset_name", "config_name")]
    parts.append(getattr(value, "split", None) if info is not None else None)
    return "/".join(str(part) for part in parts if part) or type(value).__name__


def _checked(source: Source) -> Source:
    """Read one item now, so that an empty or unreadable corpus fails before the model runs."""
    items = source.read()
    first = next(items, None)
    if first is None:
        raise TextError(
            f"Label {source.label!r}: {source.name} holds no text. Remove the label, or give it "
            f"some."
        )
    waiting: list[Iterator[Item]] = [itertools.chain([first], items)]

    def read() -> Iterator[Item]:
        # The iterator that was peeked into comes first: a generator cannot be started again.
        return waiting.pop() if waiting else source.read()

    text = first if isinstance(first, str) else "\0".join(first)
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return replace(source, read=read, mark=f"{source.mark}{source.size or ''}:{mark}")


def _folder(path: Path) -> dict[str, Path]:
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise TextError(
            f"{str(path)!r} {what}; expected a folder with one file per label, named "
            f"LABEL.txt or LABEL.jsonl, possibly compressed."
        )
    found: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        label = _label(file)
        if label is None or not file.is_file():
            continue
        if label in found:
            raise TextError(
                f"Both {found[label].name!r} and {file.name!r} in {str(path)!r} are label "
                f"{label!r}; keep one of them."
            )
        found[label] = file
    if not found:
        raise TextError(f"No text files in {str(path)!r}; readable are {_READABLE}.")
    return found


def _label(file: Path) -> str | None:
    name = file.name
    if name.startswith("."):
        return None
    if file.suffix in OPENERS:
        name = name.removesuffix(file.suffix)
    for suffix in (*_LINES, *_RECORDS):
        if name.endswith(suffix):
            return name.removesuffix(suffix) or None
    return None


def _file(label: str, path: Path, field: str) -> Source:
    if path.is_dir() or not path.exists():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise TextError(f"Label {label!r}: {str(path)!r} {what}; expected a text file.")
    suffix = suffix_of(path)
    if suffix not in (*_LINES, *_RECORDS):
        raise TextError(
            f"Label {label!r}: the kind of {path.name!r} is unknown; readable are {_READABLE}."
        )
    records = suffix in _RECORDS

    def read() -> Iterator[Item]:
        for number, line in read_lines(path):
            where = f"{str(path)!r}, line {number}"
            yield _record(line, field, where) if records else line

    return Source(label, path.name, read, mark=f"{path.stat().st_size} bytes ")


def suffix_of(path: Path) -> str:
    """Return the suffix of a file, of a compressed one that of what is inside."""
    return Path(path.stem).suffix if path.suffix in OPENERS else path.suffix


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield `(line number, line)` of the lines that are not blank; the file may be compressed.

    Raises:
        TextError: If the file is missing, damaged or not UTF-8.
    """
    for number, line in whole_lines(path):
        if line.strip():
            yield number, line.strip("\r\n")


def whole_lines(
    path: Path, opener: Callable[[Path], Any] | None = None
) -> Iterator[tuple[int, str]]:
    """Yield `(line number, line)` of every line, with its end; the file may be compressed.

    Args:
        path: The file.
        opener: Opens it; default: what its suffix asks for.

    Raises:
        TextError: If the file is missing, damaged or not UTF-8.
    """
    opener = opener or OPENERS.get(path.suffix, io.FileIO)
    number = 0
    try:
        with opener(path) as file:
            # Not TextIOWrapper: the error should name the line, and \x85 or \u2028 are text.
            for raw in io.BufferedReader(file):
                number += 1
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{str(path)!r}, line {number} is not UTF-8 (byte {error.object[error.start]:#04x} at "
            f"column {error.start + 1}). Convert the file, e.g. with iconv -t utf-8."
        ) from error
    except _UNREADABLE as error:
        raise TextError(
            f"{str(path)!r} cannot be read after line {number}: {error or type(error).__name__}. "
            f"The file may be damaged or unreadable for you."
        ) from error


def _record(line: str, field: str, where: str) -> Item:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise TextError(
            f"{where} is not JSON ({error}); expected one object per line with a {field!r} field."
        ) from error
    return _item(value, field, where)


def _item(value: Any, field: str, where: str) -> Item:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        record = cast("Mapping[str, Any]", value)
        if isinstance(record.get(field), str):
            return cast(str, record[field])
        if isinstance(record.get("prompt"), str) and isinstance(record.get("response"), str):
            return cast(str, record["prompt"]), cast(str, record["response"])
        raise TextError(
            f"{where} has no text field {field!r} and no pair 'prompt', 'response'; it has "
            f"{', '.join(map(repr, record)) or 'nothing'}. Name the field with text_field=."
        )
    if isinstance(value, tuple | list):
        pair = cast("Sequence[Any]", value)
        if len(pair) == 2 and all(isinstance(part, str) for part in pair):
            return cast(str, pair[0]), cast(str, pair[1])
    raise TextError(
        f"{where} is a {type(value).__name__}; expected a text, a (prompt, response) pair or a "
        f"record with a {field!r} field."
    )


def check_field(field: Any) -> str:
    """Return the name of the text field, or raise."""
    if not isinstance(field, str) or not field:
        raise ParameterError(f"text_field={field!r} is not the name of a field.")
    return field
