"""Texts of others inside of Markdown: shown as they are, and never markup.

Labels, prompts, and the names of methods, corpora and models can be any text. What leaves this file
is inert in CommonMark, in GitHub's and the Hub's dialects, and in renderers that know no tables.
"""

from __future__ import annotations

import json
import re

# Control characters, and those that turn the direction of the text after them.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]+")
_SPACES = re.compile(r"\s+")
# An underscore inside of a word is none, and `zh_Hans` is easier to read without a backslash.
_MARKS = re.compile(r"([|`*\[\]\\#~$!]|(?<!\w)_|_(?!\w))")
# Entities, because not every renderer takes a backslash before them.
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def one_line(text: object) -> str:
    """Return a text without line breaks and characters that cannot be seen."""
    return _SPACES.sub(" ", _UNSEEN.sub(" ", str(text))).strip()


def inline(text: object) -> str:
    """Return a text for a paragraph, a heading or a cell of a table."""
    marked = _MARKS.sub(r"\\\1", one_line(text))
    return "".join(_ENTITIES.get(each, each) for each in marked)


def code(text: object) -> str:
    """Return a text as code in a line, also in a cell of a table."""
    line = one_line(text).replace("|", r"\|")
    fence = _longer_fence(line, least=1)
    # Renderers take one space from each end, if both have one.
    edge = " " if "`" in line[:1] + line[-1:] else ""
    return f"{fence}{edge}{line}{edge}{fence}" if line else ""


def fenced(text: str, language: str = "") -> str:
    """Return lines as a block of code that none of them can end."""
    fence = _longer_fence(text, least=3)
    return f"{fence}{language}\n{text}\n{fence}"


def string_literal(text: str) -> str:
    """Return a text as Python writes it between double quotes, in one line of printable letters."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in quoted
    )


def _longer_fence(text: str, least: int) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)
