"""Write the folders that `evaluate.load` reads: `python tools/metric_spaces.py [--check]`."""

from __future__ import annotations

import argparse

from neuronsteer.evaluation.metrics import METRICS
from neuronsteer.evaluation.metrics.library import SPACES, files


def main() -> int:
    """Write what differs; with `--check`, only say so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if stale")
    check = parser.parse_args().check
    wanted = {SPACES / name / path: text for name in METRICS for path, text in files(name).items()}
    stale = [
        path
        for path, text in wanted.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    left = [path for path in SPACES.rglob("*.*") if path.is_file() and path not in wanted]
    left = [path for path in left if "__pycache__" not in path.parts]
    for path in [*stale, *left]:
        print(("stale " if path in wanted else "left over ") + path.relative_to(SPACES).as_posix())
        if not check and path in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
        elif not check:
            path.unlink()
    return 1 if check and (stale or left) else 0


if __name__ == "__main__":
    raise SystemExit(main())
