"""Write a folder per metric for `evaluate.load`: `python tools/metric_spaces.py FOLDER`.

`evaluate.load("FOLDER/lss")` then loads one offline. `neuronsteer push-metrics` pushes the same
folders to the Hub.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from neuronsteer.evaluation.metrics import METRICS
from neuronsteer.evaluation.metrics.evaluate_library import files


def main() -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write them")
    folder = parser.parse_args().folder
    for name in METRICS:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file, text in files(name).items():
            (folder / name / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
