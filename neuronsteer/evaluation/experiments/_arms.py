"""The controls: nothing, as many random neurons, and plain differences of means."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...detectors import detect, detector
from ...errors import ParameterError, StatsError, did_you_mean
from ...neuron_set import NeuronSet
from ...stats import Stats, collect, load_stats
from ._bench import NEURONS, NONE, Arm

if TYPE_CHECKING:
    from ..readers import Library

RANDOM, DIFFMEAN = "random", "diffmean"
#: Texts per label that the diffmean control reads where no statistics are given.
_TEXTS = 200
_MOST = 1000
#: What Student's t adds to the standard error of few seeds, 95 %, by degrees of freedom.
_T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)


def arms(
    controls: Sequence[str] | str,
    neurons: NeuronSet,
    model: Any,
    tokenizer: Any,
    library: Library,
    stats: Stats | str | None,
) -> list[Arm]:
    """Return the set's arm and those of its controls.

    Args:
        controls: `none`, `random` or `random:<seeds>`, `diffmean` or `diffmean:<factor>`; as a
            list or separated by commas.
        neurons: The set that is evaluated.
        model: Its model, for statistics.
        tokenizer: Its tokenizer, for statistics.
        library: Where texts for statistics come from, if `stats` is not given.
        stats: Statistics with sums at `resid`, or their folder.

    Raises:
        ParameterError: If a control is unknown or given twice.
        StatsError: If diffmean has neither statistics nor texts.
    """
    found = [Arm(NEURONS, neurons)]
    seen: set[str] = set()
    for text in controls.split(",") if isinstance(controls, str) else controls:
        kind, _, given = text.strip().partition(":")
        if not kind:
            continue
        if kind in seen:
            raise ParameterError(f"The control {kind!r} is given twice.")
        seen.add(kind)
        if kind == NONE and not given:
            found.append(Arm(NONE, None))
        elif kind == RANDOM:
            found += [
                Arm(f"{RANDOM}:{seed}", neurons.random_like(seed)) for seed in range(_seeds(given))
            ]
        elif kind == DIFFMEAN:
            factor = _factor(given)
            found.append(
                Arm(DIFFMEAN, _diffmean(neurons, model, tokenizer, library, stats, factor), True)
            )
        else:
            known = (NONE, RANDOM, DIFFMEAN)
            raise ParameterError(
                f"Unknown control {text!r}.{did_you_mean(kind, known)} Controls are none, "
                "random:<number of seeds> and diffmean[:<factor>]."
            )
    return found


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return mean and 95 % interval of the mean over seeds, with the seeds' own values."""
    n = len(values)
    average = math.fsum(values) / n
    found: dict[str, Any] = {
        "value": average,
        "interval": None,
        "seeds": n,
        "low": min(values),
        "high": max(values),
    }
    if n > 1:
        deviation = math.sqrt(math.fsum((v - average) ** 2 for v in values) / (n - 1))
        half = (_T[n - 2] if n - 2 < len(_T) else 2.0) * deviation / math.sqrt(n)
        found["interval"] = [average - half, average + half]
    return found


def _seeds(given: str) -> int:
    if not given:
        return 3
    if not re.fullmatch(r"[0-9]+", given) or not 1 <= int(given) <= _MOST:
        raise ParameterError(
            f"random:{given} is no number of seeds; expected 1 to {_MOST}, as in random:10."
        )
    return int(given)


def _factor(given: str) -> float:
    try:
        factor = float(given or 1)
    except ValueError:
        factor = math.nan
    if not math.isfinite(factor):
        raise ParameterError(
            f"diffmean:{given} is no factor; expected a number, as in diffmean:1.5."
        )
    return factor


def _diffmean(
    neurons: NeuronSet,
    model: Any,
    tokenizer: Any,
    library: Library,
    stats: Stats | str | None,
    factor: float,
) -> NeuronSet:
    method = detector(DIFFMEAN, factor=factor)
    if stats is None:
        texts = library.calibration()
        if texts is None:
            raise StatsError(
                "The control 'diffmean' needs statistics of the model: give the folder of "
                "'neuronsteer collect MODEL --texts … --method diffmean' (--stats), or texts of "
                "every label (--data texts=FOLDER), whose first part it reads."
            )
        few = {label: some[:_TEXTS] for label, some in texts.items() if label in neurons.labels}
        loaded = collect(model, tokenizer, few, needs=method.needs, progress=False)
    else:
        loaded = load_stats(stats) if isinstance(stats, str) else stats
    there = [label for label in neurons.labels if label in loaded.labels]
    if len(there) < 2:
        raise StatsError(
            f"The statistics for 'diffmean' have the labels {', '.join(loaded.labels)}, of which "
            f"the set knows {', '.join(there) or 'none'}; two are needed."
        )
    return detect(loaded.only(*there), method)
