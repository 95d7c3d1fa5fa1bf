"""Render the demo model's card from its facts.

    python tools/demo_model_card.py

Facts are model_cards/demo-model/measured.json (training, compressors, sweep) and what
benchmarks/demo_quality.py measured, examples/train_demo_model/quality.json. The card is written
where the model lies and beside its facts.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from jinja2 import Environment, StrictUndefined

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "model_cards" / "demo-model"
CARDS = (ROOT / "neuronsteer" / "demo" / "model" / "README.md", FOLDER / "README.md")


def tables(quality: dict) -> str:
    """Return the tables of benchmarks/demo_quality.py, by its own code."""
    path = ROOT / "benchmarks" / "demo_quality.py"
    spec = importlib.util.spec_from_file_location("demo_quality", path)
    assert spec is not None and spec.loader is not None
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    return bench.markdown(quality)


def card() -> str:
    """Return the card."""
    facts = json.loads((FOLDER / "measured.json").read_text(encoding="utf-8"))
    path = ROOT / "examples" / "train_demo_model" / "quality.json"
    quality = json.loads(path.read_text(encoding="utf-8"))
    template = (FOLDER / "template.md").read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(template).render(
        **facts, quality=quality, tables=tables(quality)
    )


def main() -> None:
    """Write the card."""
    for path in CARDS:
        path.write_text(card(), encoding="utf-8")


if __name__ == "__main__":
    main()
