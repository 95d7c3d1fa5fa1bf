"""The PEFT tuner: wraps down projections, mixes adapters, picks one per row of the batch."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os import PathLike
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from ...errors import HubError, LayoutError, MismatchError, ParameterError, did_you_mean
from ...models import inspect
from ...neuron_set import NeuronSet
from ...neuron_set.peft_files import (
    INDEX,
    PREFIX,
    SITE,
    Affine,
    adapter_name,
    affine,
    steered_labels,
)
from ...operations import Operation
from .config import NeuronSteerConfig
from .layer import BASE, NeuronSteerLayer, wrong_length
from .merged_bias import keep_biases


class NeuronSteerModel(BaseTuner):
    """Adapters that scale and shift neurons; what `PeftModel.base_model` is for them."""

    prefix: str = PREFIX
    tuner_layer_cls = NeuronSteerLayer
    # Not a table of families: `inspect` knows where the neurons are, see `_prepare_model`.
    target_module_mapping: dict[str, list[str]] = {}
    #: The adapters of a call with `adapter_names=`, while it runs.
    row_adapters: tuple[str, ...] | None = None

    def _prepare_adapter_config(self, peft_config: Any, model_config: Any) -> Any:  # noqa: ARG002
        return peft_config

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """Find the modules to wrap, and refuse adapters that were made for something else."""
        config: NeuronSteerConfig = peft_config
        if config.neuronsteer is not None and config.neurons is None:
            raise HubError(
                "This neuron set was saved without the files that PEFT reads. Save or push it with "
                "peft=True, or use neuronsteer.integrations.peft.as_peft_model(model, neurons), "
                "which needs none."
            )
        if config.site != SITE:
            raise ParameterError(f"site={config.site!r}: PEFT adapters only act at {SITE!r}.")
        try:
            anatomy = inspect(model)
        except LayoutError:
            if config.target_modules is None:
                raise
            return
        points = {point.layer: point for point in anatomy.hook_points(SITE)}
        if config.model_type not in (None, anatomy.model_type):
            raise MismatchError(
                f"Field 'model_type': this adapter was made for {config.model_type}, the model is "
                f"{anatomy.model_type}. Its base model is {config.base_model_name_or_path}."
            )
        layers = list(points if config.neurons is None else config.neurons)
        only = config.layers_to_transform
        if only is not None and only != []:
            numbers = [only] if isinstance(only, int) else only
            unknown = [number for number in numbers if number not in points]
            if unknown:
                raise MismatchError(
                    f"Field 'layers_to_transform': there is no layer {unknown[0]}, the model has "
                    f"{anatomy.num_layers} layers, counted from 0."
                )
            layers = [layer for layer in layers if layer in numbers]
        for layer in layers:
            if layer not in points:
                raise MismatchError(
                    f"Field 'neurons': this adapter changes layer {layer}, the model has "
                    f"{anatomy.num_layers} layers. Its base model is "
                    f"{config.base_model_name_or_path}."
                )
            if points[layer].experts is not None:
                raise LayoutError(
                    f"Layer {layer} of {anatomy.model_type} is a mixture of experts, whose neurons "
                    "are inside 3-D parameters that a PEFT layer cannot wrap. Steer with "
                    "neuronsteer.attach(model, neurons) instead."
                )
        if config.target_modules is None:
            config.target_modules = {points[layer].name for layer in layers}

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,  # noqa: ARG002
    ) -> None:
        config: NeuronSteerConfig = peft_config
        neurons: list[int] | None = None
        if config.neurons is not None:
            # PEFT's own rule for layers_to_transform: the first number in the name.
            number = re.search(r"(?:^|\.)(\d+)(?:\.|$)", current_key)
            neurons = config.neurons.get(int(number[1])) if number else None
            if not neurons:
                return
        if isinstance(target, NeuronSteerLayer):
            target.update_layer(adapter_name, neurons, config.inference_mode, config.init_weights)
            return
        layer = NeuronSteerLayer(
            target, adapter_name, neurons, config.inference_mode, config.init_weights
        )
        if adapter_name not in self.active_adapters:
            # This layer is new, the active adapter does not change it.
            layer.set_adapter(self.active_adapters, inference_mode=True)
        self._replace_module(parent, target_name, layer, target)

    def steered_layers(self) -> list[tuple[str, NeuronSteerLayer]]:
        """Return the wrapped modules and their names."""
        named = self.model.named_modules()
        return [(name, each) for name, each in named if isinstance(each, NeuronSteerLayer)]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        # Here the rows are still those of the caller: PEFT does not show them to the context below.
        if self.row_adapters is not None:
            _check_rows(self.row_adapters, args, kwargs)
        return self.model(*args, **kwargs)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Generator[None]:
        """Use one adapter per row while PEFT runs a call with `adapter_names=`."""
        given: Sequence[str] | None = kwargs.get("adapter_names")
        if given is None:
            yield
            return
        names = tuple(given)
        if self.training:
            raise ParameterError(
                "Cannot pass `adapter_names` when the model is in training mode. Call model.eval() "
                "first, or train one adapter."
            )
        known = [BASE, *self.peft_config]
        unknown = [name for name in dict.fromkeys(names) if name not in known]
        if unknown:
            raise ParameterError(
                f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}."
                f"{did_you_mean(unknown[0], known)} Loaded: {', '.join(known)}."
            )
        _check_rows(names, args, kwargs)
        before = self.row_adapters
        try:
            self._set_row_adapters(names)
            yield
        finally:
            self._set_row_adapters(before)

    def _set_row_adapters(self, names: tuple[str, ...] | None) -> None:
        self.row_adapters = names
        for _, layer in self.steered_layers():
            layer.row_adapters = names

    @torch.no_grad()
    def add_weighted_adapter(
        self, adapters: Sequence[str], weights: Sequence[float], adapter_name: str
    ) -> None:
        """Add a mixture of adapters: language arithmetic.

        The mixture's scale is `1 + sum w (scale - 1)` and its shift `sum w shift`, so that weight 0
        leaves a neuron alone, and two adapters of weight 1 on different neurons are both applied.

        Args:
            adapters: Adapters that are loaded.
            weights: One number each; negative ones steer away.
            adapter_name: Name of the mixture.
        """
        if adapter_name in self.peft_config:
            raise ParameterError(f"There is an adapter {adapter_name!r} already; delete it first.")
        if not adapters or len(adapters) != len(weights):
            raise ParameterError(f"Got {len(adapters)} adapters and {len(weights)} weights.")
        for name in adapters:
            if name not in self.peft_config:
                raise ParameterError(
                    f"There is no adapter {name!r}.{did_you_mean(name, self.peft_config)} Loaded: "
                    f"{', '.join(self.peft_config)}."
                )
        configs = [cast(NeuronSteerConfig, self.peft_config[name]) for name in adapters]
        self.peft_config[adapter_name] = _union(configs)
        try:
            self.inject_adapter(self.model, adapter_name)
        except BaseException:
            del self.peft_config[adapter_name]
            raise
        for _, layer in self.steered_layers():
            if not layer.has(adapter_name):
                continue
            tables = [layer.dense([name]) for name in adapters]
            scale = 1 + sum(w * (s - 1) for w, (s, _) in zip(weights, tables, strict=True))
            shift = sum(w * t for w, (_, t) in zip(weights, tables, strict=True))
            index = layer.index_of(adapter_name)
            where: Any = slice(None) if index is None else index.to(tables[0][0].device)
            layer.assign(adapter_name, cast(Any, scale)[where], cast(Any, shift)[where])

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        layers = self.steered_layers()
        without = [
            (name, layer.get_base_layer()) for name, layer in layers if layer.own_bias is None
        ]
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        keep_biases(
            model, [name for name, base in without if getattr(base, "bias", None) is not None]
        )
        return model

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Before any layer has taken its part.
        self._refuse_other_neurons(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _refuse_other_neurons(self, state_dict: Mapping[str, Any], prefix: str) -> None:
        """Refuse values that belong to other neurons than those of the adapter they would go to."""
        given: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in state_dict.items():
            module, found, adapter = key.removeprefix(prefix).rpartition(f".{INDEX}")
            if found and key.startswith(prefix):
                given.setdefault(adapter.removeprefix("."), {})[module] = value
        for adapter, theirs in given.items():
            mine = {
                f"model.{name}": layer.index_of(adapter)
                for name, layer in self.steered_layers()
                if layer.has(adapter)
            }
            same = mine.keys() == theirs.keys() and all(
                index is not None and torch.equal(index.cpu(), theirs[name].cpu())
                for name, index in mine.items()
            )
            # PEFT leaves a key without an adapter if the adapter does not change that layer.
            if not same and (mine or not adapter):
                label = getattr(self.peft_config.get(adapter), "label", None)
                name = f" {adapter!r}" * bool(adapter) + f" (label {label!r})" * bool(label)
                raise MismatchError(
                    f"The adapter{name} has other neurons than what would be loaded into it, which "
                    f"is for {min(theirs)}. Load that under another name, or delete the adapter "
                    "first."
                )


def as_peft_model(
    model: Any,
    neurons: NeuronSet | str | PathLike[str],
    labels: Sequence[str] | None = None,
    operation: str | Operation | Mapping[str, Any] | None = None,
    strength: float = 1.0,
    source: str | Sequence[str] | None = None,
) -> PeftModel:
    """Return `model` wrapped by PEFT, with one adapter `lang_<label>` per label of a neuron set.

    The first label is active; `set_adapter("lang_fr")` switches, `disable_adapter()` gives the
    plain model. `save_pretrained(folder)` writes what any PEFT user with neuronsteer can load.

    Args:
        model: A dense causal LM of transformers, or a PEFT model that has such adapters already.
        neurons: A neuron set, a folder, or a Hub id.
        labels: Which labels; default: all that have neurons.
        operation: What to do with the neurons; default: what the set's header says.
        strength: How much of it, see `Operation.blended`.
        source: What is left, where the operation adds a difference of means; default: what the
            set's header says, which must be a label or "others": adapters cannot read prompts.
    """
    loaded = neurons if isinstance(neurons, NeuronSet) else NeuronSet.from_pretrained(neurons)
    if isinstance(model, PeftModel) and not isinstance(model.base_model, NeuronSteerModel):
        raise ParameterError(
            f"The model is wrapped by {type(model.base_model).__name__}, and PEFT mixes no kinds "
            "of adapters in one model. Merge or unload it first, or steer with "
            "neuronsteer.attach(model, neurons)."
        )
    anatomy = inspect(model)
    chosen = loaded if labels is None else loaded.only(*labels)
    # Everything is made before the model is touched.
    adapters = {
        label: affine(chosen, label, operation, strength, anatomy.gated, source)
        for label in steered_labels(chosen)
    }
    loaded.check_model(anatomy.model_type, anatomy.num_layers, anatomy.widths)
    wrapped: Any = model
    for label, made in adapters.items():
        name = adapter_name(label)
        config = NeuronSteerConfig(
            task_type="CAUSAL_LM",
            inference_mode=True,
            label=label,
            neurons={layer: each.index.tolist() for layer, each in made.items()},
            operation=None if operation is not None else chosen.operation,
            model_type=anatomy.model_type,
        )
        if not isinstance(wrapped, PeftModel):
            wrapped = get_peft_model(wrapped, config, adapter_name=name)
        elif name in wrapped.peft_config:
            raise ParameterError(f"The model has an adapter {name!r} already; delete it first.")
        else:
            wrapped.add_adapter(name, config)
        _fill(wrapped.base_model, name, made)
    return wrapped.eval()


def _fill(tuner: Any, name: str, made: Mapping[int, Affine]) -> None:
    modules = {point.layer: point.module for point in inspect(tuner.model).hook_points(SITE)}
    for layer, each in made.items():
        cast(NeuronSteerLayer, modules[layer]).assign(name, each.scale, each.shift)


def _union(configs: Sequence[NeuronSteerConfig]) -> NeuronSteerConfig:
    """Return the configuration of a mixture: every neuron that some adapter changes."""
    if any(config.neurons is None for config in configs):
        if any(config.target_modules != configs[0].target_modules for config in configs):
            raise ParameterError(
                "Adapters of all neurons can only be mixed when their target_modules are the same."
            )
        return replace(configs[0], neurons=None, label=None, operation=None, neuronsteer=None)
    neurons: dict[int, list[int]] = {}
    for config in configs:
        for layer, index in config.neurons.items():
            neurons[layer] = sorted({*neurons.get(layer, ()), *index})
    fields: dict[str, Any] = {"label": None, "operation": None, "neuronsteer": None}
    targets = [config.target_modules for config in configs]
    if any(isinstance(target, str) for target in targets):
        raise ParameterError("Adapters whose target_modules is a pattern cannot be mixed.")
    fields["target_modules"] = sorted({name for target in targets for name in target or ()})
    return replace(configs[0], neurons=neurons, inference_mode=True, **fields)


def _check_rows(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    inputs = [kwargs.get(name) for name in ("input_ids", "inputs_embeds", "inputs")]
    # Models of other libraries call their input something else.
    tensors = (*inputs, *args[:1], *kwargs.values())
    found = next((each for each in tensors if isinstance(each, torch.Tensor)), None)
    if found is not None and found.shape[0] != len(names):
        raise wrong_length(names, found)
