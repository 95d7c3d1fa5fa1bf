"""A model of which only the weights of selected neurons are trained."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import HookError, LayoutError, MismatchError, ParameterError, shown
from ..hub import public_name
from ..models import Anatomy, inspect
from ..models.modules import find, in_size, out_size
from ..neuron_set import NeuronSet
from . import files
from .layers import Partial, matrix_of
from .units import COLUMNS, PARTS, Units, units

_DELTA = ".delta"


class Enhanced(nn.Module):
    """A causal language model whose selected rows and columns are trained; made by `enhance()`.

    Call, generate and train it like the model itself: `transformers.Trainer` takes it as it is.
    Its state dict holds the trained changes only, so that the trainer's checkpoints are small, and
    resuming from them works. The model inside is changed in place: its projections are wrapped
    until `merge()` or `unload()`. Whatever is not found here is looked up in the model.

    Attributes:
        model: The causal language model.
        facts: What the enhancement was made from.
    """

    def __init__(self, model: Any, parts: Sequence[Units], facts: Mapping[str, Any]) -> None:
        super().__init__()
        anatomy = inspect(model)
        _check(anatomy, parts)
        self.model: Any = anatomy.root
        self.facts = dict(facts)
        self._frozen = [(p, p.requires_grad) for p in self.model.parameters()]
        for parameter, _ in self._frozen:
            parameter.requires_grad_(False)
        self._places: list[tuple[Units, Partial]] = []
        for each in parts:
            layer = Partial(_module(self.model, each.path), each.kind, each.index)
            _put(self.model, each.path, layer)
            self._places.append((each, layer))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "model":
                raise
            return getattr(self.model, name)

    # Named arguments, because the trainer looks at them to choose the columns of a dataset.
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call the model."""
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, labels=labels, **kwargs
        )

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's `generate`."""
        return self.model.generate(*args, **kwargs)

    def get_base_model(self) -> Any:
        """Return the model inside, as PEFT models do."""
        return self.model

    @property
    def trainable(self) -> int:
        """Number of trained weights."""
        return sum(layer.delta.numel() for _, layer in self._places)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the trained changes, and nothing of the frozen model."""
        found = super().state_dict(*args, **kwargs)
        for name in [name for name in found if not name.endswith(_DELTA)]:
            del found[name]
        return found

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load trained changes; unlike the base class's, it never ignores a name.

        Raises:
            MismatchError: If they belong to other neurons.
        """
        expected = set(self.state_dict())
        wrong = sorted(expected ^ set(state_dict))
        if wrong:
            raise MismatchError(
                f"The state dict was not made for these neurons: {len(expected)} changes are "
                f"expected and {len(state_dict)} are there; the first that differs is {wrong[0]!r}."
            )
        del strict
        return super().load_state_dict(state_dict, strict=False, assign=assign)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **_: Any) -> Path:
        """Write the trained changes and what they belong to into a folder; return it."""
        self._require_attached()
        parts: list[tuple[Units, Tensor]] = [(each, layer.delta) for each, layer in self._places]
        return files.write(save_directory, self.facts, parts)

    @classmethod
    def from_pretrained(
        cls,
        model: Any,
        path_or_repo: str | os.PathLike[str],
        revision: str | None = None,
        trainable: bool = False,
    ) -> Enhanced:
        """Put a saved enhancement onto a model.

        Args:
            model: The model it was trained for.
            path_or_repo: Folder or Hub repository.
            revision: Branch, tag or commit.
            trainable: Go on training it, instead of only using it.

        Raises:
            ArtifactError: If it is something else or damaged.
            MismatchError: If it was made for another model.
        """
        config, saved = files.read(path_or_repo, revision)
        anatomy = inspect(model)
        for field, mine in (
            ("model_type", anatomy.model_type),
            ("num_layers", anatomy.num_layers),
            ("widths", list(anatomy.widths)),
        ):
            if config.get(field) != mine:
                raise MismatchError(
                    f"Field {field!r}: this enhancement was made for {shown(config.get(field))}, "
                    f"the model has {mine}. Its base model is {shown(config.get('base_model'))}."
                )
        facts = {
            name: value
            for name, value in config.items()
            if name not in ("format", "neuronsteer_version", "save", "modules")
        }
        _check_sizes(anatomy, saved)
        found = cls(model, [each for each, _ in saved], facts)
        with torch.no_grad():
            for (_, layer), (_, delta) in zip(found._places, saved, strict=True):
                layer.delta.copy_(delta)
                layer.delta.requires_grad_(trainable)
        return found

    def merge(self) -> Any:
        """Put the changes into the weights and return the model, which is an ordinary one again.

        Rows and columns that were not trained keep their bits.

        Raises:
            ParameterError: If a weight is quantised; nothing was merged then.
        """
        self._require_attached()
        for _, layer in self._places:
            matrix_of(layer.base_layer)
        for _, layer in self._places:
            layer.merge()
        return self.unload()

    def unload(self) -> Any:
        """Take the changes away and return the model as it was."""
        self._require_attached()
        for each, layer in self._places:
            _put(self.model, each.path, layer.base_layer)
        self._places = []
        for parameter, before in self._frozen:
            parameter.requires_grad_(before)
        return self.model

    def _require_attached(self) -> None:
        if not self._places:
            raise HookError("The enhancement was merged or unloaded already; enhance() again.")

    def __repr__(self) -> str:
        kind, count = type(self.model).__name__, len(self._places)
        return f"<Enhanced {kind}: {self.trainable} weights in {count} projections>"


def enhance(
    model: Any,
    neurons: NeuronSet | Sequence[NeuronSet],
    labels: str | Sequence[str] | None = None,
    *,
    parts: Sequence[str] = PARTS,
    per_layer: int | None = None,
) -> Enhanced:
    """Return a model of which only the weights of these neurons are trained.

    Of an MLP neuron these are its rows of the gate and up projections and its column of the down
    projection; of an attention unit its row of the projection. Everything else is frozen, and has
    the same bits after training.

    Args:
        model: A causal language model of transformers; it is changed in place.
        neurons: A neuron set, or several (of several sites).
        labels: Only the neurons of these labels.
        parts: Of MLP neurons: some of "gate", "up" and "down".
        per_layer: Only so many neurons of each layer and set, those of highest score (the PLND
            paper trains at most 100).

    Raises:
        LayoutError: If the neurons have no weights of their own.
        ParameterError: If a weight is shared with another module, or there is nothing to train.

    Example:
        >>> tuned = enhance(model, neurons, "fr")  # doctest: +SKIP
        >>> Trainer(tuned, arguments, train_dataset=texts).train()  # doctest: +SKIP
        >>> tuned.save_pretrained("french")  # doctest: +SKIP
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise ParameterError(f"parts={tuple(parts)}; expected some of {', '.join(PARTS)}.")
    if per_layer is not None and per_layer < 1:
        raise ParameterError(f"per_layer={per_layer}; expected at least 1.")
    sets = [neurons] if isinstance(neurons, NeuronSet) else list(neurons)
    if labels is not None:
        wanted = [labels] if isinstance(labels, str) else list(labels)
        sets = [each.only(*wanted) for each in sets]
    anatomy = inspect(model)
    chosen = units(anatomy, sets, parts, per_layer)
    facts = {
        "model_type": anatomy.model_type,
        "base_model": public_name(getattr(anatomy.root.config, "_name_or_path", None)),
        "num_layers": anatomy.num_layers,
        "widths": list(anatomy.widths),
        "labels": sorted({label for each in sets for label in each.labels}),
        "parts": list(parts),
        "sets": [
            {"site": each.site, "method": each.method, "fingerprint": each.fingerprint}
            for each in sets
        ],
    }
    return Enhanced(model, chosen, facts)


def _check(anatomy: Anatomy, parts: Sequence[Units]) -> None:
    """Raise if a projection is not there, is trained already, or shares its weight."""
    owners: dict[int, list[str]] = {}
    for name, parameter in anatomy.root.named_parameters(remove_duplicate=False):
        if not parameter.is_meta:
            owners.setdefault(parameter.data_ptr(), []).append(name)
    for each in parts:
        module = _module(anatomy.root, each.path)
        if isinstance(module, Partial):
            # One projection may have rows trained and columns, but not by two enhancements.
            raise ParameterError(
                f"{each.path!r} is being trained already. Merge or unload that enhancement first."
            )
        weight: Any = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and not weight.is_meta:
            shared = [n for n in owners.get(weight.data_ptr(), ()) if n != f"{each.path}.weight"]
            if shared:
                raise ParameterError(
                    f"The weight of {each.path!r} is tied to {shared[0]!r}: training one would "
                    f"change the other. Untie them, or choose neurons of other layers."
                )


def _check_sizes(anatomy: Anatomy, saved: Sequence[tuple[Units, Tensor]]) -> None:
    for each, delta in saved:
        module = _module(anatomy.root, each.path)
        sizes = (out_size(module), in_size(module))
        count, length = sizes if each.kind != COLUMNS else sizes[::-1]
        if length != delta.shape[1] or count is None or int(each.index.max()) >= count:
            raise MismatchError(
                f"{each.path!r} has {sizes[0]} outputs and {sizes[1]} inputs, which {each.kind} of "
                f"{delta.shape[1]} numbers do not fit. The enhancement was made for another model."
            )


def _module(root: nn.Module, path: str) -> nn.Module:
    found = find(root, path)
    if found is None:
        raise LayoutError(f"{type(root).__name__} has no module {shown(path)}.")
    return found


def _put(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(_module(root, parent), name, module)
