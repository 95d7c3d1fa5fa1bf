"""A worker's tables: which row acts on which token of the batch. Torch only, no vLLM.

Everything the hooks read lies in tensors whose addresses never change, so that it can be traced by
the compiler and captured in a CUDA graph: the affine tables of every layer, and per token of the
batch a row and a strength. Per request there are switch points by position; they are looked up with
tensor operations, because on a GPU only the device knows the positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from ...errors import HookError
from .compiled_labels import WorkerSets
from .layers import SteeredLayer, TokenRows
from .request_schedule import IDENTITY, MAX_STEPS, TOKEN_LIMIT, RequestSchedule

#: Beyond every position: an unused switch point, or the period of a schedule without one.
_NEVER = TOKEN_LIMIT
_WIDTH = MAX_STEPS + 1  # the prompt is a step of its own


class WorkerTables:
    """The tables of one worker and the requests that read them.

    Args:
        layers: The steered layers of this worker.
        tokens: What their hooks read.
        capacity: How many rows fit.
        requests: How many requests a batch holds.
        sets: What rows are compiled of.
    """

    def __init__(
        self,
        layers: Mapping[int, SteeredLayer],
        tokens: TokenRows,
        capacity: int,
        requests: int,
        sets: WorkerSets,
    ) -> None:
        self._layers = dict(layers)
        self.sets = sets
        self.tokens = tokens
        self._device = tokens.rows.device
        # The row that was used last is at the end.
        self._rows: dict[str, int] = {IDENTITY: 0}
        self._free = list(range(capacity, 0, -1))
        self._schedules: dict[int, RequestSchedule] = {}
        self._rows_written = self._strengths_written = False
        # Per request and switch point: where it starts, its row, its strength and ramp. The first
        # one is the prompt, which lies before every start.
        self._starts = self._full(requests, _NEVER)
        self._starts[:, 0] = -_NEVER
        self._step_rows = self._full(requests, 0)
        self._step_strengths = torch.ones(requests * _WIDTH, device=self._device)
        self._step_ramps = self._full(requests, 1)
        self._origins = torch.zeros(requests, dtype=torch.int64, device=self._device)
        self._periods = torch.full_like(self._origins, _NEVER)
        self._agains = torch.zeros_like(self._origins)

    def _full(self, requests: int, value: int) -> Tensor:
        shape = (requests, _WIDTH)
        return torch.full(shape, value, dtype=torch.int64, device=self._device)

    # --- rows -----------------------------------------------------------------------------------

    @property
    def keys(self) -> list[str]:
        """The keys of the rows that are filled."""
        return [key for key in self._rows if key != IDENTITY]

    def _fill_rows(self, keys: Iterable[str]) -> None:
        """Fill the rows that are not there yet; those that no request needs make room."""
        keys = sorted(keys)
        needed = {key for each in self._schedules.values() for key in each.keys}.union(keys)
        for key in keys:
            row = self._rows.pop(key, None)
            if row is None:
                compiled = self.sets.compile(key)
                row = self._free.pop() if self._free else self._take(needed)
                for number, layer in self._layers.items():
                    layer.write(row, compiled.get(number))
            self._rows[key] = row

    def _take(self, needed: set[str]) -> int:
        idle = next((key for key in self._rows if key != IDENTITY and key not in needed), None)
        if idle is None:  # admission counts the rows of unfinished requests
            raise HookError(
                f"A request needs more rows than the {len(self._rows) - 1} that this worker's "
                "tables hold. Start the server with a larger 'capacity'."
            )
        return self._rows.pop(idle)

    # --- requests -------------------------------------------------------------------------------

    def assign(self, slot: int, schedule: RequestSchedule | None) -> None:
        """Set the schedule of the request in a slot of the batch; `None` leaves it unsteered."""
        if schedule is None:
            if self._schedules.pop(slot, None) is None:
                return
            self._put(slot, *self._columns([], []), 0, _NEVER, 0)
        else:
            self._schedules.pop(slot, None)
            self._fill_rows(schedule.keys)
            self._schedules[slot] = schedule
            before = schedule.steps[0] if schedule.prompt else None
            prompt = (
                -_NEVER,
                self._rows[before.key] if before else 0,
                before.strength / before.ramp if before else 1.0,
                1,
            )
            steps = [
                (step.start, self._rows[step.key], step.strength, step.ramp)
                for step in schedule.steps
            ]
            columns = self._columns([prompt], steps)
            self._put(slot, *columns, schedule.origin, schedule.repeat or _NEVER, schedule.again)
        self.tokens.steering = bool(self._schedules)
        self.tokens.weighted = any(each.weighted for each in self._schedules.values())

    def _columns(
        self, prompt: list[tuple[int, int, float, int]], steps: list[tuple[int, int, float, int]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        numbers = np.array([[-_NEVER], [0], [1]], dtype=np.int64).repeat(_WIDTH, 1)
        numbers[0, 1:] = _NEVER
        strengths = np.ones(_WIDTH, dtype=np.float32)
        for i, (start, row, strength, ramp) in enumerate([*prompt, *steps]):
            numbers[:, i] = start, row, ramp
            strengths[i] = strength
        return numbers[0], numbers[1], numbers[2], strengths

    def _put(
        self,
        slot: int,
        starts: np.ndarray,
        rows: np.ndarray,
        ramps: np.ndarray,
        strengths: np.ndarray,
        origin: int,
        period: int,
        again: int,
    ) -> None:
        self._starts[slot] = torch.from_numpy(starts)
        self._step_rows[slot] = torch.from_numpy(rows)
        self._step_ramps[slot] = torch.from_numpy(ramps)
        self._step_strengths[slot * _WIDTH : (slot + 1) * _WIDTH] = torch.from_numpy(strengths)
        self._origins[slot] = origin
        self._periods[slot] = period
        self._agains[slot] = again

    # --- steps ----------------------------------------------------------------------------------

    def fill(self, slots: Tensor, positions: Tensor, padded: int) -> None:
        """Write which row acts on each token of the next forward pass.

        Args:
            slots: Per token, the slot of its request.
            positions: Per token, its position in the sequence.
            padded: Length of the batch with padding, whose outputs are not used.
        """
        tokens = self.tokens
        count = slots.shape[0]
        since = positions - self._origins[slots]
        # What repeats starts over; before token 0 there is only the prompt.
        again = self._agains[slots]
        inside = again + (since - again).remainder(self._periods[slots])
        inside = torch.where(since < again, since, inside)
        step = (inside[:, None] >= self._starts[slots]).sum(1) - 1
        at = slots * _WIDTH + step
        tokens.rows[:count] = self._step_rows.view(-1)[at]
        if padded > count:
            tokens.rows[count:padded] = 0
        if tokens.weighted:
            ramp = self._step_ramps.view(-1)[at]
            done = (inside - self._starts.view(-1)[at] + 1).minimum(ramp)
            tokens.strengths[:count] = self._step_strengths[at] * (done / ramp)
        elif self._strengths_written:
            tokens.strengths.fill_(1)
        self._strengths_written = tokens.weighted
        self._rows_written = True

    def clear(self) -> None:
        """Steer nothing in the next forward pass, because no request asks for it."""
        if self._rows_written:
            self.tokens.rows.zero_()
            self._rows_written = False
