"""Switch: told to change language in the middle, after how many tokens does the text change?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError
from ...languages import same
from ...steering.schedule import Schedule
from ..bootstrap import mean
from ..continuations import decode
from ..metrics.fluency import degenerate
from ..reports import blocks
from . import EXPERIMENTS, Case, Experiment, Finding, Observation
from ._model_under_test import ModelUnderTest


@EXPERIMENTS.register("switch")
@dataclass(frozen=True)
class Switch(Experiment):
    """Prompts steered to their own language, and at a token to another one.

    Args:
        items: Prompts per language.
        before: Generated tokens before the switch.
        after: Generated tokens after it.
        window: Tokens whose language is identified at a time.
        sources: At most so many languages to switch from.
    """

    name: ClassVar[str] = "switch"
    title: ClassVar[str] = "Switch in mid-sentence"
    question: ClassVar[str] = (
        "Switched in the middle of a text, how soon does the new language begin?"
    )
    definition: ClassVar[str] = (
        "Share of texts in which, after the switch, some window of tokens is identified as the "
        "new language, and the rest does not stutter. The delay is the number of tokens between "
        "the switch and the first such window, over the texts that reach it."
    )
    paper: ClassVar[str] = ""
    primary: ClassVar[str] = "reached"
    units: ClassVar[Mapping[str, str]] = {
        "median_delay": "tokens",
        "mean_delay": "tokens",
        "delay_90": "tokens",
    }

    items: int = 3
    before: int = 16
    after: int = 40
    window: int = 10
    sources: int = 4

    def __post_init__(self) -> None:
        """Refuse windows longer than what comes after the switch."""
        super().__post_init__()
        if not 1 <= self.window <= self.after or self.before < 1 or self.sources < 1:
            raise ParameterError(
                f"A switch needs before ≥ 1, sources ≥ 1 and 1 ≤ window ≤ after; got "
                f"before={self.before}, sources={self.sources}, window={self.window}, "
                f"after={self.after}."
            )

    def cases(self, tested: ModelUnderTest) -> list[Case]:
        """Return the languages to switch from."""
        given = [label for label in tested.data.get("prompts").labels if label in tested.labels]
        return [(label,) for label in given[: self.sources]]

    def run(self, tested: ModelUnderTest, case: Case) -> dict[str, Any]:
        """Generate with a switch, and identify what follows it, window by window."""
        source = case[0]
        prompts: list[str] = tested.items("prompts", source, self.count(tested))
        targets = [label for label in tested.labels if not same(label, source)]
        rows = [(prompt, target) for target in targets for prompt in prompts]
        tokens = tested.generate_tokens(
            [prompt for prompt, _ in rows],
            [Schedule(source, (self.before, target)) for _, target in rows],
            self.before + self.after,
            key=(self.name, *case),
        )
        # A chat model may have ended before.
        after = [row[self.before :] for row in tokens]
        windows = [
            (i, start)
            for i, row in enumerate(after)
            for start in range(max(len(row) - self.window + 1, 0))
        ]
        pieces = [after[i][start : start + self.window] for i, start in windows]
        # A few words: the identifier chooses only among the languages that can be meant.
        found = tested.identify(
            decode(tested.tokenizer, pieces), tested.labels if len(tested.labels) > 1 else None
        )
        hits: list[list[bool]] = [[] for _ in rows]
        for (i, _), label in zip(windows, found, strict=True):
            hits[i].append(same(label, rows[i][1]))
        ends = decode(tested.tokenizer, after)
        starts = decode(tested.tokenizer, [row[: self.before] for row in tokens])
        return {
            "items": [
                {
                    "prompt": prompt,
                    "target": target,
                    "text": text,
                    "start": start,
                    "delay": own.index(True) if any(own) else None,
                    "stays": bool(own) and own[-1],
                    "degenerate": degenerate(text),
                }
                for (prompt, target), text, own, start in zip(rows, ends, hits, starts, strict=True)
            ]
        }

    def score(self, tested: ModelUnderTest, found: Mapping[Case, Observation]) -> Finding:
        """Return how often and how soon the new language begins."""
        items = [
            {**item, "from": case[0]} for case, seen in found.items() for item in seen["items"]
        ]
        if not items:
            raise ParameterError("A switch needs two labels with neurons, and prompts in one.")
        got = [_reached(item) for item in items]
        delays = sorted(float(item["delay"]) for item in items if _reached(item))
        rows = list(dict.fromkeys(item["from"] for item in items))
        pairs: dict[tuple[str, str], list[bool]] = {}
        for item, hit in zip(items, got, strict=True):
            pairs.setdefault((item["from"], item["target"]), []).append(hit)
        return self.finding(
            tested,
            len(items),
            {
                "reached": got,
                "median_delay": _quantile(delays, 0.5),
                "mean_delay": delays,
                "delay_90": _quantile(delays, 0.9),
                "stays": mean([bool(item["stays"]) for item in items]),
                "degeneration": mean([bool(item["degenerate"]) for item in items]),
            },
            {
                label: [g for i, g in zip(items, got, strict=True) if i["target"] == label]
                for label in tested.labels
            },
            blocks.matrix(
                "Reached",
                rows,
                tested.labels,
                [[mean(pairs.get((row, to), [])) for to in tested.labels] for row in rows],
                row_name="from",
                column_name="to",
            ),
            blocks.histogram(
                "Delay",
                delays,
                bins=[2.0 * k for k in range((self.after - self.window) // 2 + 2)],
                x_name="tokens from the switch to the first window in the new language",
                note=f"Windows of {self.window} tokens; {len(items) - len(delays)} of "
                f"{len(items)} texts never reached the new language.",
            ),
            blocks.samples("Continuations", _shown(items)),
        )


def _reached(item: Mapping[str, Any]) -> bool:
    return item["delay"] is not None and not item["degenerate"]


def _quantile(values: Sequence[float], share: float) -> float | None:
    if not values:
        return None
    return values[min(int(share * len(values)), len(values) - 1)]


def _shown(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the first text of every target, whatever it looks like."""
    first: dict[str, Mapping[str, Any]] = {}
    for item in items:
        first.setdefault(item["target"], item)
    return [
        {
            "prompt": f"{item['prompt']} {item['start']} ⟶",
            "label": f"{item['from']} ⟶ {item['target']}",
            "text": item["text"],
            "identified": item["target"] if _reached(item) else None,
            "good": _reached(item),
        }
        for item in first.values()
    ]
