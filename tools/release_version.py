"""Check that a version can be released: it is the same everywhere, and the changelog has its date.

python tools/release_version.py 0.1.0
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: Where a version is written: file → what stands before and after it.
PLACES = {
    "pyproject.toml": r'^version = "([^"]+)"$',
    "CITATION.cff": r"^version: (\S+)$",
    "CHANGELOG.md": r"^## \[(\d[^\]]*)\] - \d{4}-\d\d-\d\d$",
}


def mistakes(version: str, root: Path = ROOT) -> list[str]:
    """Return what keeps `version` from being released, one sentence per file."""
    found: list[str] = []
    for name, pattern in PLACES.items():
        # In the changelog, the newest version stands first.
        match = re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        if match is None or match[1] != version:
            there = match[1] if match else "no released version"
            found.append(f"{name} has {there}; expected {version}. Correct it, or the tag.")
    return found


def main() -> int:
    """Print what is wrong, and return 1 if something is."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    wrong = mistakes(sys.argv[1])
    for each in wrong:
        print(each, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
