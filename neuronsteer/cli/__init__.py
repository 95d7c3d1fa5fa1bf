"""The command line. Commands load what they need, such as torch, only when they run."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its code: 0 done, 2 user error, 130 interrupted."""
    from .app import run

    run()
