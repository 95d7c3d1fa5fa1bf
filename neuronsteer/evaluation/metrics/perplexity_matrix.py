"""Perplexity matrix: whose text suffers when a language's neurons are intervened on?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import ParameterError
from ...steering.steerer import OperationLike, Steerer
from ..bootstrap import interval, mean
from . import INTERVENTION, METRICS, Metric, Score, aligned
from .scoring import Likelihood, Switch, switching, text_likelihoods

#: Per text its nats with the intervention and without, and its tokens.
_Texts = Sequence[tuple[float, float, int]]


@METRICS.register("perplexity_matrix")
@dataclass(frozen=True)
class PerplexityMatrix(Metric):
    """Change of held-out NLL and perplexity, per intervened label and evaluated label.

    A cell holds `nll` and `base_nll` (nats per token: all nats of its texts over all their
    tokens), `delta_nll` (their difference), `perplexity` and `base_perplexity` (exp of the two),
    `delta_perplexity` (difference of the exponentials) and `perplexity_ratio` (exp of
    `delta_nll`). `diagonal_dominance` is the share of intervened labels whose own text has
    strictly the largest `delta_nll` of the row; `chance` is one over the number of columns.
    `margin` is the mean of the diagonal minus the mean of the rest, in nats; its interval is over
    the texts of each column, drawn alike for all interventions.

    Traps: papers print NLL under the name perplexity, or divide padding losses by real tokens;
    here both are named, and only real tokens count. NLL per token of two tokenizers, or of two
    languages, are not comparable; their changes are. English usually resists.

    Args:
        seed: Seed of the bootstrap over texts.
        samples: Resamples per cell.
    """

    name: ClassVar[str] = "perplexity_matrix"
    title: ClassVar[str] = "Perplexity matrix"
    paper: ClassVar[str] = (
        "Tang et al. 2024, Language-Specific Neurons: The Key to Multilingual Capabilities in "
        "Large Language Models"
    )
    primary: ClassVar[str] = "diagonal_dominance"
    columns: ClassVar[Mapping[str, str]] = {
        **INTERVENTION,
        "nll_sum": "float",
        "base_nll_sum": "float",
        "tokens": "int",
    }

    seed: int = 0
    samples: int = 1000

    def compute(
        self,
        intervened: Sequence[str],
        evaluated: Sequence[str],
        nll_sum: Sequence[float],
        base_nll_sum: Sequence[float],
        tokens: Sequence[int],
    ) -> Score:
        """Return the score; one item is one text under one intervention.

        Args:
            intervened: Label that was intervened on.
            evaluated: Label of the text.
            nll_sum: Nats of the whole text under the intervention.
            base_nll_sum: Nats of the whole text without.
            tokens: How many tokens of it were scored, padding not among them.
        """
        aligned(
            self.name,
            intervened=intervened,
            evaluated=evaluated,
            nll_sum=nll_sum,
            base_nll_sum=base_nll_sum,
            tokens=tokens,
        )
        grouped: dict[tuple[str, str], list[tuple[float, float, int]]] = {}
        items = zip(intervened, evaluated, nll_sum, base_nll_sum, tokens, strict=True)
        for off, on, nats, base, count in items:
            if count < 1 or not (math.isfinite(nats) and math.isfinite(base)):
                raise ParameterError(
                    f"A text of {on!r} under {off!r} has {count} tokens, {nats} and {base} nats; "
                    "expected at least one scored token and finite numbers."
                )
            grouped.setdefault((off, on), []).append((float(nats), float(base), int(count)))
        matrix: dict[str, dict[str, dict[str, Any]]] = {}
        for (off, on), texts in grouped.items():
            matrix.setdefault(off, {})[on] = self._cell(texts)
        delta = {
            off: {on: cell["delta_nll"] for on, cell in row.items()} for off, row in matrix.items()
        }
        complete = {off: row for off, row in delta.items() if off in row and len(row) > 1}
        won = [
            all(row[off] > value for on, value in row.items() if on != off)
            for off, row in complete.items()
        ]
        own = [row[off] for off, row in complete.items()]
        rest = [value for off, row in complete.items() for on, value in row.items() if on != off]
        here, elsewhere = mean(own), mean(rest)
        return self.score(
            sum(len(texts) for texts in grouped.values()),
            {
                "diagonal_dominance": mean(won),
                "margin": None if here is None or elsewhere is None else here - elsewhere,
                "diagonal_delta_nll": here,
                "off_diagonal_delta_nll": elsewhere,
                "chance": mean([1 / len(row) for row in complete.values()]),
            },
            {"margin": self._margin(grouped, list(complete)) if complete else None},
            details={"matrix": matrix},
        )

    def _margin(
        self, grouped: Mapping[tuple[str, str], _Texts], offs: Sequence[str]
    ) -> tuple[float, float] | None:
        """Return the interval of the margin, if all interventions were read with the same texts."""
        columns = list(dict.fromkeys(on for _, on in grouped))
        counts = {on: [count for *_, count in grouped.get((offs[0], on), ())] for on in columns}
        if any(
            len(counts[on]) < 2 or [count for *_, count in grouped.get((off, on), ())] != counts[on]
            for off in offs
            for on in columns
        ):
            return None
        draws = np.random.default_rng(self.seed)
        own: list[np.ndarray] = []
        rest: list[np.ndarray] = []
        for on in columns:
            drawn = draws.integers(0, len(counts[on]), size=(self.samples, len(counts[on])))
            tokens = np.array(counts[on], dtype=np.float64)[drawn].sum(1)
            for off in offs:
                rise = np.array([after - before for after, before, _ in grouped[off, on]])
                (own if off == on else rest).append(rise[drawn].sum(1) / tokens)
        low, high = np.quantile(np.mean(own, axis=0) - np.mean(rest, axis=0), [0.025, 0.975])
        return float(low), float(high)

    def _cell(self, texts: _Texts) -> dict[str, Any]:
        tokens = sum(count for _, _, count in texts)
        nll = math.fsum(nats for nats, _, _ in texts) / tokens
        base = math.fsum(nats for _, nats, _ in texts) / tokens
        return {
            "nll": nll,
            "base_nll": base,
            "delta_nll": nll - base,
            "delta_nll_interval": interval(
                [after - before for after, before, _ in texts],
                weights=[count for _, _, count in texts],
                samples=self.samples,
                seed=self.seed,
            ),
            "perplexity": _exp(nll),
            "base_perplexity": _exp(base),
            "delta_perplexity": _exp(nll) - _exp(base),
            "perplexity_ratio": _exp(nll - base),
            "tokens": tokens,
            "texts": len(texts),
        }

    def measure(
        self,
        model: Any,
        tokenizer: Any,
        texts: Mapping[str, Sequence[str]],
        steer: Steerer | Switch,
        *,
        labels: Sequence[str] | None = None,
        operation: OperationLike | None = "zero",
        strength: float = 1.0,
        batch_size: int = 8,
        max_length: int | None = None,
        padding: str = "right",
    ) -> Score:
        """Return the matrix of a model.

        Args:
            model: The model that `steer` is attached to.
            tokenizer: Its tokenizer.
            texts: Held-out texts of every label to evaluate.
            steer: A steerer, or a function that makes a label active and takes `None` for off.
            labels: Labels to intervene on. Default: those of `texts`.
            operation: The intervention. Default: deactivation, as in the paper.
            strength: How much of it.
            batch_size: Rows per forward pass; it does not change the numbers.
            max_length: Longer texts are scored in windows of so many tokens.
            padding: Side of the padding; it does not change the numbers.
        """
        evaluated = [label for label, some in texts.items() for _ in some]
        flat = [text for some in texts.values() for text in some]
        aligned(self.name, texts=flat)

        def score() -> list[Likelihood]:
            return text_likelihoods(
                model,
                tokenizer,
                flat,
                batch_size=batch_size,
                max_length=max_length,
                padding=padding,
            )

        columns: tuple[list[str], list[str], list[float], list[float], list[int]]
        columns = ([], [], [], [], [])
        with switching(steer, operation, strength) as switch:
            base = score()
            for off in texts if labels is None else labels:
                switch(off)
                for on, before, after in zip(evaluated, base, score(), strict=True):
                    if before.tokens:  # a text of one token has nothing to predict
                        row = (off, on, -after.logprob, -before.logprob, before.tokens)
                        for column, value in zip(columns, row, strict=True):
                            column.append(value)  # type: ignore[arg-type]
        return self.compute(*columns)


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
