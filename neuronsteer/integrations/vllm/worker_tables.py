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

from ...errors import HookError, MismatchError
from .compiled_labels import Move
from .layers import Site
from .request_schedule import IDENTITY, MAX_STEPS, Plan
from .tokens import Tokens

#: Beyond every position: an unused switch point, or the period of a schedule without one.
_NEVER = 1 << 40
_WIDTH = MAX_STEPS + 1  # the prompt is a step of its own


class Bank:
    """The tables of one worker and the requests that read them.

    Args:
        sites: The steered layers of this worker.
        tokens: What their hooks read.
        capacity: How many labels fit.
        requests: How many requests a batch holds.
    """

    def __init__(
        self, sites: Mapping[int, Site], tokens: Tokens, capacity: int, requests: int
    ) -> None:
        self._sites = dict(sites)
        self.tokens = tokens
        self._device = tokens.rows.device
        self._rows: dict[str, int] = {IDENTITY: 0}
        self._free = list(range(capacity, 0, -1))
        self._plans: dict[int, Plan] = {}
        self._dirty = self._filled = False
        # Per request and switch point: where it starts, its row, its strength and ramp. The first
        # one is the prompt, which lies before every start.
        self._starts = self._full(requests, _NEVER)
        self._starts[:, 0] = -_NEVER
        self._wanted = self._full(requests, 0)
        self._strengths = torch.ones(requests * _WIDTH, device=self._device)
        self._ramps = self._full(requests, 1)
        self._origins = torch.zeros(requests, dtype=torch.int64, device=self._device)
        self._periods = torch.full_like(self._origins, _NEVER)

    def _full(self, requests: int, value: int) -> Tensor:
        shape = (requests, _WIDTH)
        return torch.full(shape, value, dtype=torch.int64, device=self._device)

    # --- rows -----------------------------------------------------------------------------------

    @property
    def keys(self) -> list[str]:
        """The keys of the rows that are filled."""
        return [key for key in self._rows if key != IDENTITY]

    def load(self, moves: Iterable[Move]) -> None:
        """Fill a row per move; those that are there already are left as they are.

        Raises:
            MismatchError: If a move does not fit the model; nothing is changed then.
        """
        new = [move for move in moves if move.key not in self._rows]
        for move in new:
            for layer, (columns, _, _) in move.layers.items():
                site = self._sites.get(layer)
                if site is None:
                    raise MismatchError(f"The set has neurons in layer {layer}, the model has not.")
                if int(columns.max()) >= site.width:
                    raise MismatchError(
                        f"The set has neuron {int(columns.max())} in layer {layer}, where the "
                        f"model has {site.width} neurons."
                    )
        if len(new) > len(self._free):
            raise MismatchError(f"{len(new)} rows are needed, and {len(self._free)} are free.")
        for move in new:
            row = self._free.pop()
            for layer, site in self._sites.items():
                site.write(row, move.layers.get(layer))
            self._rows[move.key] = row

    def unload(self, keys: Iterable[str]) -> None:
        """Give up rows that no request needs any more."""
        for key in keys:
            row = self._rows.pop(key, 0)
            if row:
                self._free.append(row)

    # --- requests -------------------------------------------------------------------------------

    def assign(self, slot: int, plan: Plan | None) -> None:
        """Say what the request in a place of the batch wants; `None` leaves it alone."""
        if plan is None:
            if self._plans.pop(slot, None) is None:
                return
            self._put(slot, *self._columns([], []), 0, _NEVER)
        else:
            missing = plan.keys - self._rows.keys()
            if missing:
                # Going on would answer this request unsteered without anybody noticing.
                raise HookError(
                    f"A request asks for rows {sorted(missing)} that this worker does not have. "
                    "The neuron set changed on disk between the start of the server's processes; "
                    "restart it."
                )
            self._plans[slot] = plan
            before = plan.steps[0] if plan.prompt else None
            prompt = (
                -_NEVER,
                self._rows[before.key] if before else 0,
                before.strength / before.ramp if before else 1.0,
                1,
            )
            steps = [
                (step.start, self._rows[step.key], step.strength, step.ramp) for step in plan.steps
            ]
            self._put(slot, *self._columns([prompt], steps), plan.origin, plan.repeat or _NEVER)
        self.tokens.steering = bool(self._plans)
        self.tokens.weighted = any(each.weighted for each in self._plans.values())

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
    ) -> None:
        self._starts[slot] = torch.from_numpy(starts)
        self._wanted[slot] = torch.from_numpy(rows)
        self._ramps[slot] = torch.from_numpy(ramps)
        self._strengths[slot * _WIDTH : (slot + 1) * _WIDTH] = torch.from_numpy(strengths)
        self._origins[slot] = origin
        self._periods[slot] = period

    # --- steps ----------------------------------------------------------------------------------

    def fill(self, slots: Tensor, positions: Tensor, padded: int) -> None:
        """Say what acts on each token of the next forward pass.

        Args:
            slots: Per token, the place of its request.
            positions: Per token, its position in the sequence.
            padded: Length of the batch with padding, whose outputs nobody reads.
        """
        tokens = self.tokens
        count = slots.shape[0]
        since = positions - self._origins[slots]
        # A schedule that repeats starts over; before token 0 there is only the prompt.
        inside = torch.where(since < 0, since, since.remainder(self._periods[slots]))
        step = (inside[:, None] >= self._starts[slots]).sum(1) - 1
        place = slots * _WIDTH + step
        tokens.rows[:count] = self._wanted.view(-1)[place]
        if padded > count:
            tokens.rows[count:padded] = 0
        if tokens.weighted:
            ramp = self._ramps.view(-1)[place]
            done = (inside - self._starts.view(-1)[place] + 1).minimum(ramp)
            tokens.strengths[:count] = self._strengths[place] * (done / ramp)
        elif self._dirty:
            tokens.strengths.fill_(1)
        self._dirty = tokens.weighted
        self._filled = True

    def rest(self) -> None:
        """Let nothing act in the next forward pass: no request wants anything."""
        if self._filled:
            self.tokens.rows.zero_()
            self._filled = False
