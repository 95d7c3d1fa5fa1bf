"""Reading a neuron set's values: the row's own label's, and what is left when steering to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch

from ..errors import ArtifactError, ParameterError, unknown_label
from ..operations import Operation
from .value_columns import MEANS, OTHERS, PROMPT


class CarriesMeans(Protocol):
    """What is asked of a neuron set's rows here (`Rows` provides it)."""

    @property
    def labels(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def label(self) -> torch.Tensor: ...  # noqa: D102
    @property
    def values(self) -> Mapping[str, torch.Tensor]: ...  # noqa: D102
    @property
    def means_of(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def source(self) -> str | None: ...  # noqa: D102
    def __len__(self) -> int: ...


class RowsLeaving:
    """The rows of a set, their differences of means taken from what is left.

    Args:
        rows: The rows.
        left: Labels that are left, whose means are averaged; nothing for all others.
    """

    def __init__(self, rows: CarriesMeans, left: Sequence[str] = ()) -> None:
        self._rows = rows
        self._left = tuple(name for name in left if name != OTHERS)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._rows)

    def value(self, source: str, site: str) -> torch.Tensor:
        """Return one number per row: the statistic `source` at `site`, see `Rows.value`."""
        if source == "diffmean":
            return self.value("mean", site) - self.value("other_mean", site)
        column = self._rows.values.get(f"{site}.{source}")
        if source == "other_mean" and self._left:
            return self._mean_of(self._left, site)
        if column is not None and source != MEANS:
            return column
        if source == "mean" and f"{site}.{MEANS}" in self._rows.values:
            return self._own(site)
        if source == "other_mean" and f"{site}.{MEANS}" in self._rows.values:
            return self._of_others(site)
        raise self._missing(source, site)

    def _own(self, site: str) -> torch.Tensor:
        """Return the mean of each row's own label."""
        known, rows = self._rows.means_of, self._rows
        unknown = [name for name in rows.labels if name not in known]
        if unknown:
            raise ArtifactError(
                f"The means of the label {unknown[0]!r} are not in this set; it has those of "
                f"{', '.join(known)}. Add them with neurons.with_values(stats, 'mean')."
            )
        position = torch.tensor([known.index(name) for name in rows.labels])
        means = rows.values[f"{site}.{MEANS}"]
        return means.gather(1, position[rows.label][:, None])[:, 0]

    def _of_others(self, site: str) -> torch.Tensor:
        """Return, for each row, the mean of the means of all labels but its own."""
        means = self._rows.values[f"{site}.{MEANS}"].double()
        if means.shape[1] < 2:
            raise self._missing("other_mean", site)
        own = self.value("mean", site).double()
        return ((means.sum(1) - own) / (means.shape[1] - 1)).float()

    def _mean_of(self, labels: Sequence[str], site: str) -> torch.Tensor:
        rows = self._rows
        means = rows.values.get(f"{site}.{MEANS}")
        if means is None:
            raise ArtifactError(
                f"What is left cannot be chosen ({', '.join(labels)}): this set does not carry "
                f"the means of every label at {site!r} (an older set, or values of its own). "
                "Detect it again, or add them with neurons.with_values(stats, 'means')."
            )
        for name in labels:
            if name not in rows.means_of:
                raise unknown_label(name, rows.means_of, where="the means of this set")
        columns = [rows.means_of.index(name) for name in labels]
        return means[:, columns].mean(1)

    def _missing(self, source: str, site: str) -> ArtifactError:
        have = ", ".join(sorted(self._rows.values)) or "none"
        wanted = MEANS if source in ("mean", "other_mean") else source
        return ArtifactError(
            f"Missing value column {site}.{source}: this neuron set stores {have}. Add it with "
            f"neurons.with_values(stats, {wanted!r}), detect again from statistics that hold it, "
            "or use an operation that needs no stored value (zero, scale, a number)."
        )


def is_relative(rows: CarriesMeans, chosen: Operation) -> bool:
    """Return whether what `chosen` does to these rows depends on what is left."""
    return chosen.relative and len(rows.means_of) > 1


def choose_left(
    acting: Sequence[tuple[CarriesMeans, Operation]],
    source: tuple[str, ...] = (),
    away: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Return what the first label leaves: labels, `("prompt",)`, or nothing for all others.

    Args:
        acting: Sets of neurons and what is done to them.
        source: What was asked for; default: what the first set's header says.
        away: Labels to take away: they are the source where none was given.
    """
    told = [(rows, chosen) for rows, chosen in acting if is_relative(rows, chosen)]
    named = [name for name in source if name != OTHERS]
    if named and not told:
        able = [chosen for _, chosen in acting if chosen.relative]
        why = f"the operation {acting[0][1].name!r} takes no difference of means"
        if able:
            why = "the set does not carry the means of every label (an older one: detect it again)"
        raise ParameterError(
            f"source={', '.join(named)}: {why}, so what is left makes no difference. away_from= "
            "deactivates a label's neurons."
        )
    for rows, _ in told:
        for name in named:
            if name not in (PROMPT, *rows.means_of):
                raise unknown_label(name, rows.means_of, where="the means of the set")
    if PROMPT in named and len(source) > 1:
        raise ParameterError(f"source={source!r}: {PROMPT!r} stands alone.")
    if not told:
        return ()
    rows, chosen = told[0]
    # Less than nothing of a label leaves the label itself, for any other.
    backwards = float(chosen.to_dict().get("factor", 1)) < 0
    found = source or away or (OTHERS if backwards else rows.source or OTHERS,)
    return tuple(name for name in found if name != OTHERS)


def names_of(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the labels of an argument that may be one, several, or none."""
    found = (given,) if isinstance(given, str) else given or ()
    if not isinstance(found, Iterable) or not all(isinstance(each, str) for each in found):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ParameterError(f"Expected a label or a list of labels; found {given!r}.")
    return tuple(found)


def fixed_source(left: tuple[str, ...], label: str, where: str) -> tuple[str, ...]:
    """Return what `label` leaves where no prompt can be read; itself it cannot leave.

    Raises:
        ParameterError: If it would have to be read off a prompt.
    """
    if left == (PROMPT,):
        raise ParameterError(
            f"This set's default is to leave what the prompt is written in, and {where}. Say which "
            "label is left: source='en', or source='others' for the mean of all others."
        )
    return () if left == (label,) else left
