"""Where the neurons of a model are: layouts per family, taps per layer.

`inspect(model)` returns the `Anatomy`; `probe(model)` runs one token and tells which hooks fire;
`diagnose(model)` puts both into a report. A model family is one `Layout` row in a file of this
folder, or an entry point of the group `neuronsteer.layouts`.
"""

from .anatomy import Anatomy
from .diagnose import diagnose
from .hook_point import SITES, Experts, Tap
from .inspection import inspect, probe
from .layout import LAYOUTS, Attention, Bias, ExpertLayout, Layout, Part
from .probe import ProbeResult

__all__ = [
    "LAYOUTS",
    "SITES",
    "Anatomy",
    "Attention",
    "Bias",
    "ExpertLayout",
    "Experts",
    "Layout",
    "Part",
    "ProbeResult",
    "Tap",
    "diagnose",
    "inspect",
    "probe",
]
