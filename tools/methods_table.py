"""Render the README's table of detectors from the registry.

python tools/methods_table.py            # print the table
python tools/methods_table.py README.md  # write it between the markers
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any

from neuronsteer.detectors import DETECTORS

START, END = "<!-- methods:start -->", "<!-- methods:end -->"


def row(name: str, detector: Any) -> str:
    """Return one detector's line."""
    summary = (inspect.getdoc(detector) or "").split("\n", 1)[0]
    fields = [field for field in dataclasses.fields(detector) if field.init]
    parameters = ", ".join(f"`{field.name}={field.default}`" for field in fields)
    return f"| `{name}` | {summary} | {parameters} | {detector.paper} |"


def table() -> str:
    """Return the whole table, by name."""
    head = ("| method | finds | parameters | paper |", "|---|---|---|---|")
    return "\n".join([*head, *(row(name, detector) for name, detector in DETECTORS.items())])


def filled(text: str) -> str:
    """Return a document with the table between its markers."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise SystemExit(f"The markers {START} and {END} are not both there; add them.")
    return f"{before}{START}\n{table()}\n{END}{after}"


def main() -> None:
    """Run the command line."""
    if len(sys.argv) == 1:
        print(table())
        return
    file = Path(sys.argv[1])
    file.write_text(filled(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
