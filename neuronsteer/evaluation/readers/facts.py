"""Facts for the Language Steering Shift: from MLAMA, or from parallel sentences cut in two."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import TextError
from ...languages import same, unspaced
from ..metrics.lss import Fact
from .files import Record, per_label, read_rows

_TEMPLATES = "templates.jsonl"


def of_halves(halves: Mapping[str, Sequence[tuple[str, str]]]) -> list[Fact]:
    """Return facts from sentences that say the same in every language, each cut in two.

    The prompt is the first half in the base language; the objects are the second half in the base
    and in the target language.
    """
    return [
        Fact(head, base, target, _joined(base, tail), _joined(target, halves[target][i][1]))
        for base, rows in halves.items()
        for target in halves
        if not same(base, target)
        for i, (head, tail) in enumerate(rows)
        if i < len(halves[target])
    ]


def of_pairs(rows: Sequence[Record], labels: Sequence[str]) -> list[Fact]:
    """Return facts from rows that hold one sentence in several languages, `{"en": …, "fr": …}`."""
    halves: dict[str, list[tuple[str, str]]] = {label: [] for label in labels}
    for row in rows:
        said = {label: row[label] for label in labels if isinstance(row.get(label), str)}
        if len(said) == len(labels) and all(len(text) > 3 for text in said.values()):
            for label, text in said.items():
                halves[label].append(cut(text, label))
    if len(labels) < 2 or not any(halves.values()):
        raise TextError(
            f"No row has a sentence in all of {', '.join(labels)}; parallel sentences are rows "
            'such as {"en": "…", "fr": "…"}.'
        )
    return of_halves(halves)


def of_mlama(folder: Path, labels: Sequence[str]) -> list[Fact]:
    """Return facts from the folders of MLAMA: `<language>/templates.jsonl`, `<language>/P36.jsonl`.

    Templates whose object does not come last, after the subject, are left out: a model that reads
    from left to right has nothing to predict the object from.
    """
    tables = {
        label: _relations(path.parent)
        for label in labels
        for path in [_folder(folder, label) / _TEMPLATES]
        if path.is_file()
    }
    if len(tables) < 2:
        raise TextError(
            f"{str(folder)!r} holds MLAMA for {', '.join(tables) or 'none'} of "
            f"{', '.join(labels)}; facts need two languages."
        )
    return [
        Fact(prompt, base, target, _joined(base, here), _joined(target, there[key][1]))
        for base, facts in tables.items()
        for target, there in tables.items()
        if not same(base, target)
        for key, (prompt, here) in facts.items()
        if key in there and prompt
    ]


def is_mlama(folder: Path) -> bool:
    """Whether a folder is MLAMA's."""
    return any(folder.glob(f"*/{_TEMPLATES}"))


def cut(text: str, label: str) -> tuple[str, str]:
    """Return both halves of a sentence, at a space where the language has spaces."""
    text = text.strip()
    if unspaced(label) or " " not in text:
        middle = len(text) // 2
        return text[:middle], text[middle:]
    words = text.split(" ")
    middle = max(len(words) // 2, 1)
    return " ".join(words[:middle]), " ".join(words[middle:])


def _joined(label: str, text: str) -> str:
    return text if unspaced(label) else f" {text}"


def _folder(folder: Path, label: str) -> Path:
    if (folder / label).is_dir():
        return folder / label
    found = per_label(folder, [label]).get(label)
    return folder / label if found is None else found.parent


def _relations(folder: Path) -> dict[tuple[str, str, str], tuple[str, str]]:
    """Return `(relation, subject, object)` → `(prompt, object in words)`."""
    found: dict[tuple[str, str, str], tuple[str, str]] = {}
    for row in read_rows(folder / _TEMPLATES):
        relation, template = str(row.get("relation")), str(row.get("template"))
        path = folder / f"{relation}.jsonl"
        if not path.is_file():
            continue
        match = re.fullmatch(r"(.*\[X\].*?)\s*\[Y\]\W*", template)
        for fact in read_rows(path):
            key = (relation, str(fact.get("sub_uri")), str(fact.get("obj_uri")))
            prompt = match[1].replace("[X]", str(fact.get("sub_label"))) if match else ""
            found[key] = (prompt.strip(), str(fact.get("obj_label")))
    return found
