"""Language Steering Shift: do facts lean towards the target language when it is switched on?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ...errors import ParameterError
from ...languages import same
from ...steering.steerer import OperationLike, Steerer
from ..bootstrap import mean
from . import METRICS, Metric, Score, aligned
from .scoring import Switch, likelihoods, switching


@dataclass(frozen=True)
class Fact:
    """A question in the base language with its answer in the base and in the target language.

    Attributes:
        prompt: The statement up to its object, e.g. `"The capital of France is"`.
        base: Language of the prompt.
        target: Language to steer to.
        base_object: The object in the base language, with the space that belongs before it.
        target_object: The object in the target language.
    """

    prompt: str
    base: str
    target: str
    base_object: str
    target_object: str


@METRICS.register("lss")
@dataclass(frozen=True)
class LanguageSteeringShift(Metric):
    """Share of facts whose log-odds move towards the target language.

    With Δ(f) = log P(target object | base prompt) − log P(base object | base prompt), summed over
    the tokens of the objects, LSS is the share of facts with Δ steered − Δ unsteered > 0,
    strictly. `shift` is the mean of that difference in nats.

    Traps: LSS counts direction, not magnitude. A change unrelated to languages moves half
    of the facts the right way: `chance` is 0.5, and `chance_low` to `chance_high` is where 95 % of
    such changes land. A model that is not steered has LSS 0. Where base and target are the same
    language the shift says nothing, and objects that are spelled alike cannot move: both are left
    out and counted (`excluded`). A high LSS does not mean that a switch is fluent.

    Args:
        seed: Seed of the bootstrap.
    """

    name: ClassVar[str] = "lss"
    title: ClassVar[str] = "Language Steering Shift"
    paper: ClassVar[str] = (
        "Rahmanisa et al. 2025, Unveiling the Influence of Amplifying Language-Specific Neurons"
    )
    primary: ClassVar[str] = "lss"
    columns: ClassVar[Mapping[str, str]] = {"predictions": "float", "references": "float"}
    optional: ClassVar[Mapping[str, str]] = {"base": "string", "target": "string"}

    seed: int = 0

    def compute(
        self,
        predictions: Sequence[float],
        references: Sequence[float],
        base: Sequence[str] | None = None,
        target: Sequence[str] | None = None,
    ) -> Score:
        """Return the score.

        Args:
            predictions: Δ of each fact under steering.
            references: Δ of the same facts without.
            base: Language of each prompt; with `target`, the diagonal is left out.
            target: Language steered to.
        """
        n = aligned(
            self.name, predictions=predictions, references=references, base=base, target=target
        )
        pairs = list(zip(base or [""] * n, target or [""] * n, strict=True))
        known = base is not None and target is not None
        kept = [i for i in range(n) if not (known and same(*pairs[i]))]
        shifts = [float(predictions[i]) - float(references[i]) for i in kept]
        if not all(math.isfinite(shift) for shift in shifts):
            raise ParameterError("LSS got log-odds that are not finite.")
        up = [shift > 0 for shift in shifts]
        low, high = _chance(len(kept))
        cells: dict[str, dict[str, dict[str, Any]]] = {}
        if known:
            for b, t in dict.fromkeys(pairs[i] for i in kept):
                own = [k for k, i in enumerate(kept) if pairs[i] == (b, t)]
                cells.setdefault(b, {})[t] = {
                    "lss": mean([up[k] for k in own]),
                    "shift": mean([shifts[k] for k in own]),
                    "n": len(own),
                }
        return self.score(
            len(kept),
            {
                "lss": up,
                "shift": shifts,
                "unmoved": mean([shift == 0 for shift in shifts]),
                "chance": 0.5,
                "chance_low": low,
                "chance_high": high,
                "excluded": float(n - len(kept)),
            },
            details={"matrix": cells},
        )

    def measure(
        self,
        model: Any,
        tokenizer: Any,
        facts: Sequence[Fact],
        steer: Steerer | Switch,
        *,
        operation: OperationLike | None = None,
        strength: float = 1.0,
        batch_size: int = 8,
        padding: str = "right",
    ) -> Score:
        """Return the score of a steered model.

        Args:
            model: The model that `steer` is attached to.
            tokenizer: Its tokenizer.
            facts: What to ask. Facts of one language, or with one spelling, are left out.
            steer: A steerer, or a function that makes a label active and takes `None` for off.
            operation: What is done with the target's neurons; default: the set's own.
            strength: How much of it.
            batch_size: Rows per forward pass; it does not change the numbers.
            padding: Side of the padding; it does not change the numbers.
        """
        asked = [
            fact
            for fact in facts
            if not same(fact.base, fact.target) and fact.base_object != fact.target_object
        ]
        aligned(self.name, facts=asked)

        def odds(some: Sequence[Fact]) -> list[float]:
            return log_odds(model, tokenizer, some, batch_size=batch_size, padding=padding)

        before = [0.0] * len(asked)
        after = [0.0] * len(asked)
        with switching(steer, operation, strength) as switch:
            for target in dict.fromkeys(fact.target for fact in asked):
                own = [i for i, fact in enumerate(asked) if fact.target == target]
                some = [asked[i] for i in own]
                # The same batches before and after: rounding cannot look like a shift.
                switch(None)
                for i, value in zip(own, odds(some), strict=True):
                    before[i] = value
                switch(target)
                for i, value in zip(own, odds(some), strict=True):
                    after[i] = value
        score = self.compute(after, before, [f.base for f in asked], [f.target for f in asked])
        left_out = {"excluded": float(len(facts) - len(asked))}
        return replace(score, values={**score.values, **left_out})


def log_odds(
    model: Any,
    tokenizer: Any,
    facts: Sequence[Fact],
    *,
    batch_size: int = 8,
    padding: str = "right",
) -> list[float]:
    """Return Δ of each fact, as the model is steered now."""
    pairs = [(f.prompt, each) for f in facts for each in (f.target_object, f.base_object)]
    found = likelihoods(model, tokenizer, pairs, batch_size=batch_size, padding=padding)
    return [a.logprob - b.logprob for a, b in zip(found[::2], found[1::2], strict=True)]


def _chance(n: int) -> tuple[float | None, float | None]:
    """Return the central 95 % of the share of heads in n throws of a fair coin."""
    if n == 0:
        return None, None
    total, low = 0.0, 0
    for k in range(n + 1):
        total += math.exp(
            math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        )
        if total > 0.025:
            low = k
            break
    return low / n, (n - low) / n
