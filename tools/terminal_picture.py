"""Take the picture of the README: what `neuronsteer demo --model gemma` prints, as an SVG.

    python tools/terminal_picture.py docs/images/gemma.svg

Needs the model (`make real`). Nothing is edited: it is the first part of the demo with its own
prompt and seed, ✗ marks included.
"""

from __future__ import annotations

import argparse
import inspect
import io
import re
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI

from neuronsteer.cli import demo
from neuronsteer.cli.models import load_model, load_set
from neuronsteer.demo.language_identifier import language_identifier


def main() -> None:
    """Run the demo with a console that records, and write what it shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", default="gemma")
    options = parser.parse_args()
    usual = {name: each.default for name, each in inspect.signature(demo.demo).parameters.items()}
    model, tokenizer = load_model(options.model)
    neurons = load_set(options.model)
    out = Console(
        record=True, width=96, force_terminal=True, color_system="truecolor", file=io.StringIO()
    )
    run = demo.DemoRun(
        model=model,
        tokenizer=tokenizer,
        neurons=neurons,
        selected=None,
        prompt=usual["prompt"],
        temperature=usual["temperature"],
        seed=usual["seed"],
        full_length=False,
        identify=language_identifier(list(neurons.labels)),
        out=out,
    )
    out.print(f"[dim]$ neuronsteer demo --model {options.model}[/]")
    demo.show_languages(run)
    svg = out.export_svg(title="neuronsteer", theme=DIMMED_MONOKAI)
    # A picture in a README may not load fonts from elsewhere; the reader's own will do.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    options.file.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
