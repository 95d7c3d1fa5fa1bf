"""Print pins for the packages of this environment: `python tools/freeze.py > constraints.txt`.

Pins carry no local version (`2.13.0`, not `2.13.0+cpu`) so that they resolve on any index, and a
marker where a release needs a newer Python than this project, so that older ones still install.
"""

from __future__ import annotations

import re
from importlib.metadata import distributions

OLDEST = (3, 10)
NOT_PINNED = {"neuronsteer", "pip", "setuptools", "wheel"}


def marker(requires_python: str) -> str:
    """Return `; python_version >= "3.11"` when a release excludes our oldest Python."""
    found = re.search(r">=\s*3\.(\d+)", requires_python)
    if found is None or int(found[1]) <= OLDEST[1]:
        return ""
    return f' ; python_version >= "3.{found[1]}"'


def main() -> None:
    """Print one pin per line, torch first."""
    pins: dict[str, str] = {}
    for package in distributions():
        name = package.metadata["Name"].lower().replace("_", "-")
        if name not in NOT_PINNED:
            version = package.version.split("+")[0]
            pins[name] = f"{name}=={version}{marker(package.metadata['Requires-Python'] or '')}"
    print("# A set of versions known to work together; written by tools/freeze.py.")
    for name in sorted(pins, key=lambda name: (name != "torch", name)):
        print(pins[name])


if __name__ == "__main__":
    main()
