"""Several processes: which batches are whose, and how totals are put together."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor

from ..errors import StatsError

# Processes wait for the slowest one at the very end, which may be hours later.
_TIMEOUT = timedelta(days=2)


class Processes:
    """The processes that collect together; a single one needs no communication.

    Args:
        rank: Position of this process.
        size: Number of processes.
        group: Process group that can send CPU tensors.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank = rank
        self.size = size
        self._group = group

    def owns(self, position: int) -> bool:
        """Return whether the batch at a position is this process's."""
        return position % self.size == self.rank

    def reduce(self, tensor: Tensor, merging: str) -> Tensor:
        """Return the sum, maximum or minimum over the processes, in every process."""
        if self.size > 1:
            how = getattr(dist.ReduceOp, merging.upper())
            tensor = tensor.contiguous()
            dist.all_reduce(tensor, op=how, group=self._group)
        return tensor

    def require_equal(self, name: str, value: str) -> None:
        """Raise in every process if they do not hold the same value.

        Raises:
            StatsError: Naming what differs.
        """
        if self.size == 1:
            return
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._group)
        if len(set(values)) > 1:
            raise StatsError(
                f"The {self.size} processes differ in {name}. Every process must be given the same "
                f"model, texts and options; shuffled or endless streams need a fixed seed."
            )

    def raise_together(self, error: BaseException | None) -> None:
        """Raise if any process failed; none is left waiting for it.

        Raises:
            StatsError: If another process failed.
        """
        if self.size > 1:
            messages: list[Any] = [None] * self.size
            mine = None if error is None else f"{type(error).__name__}: {error}"
            dist.all_gather_object(messages, mine, group=self._group)
            for rank, message in enumerate(messages):
                if message is not None and error is None:
                    raise StatsError(f"Process {rank} of {self.size} failed: {message}")
        if error is not None:
            raise error


@contextmanager
def started_processes() -> Generator[Processes, None, None]:
    """Give the processes that torchrun or accelerate started; just this one otherwise."""
    if not dist.is_available():
        yield Processes()
    elif dist.is_initialized():
        size = dist.get_world_size()
        if size == 1:
            yield Processes()
            return
        extra: Any = None if "gloo" in dist.get_backend() else dist.new_group(backend="gloo")
        try:
            yield Processes(dist.get_rank(), size, extra)
        finally:
            if extra is not None:
                dist.destroy_process_group(extra)
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        dist.init_process_group("gloo", timeout=_TIMEOUT)
        try:
            yield Processes(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()
    else:
        yield Processes()


def tensor_parallel(model: Any) -> bool:
    """Return whether the processes share one model instead of each having its own."""
    size = getattr(model, "tp_size", None)
    return isinstance(size, int) and size > 1
