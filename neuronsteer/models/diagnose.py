"""Can this model be steered, where, and if not, why?

Kernels that replace a whole MLP and read its weights never call the modules inside. A hook on such
a module is never called, no error says so, and steering there does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import LayoutError
from .anatomy import Anatomy, inspect
from .hook_point import EXPERTS, INPUT, OUTPUT, first_tensor
from .probe import Watched, run_tokens


@dataclass(frozen=True)
class ProbeResult:
    """What a hook received in a one-token forward pass.

    Attributes:
        site: The hook point's site.
        layer: The hook point's layer.
        name: The hook point's module path.
        fired: Whether the module was called with a tensor of the expected width.
        calls: How often it was called.
        seen_width: Last dimension of that tensor; `None` if there was none.
    """

    site: str
    layer: int
    name: str
    fired: bool
    calls: int
    seen_width: int | None


def probe(
    model: Any, anatomy: Anatomy | None = None, sites: Iterable[str] | None = None
) -> list[ProbeResult]:
    """Return, per site and layer, whether a hook fires in a one-token forward pass.

    Args:
        model: The model, as for `inspect`.
        anatomy: Its anatomy, if known already.
        sites: Sites to probe; all that the model has by default.
    """
    anatomy = anatomy or inspect(model)
    points = [point for site in sites or anatomy.sites() for point in anatomy.hook_points(site)]
    calls = [0] * len(points)
    widths: list[int | None] = [None] * len(points)

    def seen(index: int, value: Any) -> None:
        calls[index] += 1
        widths[index] = int(first_tensor(value).shape[-1])

    watched: list[Watched] = []
    for index, point in enumerate(points):
        # A block of experts is reached by its inputs; its neurons never leave it as a tensor.
        side = OUTPUT if point.side == OUTPUT else INPUT
        watched.append((point.module, side, lambda value, index=index: seen(index, value)))
    run_tokens(anatomy.root, 1, watched)
    return [
        ProbeResult(
            point.site,
            point.layer,
            point.name,
            fired=calls[i] > 0 and (point.experts is not None or widths[i] == point.tensor_width),
            calls=calls[i],
            seen_width=widths[i],
        )
        for i, point in enumerate(points)
    ]


def diagnose(model: Any) -> dict[str, Any]:
    """Return a JSON-able report on where a model's neurons are and whether hooks reach them.

    A model that cannot be steered is a report with `steerable: False` and the reasons under
    `problems`, not an exception. One token is run through the model.
    """
    try:
        anatomy = inspect(model)
    except LayoutError as error:
        config = getattr(model, "config", None)
        return {
            "model_type": getattr(config, "model_type", None),
            "class": type(model).__name__,
            "source": None,
            "steerable": False,
            "sites": {},
            "bias": {},
            "problems": [str(error)],
        }
    results, problems = _probe(model, anatomy)
    blocking = _blocking(anatomy)
    by_site = _by_site(results)
    neuron = by_site.get("mlp.neuron", [])
    for site, found in by_site.items():
        problems += _unreached(site, found)
    problems += [*blocking, *_limiting(anatomy)]
    layout = anatomy.layout
    return {
        "model_type": anatomy.model_type,
        "class": type(anatomy.root).__name__,
        "source": anatomy.source,
        "steerable": bool(neuron) and all(r.fired for r in neuron) and not blocking,
        "num_layers": anatomy.num_layers,
        "hidden_size": anatomy.hidden_size,
        "width": anatomy.width,
        "gated": anatomy.gated,
        "experts": _experts(anatomy),
        "wrapped": list(anatomy.wrapped),
        "sites": {site: _site(anatomy, site, by_site.get(site, [])) for site in anatomy.sites()},
        "bias": {
            "rule": str(layout.bias),
            "present": layout.bias.present(anatomy.config),
            "possible": layout.bias.possible(),
            "residual": layout.residual,
        },
        "problems": problems,
    }


def _probe(model: Any, anatomy: Anatomy) -> tuple[list[ProbeResult], list[str]]:
    try:
        return probe(model, anatomy), []
    except Exception as error:  # noqa: BLE001 - whatever the model raises is the diagnosis
        return [], [
            f"A one-token forward pass failed with {type(error).__name__}: {error}. "
            f"Check that the model runs at all: model(input_ids)."
        ]


def _by_site(results: list[ProbeResult]) -> dict[str, list[ProbeResult]]:
    grouped: dict[str, list[ProbeResult]] = {}
    for result in results:
        grouped.setdefault(result.site, []).append(result)
    return grouped


def _site(anatomy: Anatomy, site: str, results: list[ProbeResult]) -> dict[str, Any]:
    points = anatomy.hook_points(site)
    widths = sorted({point.width for point in points})
    return {
        "layers": len(points),
        "width": widths[0] if len(widths) == 1 else widths,
        "fired": bool(results) and all(result.fired for result in results),
        "path": points[0].name if points else None,
        "side": points[0].side if points else None,
    }


def _experts(anatomy: Anatomy) -> dict[str, Any] | None:
    blocks = [
        point.experts for point in anatomy.hook_points("mlp.neuron") if point.experts is not None
    ]
    if not blocks:
        return None
    block = blocks[0]
    return {
        "layers": len(blocks),
        "num_experts": block.num_experts,
        "expert_width": block.expert_width,
        "shared_width": block.shared.width if block.shared else 0,
        "index": "expert * expert_width + neuron, the shared expert after the routed ones",
    }


def _unreached(site: str, results: list[ProbeResult]) -> list[str]:
    never = [result for result in results if not result.calls]
    wrong = [result for result in results if result.calls and not result.fired]
    problems: list[str] = []
    if never:
        what = "Steering it would do nothing" if site == "mlp.neuron" else "It cannot be read"
        problems.append(
            f"Site {site}: the hook never fired in {len(never)} of {len(results)} layers (first: "
            f"{never[0].name}). A fused kernel or a patched forward bypasses the module. {what}; "
            f"load the model without kernel replacements (Liger, use_kernels, MegaBlocks)."
        )
    if wrong:
        first = wrong[0]
        problems.append(
            f"Site {site}: {first.name} saw width {first.seen_width}, not the width of the "
            f"unsharded layer, in {len(wrong)} of {len(results)} layers. Load the model without "
            f"tensor parallelism."
        )
    return problems


def _blocking(anatomy: Anatomy) -> list[str]:
    """Return what makes steering impossible although hooks may fire in the probe."""
    problems: list[str] = []
    if anatomy.compiled:
        problems.append(
            "The model is compiled already: hooks added after the first compiled call are ignored "
            "without an error. Attach first, then call torch.compile."
        )
    if anatomy.root.get_output_embeddings() is None:
        problems.append(
            f"{type(anatomy.root).__name__} has no language-model head: it can be read but not "
            f"steered while generating. Load it with AutoModelForCausalLM."
        )
    blocks = [point for point in anatomy.hook_points("mlp.neuron") if point.side == EXPERTS]
    foreign = next((point for point in blocks if not hasattr(point.module, "_apply_gate")), None)
    if foreign is not None:
        problems.append(
            f"{foreign.name} ({type(foreign.module).__name__}) is not dispatched by transformers' "
            f"experts interface, so its neurons cannot be reached. Load the model without kernel "
            f"replacements."
        )
    return problems


def _limiting(anatomy: Anatomy) -> list[str]:
    """Return what is missing although the model can be steered."""
    if anatomy.layout.gate is None:
        return [
            "Which projection feeds the activation could not be decided, so activation "
            "probabilities (mlp.act) cannot be measured. Register a Layout for the family."
        ]
    return []
