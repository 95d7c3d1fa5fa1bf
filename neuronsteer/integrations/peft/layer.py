"""The PEFT layer: changes some inputs of the module it wraps, then calls it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ...errors import HookError, LayoutError, MismatchError, ParameterError
from ...models.modules import in_size, out_size
from ...neuron_set.peft_files import SCALE, SHIFT

#: What PEFT calls "no adapter" in `adapter_names=`.
BASE = "__base__"


class NeuronSteerLayer(nn.Module, BaseTunerLayer):
    """A down projection whose input neurons are steered: `y = W (a * scale + shift) + b`.

    Only the changed neurons have parameters; which they are is saved with them.

    Args:
        base_layer: The projection.
        adapter_name: The first adapter.
        neurons: Its neurons; `None` means all of them.
        frozen: Whether the adapter is only used, not trained.
        identity: Whether the adapter starts by changing nothing, else at random.
    """

    adapter_layer_names = (SCALE, SHIFT)
    #: PEFT moves and deletes by these names, but its older versions would cast an index to float.
    other_param_names = ()

    def __init__(
        self,
        base_layer: nn.Module,
        adapter_name: str,
        neurons: Sequence[int] | None,
        frozen: bool,
        identity: bool = True,
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        width = in_size(base_layer)
        if width is None:
            raise LayoutError(
                f"Cannot steer the input of a {type(base_layer).__name__}: it has no "
                "size (in_features). Choose other target_modules."
            )
        self.in_features = width
        self.out_features = out_size(base_layer)
        self.neuronsteer_scale = nn.ParameterDict({})
        self.neuronsteer_shift = nn.ParameterDict({})
        self.neuronsteer_index = BufferDict({}, persistent=True)
        #: Per row of the batch the adapter to use, while a call with `adapter_names=` runs.
        self.row_adapters: tuple[str, ...] | None = None
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._active_adapter = adapter_name
        self._unmerged: tuple[Tensor | None, Tensor, Tensor | None] | None = None
        self.update_layer(adapter_name, neurons, frozen, identity)

    def update_layer(
        self, name: str, neurons: Sequence[int] | None, frozen: bool, identity: bool = True
    ) -> None:
        """Add an adapter, which changes nothing yet unless `identity` is false."""
        size = self.in_features
        device = self._get_base_layer_device_and_dtype(self.get_base_layer())[0]
        if neurons is not None:
            if not all(0 <= number < self.in_features for number in neurons):
                raise MismatchError(
                    f"The adapter {name!r} changes neuron {max(neurons)}, but this layer has "
                    f"{self.in_features}. It was made for another model."
                )
            size = len(neurons)
            # Without weights (meta device) it is not known yet where it will be needed.
            where = None if device is None or device.type == "meta" else device
            self.neuronsteer_index[name] = torch.tensor(neurons, dtype=torch.int64, device=where)
        scale, shift = torch.ones(size), torch.zeros(size)
        if not identity:
            scale, shift = torch.randn(size), torch.randn(size)
        self.neuronsteer_scale[name] = nn.Parameter(scale)
        self.neuronsteer_shift[name] = nn.Parameter(shift)
        self._move_adapter_to_device_of_base_layer(name)
        self.set_adapter(self.active_adapters, inference_mode=frozen)

    def delete_adapter(self, adapter_name: str) -> None:
        """Delete an adapter."""
        if adapter_name in self.neuronsteer_index:
            del self.neuronsteer_index[adapter_name]
        super().delete_adapter(adapter_name)

    @property
    def bias(self) -> Any:
        """The bias of the projection, for code that reads it there."""
        return self.get_base_layer().bias

    @property
    def own_bias(self) -> Any:
        """The bias that the projection has when nothing is merged."""
        return self.bias if self._unmerged is None else self._unmerged[2]

    # --- values -------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Return whether the adapter changes this layer."""
        return name in self.neuronsteer_scale

    def index_of(self, name: str) -> Tensor | None:
        """Return the neurons of an adapter, or `None` if it has all of them."""
        has = name in self.neuronsteer_index  # a BufferDict has no `get` in every version
        return self.neuronsteer_index[name] if has else None

    def dense(self, names: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return scale and shift of all neurons for adapters that act one after another."""
        values = next(iter(self.neuronsteer_scale.values()))
        scale = torch.ones(self.in_features, dtype=torch.float32, device=values.device)
        shift = torch.zeros_like(scale)
        for name in names:
            if self.has(name):
                index = self.index_of(name)
                where: Any = slice(None) if index is None else index.to(scale.device)
                factor = self.neuronsteer_scale[name].float()
                scale[where] *= factor
                shift[where] = shift[where] * factor + self.neuronsteer_shift[name].float()
        return scale, shift

    @torch.no_grad()
    def assign(self, name: str, scale: Tensor, shift: Tensor) -> None:
        """Set the values of an adapter, in the order of its neurons."""
        self.neuronsteer_scale[name].copy_(scale)
        self.neuronsteer_shift[name].copy_(shift)

    # --- forward ------------------------------------------------------------------------------

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Steer `x` and call the projection."""
        if self.disable_adapters:
            if self.merged:
                self.unmerge()
        elif self.row_adapters is not None:
            x = self._steer_rows(x, self.row_adapters)
        elif not self.merged:
            for name in self.active_adapters:
                if self.has(name):
                    x = self._steer(x, name)
        return self.base_layer(x, *args, **kwargs)

    def _steer(self, x: Tensor, name: str) -> Tensor:
        scale = self.neuronsteer_scale[name].to(x)
        shift = self.neuronsteer_shift[name].to(x)
        index = self.index_of(name)
        if index is None:
            return torch.addcmul(shift, x, scale)
        index = index.to(x.device)
        changed = torch.addcmul(shift, x.index_select(-1, index), scale)
        return x.index_copy(-1, index, changed)

    def _steer_rows(self, x: Tensor, names: Sequence[str]) -> Tensor:
        if self.merged:
            raise ParameterError(
                "Cannot pass `adapter_names` when there are merged adapters, please call "
                "`unmerge_adapter` first."
            )
        repeat, rest = divmod(x.shape[0], len(names))
        if rest:
            raise wrong_length(names, x)
        known = list(dict.fromkeys(names))
        tables = [self.dense([name]) for name in known]
        # Beams and returned sequences repeat each row in place; a flattened MLP input its tokens.
        rows = torch.tensor([known.index(name) for name in names for _ in range(repeat)])
        rows = rows.to(x.device)
        scale, shift = (torch.stack(part).to(x)[rows] for part in zip(*tables, strict=True))
        middle = (1,) * (x.dim() - 2)
        return torch.addcmul(
            shift.view(len(rows), *middle, -1), x, scale.view(len(rows), *middle, -1)
        )

    # --- merging ------------------------------------------------------------------------------

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put the adapters into the projection's weight and bias.

        Args:
            safe_merge: Check for numbers that are not finite first.
            adapter_names: Which; default: the active ones.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if self.has(name)]
        if not names:
            return
        base = self._mergeable()
        # From the original each time: what is merged already has shifts that the next one scales.
        merged = [*self.merged_adapters, *names]
        weight, bias = self._original(base)
        scale, shift = self.dense(merged)
        touched = ((scale != 1) | (shift != 0)).nonzero().reshape(-1)
        columns = weight[:, touched].float()
        added = columns @ shift[touched].to(columns)
        columns = (columns * scale[touched].to(columns)).to(weight.dtype)
        if safe_merge and not bool(columns.isfinite().all() and added.isfinite().all()):
            tables = {name: torch.stack(self.dense([name])) for name in merged}
            broken = [name for name, table in tables.items() if not table.isfinite().all()]
            raise ParameterError(
                f"NaNs detected in the merged weights. The adapter {', '.join(broken or merged)} "
                "seems to be broken, or the model's own weights are."
            )
        # Nothing is changed before this line: a refused merge leaves what was merged before.
        if self.merged:
            self._restore(base)
        self._unmerged = (touched, weight[:, touched].clone(), bias)
        _matrix(base)[:, touched] = columns
        if bool(added.any()):
            added = added if bias is None else bias.float() + added
            base.bias = nn.Parameter(added.to(weight.dtype), requires_grad=False)
        self.merged_adapters = merged

    def unmerge(self) -> None:
        """Give the projection its own weight and bias back, bit for bit."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self._restore(self._mergeable())
        self._unmerged = None
        self.merged_adapters = []

    def _original(self, base: Any) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias as they are when nothing is merged."""
        weight = _matrix(base)
        if self._unmerged is None:
            return weight, None if base.bias is None else base.bias.data.clone()
        touched, columns, bias = self._unmerged
        weight = weight.clone()
        weight[:, touched] = columns.to(weight)
        return weight, bias

    @torch.no_grad()
    def _restore(self, base: Any) -> None:
        if self._unmerged is None:
            raise HookError("The weights from before the merge are not there any more.")
        touched, columns, bias = self._unmerged
        weight = _matrix(base)
        weight[:, touched] = columns.to(weight)
        base.bias = None if bias is None else nn.Parameter(bias.to(weight), requires_grad=False)

    def _mergeable(self) -> Any:
        base = self.get_base_layer()
        weight = getattr(base, "weight", None)
        plain = isinstance(base, nn.Linear | Conv1D) and isinstance(weight, Tensor)
        # 4-bit layers are subclasses of Linear, with packed weights.
        if not (plain and weight is not None and weight.is_floating_point() and weight.dim() == 2):
            raise LayoutError(
                f"Cannot merge into a {type(base).__name__}: its weights are quantised or not a "
                "plain matrix. Use the adapter unmerged, or merge into the unquantised model."
            )
        return base

    def __repr__(self) -> str:
        return "neuronsteer." + super().__repr__()


def wrong_length(names: Sequence[str], rows: Tensor) -> ParameterError:
    """Return the error for adapter names that are not one per row."""
    return ParameterError(
        "Length of `adapter_names` should be the same as the number of inputs, but got "
        f"{len(names)} and {len(rows)} respectively."
    )


def _matrix(base: Any) -> Tensor:
    """Return a view of the weight as `[out, in]`."""
    return base.weight.data.T if isinstance(base, Conv1D) else base.weight.data
