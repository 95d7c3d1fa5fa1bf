"""Which language texts are in, whether they stutter, and which of them are worth showing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..metrics.codes import canonical, same
from ..metrics.fluency import degenerate, distinct_ngrams
from ..metrics.langid import identifier

if TYPE_CHECKING:
    from ._bench import Bench

_SHOWN = 12


def listen(bench: Bench, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Return for every text what was heard, in the spelling of the set's labels."""
    found = identify(bench, texts)
    return [
        {
            "text": text,
            "heard": label,
            "degenerate": degenerate(text),
            "distinct": distinct_ngrams(text),
        }
        for text, label in zip(texts, found, strict=True)
    ]


def identify(
    bench: Bench, texts: Sequence[str], candidates: Sequence[str] | None = None
) -> list[str | None]:
    """Return the language of every text.

    Args:
        bench: Whose identifier is asked.
        texts: What to listen to.
        candidates: What it chooses from; default: the run's.
    """
    settings = bench.settings
    labels = settings.candidates if candidates is None else tuple(candidates)
    # A model file is read once.
    listener = bench.once(("identifier", labels), lambda: identifier(settings.identifier, labels))
    return [
        None
        if verdict.label is None or verdict.confidence < settings.floor
        else _spelled(verdict.label, bench.labels)
        for verdict in listener.identify(list(texts))
    ]


class Heard:
    """One judged text."""

    def __init__(self, item: Mapping[str, Any]) -> None:
        self.heard: str | None = item["heard"]
        self.target: str = item["target"]
        self.hit = same(self.heard, self.target)
        self.bad = bool(item["degenerate"])
        self.fluent = self.hit and not self.bad
        # A text shorter than an n-gram repeats nothing.
        self.distinct = 1.0 if item["distinct"] is None else float(item["distinct"])


def pick(
    items: Sequence[Mapping[str, Any]], *, by: Sequence[str], count: int = _SHOWN
) -> list[dict[str, Any]]:
    """Return a few items to show: of every group a typical one, in the order of the groups.

    Typical is the outcome that most of the group have, so that a sample does not flatter.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for item in items:
        groups.setdefault(tuple(item[name] for name in by), []).append(item)
    shown: list[dict[str, Any]] = []
    for some in list(groups.values())[:count]:
        fluent = [Heard(item).fluent for item in some]
        usual = sum(fluent) * 2 >= len(fluent)
        # Of those, the one in the middle of the list: neither the first nor the best.
        typical = [item for item, good in zip(some, fluent, strict=True) if good == usual]
        item = typical[len(typical) // 2]
        shown.append(
            {
                "prompt": item.get("prompt", ""),
                "label": item["target"],
                "text": item["text"],
                "heard": item["heard"],
                "good": usual,
            }
        )
    return shown


def _spelled(label: str, labels: Sequence[str]) -> str:
    return next((each for each in labels if same(each, label)), canonical(label))
