"""Detectors: pure functions from statistics to neuron sets, one file per published method.

A detector is a frozen dataclass of parameters with a method `select`. A new one is a new file in
this folder that registers itself with `@DETECTORS.register("name")`; no other file changes.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from os import PathLike
from typing import Any, ClassVar, get_args, get_type_hints

import torch

from ..errors import StatsError
from ..models.layer_choice import spell_layers
from ..neuron_set import NeuronSet
from ..neuron_set.value_columns import MEANS, MLP_SITES, PROMPT, gather
from ..registry import Plugin, Registry, create
from ..stats import Stats
from ..stats.needs import Need


@dataclasses.dataclass(frozen=True)
class Detector(Plugin, ABC):
    """Base of all detectors. Fields are the parameters; they are saved with the neuron set.

    `select` must be deterministic: the same statistics give the same rows, ties go to the lower
    layer and index. Labels are arbitrary; a label without neurons stays in the set by name.
    """

    kind: ClassVar[str] = "detector"
    #: Authors, year, title: what to cite.
    paper: ClassVar[str] = ""
    #: What a row stands for.
    granularity: ClassVar[str] = "neuron"
    #: What running it costs beyond the statistics.
    cost: ClassVar[str] = "seconds, no model"
    #: Whether `layers` may be "auto", for the layer that the statistics speak for.
    chooses_layer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse parameters of the wrong type; subclasses add their ranges after this."""
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "layers" and value is not None:
                if self.chooses_layer and isinstance(value, str) and value.strip() == AUTO:
                    object.__setattr__(self, field.name, AUTO)
                    continue
                # One text for all forms, so that it is saved and compared alike.
                object.__setattr__(self, field.name, spell_layers(value, self.title))
                continue
            kinds = get_args(hints[field.name]) or (hints[field.name],)
            if not any(_is(value, kind) for kind in kinds):
                names = " or ".join(getattr(k, "__name__", str(k)) for k in kinds)
                raise self.invalid(field.name, f"expected {names.replace('NoneType', 'None')}")

    @property
    @abstractmethod
    def needs(self) -> tuple[Need, ...]:
        """Statistics that `select` reads."""

    @abstractmethod
    def select(self, stats: Stats) -> NeuronSet:
        """Return the neurons that `stats` give to each label."""


def _is(value: object, kind: Any) -> bool:
    if not isinstance(kind, type):
        return True  # a generic such as tuple[str, ...]: left to the detector
    if isinstance(value, bool) and kind is not bool:
        return False
    return isinstance(value, int | float if kind is float else kind)


#: What `layers` may be where a detector chooses the layer itself.
AUTO = "auto"

DETECTORS: Registry[type[Detector]] = Registry("detector", "neuronsteer.detectors")


def detector(method: str | Detector, **parameters: Any) -> Detector:
    """Return the detector that `method` names, with these parameters.

    Raises:
        UnknownNameError: If there is no such method.
        ParameterError: If it has no such parameter, or a value is out of range.
    """
    return create(Detector, DETECTORS, method, parameters)


def detect(
    stats: Stats | str | PathLike[str], method: str | Detector = "diffmean", **parameters: Any
) -> NeuronSet:
    """Return the neurons that a method selects from statistics.

    Args:
        stats: What `collect` returned, or `Stats.from_counts`; or the folder or Hub repository that
            statistics were saved to.
        method: Name of a detector (`neuronsteer methods` lists them), or a detector. The default
            makes a set that steers and selects nothing; `"effect"` selects the neurons that
            push most towards a label, `"lape"` those that are active for it only.
        **parameters: Parameters of the method, e.g. `rate=0.01`.

    Raises:
        StatsError: If the statistics lack what the method needs.
        ParameterError: If a parameter is unknown or out of range.
    """
    chosen = detector(method, **parameters)
    if isinstance(stats, (str, PathLike)):
        stats = Stats.from_pretrained(stats)
    elif not isinstance(stats, Stats):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise StatsError(
            f"Cannot detect in {stats!r:.60} ({type(stats).__name__}); expected statistics, as "
            "`collect` returns them, or where they were saved."
        )
    missing = [need for need in chosen.needs if not stats.has(need.reducer, need.site)]
    if missing:
        raise StatsError(
            f"{chosen.title} needs "
            + ", ".join(f"{need.reducer!r} at {need.site!r}" for need in missing)
            + f", which these statistics do not hold. Collect again with "
            f"needs={[str(need) for need in chosen.needs]}, or on the command line with "
            f"--method {chosen.name}. Published counts can only be used for counts."
        )
    return chosen.select(stats)


def neuron_set(
    detector: Detector,
    stats: Stats,
    label: torch.Tensor,
    layer: torch.Tensor,
    index: torch.Tensor,
    score: torch.Tensor,
    *,
    site: str,
    orphans: int = 0,
    results: dict[str, Any] | None = None,
    values: dict[str, torch.Tensor] | None = None,
    operation: dict[str, Any] | None = None,
    source: str | None = None,
    keep: tuple[str, ...] | None = None,
) -> NeuronSet:
    """Return the rows as a neuron set with every value column that the statistics can fill.

    Args:
        detector: Who selected the rows.
        stats: What they were selected from; gives the header, too.
        label: Position of each row in `stats.labels`.
        layer: Layer of each row.
        index: Neuron of each row.
        score: Score of each row, larger is stronger.
        site: Where the rows live.
        orphans: Selected neurons that no label owns.
        results: Numbers worth keeping beside the parameters, e.g. thresholds.
        values: Value columns of the method's own; they replace those of the same name.
        operation: What steering does by default; otherwise set to the mean, or to zero.
        source: What steering leaves by default, if it is a label; otherwise read off the prompt.
        keep: Only value columns of these sources, e.g. `("means",)`; all of them otherwise.
    """
    labels = tuple(stats.labels)
    gathered = gather(stats, labels, label, layer, index, site)
    values = {**gathered, **{name: c.float() for name, c in (values or {}).items()}}
    if keep is not None:
        values = {name: c for name, c in values.items() if name.rpartition(".")[2] in keep}
    # Steering sets the neurons to their mean where it is known: the recipe of the LAPE paper.
    steering_site = "mlp.neuron" if site in MLP_SITES else site
    has_mean = f"{steering_site}.{MEANS}" in values
    method: dict[str, Any] = {"name": detector.name, "parameters": detector.parameters()}
    calibration: dict[str, Any] = stats.header.get("calibration", {})
    if results:
        method["results"] = results
    return NeuronSet.from_rows(
        labels,
        label,
        layer,
        index,
        score,
        values,
        site=site,
        num_layers=stats.num_layers,
        width=max(stats.site_widths[site]),
        widths=stats.site_widths[site],
        model_type=stats.model_type,
        base_model=stats.base_model,
        base_revision=stats.revision,
        method=method,
        calibration={
            name: {
                "texts": stats.texts[name],
                **calibration.get(name, {}),
                "tokens": stats.tokens[name],
            }
            for name in labels
        },
        means_of=labels if any(name.endswith(f".{MEANS}") for name in values) else (),
        source=(source if source in labels else PROMPT) if has_mean and len(labels) > 1 else None,
        operation=operation or ({"name": "set", "value": "mean"} if has_mean else {"name": "zero"}),
        orphans=orphans,
    )
