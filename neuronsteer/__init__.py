"""Find the neurons that decide which language a model speaks, share them, and steer with them.

Every public name is loaded when it is first used, so that `import neuronsteer` and
`neuronsteer --help` stay quick and do not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .integrations import peft_hook

if TYPE_CHECKING:
    from . import detectors, metrics, plots
    from .analysis import analyze
    from .arithmetic import arith
    from .comparison import compare
    from .detectors import detect
    from .enhancement import Enhanced, enhance
    from .experiments.run import evaluate
    from .exports import bake, export
    from .integrations.peft import NeuronSteerConfig
    from .neuronset import NeuronSet
    from .operations import operation
    from .reports import Report
    from .schedule import Condition, Schedule
    from .stats import Stats, collect, load_stats
    from .steerer import Steerer, attach

    __version__: str

# Public name -> the room it lives in. A room that is public as a whole maps to itself.
_ROOMS = {
    "Condition": "schedule",
    "Enhanced": "enhancement",
    "NeuronSet": "neuronset",
    "NeuronSteerConfig": "integrations.peft",
    "Report": "reports",
    "Schedule": "schedule",
    "Stats": "stats",
    "Steerer": "steerer",
    "analyze": "analysis",
    "arith": "arithmetic",
    "attach": "steerer",
    "bake": "exports",
    "collect": "stats",
    "compare": "comparison",
    "detect": "detectors",
    "detectors": "detectors",
    "enhance": "enhancement",
    "evaluate": "experiments.run",
    "export": "exports",
    "load_stats": "stats",
    "metrics": "metrics",
    "operation": "operations",
    "plots": "plots",
}

__all__ = [
    "Condition",
    "Enhanced",
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
    "compare",
    "detect",
    "detectors",
    "enhance",
    "evaluate",
    "export",
    "load_stats",
    "metrics",
    "operation",
    "plots",
]

peft_hook.install()


def __getattr__(name: str) -> object:
    if name == "__version__":
        return _version()
    try:
        room = _ROOMS[name]
    except KeyError:
        from .errors import did_you_mean

        raise AttributeError(
            f"module 'neuronsteer' has no attribute {name!r}.{did_you_mean(name, __all__)}"
        ) from None
    module = importlib.import_module(f"{__name__}.{room}")
    value = module if name == room else getattr(module, name)
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
