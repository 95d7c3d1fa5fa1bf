"""Write docs/methods.md from what the registry knows about detectors.

python tools/methods_table.py
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

from neuronsteer.detectors import DETECTORS, detector

DOCUMENT = "docs/methods.md"
INTRODUCTION = """\
# Methods

Published methods of finding such neurons, all on the same statistics:
`ns.detect(stats, method=…)`, or `neuronsteer detect STATS --method …`. This page is generated from
the registry by `python tools/methods_table.py`; `neuronsteer methods` prints the
same in short.

Without a method, `detect` makes a set that steers: `diffmean`, which selects nothing. Every other
method must be compared with it: `examples/04_compare_methods.py` compares all of them on your
model. To steer with few neurons, begin with `effect`, which chooses them by what adding to them
does; to describe which neurons are active for which label, with `lape`.
"""


def document() -> str:
    """Return docs/methods.md."""
    found = DETECTORS.items()
    listing = [f"- [`{name}`](#{name}): {_parts(kind)[0]}" for name, kind in found]
    sections = [section(name, kind) for name, kind in found]
    return "\n".join([INTRODUCTION, *listing, "", *sections])


def section(name: str, kind: Any) -> str:
    """Return one detector's chapter: facts, rule, parameters, what differs from its code."""
    summary, rule, meanings, paper = _parts(kind)
    needs = ", ".join(f"`{need}`" for need in detector(name).needs)
    lines = [
        f"## {name}",
        "",
        summary,
        "",
        "| | |",
        "|---|---|",
        f"| paper | {kind.paper} |",
        f"| a row is | {kind.granularity} |",
        f"| needs | {needs} |",
        f"| cost | {kind.cost} |",
        "",
    ]
    lines += [rule, ""] if rule else []
    lines += ["| parameter | default | |", "|---|---|---|"]
    for field in _fields(kind):
        meaning = meanings.get(field.name, "").replace("|", "\\|")
        lines.append(f"| `{field.name}` | `{field.default!r}` | {meaning} |")
    return "\n".join([*lines, "", f"**Source, and what differs from its code.** {paper}", ""])


def _fields(kind: Any) -> list[Any]:
    return [field for field in dataclasses.fields(kind) if field.init]


def _parts(kind: Any) -> tuple[str, str, dict[str, str], str]:
    """Return a docstring's first line, rule, meanings of the parameters, and last paragraph."""
    text = inspect.getdoc(kind) or ""
    body, _, paper = text.partition("\nPaper: ")
    body, _, listed = body.partition("\nArgs:\n")
    summary, _, rule = body.partition("\n\n")
    meanings: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        # A preset documents only what it changes.
        meanings |= _arguments(parent.__doc__ or "")
    meanings |= _arguments(f"Args:\n{listed}") if listed else {}
    return summary, rule.strip(), meanings, " ".join(paper.split())


def _arguments(text: str) -> dict[str, str]:
    listed = inspect.cleandoc(text).partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", listed, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in entries}


def main() -> None:
    """Write the document."""
    (Path(__file__).resolve().parents[1] / DOCUMENT).write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
