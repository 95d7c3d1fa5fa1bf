"""What PEFT stores about one adapter: which neurons of which layers it changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.config import PeftConfig

from ...errors import ArtifactError, ParameterError, shown
from ...neuron_set.peft_files import SITE, index_text
from ...neuron_set.storage import BLOCK
from .register import peft_type


@dataclass
class NeuronSteerConfig(PeftConfig):
    """Configuration of one label's adapter: `a -> a * scale + shift` before the down projection.

    Without `neurons` every neuron of the targeted modules gets a scale and a shift, starting from
    the identity; such an adapter can be trained.

    Args:
        target_modules: Names of the modules whose input is changed. Default: the MLP down
            projections, found as everywhere in neuronsteer.
        exclude_modules: Names of modules to leave alone.
        modules_to_save: Further modules to train and save, as in other PEFT methods.
        layers_to_transform: Layers to restrict the adapter to.
        layers_pattern: Name of the list of layers, for `layers_to_transform`.
        label: What the adapter steers to.
        neurons: Per layer the neurons that are changed, e.g. `{3: [17, 402]}`.
        operation: What was done to them, for the record; the numbers are in the weights.
        site: Where they are.
        model_type: The model family they were found in.
        base_model_revision: Revision of the base model.
        neuronsteer: The header, when the folder holds a whole neuron set.
        init_weights: Whether a new adapter changes nothing; `False` starts from random numbers,
            which PEFT's other methods offer for tests, too.
    """

    target_modules: list[str] | set[str] | str | None = field(default=None)
    exclude_modules: list[str] | set[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)
    layers_to_transform: list[int] | int | None = field(default=None)
    layers_pattern: list[str] | str | None = field(default=None)
    label: str | None = field(default=None)
    neurons: Any = field(default=None)
    operation: dict[str, Any] | None = field(default=None)
    site: str = field(default=SITE)
    model_type: str | None = field(default=None)
    base_model_revision: str | None = field(default=None)
    neuronsteer: dict[str, Any] | None = field(default=None)
    init_weights: bool = field(default=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type()
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list) else value)
        # PEFT itself would ignore both.
        if self.layers_to_transform is not None and isinstance(self.target_modules, str):
            raise ParameterError(
                f"layers_to_transform restricts a list of target_modules, but target_modules is "
                f"the pattern {self.target_modules!r}. Name the layers in the pattern."
            )
        if self.layers_pattern and self.layers_to_transform is None:
            raise ParameterError("layers_pattern says where layers_to_transform are; give both.")
        if self.neurons is not None:
            self.neurons = _per_layer(self.neurons)
        header = self.neuronsteer or {}
        self.model_type = self.model_type or header.get("model_type")
        self.operation = self.operation or header.get("operation")
        self.revision = self.revision or self.base_model_revision

    def to_dict(self) -> dict[str, Any]:
        """Return what is written as JSON."""
        fields = super().to_dict()
        if self.neurons is not None:
            fields["neurons"] = {
                str(k): index_text(torch.tensor(v)) for k, v in self.neurons.items()
            }
        # A PEFT adapter is one label: the header of the set it came from would claim more.
        fields.pop(BLOCK)
        return fields


def _per_layer(neurons: Any) -> dict[int, list[int]]:
    if not isinstance(neurons, Mapping):
        raise ArtifactError(f"Field 'neurons' is {shown(neurons)}; expected neurons per layer.")
    found: dict[int, list[int]] = {}
    for layer, index in neurons.items():
        try:
            numbers: Iterable[Any] = index.split() if isinstance(index, str) else index
            found[int(layer)] = [int(number) for number in numbers]
        except (TypeError, ValueError, OverflowError) as error:
            raise ArtifactError(
                f"Field 'neurons': layer {shown(layer)} has {shown(index)}; expected "
                "neuron numbers."
            ) from error
        if len(set(found[int(layer)])) != len(found[int(layer)]):
            raise ArtifactError(f"Field 'neurons': layer {layer} names a neuron twice.")
    return found
