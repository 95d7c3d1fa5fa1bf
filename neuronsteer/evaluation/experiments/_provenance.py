"""What the numbers depend on: the plan that a run is resumed by, and the facts of a report."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...hub import public_name
from ...models import inspect
from ...neuron_set import NeuronSet
from ...neuron_set.card import hub_id
from ...stats.identity import model_identity, tokenizer_identity, versions
from . import Experiment
from ._model_under_test import ModelUnderTest, Treatment


def plan_of(
    tested: ModelUnderTest,
    tasks: Sequence[Experiment],
    compared: Sequence[Treatment],
    controls: Any,
) -> dict[str, Any]:
    """Return what cases depend on; a run can be resumed only with the same plan."""
    settings, who = tested.settings, tested.settings.identifier
    name = getattr(who, "name", None) or getattr(who, "__name__", None) or str(who)
    for task in tasks:
        for kind in task.kinds(tested.data):
            tested.data.get(kind)
    given = controls.split(",") if isinstance(controls, str) else list(controls)
    return {
        "set": tested.neurons.fingerprint,
        "operation": dict(tested.neurons.operation),
        "model": model_identity(inspect(tested.model)),
        "labels": tested.labels,
        "tasks": {task.name: task.parameters() for task in tasks},
        "controls": [each.strip() for each in given if each.strip()],
        "treatments": {
            treatment.name: treatment.neurons and treatment.neurons.fingerprint
            for treatment in compared
        },
        "data": tested.data.used(),
        "settings": {
            "limit": settings.limit,
            "seed": settings.seed,
            "batch_size": settings.batch_size,
            "generation": dict(settings.generation),
            "identifier": Path(name).name if isinstance(who, str) else name,
            "languages": None if settings.candidates is None else list(settings.candidates),
            "floor": settings.floor,
            "chat": settings.chat,
            "strength": settings.strength,
            "source": settings.source,
        },
    }


def subject_of(model: Any, tokenizer: Any, neurons: NeuronSet) -> dict[str, Any]:
    """Return what a report says about the model and the set."""
    anatomy = inspect(model)
    name = hub_id(public_name(getattr(anatomy.root.config, "_name_or_path", None)))
    return {
        "model": {
            # A path of this machine is private.
            "name": name or neurons.base_model and hub_id(neurons.base_model),
            "type": anatomy.model_type,
            "parameters": sum(p.numel() for p in anatomy.root.parameters()),
            "dtype": str(anatomy.root.dtype).removeprefix("torch."),
            "tokenizer": tokenizer_identity(tokenizer),
            **{f"{k}_sha256": v for k, v in model_identity(anatomy).items() if k != "model"},
        },
        "set": {
            "fingerprint": neurons.fingerprint,
            "method": dict(neurons.method),
            "operation": dict(neurons.operation),
            "site": neurons.site,
            "labels": list(neurons.labels),
            "counts": neurons.counts,
            "neurons": neurons.num_neurons,
            "base_model": hub_id(neurons.base_model),
        },
    }


def environment() -> dict[str, str]:
    """Return the versions that numbers depend on."""
    found = {"python": platform.python_version(), **versions()}
    for package in ("neuronsteer", "lingua-language-detector"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return dict(sorted(found.items()))
