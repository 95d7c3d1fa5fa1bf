"""Statistics of neurons per label: `collect` them from a model, keep them as `Stats`.

What is kept of the values is up to reducers (folder `reducers/`), which tokens count is up to a
`TokenPolicy`, and methods say what they need as a tuple of `Need`.
"""

from .collect import collect
from .needs import DEFAULT_NEEDS, Need
from .policy import TokenPolicy
from .progress import Progress
from .reducers import REDUCERS, Chunk, Reducer
from .store import Stats

__all__ = [
    "DEFAULT_NEEDS",
    "REDUCERS",
    "Chunk",
    "Need",
    "Progress",
    "Reducer",
    "Stats",
    "TokenPolicy",
    "collect",
]
