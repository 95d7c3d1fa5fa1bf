"""The controls: nothing, as many random neurons, and plain differences of means."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ...detectors import detect, detector
from ...errors import ParameterError, StatsError, did_you_mean
from ...neuron_set import NeuronSet
from ...stats import Stats, collect
from ._model_under_test import NEURONS, NONE, ModelUnderTest, Treatment

RANDOM, DIFFMEAN = "random", "diffmean"
#: Texts per label that the diffmean control reads where no statistics are given.
_TEXTS = 200
_MOST = 1000


def treatments(
    tested: ModelUnderTest, controls: Sequence[str] | str, stats: Stats | str | None
) -> list[Treatment]:
    """Return what is compared: the set, and its controls.

    Args:
        tested: The model and the set that is evaluated.
        controls: `none`, `random` or `random:<seeds>`, `diffmean` or `diffmean:<factor>`; as a
            list or separated by commas.
        stats: Statistics with sums at `resid`, or their folder; without any, `diffmean` collects
            them from the given texts.

    Raises:
        ParameterError: If a control is unknown or given twice.
        StatsError: If diffmean has neither statistics nor texts.
    """
    neurons = tested.neurons
    found = [Treatment(NEURONS, neurons)]
    seen: set[str] = set()
    for text in controls.split(",") if isinstance(controls, str) else controls:
        kind, _, given = text.strip().partition(":")
        if not kind:
            continue
        if kind in seen:
            raise ParameterError(f"The control {kind!r} is given twice.")
        seen.add(kind)
        if kind == NONE and not given:
            found.append(Treatment(NONE, None))
        elif kind == RANDOM:
            found += [
                Treatment(f"{RANDOM}:{seed}", neurons.random_like(seed))
                for seed in range(_seeds(given))
            ]
        elif kind == DIFFMEAN:
            factor = _factor(given)
            found.append(Treatment(DIFFMEAN, _diffmean(tested, stats, factor), True))
        else:
            known = (NONE, RANDOM, DIFFMEAN)
            raise ParameterError(
                f"Unknown control {text!r}.{did_you_mean(kind, known)} Controls are none, "
                "random:<number of seeds> and diffmean[:<factor>]."
            )
    return found


def _seeds(given: str) -> int:
    if not given:
        return 3
    if not re.fullmatch(r"[0-9]+", given) or not 1 <= int(given) <= _MOST:
        raise ParameterError(
            f"random:{given} is not a number of seeds; expected 1 to {_MOST}, as in random:10."
        )
    return int(given)


def _factor(given: str) -> float:
    try:
        factor = float(given or 1)
    except ValueError:
        factor = math.nan
    if not math.isfinite(factor):
        raise ParameterError(
            f"diffmean:{given} is not a factor; expected a number, as in diffmean:1.5."
        )
    return factor


def _diffmean(tested: ModelUnderTest, stats: Stats | str | None, factor: float) -> NeuronSet:
    neurons = tested.neurons
    method = detector(DIFFMEAN, factor=factor)
    if stats is None:
        texts = tested.data.calibration()
        if texts is None:
            raise StatsError(
                "The control 'diffmean' needs statistics of the model: give the folder of "
                "'neuronsteer collect MODEL --texts … --method diffmean' (--stats), or texts of "
                "every label (--data texts=FOLDER), whose first part it reads."
            )
        few = {label: some[:_TEXTS] for label, some in texts.items() if label in neurons.labels}
        loaded = collect(tested.model, tested.tokenizer, few, needs=method.needs, progress=False)
    else:
        loaded = Stats.load(stats) if isinstance(stats, str) else stats
    there = [label for label in neurons.labels if label in loaded.labels]
    if len(there) < 2:
        raise StatsError(
            f"The statistics for 'diffmean' have the labels {', '.join(loaded.labels)}, of which "
            f"the set has {', '.join(there) or 'none'}; two are needed."
        )
    return detect(loaded.only(*there), method)
