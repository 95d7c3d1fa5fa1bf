"""How much steering a budget of neurons buys: success and damage over the share that is steered."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ParameterError
from ..neuron_set import NeuronSet
from ..neuron_set.row_values import is_relative
from ..neuron_set.value_columns import OTHERS
from ..operations import SITES_OF_MLP
from ..operations import operation as make_operation
from ..steering.steerer import OperationLike, Steerer, attach
from .continuations import continue_rows, decode
from .metrics import metric
from .metrics.langid import IdentifierLike
from .metrics.scoring import mean_nll

if TYPE_CHECKING:
    from rich.table import Table

SHARES = (0.001, 0.003, 0.01, 0.03, 0.1)
#: Name of the control.
RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class FrontierPoint:
    """One budget of one method.

    Attributes:
        share: Share of all units that a label was given; 1 for directions, which have no budget.
        neurons: Rows per label, on average.
        success: Share of continuations in the target language that do not stutter.
        damage: How many nats per token text of the target loses while steered to it, leaving all
            others.
    """

    share: float
    neurons: float
    success: float
    damage: float


@dataclasses.dataclass(frozen=True)
class Frontier:
    """What `frontier` measured.

    Attributes:
        steps: Name of the set → its budgets, ascending.
        pairs: How many continuations each success is about.
    """

    steps: Mapping[str, Sequence[FrontierPoint]]
    pairs: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "pairs": self.pairs,
            "sets": {
                name: [dataclasses.asdict(step) for step in steps]
                for name, steps in self.steps.items()
            },
        }

    def table(self, facts: Mapping[str, Mapping[str, str]] | None = None) -> Table:
        """Return a Rich table: a line per set, success and damage at every budget.

        Args:
            facts: More columns, in front: heading → name of the set → text.
        """
        from rich.markup import escape
        from rich.table import Table

        shares = sorted({s.share for steps in self.steps.values() for s in steps if s.share < 1})
        table = Table(title=f"Success / damage by share of units ({self.pairs} continuations each)")
        table.add_column("set", style="bold")
        for heading in facts or {}:
            table.add_column(escape(heading), justify="right")
        for share in shares:
            table.add_column(f"{share:.1%}", justify="right")
        for name, steps in self.steps.items():
            by = {step.share: step for step in steps}
            # A direction takes all units of a layer, whatever the budget.
            found = [by.get(share) or by.get(1.0) for share in shares]
            extra = [escape(column.get(name, "")) for column in (facts or {}).values()]
            table.add_row(escape(name), *extra, *(_cell(step) for step in found))
        return table


def frontier(
    model: Any,
    sets: Mapping[str, NeuronSet],
    tokenizer: Any,
    prompts: Mapping[str, Sequence[str]],
    texts: Mapping[str, Sequence[str]],
    *,
    shares: Sequence[float] = SHARES,
    operation: OperationLike | None = None,
    stats: Any = None,
    tokens: int = 24,
    identifier: IdentifierLike = "lingua",
    candidates: Sequence[str] | None = None,
    seeds: int = 1,
) -> Frontier:
    """Return how well each set steers when every label may have so many of its best neurons.

    All sets of MLP neurons are steered with the same operation, so that what is compared is which
    neurons were chosen. Prompts of every label are continued in every other label.

    Args:
        model: The model that the sets were found in.
        sets: Name → set with at least as many rows as the largest budget; the best of each label
            are taken. Sets of directions (at `resid`) and features are steered by their own
            operation, directions as a whole.
        tokenizer: The model's tokenizer.
        prompts: Label → beginnings of texts.
        texts: Label → held-out texts, on which damage is measured.
        shares: Budgets as shares of all units of a set's site.
        operation: What is done with MLP neurons; default: what each set says.
        stats: With statistics, a set called "random" is drawn, the control: as many neurons per
            label and layer as the largest set of MLP neurons has, with the values they have there.
        tokens: New tokens per continuation.
        identifier: What identifies the language of a text.
        candidates: Languages to choose from.
        seeds: Draws of the control, averaged.

    Raises:
        ParameterError: If there is nothing to compare, or a budget is not a share.
    """
    if not sets or len(prompts) < 2:
        raise ParameterError("A frontier needs at least one set, and prompts of two labels.")
    if not all(0 < share <= 1 for share in shares):
        raise ParameterError(f"Budgets are shares, above 0 to 1; got {tuple(shares)}.")
    forcing = metric("language_forcing", identifier=identifier, languages=candidates)
    pairs = [(p, to) for of, some in prompts.items() for p in some for to in prompts if to != of]
    ids = [list(tokenizer(prompt)["input_ids"]) for prompt, _ in pairs]
    plain = {label: mean_nll(model, tokenizer, some) for label, some in texts.items()}

    def measured(neurons: NeuronSet, share: float) -> FrontierPoint:
        own = None if neurons.site not in SITES_OF_MLP else operation
        known = {label for label in prompts if neurons.counts.get(label)}
        with attach(model, neurons, tokenizer=tokenizer) as steer:
            steer.to([to if to in known else None for _, to in pairs], own)
            made = continue_rows(
                model, tokenizer, ids, tokens, min_new_tokens=tokens, do_sample=False
            )
            score = forcing.compute(decode(tokenizer, made), [to for _, to in pairs])
            steer.off()
            rises = [_rise(model, tokenizer, steer, to, texts[to], plain[to], own) for to in known]
        return FrontierPoint(
            share,
            sum(neurons.counts.values()) / len(neurons.labels),
            float(score["fluent_success"] or 0.0),
            sum(rises) / len(rises) if rises else 0.0,
        )

    steps: dict[str, list[FrontierPoint]] = {}
    selected = [each for each in sets.values() if each.site in SITES_OF_MLP]
    # The set with the most neurons within the largest budget: no method has more than its control.
    control = max(selected, key=lambda each: len(_best(each, max(shares))), default=None)
    for name, neurons in sets.items():
        if neurons.site == "resid":
            steps[name] = [measured(neurons, 1.0)]
            continue
        steps[name] = [measured(_best(neurons, share), share) for share in sorted(shares)]
    if stats is not None and control is not None:
        steps[RANDOM] = []
        for share in sorted(shares):
            drawn = [_best(control, share).random_like(seed, stats) for seed in range(seeds)]
            found = [measured(each, share) for each in drawn]
            means = {n: sum(getattr(s, n) for s in found) / seeds for n in ("success", "damage")}
            steps[RANDOM].append(dataclasses.replace(found[0], **means))
    return Frontier(steps, len(pairs))


def _best(neurons: NeuronSet, share: float) -> NeuronSet:
    return neurons.top(max(1, round(share * sum(neurons.width_per_layer))))


def _rise(
    model: Any,
    tokenizer: Any,
    steer: Steerer,
    label: str,
    texts: Sequence[str],
    plain: float,
    operation: OperationLike | None,
) -> float:
    # The texts are in the language already, which a set that reads prompts would leave alone. What
    # is asked is what steering does to a text that has come to the language by it.
    chosen = make_operation(steer.sets[0].operation if operation is None else operation)
    source = OTHERS if is_relative(steer.sets[0], chosen) else None
    steer.to(label, operation, source=source)
    try:
        return mean_nll(model, tokenizer, texts) - plain
    finally:
        steer.off()


def _cell(step: FrontierPoint | None) -> str:
    return "–" if step is None else f"{step.success:.0%} / {step.damage:+.2f}"
