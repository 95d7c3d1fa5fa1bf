"""`python -m neuronsteer.cli` is the command `neuronsteer`."""

from __future__ import annotations

from . import main

main()
