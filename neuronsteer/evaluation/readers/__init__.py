"""What experiments read: prompts, texts, facts and task rows, from files, the Hub, or built in.

Everything is a mapping from labels to items, with a name and a hash that go into the report. A few
sentences in 17 languages are built in, so that an evaluation can be tried without any data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from ...errors import ParameterError, TextError, did_you_mean
from ...languages import same, unspaced
from . import facts, hub, lcb
from .files import Record, per_label, read_rows

#: Kinds of rows whose format the metrics know, and what the folder is called that holds them.
TASKS = ("xcopa", "mgsm", "xquad", "xwinograd", "xnli", "belebele", "include", "relations")
KINDS = ("texts", "prompts", "facts", "pairs", "lcb", *TASKS)
#: Evaluation reads the end of every text, calibration (for the diffmean control) the beginning.
CALIBRATION = 0.6
#: Items per label and kind that are kept.
LIMIT = 1000
_FOLDERS = {"heldout": "texts", "mlama": "facts", "mlama1.1": "facts", "parallel": "pairs"}
_WORDS, _CHARACTERS = 8, 12


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Items of one kind.

    Attributes:
        kind: What they are.
        source: Where they come from, without the path.
        items: Items per label. Facts, which have two labels, are all under `""`.
        sha256: Hash of the items.
    """

    kind: str
    source: str
    items: Mapping[str, Sequence[Any]]
    sha256: str

    @property
    def labels(self) -> list[str]:
        """The labels that have items."""
        return [label for label, some in self.items.items() if some]

    def facts(self) -> dict[str, Any]:
        """Return what a report says about them."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "items": {label: len(some) for label, some in self.items.items()},
        }


class EvaluationData:
    """The data for some labels.

    Args:
        data: `None` for what is built in; a folder whose subfolders are called by kind; or kind →
            folder, `hf://owner/dataset/{label}:split`, or the items themselves per label.
        labels: The labels in question.
        limit: Items per label and kind that are kept, evenly spread.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | str | Path | None,
        labels: Sequence[str],
        limit: int | None = LIMIT,
    ) -> None:
        self._labels = list(labels)
        self._limit = limit
        self._given = _sources(data)
        self._read: dict[str, Dataset] = {}

    def has(self, kind: str) -> bool:
        """Whether there is data of this kind."""
        if kind in self._given:
            return True
        if kind in (*TASKS, "pairs", "lcb"):
            return False
        if kind == "facts":
            return "pairs" in self._given or len(_built_in(self._labels)) > 1
        return (kind == "prompts" and "texts" in self._given) or bool(_built_in(self._labels))

    def get(self, kind: str) -> Dataset:
        """Return the data of a kind.

        Raises:
            TextError: If there is none.
        """
        if kind not in self._read:
            source, items = self._find(kind)
            kept = {label: thinned(list(some), self._limit) for label, some in items.items()}
            if kind == "facts":
                kept = {"": _per_pair(items[""], self._limit)}
            self._read[kind] = Dataset(kind, source, kept, _digest(kept))
        return self._read[kind]

    def calibration(self) -> dict[str, list[str]] | None:
        """Return the part of the given texts that no experiment reads, if texts were given."""
        if "texts" not in self._given:
            return None
        _, whole = self._rows("texts")
        return {
            label: [_text(row) for row in rows[: int(len(rows) * CALIBRATION)]]
            for label, rows in whole.items()
        }

    def english_words(self) -> frozenset[str]:
        """Return the words that the Language Confusion Benchmark takes for foreign ones."""
        return lcb.word_list(self._benchmark())

    def used(self) -> dict[str, Any]:
        """Return the facts of everything that was read."""
        return {kind: dataset.facts() for kind, dataset in sorted(self._read.items())}

    def _find(self, kind: str) -> tuple[str, dict[str, Sequence[Any]]]:
        if kind == "facts":
            return self._facts()
        if kind == "lcb" and kind in self._given:
            place = self._benchmark()
            found = lcb.read_prompts(place, self._labels)
            return place.name, dict(_some(kind, found, self._labels, str(place)))
        if kind == "pairs" and kind in self._given:
            return self._pairs()
        if kind in self._given:
            name, rows = self._rows(kind)
            if kind == "texts":
                return name, {k: [_text(r) for r in _end(v)] for k, v in rows.items()}
            if kind == "prompts":
                return name, {k: [_text(r) for r in v] for k, v in rows.items()}
            return name, dict(rows)
        if kind == "prompts" and "texts" in self._given:
            texts = self.get("texts")
            return f"beginnings of {texts.source}", {
                label: [prompt for text in some if (prompt := beginning(text, label))]
                for label, some in texts.items.items()
            }
        halves = _built_in(self._labels)
        if kind in ("prompts", "texts") and halves:
            join = {
                label: ["".join(_parts(row, label)) for row in rows]
                for label, rows in halves.items()
            }
            heads = {label: [row[0] for row in rows] for label, rows in halves.items()}
            return "built-in sentences", dict(heads if kind == "prompts" else join)
        raise TextError(
            f"There is no data of the kind {kind!r} for {', '.join(self._labels)}. Give it as "
            f"data={{{kind!r}: FOLDER}}, on the command line --data {kind}=FOLDER."
        )

    def _benchmark(self) -> Path:
        place = self._given["lcb"]
        if not isinstance(place, Path):
            raise TextError(
                "The Language Confusion Benchmark, the data 'lcb', is read from its folder or zip "
                f"archive; got {type(place).__name__.lower()} {str(place)[:60]!r}."
            )
        return place

    def _facts(self) -> tuple[str, dict[str, Sequence[Any]]]:
        given = self._given.get("facts")
        if isinstance(given, Path) and facts.is_mlama(given):
            return given.name, {"": facts.of_mlama(given, self._labels)}
        if isinstance(given, Sequence) and not isinstance(given, str):
            return "own facts", {"": list(given)}
        pairs = given if given is not None else self._given.get("pairs")
        if pairs is not None:
            rows, name = _parallel(pairs, self._labels)
            there = [label for label in self._labels if any(label in row for row in rows)]
            return name, {"": facts.of_pairs(rows, there)}
        halves = _built_in(self._labels)
        if len(halves) < 2:
            raise TextError(
                f"There are no facts in two of the labels {', '.join(self._labels)}. Give "
                "parallel sentences or MLAMA, on the command line --data facts=FOLDER."
            )
        return "built-in sentences, halved", {"": facts.of_halves(halves)}

    def _pairs(self) -> tuple[str, dict[str, Sequence[Any]]]:
        given = self._given["pairs"]
        if isinstance(given, Path) and (given.is_file() or not per_label(given, self._labels)):
            rows, name = _parallel(given, self._labels)
            there = {k: [row for row in rows if isinstance(row.get(k), str)] for k in self._labels}
            return name, dict(_some("pairs", there, self._labels, str(given)))
        name, found = self._rows("pairs")
        return name, dict(found)

    def _rows(self, kind: str) -> tuple[str, dict[str, list[Any]]]:
        given = self._given[kind]
        if isinstance(given, Mapping):
            known = {k: v for k, v in given.items() if k in self._labels}
            found = {
                label: read_rows(Path(some)) if isinstance(some, str | Path) else list(some)
                for label, some in known.items()
            }
            return "own data", _some(kind, found, self._labels, "the mapping")
        if isinstance(given, hub.Address):
            return str(given), _some(kind, given.rows(self._labels), self._labels, str(given))
        found = {k: read_rows(path) for k, path in per_label(given, self._labels).items()}
        return given.name, _some(kind, found, self._labels, str(given))


def thinned(items: list[Any], count: int | None) -> list[Any]:
    """Return `count` items, evenly spread over all."""
    if count is None or len(items) <= count:
        return items
    return [items[i * len(items) // count] for i in range(count)]


def beginning(text: str, label: str) -> str | None:
    """Return the first words of a text, to be continued; `None` if it is too short to be cut."""
    if unspaced(label):
        return text[:_CHARACTERS] if len(text) >= 2 * _CHARACTERS else None
    words = text.split()
    return " ".join(words[:_WORDS]) if len(words) >= _WORDS + 2 else None


def languages() -> list[str]:
    """Return the languages of the built-in sentences."""
    return list(_sentences())


def _sources(data: Mapping[str, Any] | str | Path | None) -> dict[str, Any]:
    if data is None:
        return {}
    if isinstance(data, str | Path):
        folder = Path(data).expanduser()
        if not folder.is_dir():
            raise TextError(f"There is no folder {str(folder)!r} with data.")
        named = {
            _kind(each.name): each
            for each in sorted(p for p in (*folder.iterdir(), *folder.glob("eval/*")) if p.is_dir())
            if _kind(each.name)
        }
        if not named:
            raise TextError(
                f"{str(folder)!r} has no subfolder named after a kind of data; kinds are "
                f"{', '.join(KINDS)}. Or name it: --data xcopa={folder}."
            )
        return dict(named)
    found: dict[str, Any] = {}
    for kind, value in data.items():
        if kind not in KINDS:
            raise ParameterError(
                f"Unknown kind of data {kind!r}.{did_you_mean(kind, KINDS)} Kinds are "
                f"{', '.join(KINDS)}."
            )
        if isinstance(value, str) and value.startswith(hub.PREFIX):
            found[kind] = hub.Address(value)
        elif isinstance(value, str | Path):
            path = Path(value).expanduser()
            if not path.exists():
                raise TextError(f"There is no folder {str(path)!r} for the data {kind!r}.")
            found[kind] = path
        else:
            found[kind] = value
    return found


def _kind(name: str) -> str:
    """Return the kind of data that a folder of this name holds, or nothing."""
    folded = name.casefold()
    if folded in _FOLDERS:
        return _FOLDERS[folded]
    return next((kind for kind in KINDS if folded.rstrip("0123456789") == kind), "")


def _parallel(source: Any, labels: Sequence[str]) -> tuple[list[Record], str]:
    """Return rows with one sentence in several languages."""
    if isinstance(source, Path) and source.is_file():
        return read_rows(source), source.name
    if isinstance(source, hub.Address):
        # Aligned line by line, as FLORES is.
        return _aligned({k: [_text(r) for r in v] for k, v in source.rows(labels).items()}), str(
            source
        )
    if isinstance(source, Path):
        several = sorted(source.glob("multiway*"))
        for file in several:
            rows = read_rows(file)
            if rows and sum(isinstance(rows[0].get(label), str) for label in labels) > 1:
                return rows, file.name
        found = {label: read_rows(path) for label, path in per_label(source, labels).items()}
        return _aligned({k: [_text(r) for r in v] for k, v in found.items()}), source.name
    return _aligned({k: list(v) for k, v in source.items()}), "own data"


def _aligned(columns: Mapping[str, Sequence[str]]) -> list[Record]:
    if len({len(column) for column in columns.values()}) > 1:
        found = ", ".join(f"{label}: {len(column)}" for label, column in columns.items())
        raise TextError(f"Parallel sentences differ in number ({found}): they are not aligned.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _text(row: Any) -> str:
    if isinstance(row, str):
        return row
    for name in ("text", "sentence", "prompt"):
        if isinstance(row.get(name), str):
            return str(row[name])
    raise TextError(f"A row has no 'text'; it has {', '.join(map(str, row))}.")


def _end(rows: list[Any]) -> list[Any]:
    # Few texts are all held out; a corpus has a beginning that neurons may have been found on.
    return rows[int(len(rows) * CALIBRATION) :] if len(rows) >= 100 else rows


def _some(
    kind: str, found: dict[str, list[Any]], labels: Sequence[str], where: str
) -> dict[str, list[Any]]:
    if not any(found.values()):
        raise TextError(
            f"The data {kind!r} in {where} holds nothing for the labels {', '.join(labels)}. A "
            "file belongs to the label that its name contains, such as test.fr.jsonl."
        )
    return {label: rows for label, rows in found.items() if rows}


def _per_pair(found: Sequence[Any], limit: int | None) -> list[Any]:
    """Return at most `limit` facts of every pair of languages."""
    by: dict[tuple[str, str], list[Any]] = {}
    for fact in found:
        by.setdefault((fact.base, fact.target), []).append(fact)
    return [fact for some in by.values() for fact in thinned(some, limit)]


@lru_cache(maxsize=1)
def _sentences() -> dict[str, list[tuple[str, str]]]:
    text = resources(__package__ or "neuronsteer.evaluation.readers").joinpath("sentences.json")
    return {k: [(a, b) for a, b in rows] for k, rows in json.loads(text.read_text("utf-8")).items()}


def _built_in(labels: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    return {
        label: rows
        for label in labels
        for language, rows in _sentences().items()
        if same(label, language)
    }


def _parts(row: tuple[str, str], label: str) -> tuple[str, str]:
    return (row[0], row[1]) if unspaced(label) else (f"{row[0]} ", row[1])


def _digest(items: Mapping[str, Sequence[Any]]) -> str:
    plain: Callable[[Any], Any] = dataclasses.asdict  # facts are the only items that need it
    text = json.dumps(items, ensure_ascii=False, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
