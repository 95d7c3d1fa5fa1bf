"""The page that explains steering lists the files that run, in the order in which they run."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import neuronsteer as ns
from tests.steering.sets import greedy, toy_set
from tests.tiny_models import tiny_ids, tiny_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-steering-works.md"


def files_of(action):
    """Return the files of the package whose code `action` runs, in order of the first call."""
    root, seen = os.path.dirname(ns.__file__) + os.sep, {}

    def profile(frame, event, _arg):
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(root):
            seen.setdefault(file.removeprefix(root).replace(os.sep, "/"))

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(before)
    return list(seen)


def test_from_to_to_the_token_it_is_the_files_of_the_page():
    model, ids = tiny_model("llama"), tiny_ids(1)
    with ns.attach(model, toy_set(model)) as steer:
        found = files_of(lambda: (steer.to("fr"), greedy(model, ids, new=2)))
    named = re.findall(r"^\d+\. \*\*`([a-z_]+\.py)`\*\*", PAGE.read_text("utf-8"), re.MULTILINE)
    assert [f"steering/{name}" for name in named] == found
    assert len(found) <= 10
