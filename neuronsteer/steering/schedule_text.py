"""Switch points and the one-line notation of schedules.

The command line, HTTP requests and saved sets all use it:

    en                       one label throughout
    en,24:fr,64:ja           switches; "fr@24" is accepted for "24:fr"
    24-40:fr                 a window, back to what was active before
    24~40:fr                 a ramp: the strength grows from token 24 to token 40
    fr*0.5                   half the strength
    sentence:fr              at the next sentence end; "sentence@24:fr" not before token 24
    text=</think>:fr         once the text contains a string
    sentence~16:fr           a ramp over 16 tokens from there; also "text=STOP@8~16:fr"
    -                        unsteered
    en,16:fr,repeat=32       start over every 32 tokens
    en,24:fr,prompt=yes      steer the prompt as well
    en,24:fr - en            a sum in place of a label: en is switched off, fr on (`label_sums.py`)
    (fr - en*0.5)*2          a sum with a strength of its own

In labels and strings the characters `, : @ * % = ~`, and space at the ends, are written as `%2C`
and so on.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from operator import index
from typing import Any, cast
from urllib.parse import quote, unquote

from ..errors import ScheduleError, shown

_SPECIAL = ",:@*%=~"
# Only with space around: "zh-Hant" and "de:C-L" are labels.
_OPERATOR = re.compile(r"(?:^|\s+)([+-])(?:\s+|$)")
_SUM = re.compile(r"\((.+)\)\*([^*)]+)", re.DOTALL)
_HELP = (
    "expected labels with switch points in generated tokens, e.g. 'en,24:fr,64:ja', '24-40:fr', "
    "'24~40:fr', 'sentence:fr', 'text=STOP:fr', 'en,16:fr,repeat=32'"
)
# More digits than this are no number of tokens.
_DIGITS = 18
_WHEN = re.compile(
    r"(?P<start>[0-9]{1,18})(?:(?P<kind>[-~])(?P<stop>[0-9]{1,18}))?"
    r"|(?:(?P<sentence>sentence)|text=(?P<text>[^@:]+?))"
    r"(?:@(?P<after>[0-9]{1,18}))?(?:~(?P<ramp>[0-9]{1,18}))?"
)


@dataclasses.dataclass(frozen=True)
class Condition:
    """A moment that depends on the generated text.

    Args:
        kind: `"sentence"` (the text so far ends a sentence) or `"text"` (it contains `text`).
        text: The string to wait for, with `kind="text"`, e.g. `"</think>"`.
        after: Not before this many generated tokens.

    The switch applies to the token *after* the one that fulfils the condition. Text is looked at
    from the previous switch point on, and recomputed from the tokens, so beams and speculative
    decoding stay exact.
    """

    kind: str
    text: str = ""
    after: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "after", whole(self.after, "A condition's first token"))
        if self.kind not in ("sentence", "text"):
            raise ScheduleError(
                f"Unknown condition {self.kind!r}: expected 'sentence' (the next sentence end) or "
                "'text' (after a given string)."
            )
        if self.kind == "text" and not (self.text and isinstance(cast(object, self.text), str)):
            raise ScheduleError(
                f"A 'text' condition needs the string to wait for; found {self.text!r}."
            )
        if self.kind == "sentence" and self.text != "":
            raise ScheduleError(
                f"A 'sentence' condition waits for no string; found {self.text!r}. Use the "
                "condition 'text' for that."
            )
        if self.after < 0:
            raise ScheduleError(f"A condition cannot start before token 0; found {self.after}.")

    @classmethod
    def sentence_end(cls, after: int = 0) -> Condition:
        """Return the condition "at the first sentence end at or after token `after`"."""
        return cls("sentence", after=after)

    @classmethod
    def after_text(cls, text: str, after: int = 0) -> Condition:
        """Return the condition "once the text contains `text`"."""
        return cls("text", text=text, after=after)


@dataclasses.dataclass(frozen=True)
class Point:
    """A switch point: from `at` on, `label` is active with `strength`.

    Args:
        at: Generated-token index, or a `Condition`.
        label: The label, or `None` for unsteered.
        strength: How strongly the operation is applied (see `Operation.blended`).
        ramp: Over how many tokens the strength grows from 0 to `strength`; 0 switches at once.
    """

    at: int | Condition
    label: str | None
    strength: float = 1.0
    ramp: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.at, Condition):
            object.__setattr__(self, "at", whole(self.at, "A switch point"))
        object.__setattr__(self, "ramp", whole(self.ramp, "The length of a ramp"))
        label = cast(object, self.label)
        if label is not None and not (label and isinstance(label, str)):
            raise ScheduleError(f"A label is a text or None; found {shown(self.label)}.")
        if isinstance(self.at, int) and self.at < 0:
            raise ScheduleError(f"A switch point counts generated tokens from 0; found {self.at}.")
        if self.ramp < 0:
            raise ScheduleError(f"A ramp lasts a positive number of tokens; found {self.ramp}.")
        if isinstance(self.at, int) and self.at + self.ramp >= 10**_DIGITS:
            raise ScheduleError(f"The ramp of {self.ramp} tokens from token {self.at} never ends.")
        try:
            strength = float(self.strength)
        except (TypeError, ValueError, OverflowError):
            strength = math.nan
        if not math.isfinite(strength) or strength < 0:
            raise ScheduleError(
                f"A strength must be a finite number, 0 or more; found {shown(self.strength)}."
            )
        object.__setattr__(self, "strength", strength)

    def share(self, elapsed: int) -> float:
        """Return how much of the strength is reached `elapsed` tokens after the point."""
        return min(1.0, (elapsed + 1) / self.ramp) if self.ramp else 1.0


def whole(value: Any, what: str) -> int:
    """Return a number of tokens as an int; whole floats (from JSON) and numpy integers are fine.

    Raises:
        ScheduleError: If it is none.
    """
    is_whole_float = isinstance(value, float) and value.is_integer()
    try:
        # A bool is an int of its own, which is written as a word.
        number = int(value) if is_whole_float else int(index(cast(Any, value)))
    except TypeError:
        number = None
    if number is None or number >= 10**_DIGITS:
        raise ScheduleError(f"{what} is a whole number of tokens; found {shown(value)}.")
    return number


def parse(text: str) -> tuple[list[Point], dict[str, Any]]:
    """Return the switch points and options (`repeat`, `prompt`) written in `text`."""
    if not text.strip():
        raise ScheduleError(f"The schedule is empty: {_HELP}.")
    points: list[Point] = []
    options: dict[str, Any] = {}
    for part in (piece.strip() for piece in text.split(",")):
        if not part:
            raise ScheduleError(f"The schedule {text!r} has an empty part between commas: {_HELP}.")
        if part.startswith("repeat="):
            options["repeat"] = _number(part.removeprefix("repeat="), text)
        elif part.startswith("prompt="):
            options["prompt"] = _yes(part.removeprefix("prompt="), text)
        else:
            points.extend(_part(part, points, text))
    return points, options


def write(points: Sequence[Point], repeat: int | None, prompt: bool | None) -> str:
    """Return the one-line notation of a schedule, which `parse` reads back."""
    parts: list[str] = []
    for i, point in enumerate(points):
        label = "-" if point.label is None else _escape(point.label)
        if point.strength != 1.0:
            if is_arithmetic(label):
                label = f"({label})"
            short = f"{point.strength:g}"
            label += f"*{short if float(short) == point.strength else repr(point.strength)}"
        if isinstance(point.at, Condition):
            after = f"@{point.at.after}" if point.at.after else ""
            what = "sentence" if point.at.kind == "sentence" else f"text={_escape(point.at.text)}"
            ramp = f"~{point.ramp}" if point.ramp else ""
            parts.append(f"{what}{after}{ramp}:{label}")
        elif point.ramp:
            parts.append(f"{point.at}~{point.at + point.ramp}:{label}")
        else:
            parts.append(label if i == 0 else f"{point.at}:{label}")
    if repeat is not None:
        parts.append(f"repeat={repeat}")
    if prompt is not None:
        parts.append(f"prompt={'yes' if prompt else 'no'}")
    return ",".join(parts)


def _part(part: str, before: list[Point], text: str) -> list[Point]:
    when, colon, label = part.rpartition(":")
    if not colon:
        name, at, token = part.rpartition("@")
        if at and token.isdigit() and name:  # "fr@24", the notation of HTTP requests
            when, label = token, name
        else:
            return [_bare(part, before, text)]
    found = _WHEN.fullmatch(when)
    if found is None:
        raise ScheduleError(f"Cannot read {when!r} in the schedule {text!r}: {_HELP}.")
    name, strength = _label(label, text)
    if found["start"] is None:
        kind = "sentence" if found["sentence"] else "text"
        waiting = Condition(kind, unquote(found["text"] or ""), int(found["after"] or 0))
        return [Point(waiting, name, strength, int(found["ramp"] or 0))]
    start = int(found["start"])
    if found["stop"] is None:
        return [Point(start, name, strength)]
    stop = int(found["stop"])
    if stop <= start:
        raise ScheduleError(f"The window {when!r} in the schedule {text!r} ends before it starts.")
    if found["kind"] == "~":
        return [Point(start, name, strength, ramp=stop - start)]
    last = before[-1] if before else Point(0, None)
    return [Point(start, name, strength), Point(stop, last.label, last.strength)]


def _bare(part: str, before: list[Point], text: str) -> Point:
    if before:
        raise ScheduleError(
            f"In the schedule {text!r} only the first part may be a bare label; {part!r} needs a "
            f"token, as in '24:{part}'."
        )
    name, strength = _label(part, text)
    return Point(0, name, strength)


def _label(text: str, schedule: str) -> tuple[str | None, float]:
    # In a sum a factor belongs to its term, and the strength of the whole stands behind brackets.
    name, star, strength = text, "", ""
    whole_sum = _SUM.fullmatch(text)
    if whole_sum is not None and is_arithmetic(whole_sum[1]):
        name, star, strength = whole_sum[1], "*", whole_sum[2]
    elif not is_arithmetic(text):
        name, star, strength = text.partition("*")
    if not name:
        raise ScheduleError(f"A label is missing in the schedule {schedule!r}: {_HELP}.")
    try:
        value = float(strength) if star else 1.0
    except ValueError:
        raise ScheduleError(
            f"The strength {strength!r} in the schedule {schedule!r} is not a number."
        ) from None
    return (None if name == "-" else unquote(name)), value


def is_arithmetic(text: str) -> bool:
    """Return whether `text` is a sum of labels rather than one: an operator with space around."""
    return text.strip() != "-" and _OPERATOR.search(text) is not None


def terms(text: str) -> list[tuple[float, str]]:
    """Return the `(factor, label)` terms of `"fr*0.5 + de - en"`; what is taken away is negative.

    Raises:
        ScheduleError: If a label is missing or a factor is no number above 0.
    """
    pieces = _OPERATOR.split(text.strip())
    # A sum may begin with an operator; otherwise its first term has a plus.
    pieces = pieces[1:] if not pieces[0] and len(pieces) > 1 else ["+", *pieces]
    found: list[tuple[float, str]] = []
    for sign, piece in zip(pieces[::2], pieces[1::2], strict=True):
        name, star, factor = (part.strip() for part in piece.partition("*"))
        try:
            value = float(factor) if star else 1.0
        except ValueError:
            value = math.nan
        if not name or name in "+-" or _OPERATOR.match(name) or not 0 < value < math.inf:
            raise ScheduleError(
                f"Cannot read {piece.strip()!r} in {text!r}: expected labels with an optional "
                "factor above 0, joined by ' + ' and ' - ', e.g. 'fr - en' or 'fr*0.5 + de - en'."
            )
        found.append((value if sign == "+" else -value, unquote(name)))
    return found


def target_label(label: str) -> str:
    """Return the label that a sum of labels goes to, its first one with a plus; others as is."""
    if not is_arithmetic(label):
        return label
    return next((name for factor, name in terms(label) if factor > 0), label)


def escape_label(label: str) -> str:
    """Return a label as it is written in a sum of labels."""
    return _escape(label)


def _number(text: str, schedule: str) -> int:
    if not text.isdecimal() or len(text) > _DIGITS or int(text) == 0:
        raise ScheduleError(
            f"'repeat=' in the schedule {schedule!r} needs a positive number of tokens; "
            f"found {text!r}."
        )
    return int(text)


def _yes(text: str, schedule: str) -> bool:
    if text not in ("yes", "no"):
        raise ScheduleError(
            f"'prompt=' in the schedule {schedule!r} is 'yes' or 'no', not {text!r}."
        )
    return text == "yes"


def _escape(text: str) -> str:
    # Not the whole text: every non-Latin label would turn into percent signs.
    body = text.strip()
    start = text.index(body)
    escaped = "".join(f"%{ord(char):02X}" if char in _SPECIAL else char for char in body)
    ends = (quote(text[:start]), quote(text[start + len(body) :]))
    escaped = f"{ends[0]}{escaped}{ends[1]}"
    return "%2D" if escaped == "-" else escaped
