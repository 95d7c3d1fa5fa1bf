"""Running batches through the decoder: eval mode, no LM head, out of memory."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

import torch
from torch import nn

from ..errors import ParameterError
from ..models import Anatomy
from ..models.readonly_hooks import HookCalls
from .activation_collector import ActivationCollector
from .batches import Batch

log = logging.getLogger(__name__)


class BatchRunner:
    """Runs batches and collects from them.

    Attributes:
        cap: Most positions per batch, after running out of memory.
        aligned: Whether batches are filled up to a multiple of 32 positions.
        splits: How often memory ran out.
    """

    def __init__(
        self, anatomy: Anatomy, collector: ActivationCollector, device: torch.device
    ) -> None:
        self.cap: int | None = None
        self.aligned = True
        self.splits = 0
        self._collector = collector
        self._decoder = anatomy.decoder()
        self._device = device
        self._checked = False

    def run(self, batch: Batch, hooks: HookCalls) -> None:
        """Run a batch, in pieces if it does not fit; what it adds is pending in the collector then.

        Raises:
            ParameterError: If not even a single row fits.
            HookError: If a module that should be read did not run.
        """
        queue = [batch]
        while queue:
            piece = queue.pop(0)
            size = len(piece.rows) * piece.length
            if self.cap is not None and len(piece.rows) > 1 and size > self.cap:
                queue[:0] = piece.halves()
            elif self._fits(piece, hooks):
                continue
            else:
                # Only here, outside the handler, are the tensors of the failed pass free. What it
                # added cannot be told from what the pieces before it did, so all begin again.
                self._collector.discard()
                self._shrink(piece)
                queue = [batch]

    def _fits(self, batch: Batch, hooks: HookCalls) -> bool:
        ids, weight = batch.tensors(self.aligned)
        self._collector.begin(ids, weight, len(batch.rows))
        try:
            output = self._decoder(input_ids=ids.to(self._device), use_cache=False)
            if self._collector.gradient:
                self._collector.finish(output[0])
            del output
        except (torch.OutOfMemoryError, MemoryError):
            return False
        except RuntimeError as error:
            # What torch raises when the CPU's memory is full.
            if "allocate memory" not in str(error) and "not enough memory" not in str(error):
                raise
            return False
        if not self._checked:
            hooks.require_all()
            self._collector.check_read()
            self._checked = True
        return True

    def _shrink(self, batch: Batch) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        self.splits += 1
        if len(batch.rows) > 1:
            self.cap = max(batch.length, len(batch.rows) * batch.length // 2)
            log.warning("Out of memory; continuing with at most %d tokens per batch.", self.cap)
        elif self.aligned:
            self.aligned = False
            log.warning("Out of memory; continuing without filling batches up.")
        else:
            raise ParameterError(
                f"One text of {batch.length} tokens does not fit into the memory of "
                f"{self._device}. Lower max_length or block_size."
            )


@contextmanager
def evaluating(model: nn.Module) -> Generator[None, None, None]:
    """Put every module into eval mode and back into its own."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        # Not model.train(): some modules may have been frozen in eval mode.
        for module in training:
            module.training = True


def input_device(anatomy: Anatomy) -> torch.device:
    """Return the device that the model takes its input on."""
    weight = anatomy.root.get_input_embeddings().weight
    if isinstance(weight, torch.Tensor) and not weight.is_meta:
        return weight.device
    # Offloaded: accelerate moves the input to where the layer runs.
    hook = getattr(anatomy.root, "_hf_hook", None)
    return torch.device(getattr(hook, "execution_device", None) or "cpu")
