"""Render the table of model families from the registry.

python tools/architecture_table.py            # print the table
python tools/architecture_table.py docs/models.md  # write it between the markers
python tools/architecture_table.py --check docs/models.md   # exit 1 if the file is not up to date
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from neuronsteer.models import LAYOUTS, Layout

START, END = "<!-- families:start -->", "<!-- families:end -->"
HEADER = (
    "| `model_type` | neurons are the input of | gate | attention | bias for baking | notes |",
    "|---|---|---|---|---|---|",
)
TAKES = {"first": "1st half", "second": "2nd half", "even": "even columns", "odd": "odd columns"}


def row(layout: Layout) -> str:
    """Return one family's line."""
    if layout.experts is not None:
        site, gate = f"`{layout.experts.path}`, per expert", "inside the experts"
    else:
        site, gate = f"`{layout.down}`", "–"
        if layout.gated and layout.gate is not None:
            gate = f"`{layout.gate.path.rsplit('.', 1)[-1]}`"
            gate += f", {TAKES[layout.gate.take]}" if layout.gate.take != "all" else ""
    attention = "–"
    if layout.attention is not None:
        fused = layout.attention.split is not None
        attention = f"fused, {layout.attention.note}" if fused else "separate"
    bias = f"`{layout.bias}`" if layout.bias.when == "config" else str(layout.bias)
    return f"| {layout.model_type} | {site} | {gate} | {attention} | {bias} | {layout.note} |"


def table() -> str:
    """Return the whole table: dense families first, then mixtures of experts, by name."""
    layouts = [layout for _, layout in LAYOUTS.items()]
    layouts.sort(key=lambda layout: (layout.experts is not None, layout.model_type))
    return "\n".join([*HEADER, *(row(layout) for layout in layouts)])


def filled(text: str) -> str:
    """Return a document with the table between its markers.

    Raises:
        ValueError: If the markers are missing.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise ValueError(f"The markers {START} and {END} are not both there; add them.")
    return f"{before}{START}\n{table()}\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("file", nargs="?", type=Path, help="document with the two markers")
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 if it differs")
    options = parser.parse_args(arguments)
    if options.file is None:
        if options.check:
            parser.error("--check needs a file")
        sys.stdout.write(table() + "\n")
        return 0
    old = options.file.read_text(encoding="utf-8")
    try:
        new = filled(old)
    except ValueError as error:
        parser.error(f"{options.file}: {error}")
    if options.check:
        if old != new:
            sys.stderr.write(
                f"{options.file} is out of date; run: "
                f"python tools/architecture_table.py {options.file}\n"
            )
        return int(old != new)
    if old != new:
        options.file.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
