"""The Language Confusion Benchmark: its prompts and word list, and completions to be scored.

Prompts lie in `TASK/SOURCE/LANGUAGE.csv`, in a folder or in the benchmark's zip archive. In a
folder, CSV files and the word list may be compressed.
"""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import TextError, did_you_mean
from ...languages import same
from ...stats.texts import suffix_of, whole_lines
from .files import Record, read_csv

TASKS = ("monolingual", "crosslingual")
#: The columns of completions without which nothing can be scored, and the others.
NEEDED = ("completion", "source", "language")
_NAMED = ("task", "model")
_WORDS = "words"
#: A file in an archive that claims to be larger is not read; the largest published one has 30 kB.
_MEMBER_BYTES = 64 << 20

_Opener = Callable[[Path], Any]


def read_prompts(path: Path, labels: Sequence[str]) -> dict[str, list[Record]]:
    """Return the prompts of each label: `prompt`, `task`, `source` and the `language` of the reply.

    Args:
        path: A folder or a zip archive with `TASK/SOURCE/LANGUAGE.csv` somewhere inside.
        labels: The labels in question.

    Raises:
        TextError: If there are no such files, or one cannot be read.
    """
    found: dict[str, list[Record]] = {}
    files = 0
    for file, opener in _files(path):
        if suffix_of(file) != ".csv" or len(file.parts) < 3 or file.parts[-3] not in TASKS:
            continue
        files += 1
        task, folder, language = file.parts[-3], file.parts[-2], file.name.partition(".")[0]
        label = next((each for each in labels if same(each, language)), None)
        if label is None:
            continue
        for row in read_csv(file, opener):
            if not row.get("prompt"):
                raise TextError(
                    f"{str(file)!r}: a row has no 'prompt'; the columns are {', '.join(row)}."
                )
            found.setdefault(label, []).append(
                {
                    "prompt": row["prompt"],
                    "task": task,
                    "source": row.get("source") or folder,
                    "language": label,
                }
            )
    if not files:
        raise TextError(
            f"{str(path)!r} holds no prompts of the Language Confusion Benchmark. Expected files "
            f"{' and '.join(f'{task}/SOURCE/LANGUAGE.csv' for task in TASKS)} in a folder or a "
            "zip archive."
        )
    return found


def read_completions(path: Path) -> list[Record]:
    """Return the rows of a CSV file of completions, each with `NEEDED`, `task` and `model`.

    A file without models is one model's, called like the file; without tasks it is all one task.

    Raises:
        TextError: If it cannot be read, has no rows, or columns or cells are missing.
    """
    if path.is_dir():
        raise TextError(f"{str(path)!r} is a folder; expected a CSV file of completions.")
    if suffix_of(path) != ".csv":
        raise TextError(
            f"{path.name!r} is no CSV file; expected completions in a file NAME.csv, possibly "
            "compressed, such as NAME.csv.xz."
        )
    rows = read_csv(path)
    if not rows:
        raise TextError(f"{str(path)!r} holds no completions: there is no row below the header.")
    missing = [name for name in NEEDED if name not in rows[0]]
    if missing:
        raise TextError(
            f"{str(path)!r} has no column {missing[0]!r}; it has {', '.join(rows[0])}. Expected "
            f"{', '.join(NEEDED)}, and if there are several, {' and '.join(_NAMED)}."
            f"{did_you_mean(missing[0], rows[0])}"
        )
    for number, row in enumerate(rows, 1):
        for name in ("source", "language"):
            if not row[name].strip():
                raise TextError(f"{str(path)!r}: completion {number} has no {name}.")
        row.setdefault("model", path.name.partition(".")[0])
        row.setdefault("task", "-")
    return rows


def read_words(path: Path, opener: _Opener | None = None) -> frozenset[str]:
    """Return the words of a list, one a line."""
    return frozenset(word for _, line in whole_lines(path, opener) if (word := line.strip()))


def word_list(path: Path) -> frozenset[str]:
    """Return the words that lie beside the benchmark's prompts, in a file called `words`.

    Raises:
        TextError: If there is none.
    """
    beside = [] if path.is_dir() else [(file, None) for file in sorted(path.parent.iterdir())]
    # One after the other: an archive is open for as long as its files are gone through.
    for file, opener in itertools.chain(_files(path), beside):
        if file.name.partition(".")[0] == _WORDS and suffix_of(file) in ("", ".txt"):
            return read_words(file, opener)
    raise TextError(
        f"There is no list of English words in {str(path)!r}, which tells foreign words. Put the "
        f"benchmark's file {_WORDS!r} there: one word a line, as {_WORDS}, {_WORDS}.txt or "
        f"compressed, e.g. {_WORDS}.xz."
    )


def _files(path: Path) -> Iterator[tuple[Path, _Opener | None]]:
    """Yield the files of a folder or archive, and how they are opened if not by their suffix."""
    if path.is_file():
        yield from _members(path)
        return
    files = sorted(file for file in path.rglob("*") if file.is_file() and _visible(file.name))
    yield from ((file.absolute(), None) for file in files)
    if not any(suffix_of(file) == ".csv" for file in files):
        for file in files:
            if file.suffix == ".zip":
                yield from _members(file)


def _members(path: Path) -> Iterator[tuple[Path, _Opener]]:
    if not zipfile.is_zipfile(path):
        raise TextError(
            f"{str(path)!r} is no zip archive; expected the benchmark's archive, or a folder."
        )
    with zipfile.ZipFile(path) as archive:
        for member in sorted(archive.infolist(), key=lambda each: each.filename):
            place = PurePosixPath(member.filename)
            if member.is_dir() or "__MACOSX" in place.parts or not _visible(place.name):
                continue
            if member.file_size > _MEMBER_BYTES or member.flag_bits & 1:
                raise TextError(
                    f"{member.filename!r} in {str(path)!r} is "
                    + ("locked with a password" if member.flag_bits & 1 else "too large")
                    + f"; expected open files of at most {_MEMBER_BYTES:,} bytes."
                )

            def opened(_: Path, member: zipfile.ZipInfo = member) -> Any:
                return archive.open(member)

            # Only a name for messages, below that of the archive.
            yield path / Path(*place.parts), opened


def _visible(name: str) -> bool:
    return not name.startswith(".")
