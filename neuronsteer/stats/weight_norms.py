"""Measures of the weights: taken once per model, without any text.

The only one so far is `norm`: how far one unit of a neuron moves the residual stream, which is the
length of its column of the output projection. It puts the activations of different layers on one
scale.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..errors import LayoutError, ParameterError
from ..models import Anatomy, HookPoint
from .forward import evaluating
from .needs import Need

log = logging.getLogger(__name__)

# Numbers in one chunk of unit vectors, and in what the projection makes of it.
_CHUNK = 2**24


def norms(anatomy: Anatomy, site: str) -> Tensor:
    """Return the length of each neuron's column of the output projection, `[layers, width]`.

    Float32, on the CPU, 0 beyond a layer's width. Plain float weights are read; quantised layers
    and layers with adapters are run on unit vectors instead. Where a norm follows
    the MLP (Gemma 2, OLMo 2), this is the length before it.

    Raises:
        ParameterError: If the site is not `mlp.neuron`, the only one with an output projection.
        LayoutError: If a projection cannot be run on them.
    """
    if site != "mlp.neuron":
        raise ParameterError(
            f"'norm' is the length of a neuron's column of the MLP's output projection; it exists "
            f"at 'mlp.neuron', not at {site!r}."
        )
    points = anatomy.hook_points(site)
    found = torch.zeros(anatomy.num_layers, max(point.width for point in points))
    with torch.inference_mode():
        for point in points:
            try:
                found[point.layer, : point.width] = _norms(point, anatomy.root.dtype)
            except (RuntimeError, TypeError, ValueError, AttributeError) as error:
                raise LayoutError(
                    f"The output projection {point.name!r} ({type(point.module).__name__}) cannot "
                    f"be measured: {error}"
                ) from error
    return found


#: Name → measurement `(anatomy, site) -> [layers, width]`.
WEIGHT_MEASURES: dict[str, Callable[[Anatomy, str], Tensor]] = {"norm": norms}


def measure(anatomy: Anatomy, needs: Iterable[Need], strict: bool) -> dict[Need, Tensor]:
    """Return those of `needs` that are measured on the weights.

    Args:
        anatomy: The model.
        needs: What was asked for; others are ignored.
        strict: Raise if one cannot be measured, instead of leaving it out with a warning.
    """
    found: dict[Need, Tensor] = {}
    for need in needs:
        if need.reducer not in WEIGHT_MEASURES:
            continue
        try:
            found[need] = WEIGHT_MEASURES[need.reducer](anatomy, need.site)
        except LayoutError as error:
            if strict:
                raise
            log.warning("%s is left out. %s", need, error)
    return found


def _norms(point: HookPoint, dtype: torch.dtype) -> Tensor:
    block = point.experts
    if block is None:
        return _lengths(_images(point.module, point.width, dtype))
    with _loaded(block.module):
        parameter: Any = block.module.get_parameter("down_proj")
        if parameter.dim() != 3 or not _plain(parameter):
            raise LayoutError(
                f"The experts {point.name!r} keep their output projections as {type(parameter)} of "
                f"shape {list(parameter.shape)}; expected float [experts, …, …]."
            )
        dim = 1 if getattr(block.module, "is_transposed", False) else 0
        # One expert after the other: in float32 they may not fit together.
        parts = [torch.linalg.vector_norm(e.float(), dim=dim).cpu() for e in parameter]
    if block.shared is not None:
        parts.append(_norms(block.shared, dtype))
    return torch.cat(parts)


def images(point: HookPoint, width: int, dtype: torch.dtype) -> Tensor:
    """Return what each of a linear layer's inputs adds to its output, `[width, outputs]` float32.

    Args:
        point: A hook point on the layer.
        width: Number of its inputs.
        dtype: What the layer computes in.

    Raises:
        LayoutError: If the layer cannot be run.
    """
    try:
        with torch.inference_mode():
            return torch.cat([part.cpu() for part in _images(point.module, width, dtype)])
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise LayoutError(
            f"The projection {point.name!r} ({type(point.module).__name__}) cannot be measured: "
            f"{error}"
        ) from error


def _images(module: nn.Module, width: int, dtype: torch.dtype) -> Generator[Tensor, None, None]:
    """Yield what each input adds to the output, `[inputs, outputs]` float32, in parts."""
    if type(module) is nn.Linear or type(module) is Conv1D:
        with _loaded(module):
            weight: Any = module.weight
            if _plain(weight):
                yield weight.float().T if type(module) is nn.Linear else weight.float()
                return
    yield from _outputs(module, width, dtype)


def _lengths(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([torch.linalg.vector_norm(part, dim=-1).cpu() for part in parts])


def _outputs(module: nn.Module, width: int, dtype: torch.dtype) -> Generator[Tensor, None, None]:
    """Yield the layer's outputs for unit vectors, in chunks, without its bias."""
    device, dtype = _place(module, dtype)
    # Not module(x): hooks that steer the model must not be measured with it.
    call = module.forward
    with evaluating(module):
        bias = call(torch.zeros(1, width, device=device, dtype=dtype)).float()
        step = max(1, _CHUNK // max(width, bias.shape[-1]))
        for start in range(0, width, step):
            rows = min(step, width - start)
            units = torch.zeros(rows, width, device=device, dtype=dtype)
            units.diagonal(start).fill_(1)
            yield call(units).float() - bias


def _plain(weight: Any) -> bool:
    """Return whether it is an ordinary float parameter that is there.

    Some quantisers keep the module's class and replace its weight by a tensor of their own class.
    """
    return (
        type(weight) in (nn.Parameter, Tensor)
        and weight.is_floating_point()
        and weight.element_size() > 1
        and not weight.is_meta
    )


def _place(module: nn.Module, dtype: torch.dtype) -> tuple[torch.device, torch.dtype]:
    """Return where the module wants its input, and in which dtype."""
    tensors = [t for t in (*module.parameters(), *module.buffers()) if not t.is_meta]
    floats = [t.dtype for t in tensors if t.is_floating_point() and t.element_size() > 1]
    device = tensors[0].device if tensors else torch.device("cpu")
    hook = getattr(module, "_hf_hook", None)
    device = getattr(hook, "execution_device", None) or device
    # An adapter may be kept in float32 around a layer in half precision, which casts as it needs.
    return torch.device(device), dtype if dtype in floats or not floats else floats[0]


@contextmanager
def _loaded(module: nn.Module) -> Generator[None, None, None]:
    """Fetch the weights of a module that accelerate has offloaded."""
    if not hasattr(module, "_hf_hook"):
        yield
        return
    from accelerate.utils import align_module_device

    with align_module_device(module):
        yield
