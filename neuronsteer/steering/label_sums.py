"""Language arithmetic: sums of labels, `"fr - en"`, as operations and as sets.

A sum is written with spaces around its operators, because labels may contain them (`zh-Hant`), and
every term may have a factor: `"fr*0.5 + de - en"`. It stands wherever a label does: in `steer.to`,
in schedules, after `--to` on the command line. A label of exactly that name comes first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from ..errors import ParameterError
from ..neuron_set.value_columns import MEANS
from .schedule_text import terms

if TYPE_CHECKING:
    from ..neuron_set import NeuronSet


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """A sum of labels: what is switched on, and what is switched off before.

    **As operations** (`steer.to(ns.arith("fr - en"))`, or the string itself). What has a minus is
    deactivated first: set to zero, or what `away=` says; directions (`diffmean` at `resid`, SAE
    features), for which zero would mean an empty residual stream, are subtracted. Then what has a
    plus is applied with the set's operation. Terms go from left to right, each to what the one
    before left, and that is the precedence for neurons that several labels own:

    - source and target: the target has the last word. After zero, an added value stands alone; with
      `away={"name": "set", "value": c}` it ends at c plus the value, as in the paper's code;
    - two targets: added values add up; of values that are set, the right one stays.

    A factor is the strength of its term. A deactivation cannot be more than complete.

    **As sets** (`ns.arith("fr - en").select(neurons)`). The neurons that a label with a plus owns
    and no label with a minus does.

    Attributes:
        text: The sum as it was written.
        terms: `(factor, label)` in order; the factor of what is taken away is negative.

    Paper: Gurgurov et al. (2025), "Language Arithmetics: Towards Systematic Language Neuron
    Identification and Manipulation". Its code deactivates to a constant (-1 by default) and adds;
    zero is the default here, as in its shell scripts.
    """

    text: str
    terms: tuple[tuple[float, str], ...]

    @property
    def on(self) -> tuple[tuple[float, str], ...]:
        """What is switched on, with factors."""
        return tuple(term for term in self.terms if term[0] > 0)

    @property
    def off(self) -> tuple[tuple[float, str], ...]:
        """What is switched off, with factors (positive here)."""
        return tuple((-factor, label) for factor, label in self.terms if factor < 0)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in order."""
        return tuple(label for _, label in self.terms)

    def select(self, neurons: NeuronSet) -> NeuronSet:
        """Return the neurons of the sum as a set with one label, the text of the sum.

        A neuron that several labels with a plus own has the values of the first of them. Factors
        are for operations; the neurons of a label are the same at every strength.

        Raises:
            LabelError: If a label is unknown.
            ParameterError: If nothing has a plus.
        """
        neurons.require_labels(self.labels)
        if not self.on:
            raise ParameterError(
                f"{self.text!r} only takes away; a set needs a label to take from, as in 'fr - en'."
            )
        key = neurons.neuron_keys()

        def owned(label: str) -> torch.Tensor:
            return neurons.label == neurons.labels.index(label)

        kept = torch.zeros(len(neurons), dtype=torch.bool)
        for _, label in self.on:
            mine = owned(label)
            kept |= mine & ~torch.isin(key, key[kept])
        for _, label in self.off:
            kept &= ~torch.isin(key, key[owned(label)])
        position = torch.zeros(int(kept.sum()), dtype=torch.int64)
        # The sum has no mean of its own: a row keeps that of the label it came from.
        values = dict(neurons.values)
        for name in neurons.values:
            if name.endswith(f".{MEANS}"):
                site = name.removesuffix(f".{MEANS}")
                values[f"{site}.mean"] = neurons.value("mean", site)
        return neurons.replace(
            labels=(self.text,),
            label=position,
            layer=neurons.layer[kept],
            index=neurons.index[kept],
            score=neurons.score[kept],
            values={name: column[kept] for name, column in values.items()},
            calibration={},
            strengths={},
            orphans=0,
        )

    def __str__(self) -> str:
        return self.text


def arith(text: str | Arithmetic) -> Arithmetic:
    """Return the sum of labels that `text` writes down, e.g. `"fr - en"`.

    See `Arithmetic` for what it does to neurons that several labels own. One label alone is a sum
    too.

    Raises:
        ScheduleError: If it cannot be read.
        ParameterError: If a label occurs twice.

    Example:
        >>> arith("fr*0.5 + de - en").off
        ((1.0, 'en'),)
    """
    if isinstance(text, Arithmetic):
        return text
    found = Arithmetic(text.strip(), tuple(terms(text)))
    twice = [label for i, label in enumerate(found.labels) if label in found.labels[:i]]
    if twice:
        raise ParameterError(
            f"{text!r} names the label {twice[0]!r} twice; give it one term, with a factor if need "
            "be, as in 'fr*2 - en'."
        )
    return found


def progressive(labels: Sequence[str]) -> list[Arithmetic]:
    """Return sums that switch off one label more each, in the given order.

    Steering to them one after the other shows which language a model falls back to when those it
    prefers are gone: `["- en", "- en - de", …]`.

    Paper: Gurgurov et al. (2025), the progressive deactivation of its `fallbacks.py`, which parses
    the order of the languages and then ignores it.
    """
    if not labels or isinstance(labels, str):
        raise ParameterError(f"progressive({labels!r}): expected a list of labels, at least one.")
    parts = [f"- {escape(label)}" for label in labels]
    return [arith(" ".join(parts[: i + 1])) for i in range(len(parts))]


def escape(label: str) -> str:
    """Return a label as it is written in a sum, where `*` and a lone operator mean something."""
    found = label.replace("%", "%25").replace("*", "%2A")
    return found.replace(" - ", " %2D ").replace(" + ", " %2B ")
