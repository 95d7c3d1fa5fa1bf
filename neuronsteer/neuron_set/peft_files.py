"""The PEFT form of a neuron set: one small adapter per label, written without PEFT.

An adapter is a folder with `adapter_config.json`, which says which neurons of which layers are
changed, and `adapter_model.safetensors`, which holds their `scale` and `shift` under the names that
PEFT and transformers look for. Only the neurons' own numbers are stored, so an adapter of a 7B
model takes some kilobytes. The neurons are there a second time, as `index`: PEFT does not read the
configuration when it loads weights into an adapter that exists, and would mix two labels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from .. import hub
from ..errors import (
    HubError,
    LabelError,
    LayoutError,
    NeuronSteerError,
    ParameterError,
    unknown_label,
)
from ..operations import Operation, operation
from .row_values import choose_left, fixed_source, names_of
from .rows import Rows
from .storage import BLOCK, CONFIG, PEFT_TYPE

WEIGHTS = "adapter_model.safetensors"
PREFIX = "neuronsteer_"
SCALE, SHIFT, INDEX = f"{PREFIX}scale", f"{PREFIX}shift", f"{PREFIX}index"
SITE = "mlp.neuron"


@dataclass(frozen=True)
class Affine:
    """What one label does to one layer: `a -> a * scale + shift` on the neurons in `index`."""

    index: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor


def adapter_name(label: str) -> str:
    """Return the PEFT adapter name of a label: `"lang_fr"`.

    PEFT and transformers search for the adapter's name inside parameter names, where "de" is found
    in "model"; the prefix prevents that. A name also is a folder and part of a parameter's name,
    so anything but letters, digits and `-` becomes `_`.
    """
    return "lang_" + re.sub(r"[^\w-]", "_", label)


def steered_labels(rows: Rows) -> list[str]:
    """Return the labels that have neurons, or raise if none has or two share an adapter name."""
    labels = [label for label, count in rows.counts.items() if count]
    if not labels:
        raise LabelError("No label has neurons, so there is nothing a PEFT adapter could change.")
    names: dict[str, str] = {}
    for label in labels:
        other = names.setdefault(adapter_name(label), label)
        if other != label:
            raise ParameterError(
                f"The labels {other!r} and {label!r} would both become the PEFT adapter "
                f"{adapter_name(label)!r}. Rename one with relabel()."
            )
    return labels


def affine(
    rows: Rows,
    label: str,
    how: str | Operation | Mapping[str, Any] | None = None,
    strength: float = 1.0,
    gated: bool = True,
    source: str | Sequence[str] | None = None,
) -> dict[int, Affine]:
    """Return, per layer, what steering to `label` does to the down projection's input.

    Args:
        rows: The neuron set.
        label: One of its labels.
        how: The operation; default: the set's own.
        strength: See `Operation.blended`.
        gated: Whether the model's MLP has a gate, so that `mlp.act` differs from `mlp.neuron`.
        source: What is left, where the operation adds a difference of means; default: what the
            set's header says, which must be a label or "others".

    Raises:
        ParameterError: If no scale and shift of the down projection's input does the same.
    """
    if label not in rows.labels:
        raise unknown_label(label, rows.labels)
    chosen = operation(rows.operation if how is None else how)
    mine = rows.take(None, [label])
    site = chosen.site_for(rows.site)
    if site not in ("mlp.act", SITE):
        raise ParameterError(
            f"A PEFT adapter changes the input of the down projection, but this set acts at "
            f"{site!r}. Steer with attach(model, neurons) instead."
        )
    told = choose_left([(mine, chosen)], names_of(source))
    left = fixed_source(told, label, "a PEFT adapter cannot read prompts")
    tuned = rows.strengths.get(label, 1.0) if how is None else 1.0
    scale, shift = chosen.blended(mine.leaving(*left), site, strength * tuned)
    if site == "mlp.act" and gated and bool(shift.any()):
        raise ParameterError(
            f"The operation {chosen.name!r} at 'mlp.act' depends on the up projection, which no "
            "PEFT adapter of the down projection can see. Use it at 'mlp.neuron', or steer with "
            "attach(model, neurons)."
        )
    found: dict[int, Affine] = {}
    for layer in mine.layer.unique().tolist():
        here = mine.layer == layer
        found[int(layer)] = Affine(mine.index[here], scale[here], shift[here])
    return found


def write(
    folder: Path,
    rows: Rows,
    default: str | None = None,
    source: str | Sequence[str] | None = None,
) -> tuple[dict[str, Any], bytes]:
    """Write one folder per label, and return the root's own config entries and tensors.

    Args:
        folder: The artifact's folder.
        rows: The neuron set.
        default: Label of the adapter in the root; default: the first that has neurons.
        source: As in `affine`.
    """
    # All is made before anything is written: a set that cannot be an adapter changes nothing.
    adapters, path = _adapters(rows, source)
    root = next(iter(adapters)) if default is None else default
    if root not in adapters:
        if root not in rows.labels:
            raise unknown_label(root, rows.labels)
        raise LabelError(f"The label {root!r} has no neurons. With neurons: {', '.join(adapters)}.")
    remove(folder)
    for label, layers in adapters.items():
        files = {
            WEIGHTS: _tensors(layers, path),
            CONFIG: (json.dumps(_config(rows, label, layers), indent=2) + "\n").encode(),
        }
        hub.write_folder(folder / adapter_name(label), files)
    return _entries(root, adapters[root]), _tensors(adapters[root], path)


def possible(rows: Rows, source: str | Sequence[str] | None = None) -> bool:
    """Return whether the set can be written as PEFT adapters."""
    try:
        _adapters(rows, source)
    except NeuronSteerError:
        return False
    return True


def remove(folder: Path) -> None:
    """Take away the adapters that an earlier save left in `folder`: they belong to another set."""
    if BLOCK not in _read(folder / CONFIG):
        return
    old = [path for path in folder.glob("lang_*") if _is_ours(path)]
    try:
        (folder / WEIGHTS).unlink(missing_ok=True)
        for path in old:
            for name in (CONFIG, WEIGHTS):
                (path / name).unlink(missing_ok=True)
            if not any(path.iterdir()):
                path.rmdir()
    except OSError as error:
        raise HubError(f"Cannot write to {str(folder)!r}: {error.strerror or error}.") from error


def index_text(index: torch.Tensor) -> str:
    """Return neuron numbers as text, because JSON would spread a list over as many lines."""
    return " ".join(map(str, index.tolist()))


def _adapters(
    rows: Rows, source: str | Sequence[str] | None
) -> tuple[dict[str, dict[int, Affine]], str]:
    labels = steered_labels(rows)
    path, gated = _module_path(rows)
    return {label: affine(rows, label, gated=gated, source=source) for label in labels}, path


def _entries(label: str, made: Mapping[int, Affine]) -> dict[str, Any]:
    neurons = {str(layer): index_text(each.index) for layer, each in made.items()}
    return {"label": label, "neurons": neurons}


def _config(rows: Rows, label: str, made: Mapping[int, Affine]) -> dict[str, Any]:
    return {
        "peft_type": PEFT_TYPE,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": rows.base_model,
        "base_model_revision": rows.base_revision,
        "target_modules": None,
        "inference_mode": True,
        "peft_version": None,
        "model_type": rows.model_type,
        "operation": rows.operation,
        **_entries(label, made),
    }


def _tensors(made: Mapping[int, Affine], path: str) -> bytes:
    tensors: dict[str, torch.Tensor] = {}
    for layer, each in made.items():
        module = f"base_model.model.{path.format(layer=layer)}"
        tensors[f"{module}.{SCALE}"] = each.scale.to(torch.float32).contiguous()
        tensors[f"{module}.{SHIFT}"] = each.shift.to(torch.float32).contiguous()
        tensors[f"{module}.{INDEX}"] = each.index.to(torch.int64).contiguous()
    # Loaders of transformers want to know the framework.
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


def _module_path(rows: Rows) -> tuple[str, bool]:
    """Return the down projection's path with a place for the layer, and whether the MLP is gated.

    Files name parameters from the model's root, which a neuron set does not know: the family's
    model class is built without weights to see how it calls its layers.
    """
    # Not at the top: only this needs transformers, and it takes seconds.
    from transformers import AutoConfig, AutoModelForCausalLM

    from ..models import LAYOUTS, inspect

    if rows.model_type is None or rows.model_type not in LAYOUTS:
        raise LayoutError(
            f"The names of the modules of model_type {rows.model_type!r} are not known, and PEFT "
            "files contain them. Load the model and use "
            "neuronsteer.integrations.peft.as_peft_model(model, neurons).save_pretrained(folder)."
        )
    layout = LAYOUTS.get(rows.model_type)
    if layout.experts is not None:
        raise LayoutError(
            f"{rows.model_type} is a mixture of experts, whose neurons are inside 3-D parameters "
            "that a PEFT layer cannot wrap. Steer with attach(model, neurons) instead."
        )
    config = AutoConfig.for_model(rows.model_type)
    # Some families have defaults that only their own checkpoints complete.
    if getattr(config, "head_dim", 0) is None:
        config.head_dim = config.hidden_size // config.num_attention_heads
    if getattr(config, "num_key_value_heads", 0) is None:
        config.num_key_value_heads = config.num_attention_heads
    try:
        with torch.device("meta"):
            prefix = inspect(AutoModelForCausalLM.from_config(config)).prefix
    except (TypeError, ValueError, RuntimeError) as error:
        raise LayoutError(
            f"The names of the modules of {rows.model_type} cannot be found with this version of "
            f"transformers ({type(error).__name__}: {error})."
        ) from error
    return f"{prefix}.{{layer}}.{layout.down}", layout.gated


def _is_ours(folder: Path) -> bool:
    return _read(folder / CONFIG).get("peft_type") == PEFT_TYPE


def _read(path: Path) -> dict[str, Any]:
    try:
        return hub.read_json(path, HubError)
    except HubError:
        return {}
