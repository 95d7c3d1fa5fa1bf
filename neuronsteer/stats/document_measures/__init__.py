"""Document measures: what a unit did for a whole document, measured while the model reads it.

A reducer folds single values; a document measure gives it one number per document and unit instead:
how much a layer's output would change without the unit, or how relevant it was to the model's
predictions. One file per measure, found by scanning. A reducer names its measure
(`Reducer.document_measure`) and folds the numbers into accumulators of fixed size, so that memory
does not grow with the number of documents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import ClassVar

from torch import Tensor

from ...errors import LayoutError
from ...models import Anatomy, HookPoint
from ...models.readonly_hooks import Callback
from ...registry import Registry
from ..accumulators import CurrentBatch

#: Takes a layer and the numbers `[documents, width]` of the batch's documents.
Emit = Callable[[int, Tensor], None]


class DocumentMeasure(ABC):
    """Measures the documents of each batch at one site.

    Args:
        anatomy: The model.
        site: Where the units are.

    Raises:
        LayoutError: If it cannot be measured in this model.
    """

    name: ClassVar[str] = ""
    #: Whether it needs gradients, so that the decoder runs with them and `finish` is called.
    gradient: ClassVar[bool] = False

    def __init__(self, anatomy: Anatomy, site: str) -> None:
        self.anatomy = anatomy
        self.site = site
        self.points = anatomy.hook_points(site)
        #: Returns the batch that is being run.
        self.batch: Callable[[], CurrentBatch] = CurrentBatch
        #: Takes the numbers of all texts of the batch, for one layer after the other.
        self.emit: Emit = lambda _layer, _scores: None
        sparse = [point for point in self.points if point.experts is not None]
        if sparse:
            raise LayoutError(
                f"{self.name!r} is not available at {site!r} of {anatomy.model_type!r}: every "
                f"token sees other experts. Choose another site."
            )

    @abstractmethod
    def callbacks(self) -> list[tuple[HookPoint, Callback]]:
        """Return what has to be read, with callbacks that end in calls of `emit`."""

    @contextmanager
    def prepared(self) -> Generator[None, None, None]:
        """Change what the model needs to be measured, inside the block only."""
        yield

    def finish(self, hidden: Tensor) -> None:  # noqa: B027 - most have nothing to do
        """Take the decoder's output `[rows, length, hidden]` at the end of a forward pass."""

    def discard(self) -> None:  # noqa: B027
        """Forget the running batch."""

    def check_measured(self) -> None:  # noqa: B027
        """Raise if the first forward pass was not measured as it should be."""


DOCUMENT_MEASURES: Registry[type[DocumentMeasure]] = Registry(
    "document measure", "neuronsteer.stats.document_measures", "document_measures"
)


def documents(values: Tensor, batch: CurrentBatch) -> tuple[Tensor, Tensor]:
    """Return values `[texts, length, width]` in float32 and weights `[texts, length]`."""
    weight = batch.weight_on(values.device)
    shaped = values.detach().reshape(*weight.shape, -1)[: batch.texts].float()
    return shaped, weight[: batch.texts]
