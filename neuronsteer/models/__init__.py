"""Where the neurons of a model are: layouts per family, hook points per layer.

`inspect(model)` returns the `Anatomy`; `probe(model)` runs one token and tells which hooks fire;
`diagnose(model)` puts both into a report. A model family is one `Layout` row in a file of this
folder, or an entry point of the group `neuronsteer.layouts`.
"""

from .anatomy import Anatomy, inspect
from .diagnose import ProbeResult, diagnose, probe
from .hook_point import SITES, Experts, HookPoint
from .layout import LAYOUTS, Attention, Bias, ExpertLayout, Layout, Part

__all__ = [
    "LAYOUTS",
    "SITES",
    "Anatomy",
    "Attention",
    "Bias",
    "ExpertLayout",
    "Experts",
    "HookPoint",
    "Layout",
    "Part",
    "ProbeResult",
    "diagnose",
    "inspect",
    "probe",
]
