"""Steering states: what a label, an operation and a strength do to every layer.

A state is compiled once into sparse rows, one per layer, and gets a row number in all tables. Where
several sets or a deactivated source meet on one neuron, they are applied in this order, each to
what the one before left: sources (`away_from`, then what a sum such as `"fr - en"` takes away)
first, then the targets in the order they are written, each with the sets in the order they were
attached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import LabelError, MismatchError, ParameterError, unknown_label
from ..neuron_set import NeuronSet
from ..neuron_set.row_values import choose_left, is_relative
from ..neuron_set.value_columns import DIRECTION, FEATURE_SITES
from ..operations import SITES_OF_MLP, Operation, operation
from .label_sums import Arithmetic, arith
from .schedule_text import is_arithmetic
from .tables import Beginning, SparseRow

#: `(site, layer)` → what to do there.
Compiled = dict[tuple[str, int], SparseRow]


@dataclass(frozen=True)
class State:
    """One row of all tables.

    Attributes:
        label: The target, a label or a sum of labels, or `None` when only sources are deactivated.
        strength: See `Operation.blended`.
        operation: `None` means each set's own default.
        away_from: Labels that are deactivated first.
        away: What deactivates them; `None` means `Compiler.opposite`.
        left: Labels that differences of means are taken from; empty for all others. Sums are what
            they say, so for them it is empty.
        stated: Whether a schedule states how strongly: a switch then begins as it says.
    """

    label: str | None
    strength: float = 1.0
    operation: Operation | None = None
    away_from: tuple[str, ...] = ()
    away: Operation | None = None
    left: tuple[str, ...] = ()
    stated: bool = False

    @property
    def idle(self) -> bool:
        """Whether nothing is changed."""
        return (self.label is None or self.strength == 0) and not self.away_from


class Compiler:
    """Turns states into sparse rows for the sets that are attached.

    Args:
        sets: The neuron sets, in order of application.
        gated: Whether the model's MLP has a gate, so that `mlp.act` differs from `mlp.neuron`.
        widths: Neurons per layer of each steered site.
    """

    def __init__(
        self, sets: Sequence[NeuronSet], gated: bool, widths: dict[tuple[str, int], int]
    ) -> None:
        self.sets = tuple(sets)
        self._gated = gated
        self._widths = widths
        self.labels = tuple(dict.fromkeys(label for each in sets for label in each.labels))
        #: What a label leaves unless told otherwise, see `left`.
        self.usually_left = self.left(None)

    def sum_of(self, label: str) -> Arithmetic | None:
        """Return the sum of labels that `label` writes down; `None` if it is a label itself."""
        if label in self.labels or not is_arithmetic(label):
            return None
        return arith(label)

    def check(self, label: str) -> None:
        """Raise unless `label` exists and has neurons: steering must never silently do nothing."""
        total = self.sum_of(label)
        if total is not None:
            for each in total.labels:
                self.check(each)
            return
        if label not in self.labels:
            raise unknown_label(label, self.labels)
        if not any(label in each.labels and each.counts[label] for each in self.sets):
            having = [n for n in self.labels if any(s.counts.get(n) for s in self.sets)]
            raise LabelError(
                f"The label {label!r} has no neurons in this set, so steering to it would change "
                f"nothing. Labels with neurons: {', '.join(having) or 'none'}. Detect with a "
                "larger rate, or per_label=N for equal budgets."
            )

    def default(self, neurons: NeuronSet) -> Operation:
        """Return the operation that a set's header asks for."""
        return operation(neurons.operation)

    def relative(self, chosen: Operation | None) -> list[NeuronSet]:
        """Return the sets that change with what is left.

        Args:
            chosen: The operation; `None` means each set's own default.
        """
        return [each for each in self.sets if is_relative(each, chosen or self.default(each))]

    def left(
        self, chosen: Operation | None, source: tuple[str, ...] = (), away: tuple[str, ...] = ()
    ) -> tuple[str, ...]:
        """Return what the first label leaves, as `choose_left` does."""
        acting = [(each, chosen or self.default(each)) for each in self.sets]
        return choose_left(acting, source, away)

    def beginning(self, state: State) -> Beginning | None:
        """Return how a switch to `state` begins, if it is what the sets do by themselves.

        What several sets do is strengthened together, so they have to agree.
        """
        label = state.label
        if label is None or state.operation is not None or state.stated or self.sum_of(label):
            return None
        acting = [each.switch for each in self.sets if each.counts.get(label)]
        alike = bool(acting) and all(each == acting[0] for each in acting)
        return Beginning(**acting[0]) if alike and acting[0] else None

    def compile(self, state: State) -> Compiled:
        """Return what `state` does, per steered site and layer."""
        total = None if state.label is None else self.sum_of(state.label)
        off = [(1.0, source) for source in state.away_from]
        on: list[tuple[float, str]] = []
        if total is not None:
            off += [(factor * state.strength, label) for factor, label in total.off]
            on = [(factor * state.strength, label) for factor, label in total.on]
        elif state.label is not None:
            on = [(state.strength, state.label)]
        told = self.relative(state.operation) if state.left else []
        work: dict[tuple[str, int], SparseRow] = {}
        for strength, label in off:
            self.check(label)
            for neurons in self.sets:
                if label in state.left and state.away is None and neurons in told:
                    continue  # it is subtracted from the target's means
                chosen = state.away or self.opposite(neurons)
                # Nothing can be more than switched off, however strong the rest is.
                bounded = strength if chosen.unbounded else min(strength, 1.0)
                self._apply(work, neurons, label, chosen, bounded)
        for strength, label in on:
            self.check(label)
            for neurons in self.sets:
                chosen = state.operation or self.default(neurons)
                # What was tuned is the set's own operation.
                tuned = neurons.strengths.get(label, 1.0) if state.operation is None else 1.0
                if strength:
                    left = state.left if neurons in told else ()
                    self._apply(work, neurons, label, chosen, strength * tuned, left)
        return work

    def opposite(self, neurons: NeuronSet) -> Operation:
        """Return what takes a label away: zero for neurons, for directions minus what adds them.

        Every coordinate of the residual stream serves all labels: without it nothing is left. And
        neurons that are pulled to the label's mean are pulled back to their mean elsewhere.
        """
        adds = self.default(neurons)
        if adds.name == "pull":
            return operation(adds, value="other_mean", factor=-float(adds.to_dict()["factor"]))
        if neurons.site in SITES_OF_MLP or neurons.site.startswith("attn.") or adds.name != "add":
            return operation("zero")
        return operation(adds, factor=-float(adds.to_dict()["factor"]))

    def _apply(
        self,
        work: dict[tuple[str, int], SparseRow],
        neurons: NeuronSet,
        label: str,
        chosen: Operation,
        strength: float,
        left: tuple[str, ...] = (),
    ) -> None:
        if not neurons.counts.get(label):
            return
        rows = neurons.rows(label)
        site = chosen.site_for(neurons.site)
        if known := neurons.means_of:
            # What another set read off the prompt, or steered to before, may be no label of this
            # one: all of its other labels stand for it then.
            left = tuple(name for name in left if name in known)
        scale, shift = chosen.blended(rows.leaving(*left), site, strength)
        if site in FEATURE_SITES:
            self._add_features(work, rows, site, chosen, scale, shift)
            return
        at_gate = site == "mlp.act" and self._gated
        steered = steered_site(site)
        # Rows are sorted by layer, so each layer is one slice.
        layers, sizes = rows.layer.unique_consecutive(return_counts=True)
        start = 0
        for layer, size in zip(layers.tolist(), sizes.tolist(), strict=True):
            part = slice(start, start + size)
            start += size
            columns = rows.index[part].to(torch.int64)
            s, t = scale[part], shift[part]
            made = SparseRow(columns, s, torch.zeros_like(t), t) if at_gate else None
            made = made or SparseRow(columns, s, t)
            key = (steered, int(layer))
            before = work.get(key)
            work[key] = made if before is None else _after(before, made, self._widths[key])

    def _add_features(
        self,
        work: dict[tuple[str, int], SparseRow],
        rows: NeuronSet,
        site: str,
        chosen: Operation,
        scale: torch.Tensor,
        shift: torch.Tensor,
    ) -> None:
        """Add the features' decoder rows, each times its shift, where the codec reads."""
        if bool((scale != 1).any()):
            raise ParameterError(
                f"Features of an autoencoder can only be added to, and {chosen.name!r} would have "
                "to know their values: steering writes their decoder rows into the stream. "
                "Use 'add'; with a negative factor it takes them away."
            )
        directions = rows.values.get(f"{rows.site}.{DIRECTION}")
        if directions is None:
            raise ParameterError(
                "This set's features have no decoder rows, so what to add is not known. Put them "
                "in with open_codec(folder).with_directions(neurons), or detect with codec=folder."
            )
        for layer in rows.layer.unique().tolist():
            here = rows.layer == layer
            key = (steered_site(site), int(layer))
            if directions.shape[1] != self._widths[key]:
                raise MismatchError(
                    f"The set's decoder rows have {directions.shape[1]} coordinates, the model's "
                    f"hidden states have {self._widths[key]}: it was made for another model."
                )
            made = SparseRow(
                torch.arange(directions.shape[1]),
                torch.ones(directions.shape[1]),
                shift[here] @ directions[here],
            )
            before = work.get(key)
            work[key] = made if before is None else _after(before, made, self._widths[key])


def steered_site(site: str) -> str:
    """Return where neurons of `site` are hooked: `mlp.act` and `mlp.neuron` share theirs.

    Features are added where their autoencoder reads: to the stream, or to the MLP's output before
    a family norms or scales it.
    """
    return {"mlp.act": "mlp.neuron", "sae.resid": "resid", "sae.mlp": "mlp.out"}.get(site, site)


def _after(first: SparseRow, second: SparseRow, width: int) -> SparseRow:
    """Return what `second` makes of what `first` left."""
    scale, shift, gain = torch.ones(width), torch.zeros(width), torch.zeros(width)
    for row in (first, second):
        for table in (scale, shift, gain):
            table[row.columns] *= row.scale
        shift[row.columns] += row.shift
        if row.gain is not None:
            gain[row.columns] += row.gain
    columns = torch.cat([first.columns, second.columns]).unique()
    gained = gain[columns] if first.gain is not None or second.gain is not None else None
    return SparseRow(columns, scale[columns], shift[columns], gained)
