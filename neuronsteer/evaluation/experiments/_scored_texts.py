"""Generated texts with what was found out about them, and which of them are worth showing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...languages import same

_SHOWN = 12


class ScoredText:
    """One text that `ModelUnderTest.continuations` returned, scored against its target."""

    def __init__(self, item: Mapping[str, Any]) -> None:
        self.identified: str | None = item["identified"]
        self.target: str = item["target"]
        self.hit = same(self.identified, self.target)
        self.bad = bool(item["degenerate"])
        self.fluent = self.hit and not self.bad
        # A text shorter than an n-gram repeats nothing.
        self.distinct = 1.0 if item["distinct"] is None else float(item["distinct"])


def pick(
    items: Sequence[Mapping[str, Any]], *, by: Sequence[str], count: int = _SHOWN
) -> list[dict[str, Any]]:
    """Return a few items to show: of every group a typical one, in the order of the groups.

    Typical is what most of the group are, so that a sample does not flatter.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for item in items:
        groups.setdefault(tuple(item[name] for name in by), []).append(item)
    shown: list[dict[str, Any]] = []
    for some in list(groups.values())[:count]:
        fluent = [ScoredText(item).fluent for item in some]
        usual = sum(fluent) * 2 >= len(fluent)
        # Of those, the one in the middle of the list: neither the first nor the best.
        typical = [item for item, good in zip(some, fluent, strict=True) if good == usual]
        item = typical[len(typical) // 2]
        shown.append(
            {
                "prompt": item.get("prompt", ""),
                "label": item["target"],
                "text": item["text"],
                "identified": item["identified"],
                "good": usual,
            }
        )
    return shown
