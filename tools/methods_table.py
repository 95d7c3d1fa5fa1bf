"""Render what the registry knows about detectors: the README's table, and docs/methods.md.

python tools/methods_table.py                  # print the table
python tools/methods_table.py README.md        # write it between the markers
python tools/methods_table.py docs/methods.md  # write the whole document
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from neuronsteer.detectors import DETECTORS, detector

START, END = "<!-- methods:start -->", "<!-- methods:end -->"
DOCUMENT = "docs/methods.md"
INTRODUCTION = """\
# Methods

Published methods of finding such neurons, all on the same statistics:
`ns.detect(stats, method=…)`, or `neuronsteer detect STATS --method …`. This page is generated from
the registry by `python tools/methods_table.py docs/methods.md`; `neuronsteer methods` prints the
same in short.

Without a method, `detect` makes a set that steers: `diffmean`, which selects nothing. Every other
method must be compared with it: `examples/04_compare_methods.py` compares all of them on your
model. To steer with few neurons, begin with `effect`, which chooses them by what adding to them
does; to describe which neurons are active for which label, with `lape`.
"""


def row(name: str, kind: Any) -> str:
    """Return one detector's line."""
    summary = (inspect.getdoc(kind) or "").split("\n", 1)[0]
    parameters = ", ".join(f"`{field.name}={field.default}`" for field in _fields(kind))
    return f"| `{name}` | {summary} | {parameters} | {kind.paper} |"


def table() -> str:
    """Return the whole table, by name."""
    head = ("| method | finds | parameters | paper |", "|---|---|---|---|")
    return "\n".join([*head, *(row(name, kind) for name, kind in DETECTORS.items())])


def filled(text: str) -> str:
    """Return a document with the table between its markers."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise SystemExit(f"The markers {START} and {END} are not both there; add them.")
    return f"{before}{START}\n{table()}\n{END}{after}"


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
    """Run the command line."""
    if len(sys.argv) == 1:
        print(table())
        return
    for name in sys.argv[1:]:
        file = Path(name)
        if name.endswith(DOCUMENT):
            file.parent.mkdir(exist_ok=True)
            file.write_text(document(), encoding="utf-8")
        else:
            file.write_text(filled(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
