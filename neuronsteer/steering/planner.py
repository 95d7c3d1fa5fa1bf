"""From tracks to plans: which table row every position of a forward pass gets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ParameterError, ScheduleError
from .layer_hooks import MIXED, Plan
from .timeline import Run, Track

_REMEMBERED = 64


class Planner:
    """Makes plans; remembers index tensors, because decoding asks for the same ones again."""

    def __init__(self) -> None:
        self._indices: OrderedDict[tuple[object, ...], Plan] = OrderedDict()

    def plan(
        self,
        tracks: Sequence[Track],
        first: int,
        batch: int,
        length: int,
        ids: Tensor | None,
        prompt: int,
    ) -> Plan:
        """Return the plan for positions that predict tokens `first` … `first + length - 1`.

        Args:
            tracks: One for the whole batch, or one per row of the batch as it was given. Beams and
                returned sequences repeat each row in place, so they share its track.
            first: Generated token that the first position predicts; negative in the prompt.
            batch: Rows now.
            length: Positions per row.
            ids: The token sequence `[batch, columns]`, for schedules that wait for text.
            prompt: Columns of the prompt in `ids`.
        """
        if len(tracks) == 1 and not tracks[0].needs_tokens:
            row = tracks[0].constant_row
            if row is not None:
                return Plan(row, batch, length, steered=batch * length if row else 0)
            return self._uniform(tracks[0].runs(first, first + length), first, batch, length)
        if batch % len(tracks):
            raise ParameterError(
                f"{len(tracks)} labels were given, one per row, but the batch has {batch} rows. "
                "Give one label, or as many as there are prompts."
            )
        repeat = batch // len(tracks)
        rows: list[list[Run]] = []
        for row in range(batch):
            track = tracks[row // repeat]
            tokens: list[int] = []
            if track.needs_tokens:
                if ids is None:
                    raise ScheduleError(
                        "A schedule that waits for text needs the token ids of the whole sequence, "
                        "which this call does not have. Use model.generate() with input_ids."
                    )
                tokens = ids[row, prompt:].tolist()
            rows.append(track.runs(first, first + length, tokens))
        return self._per_row(rows, first, batch, length)

    def _uniform(self, runs: list[Run], first: int, batch: int, length: int) -> Plan:
        if len(runs) == 1:
            row = runs[0][2]
            return Plan(row, batch, length, steered=batch * length if row else 0)
        local = [(start - first, end - first, row) for start, end, row in runs]
        steered = batch * sum(end - start for start, end, row in local if row)
        return Plan(MIXED, batch, length, runs=local, steered=steered)

    def _per_row(self, rows: list[list[Run]], first: int, batch: int, length: int) -> Plan:
        local = tuple(tuple((a - first, b - first, row) for a, b, row in runs) for runs in rows)
        key = (batch, length, local)
        known = self._indices.get(key)
        if known is None:
            index = torch.zeros(batch, length, dtype=torch.int64)
            for row, runs in enumerate(local):
                for start, end, table_row in runs:
                    index[row, start:end] = table_row
            known = Plan(MIXED, batch, length, index=index, steered=int((index != 0).sum()))
            self._indices[key] = known
            if len(self._indices) > _REMEMBERED:
                self._indices.popitem(last=False)
        else:
            self._indices.move_to_end(key)
        # A plan counts hits per forward pass; the index and its copies on devices are shared. The
        # index is kept where one row would do, so that compiled graphs always see one shape.
        row = (
            local[0][0][2]
            if all(runs == ((0, length, local[0][0][2]),) for runs in local)
            else MIXED
        )
        return Plan(
            row, batch, length, index=known.index, steered=known.steered, copies=known.copies
        )
