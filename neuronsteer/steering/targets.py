"""What `Steerer.to` may be given, and the schedule that each of it means."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ScheduleError
from .label_sums import Arithmetic
from .schedule import Schedule
from .schedule_text import is_arithmetic, terms

Target = str | Schedule | Arithmetic | None

#: Instead of labels in `away_from`: whatever label was in force before.
PREVIOUS = "previous"


def scheduled(target: Target, labels: Sequence[str], prompt: bool | None) -> Schedule:
    """Return the schedule of a label, of a string in schedule notation, or of a schedule."""
    if isinstance(target, Schedule):
        found = target
    elif target is None or target in labels or _is_label(str(target), labels):
        found = Schedule(None if target is None else str(target))
    else:
        found = Schedule.parse(str(target))
    if prompt is None:
        return found
    return Schedule(*found.points, repeat=found.repeat, prompt=prompt)


def leaving(
    target: Target | Sequence[Target], labels: Sequence[str], now: Sequence[str | None]
) -> Schedule | list[Schedule]:
    """Return what takes away, at each switch of `target`, the label before it.

    Args:
        target: A target, or one per row.
        labels: Labels of the attached sets.
        now: The labels in force, one per row or one for all; none before a generation.
    """
    alone = target is None or isinstance(target, (str, Schedule, Arithmetic))
    each = [target] if alone else list(target)  # type: ignore[arg-type]
    made = [
        scheduled(one, labels, None).leaving(now[row % len(now)] if now else None)  # type: ignore[arg-type]
        for row, one in enumerate(each)
    ]
    return made[0] if alone and made else made


def _is_label(text: str, labels: Sequence[str]) -> bool:
    """Return whether `text` can only be a label or a sum of labels, not a schedule."""
    if not any(mark in text for mark in ",:@*"):
        return True
    try:  # labels may contain these marks, too
        return is_arithmetic(text) and all(label in labels for _, label in terms(text))
    except ScheduleError:
        return False
