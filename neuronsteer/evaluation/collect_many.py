"""Statistics for several methods in few passes over the texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from ..detectors import DETECTORS, Detector, detector
from ..errors import ParameterError
from ..neuron_set.value_columns import FEATURE_SITES
from ..stats import DEFAULT_NEEDS, REDUCERS, Need, Stats, collect
from ..stats.weight_norms import WEIGHT_MEASURES


def collect_for(
    model: Any,
    tokenizer: Any,
    texts: Any,
    methods: Iterable[str | Detector],
    *,
    codec: Any = None,
    **options: Any,
) -> dict[str, Stats]:
    """Return, for each method, statistics that hold what it needs and what operations steer with.

    Methods that only read activations share one pass, with the default needs. A method that
    measures by itself (gradients, importance) or reads features of a codec gets its own.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        texts: As for `collect`; they are read once per pass, so no generators.
        methods: Names of detectors, or detectors. Of a name, the default parameters decide.
        codec: What features are read with; methods about features are left out without one.
        **options: Options of `collect`.

    Returns:
        Name of the method → statistics; the same object for all that share a pass.
    """
    chosen = [detector(method) for method in methods]
    if codec is None:
        chosen = [each for each in chosen if not _apart(each.needs, FEATURE_SITES)]
    if not chosen:
        raise ParameterError("Nothing to collect for: no method is left.")
    shared = {need for each in chosen if not _special(each) for need in each.needs}
    plain = collect(model, tokenizer, texts, needs={*DEFAULT_NEEDS, *shared}, **options)
    found: dict[str, Stats] = {}
    passes: dict[frozenset[Need], Stats] = {}
    for each in chosen:
        key = frozenset(each.needs)
        if not _special(each):
            found[each.name] = plain
            continue
        if key not in passes:
            used = {"codec": codec} if _apart(each.needs, FEATURE_SITES) else {}
            passes[key] = collect(model, tokenizer, texts, needs=key, **used, **options)
        found[each.name] = passes[key]
    return found


def widened(method: str, units: int, share: float) -> Detector:
    """Return a method that selects about the `share` best of all units for every label, or more.

    For comparisons at equal budgets: take what it selects with `neurons.top(n)`. Methods without a
    budget select what their rule gives.

    Args:
        method: Name of a detector.
        units: Number of units of the model.
        share: The largest budget.
    """
    kind = DETECTORS.get(method)
    fields = {field.name for field in dataclasses.fields(kind)}
    if "per_label" in fields:
        return detector(method, per_label=max(1, round(share * units)))
    wide: dict[str, Any] = {name: min(1.0, 5 * share) for name in ("rate",) if name in fields}
    wide |= {name: value for name, value in _WIDE.get(method, {}).items() if name in fields}
    return detector(method, **wide)


# Rules that are about something else than a number of neurons.
_WIDE: dict[str, dict[str, Any]] = {
    "crane": {"rule": "top_p"},
    "plnd": {"share": 0.6},
    "always_active": {"share": 0.9},
    "sae_lape": {"examples": 0.8, "tokens": 0.02, "count": None},
}


def _special(each: Detector) -> bool:
    measured = any(
        getattr(REDUCERS.get(need.reducer), "document_measure", "")
        for need in each.needs
        if need.reducer not in WEIGHT_MEASURES
    )
    return measured or _apart(each.needs, FEATURE_SITES)


def _apart(needs: Iterable[Need], sites: tuple[str, ...]) -> bool:
    return any(need.site in sites for need in needs)
