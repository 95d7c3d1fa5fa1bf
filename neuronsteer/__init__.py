"""Find the neurons that decide which language a model speaks, share them, and steer with them.

Every public name is loaded when it is first used, so that `import neuronsteer` and
`neuronsteer --help` stay quick and do not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .integrations import peft_hook

if TYPE_CHECKING:
    from . import detectors
    from .analysis import analyze
    from .detectors import detect
    from .enhancement import enhance
    from .evaluation import metrics
    from .evaluation.experiments.run import evaluate
    from .evaluation.reports import Report
    from .evaluation.tuning import tune
    from .exports import bake, export
    from .integrations.peft import NeuronSteerConfig
    from .neuron_set import NeuronSet
    from .operations import operation
    from .stats import Stats
    from .stats.collect import collect
    from .steering.keeping.keeper import keep
    from .steering.label_sums import arith
    from .steering.schedule import Condition, Schedule
    from .steering.steerer import Steerer, attach
    from .steering.text_language import identify

    __version__: str
    """The installed version, e.g. `"0.1.0"`."""

# Public name -> the module it lives in. A module that is public as a whole ends in its own name.
_MODULES = {
    "Condition": "steering.schedule",
    "NeuronSet": "neuron_set",
    "NeuronSteerConfig": "integrations.peft",
    "Report": "evaluation.reports",
    "Schedule": "steering.schedule",
    "Stats": "stats",
    "Steerer": "steering.steerer",
    "analyze": "analysis",
    "arith": "steering.label_sums",
    "attach": "steering.steerer",
    "bake": "exports",
    "collect": "stats",
    "detect": "detectors",
    "detectors": "detectors",
    "enhance": "enhancement",
    "evaluate": "evaluation.experiments.run",
    "export": "exports",
    "identify": "steering.text_language",
    "keep": "steering.keeping.keeper",
    "metrics": "evaluation.metrics",
    "operation": "operations",
    "tune": "evaluation.tuning",
}

__all__ = [
    "Condition",
    "NeuronSet",
    "NeuronSteerConfig",
    "Report",
    "Schedule",
    "Stats",
    "Steerer",
    "__version__",
    "analyze",
    "arith",
    "attach",
    "bake",
    "collect",
    "detect",
    "detectors",
    "enhance",
    "evaluate",
    "export",
    "identify",
    "keep",
    "metrics",
    "operation",
    "tune",
]

peft_hook.install()


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    try:
        where = _MODULES[name]
    except KeyError:
        from .errors import did_you_mean

        raise AttributeError(
            f"module 'neuronsteer' has no attribute {name!r}.{did_you_mean(name, __all__)}"
        ) from None
    module = importlib.import_module(f"{__name__}.{where}")
    value = module if where.rpartition(".")[2] == name else getattr(module, name)
    # Kept, so that the next use is an ordinary attribute.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:  # used from a source tree that was never installed
        return "0+unknown"
