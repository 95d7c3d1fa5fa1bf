"""The row table under a neuron set: its fields, their validation, and questions about them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from ..errors import ArtifactError, MismatchError, ParameterError, unknown_label
from . import row_math
from .row_values import RowsLeaving
from .validation import clean_columns, clean_header
from .value_columns import MEANS, OTHERS, PROMPT

R = TypeVar("R", bound="Rows")
COLUMNS = ("label", "layer", "index", "score", "values")


def _manual() -> dict[str, Any]:
    return {"name": "manual", "parameters": {}}


def _zero() -> dict[str, Any]:
    return {"name": "zero"}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Rows:
    """A frozen, validated table of neurons with a header; `NeuronSet` adds what users do with it.

    One row says: this label owns this neuron. A neuron may be owned by several labels. Rows are
    kept sorted by label, layer and index, and no row occurs twice. Columns are 1-D CPU tensors.

    Args:
        labels: Names of what the neurons stand for, any strings; labels without neurons included.
        label: Position in `labels` of each row.
        layer: Layer of each row.
        index: Neuron of each row, within its layer.
        score: How strongly the row was selected; larger is stronger (LAPE: minus the entropy).
        values: Statistics per row, by `<site>.<source>`, e.g. `mlp.neuron.max`; `<site>.means` has
            a column for every label in `means_of`.
        site: Where the neurons were found, e.g. `mlp.act`, whose neurons `mlp.neuron` shares.
        num_layers: Number of decoder layers of the model.
        width: Size of one layer's index space at `site`: the FFN width for MLP sites (all experts
            together), otherwise the site's own width. The largest one if layers differ.
        model_type: `config.model_type` of the model family; `None` if unknown.
        base_model: Hub id or path of the model.
        base_revision: Its revision.
        widths: Size of the index space of every layer, if layers differ; otherwise `None`.
        method: `{"name", "parameters"}` of the detector.
        calibration: What the statistics were taken from, per label.
        means_of: Labels whose means every row carries, in the order of the columns of
            `<site>.means`. They stay when labels are taken away: one can still be left.
        source: What steering leaves unless told otherwise: one of `means_of`, "others" (the mean of
            all others), or "prompt": what the prompt is written in, and after a switch the label
            before it. `None` means "others".
        operation: What steering does by default, as `operation()` reads it.
        strengths: How strongly it does so, per label; 1 where nothing is said. Found by `tune`.
        switch: How much more strongly a switch in the middle of a text begins, and for how many
            tokens: `{"strength": 1.4, "tokens": 8}`. Empty: no more than elsewhere.
        schedule: Default schedule, as text or dictionary.
        evaluation: Results, if the set was evaluated.
        orphans: Neurons that the detector selected but that no label owns. Set algebra drops them.
        target_modules: Names of the steered modules, for PEFT.
    """

    labels: tuple[str, ...]
    label: torch.Tensor
    layer: torch.Tensor
    index: torch.Tensor
    score: torch.Tensor
    values: dict[str, torch.Tensor]
    site: str
    num_layers: int
    width: int
    model_type: str | None = None
    base_model: str | None = None
    base_revision: str | None = None
    widths: tuple[int, ...] | None = None
    method: dict[str, Any] = dataclasses.field(default_factory=_manual)
    calibration: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    means_of: tuple[str, ...] = ()
    source: str | None = None
    operation: dict[str, Any] = dataclasses.field(default_factory=_zero)
    strengths: dict[str, float] = dataclasses.field(default_factory=dict[str, float])
    switch: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    schedule: str | dict[str, Any] | None = None
    evaluation: dict[str, Any] | None = None
    orphans: int = 0
    target_modules: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        header = clean_header(fields)
        for name, value in (header | clean_columns(fields, header)).items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_rows(
        cls: type[R],
        labels: Iterable[str],
        label: torch.Tensor | Sequence[int],
        layer: torch.Tensor | Sequence[int],
        index: torch.Tensor | Sequence[int],
        score: torch.Tensor | Sequence[float] | None = None,
        values: Mapping[str, torch.Tensor | Sequence[float]] | None = None,
        *,
        site: str,
        num_layers: int,
        width: int,
        **header: Any,
    ) -> R:
        """Return a set from row columns in any order; see the class for the arguments.

        Raises:
            ArtifactError: If anything is wrong; the message names the field.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(header) - known)
        if unknown:
            raise ArtifactError(f"A neuron set has no header field {unknown[0]!r}.")
        columns: dict[str, Any] = {
            "label": label,
            "layer": layer,
            "index": index,
            "score": torch.zeros(len(label)) if score is None else score,
            "values": dict(values or {}),
        }
        given: Any = labels
        names: Any = labels
        if isinstance(given, Iterable) and not isinstance(given, str):
            names = tuple(given)
        shape: Any = {"site": site, "num_layers": num_layers, "width": width}
        return cls(labels=names, **columns, **shape, **header)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.label)

    @property
    def num_neurons(self) -> int:
        """Number of different neurons; shared ones count once."""
        return sum(self.sharing().values())

    @property
    def counts(self) -> dict[str, int]:
        """Number of neurons per label."""
        return dict(zip(self.labels, self.layer_profile().sum(1).tolist(), strict=True))

    @property
    def width_per_layer(self) -> tuple[int, ...]:
        """Size of the index space of every layer."""
        return self.widths or (self.width,) * self.num_layers

    def neuron_keys(self) -> torch.Tensor:
        """Return `layer * width + index` of every row, whatever its label."""
        return self.layer * self.width + self.index

    def neurons_of(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the different neurons of a layer, and for each the position of one of its rows."""
        here = (self.layer == layer).nonzero().flatten()
        index, at = self.index[here].unique(return_inverse=True)
        rows = here.new_empty(len(index))
        rows[at] = here
        return index, rows

    def neurons_per_layer(self) -> list[int]:
        """Return the number of different neurons of every layer."""
        layers = self.neuron_keys().unique() // self.width
        return layers.bincount(minlength=self.num_layers).tolist()

    def sharing(self) -> dict[int, int]:
        """Return `{number of owners: number of neurons}`, without the zeros."""
        return row_math.sharing(self.layer, self.index, self.num_layers, self.width)

    def exclusive_counts(self) -> dict[str, int]:
        """Return per label the number of neurons that no other label owns."""
        owners = row_math.owners_per_row(self.layer, self.index, self.num_layers, self.width)
        counts = torch.bincount(self.label[owners == 1], minlength=len(self.labels))
        return dict(zip(self.labels, counts.tolist(), strict=True))

    def layer_profile(self) -> torch.Tensor:
        """Return the number of neurons per label and layer, int64 `[labels, layers]`."""
        return row_math.layer_counts(self.label, self.layer, len(self.labels), self.num_layers)

    def value(self, source: str, site: str) -> torch.Tensor:
        """Return one number per row: the statistic `source` at `site`.

        Args:
            source: `mean`, `median`, `max`, `prob`, `other_mean` (of all other labels), or
                `diffmean` (mean minus other_mean).
            site: E.g. `mlp.neuron`.

        Raises:
            ArtifactError: If the set does not store it.
        """
        return self.leaving().value(source, site)

    def leaving(self, *left: str) -> RowsLeaving:
        """Return the rows with `other_mean` and `diffmean` taken from the labels in `left`."""
        return RowsLeaving(self, left)

    def header(self) -> dict[str, Any]:
        """Return every field that is not a row column."""
        names = [field.name for field in dataclasses.fields(self) if field.name not in COLUMNS]
        return {name: getattr(self, name) for name in names}

    @property
    def fingerprint(self) -> str:
        """SHA-256 of rows, values, labels and shape; the same after saving and loading."""
        facts: list[Any] = [self.labels, self.site, self.num_layers, self.width, self.widths]
        facts += [self.model_type, *([self.means_of] if self.means_of else [])]
        digest = hashlib.sha256(json.dumps([*facts, list(self.values)]).encode())
        for column in (self.label, self.layer, self.index, self.score, *self.values.values()):
            digest.update(column.contiguous().flatten().numpy().data)
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rows):
            return NotImplemented
        return self.header() == other.header() and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def check_model(
        self, model_type: str | None, num_layers: int, width_per_layer: Sequence[int] | int
    ) -> None:
        """Raise `MismatchError` naming the field if the set was made for another model."""
        if isinstance(width_per_layer, int):
            width_per_layer = (width_per_layer,) * num_layers
        if len(width_per_layer) != num_layers:
            raise ParameterError(
                f"check_model got {len(width_per_layer)} widths for {num_layers} layers."
            )
        for field, found, expected in (
            ("model_type", self.model_type, model_type),
            ("num_layers", self.num_layers, num_layers),
            ("widths" if self.widths else "width", self.width_per_layer, tuple(width_per_layer)),
        ):
            if found is None or expected is None or found == expected:
                continue
            if isinstance(found, tuple) and isinstance(expected, tuple):
                layer = next(i for i in range(num_layers) if found[i] != expected[i])
                found, expected = f"{found[layer]} neurons", f"{expected[layer]} in layer {layer}"
            raise MismatchError(
                f"Field {field!r}: this neuron set was made for {found}, the model has {expected}. "
                f"Its base model is {self.base_model or 'not recorded'}; load that one, or detect "
                "a set for this model."
            )

    # --- deriving: what `NeuronSet` builds on -----------------------------------------------------

    def replace(self: R, **fields: Any) -> R:
        """Return a copy with other header fields, e.g. `operation=` or `evaluation=`."""
        return dataclasses.replace(self, **fields)

    def require_labels(self, labels: Iterable[str]) -> None:
        """Raise `LabelError` for the first label that does not exist."""
        for name in labels:
            if name not in self.labels:
                raise unknown_label(name, self.labels)

    def take(self: R, keep: torch.Tensor | None, labels: Sequence[str]) -> R:
        """Return the rows in the mask `keep` whose label is in `labels`, in that order."""
        if keep is None and tuple(labels) == self.labels:
            return self
        order = {name: i for i, name in enumerate(labels)}
        position = torch.tensor([order.get(name, -1) for name in self.labels])
        position = position[self.label]
        mask = position >= 0 if keep is None else keep & (position >= 0)
        columns: dict[str, Any] = {
            name: getattr(self, name)[mask] for name in ("layer", "index", "score")
        }
        columns["values"] = {name: column[mask] for name, column in self.values.items()}
        gone = set(self.labels) - set(labels)
        return self.replace(
            labels=tuple(labels),
            label=position[mask],
            **columns,
            calibration={k: v for k, v in self.calibration.items() if k not in gone},
            strengths={k: v for k, v in self.strengths.items() if k not in gone},
            orphans=0,
        )

    def with_means_of(self: R, labels: Sequence[str]) -> R:
        """Return the rows with the means of these labels only, which must be known."""
        if tuple(labels) == self.means_of:
            return self
        columns = [self.means_of.index(name) for name in labels]
        values: dict[str, torch.Tensor] = {}
        for name, column in self.values.items():
            if not name.endswith(f".{MEANS}"):
                values[name] = column
            elif columns:
                values[name] = column[:, columns]
        source = self.source if self.source in (None, OTHERS, PROMPT, *labels) else None
        return self.replace(values=values, means_of=tuple(labels), source=source)
