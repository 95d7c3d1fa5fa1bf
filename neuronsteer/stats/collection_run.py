"""One collection from start to end: labels, windows, batches, checkpoints, the final reduction."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import torch
from torch import Tensor

from ..errors import StatsError, TextError
from ..models import Anatomy
from ..models.readonly_hooks import HookCalls
from .activation_collector import ROUTED, ActivationCollector
from .batches import Batch, BatchPlan
from .checkpoint import CollectionCheckpoint, Position
from .distributed import Processes
from .forward import BatchRunner, evaluating
from .needs import Need
from .progress import OnProgress, Progress, reporting
from .texts import Source
from .tokens import RowReader, Tally

log = logging.getLogger(__name__)

#: What is known about a finished label besides tensors.
Facts = dict[str, Any]

# Beside the totals: which row of a label each per-text result belongs to.
_ORDER = Need("order", "texts")


class CollectionRun:
    """Collects every label in turn.

    Args:
        anatomy: The model.
        collector: What is collected from it.
        reader: Turns texts into rows.
        plan: Turns rows into batches.
        sources: The texts.
        processes: The processes.
        device: Where the model takes its input.
        checkpoint: Where the state is kept.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        collector: ActivationCollector,
        reader: RowReader,
        plan: BatchPlan,
        sources: tuple[Source, ...],
        processes: Processes,
        device: torch.device,
        checkpoint: CollectionCheckpoint | None,
    ) -> None:
        self.anatomy = anatomy
        self.collector = collector
        self.reader = reader
        self.plan = plan
        self.sources = sources
        self.processes = processes
        self.checkpoint = checkpoint
        self._runner = BatchRunner(anatomy, collector, device)
        self._tokens = 0
        # What the totals hold: everything up to a position, from these rows of its label.
        self._here = Position()
        self._order: list[int] = []
        # Whether the totals, the rows and the position belong together at this very moment.
        self._consistent = False

    def collect(self, resume: bool, progress: bool | OnProgress) -> dict[str, Any]:
        """Return the fields of `Stats` that come from running the model.

        Raises:
            TextError: If a label has no token that counts.
        """
        done: list[tuple[Facts, dict[Need, Tensor]]] = []
        error: BaseException | None = None
        try:
            with (
                reporting(progress, self.processes.rank == 0) as report,
                evaluating(self.anatomy.root),
                self.collector.mode(),
                self.collector.reading() as hooks,
            ):
                self._labels(resume, report, hooks, done)
        except KeyboardInterrupt:
            self._write_checkpoint()
            raise
        except Exception as found:
            error = found
        # Every process gets here, so that a failed one does not leave the others waiting.
        self.processes.raise_together(error)
        return self._reduce(done)

    def _labels(
        self,
        resume: bool,
        report: OnProgress,
        hooks: HookCalls,
        done: list[tuple[Facts, dict[Need, Tensor]]],
    ) -> None:
        here, tensors = Position(), {}
        if self.checkpoint is not None:
            found = self.checkpoint.read() if resume else None
            if found is not None:
                here, tensors = found
                log.info("Resuming at label %d, window %d.", here.label, here.window)
            else:
                self.checkpoint.remove()
            for label in range(here.label):
                facts, finished = self.checkpoint.read_finished(label)
                done.append((facts, {Need.parse(name): value for name, value in finished.items()}))
        began = time.monotonic()
        self._restore(here, tensors)
        while self._here.label < len(self.sources):
            facts = self._label(report, hooks, began)
            totals = self._state()
            done.append((facts, totals))
            if self.checkpoint is not None:
                named = {str(need): total for need, total in totals.items()}
                self.checkpoint.finish(self._here, facts, named)
            self._restore(self._here.next_label(), {})

    def _restore(self, here: Position, tensors: dict[str, Tensor]) -> None:
        """Begin where a checkpoint or the label before ended."""
        restored = {Need.parse(name): value for name, value in tensors.items()}
        order = restored.pop(_ORDER, None)
        self._consistent = False
        self.collector.load(restored)
        self._order = [] if order is None else order.tolist()
        self._here = here
        self._consistent = True
        runner = self._runner
        runner.cap, runner.aligned, runner.splits = here.cap, here.aligned, here.splits

    def _commit(self, batch: Batch, here: Position) -> None:
        """Add a batch that has run to the totals, and move on to the position behind it.

        To whoever looks at `_consistent` this is one step: an interrupt in the middle of it leaves
        totals that belong to no position, which must not be saved.
        """
        self._consistent = False
        self.collector.commit()
        self._order += [row.text for row in batch.rows]
        self._here = here
        self._consistent = True

    def _label(self, report: OnProgress, hooks: HookCalls, began: float) -> Facts:
        """Run what is left of the label that the position is in."""
        start = self._here
        source, tally = self.sources[start.label], Tally()
        rows = self.reader.read(source.read(), source.label, tally)
        number = -1
        for window, members in enumerate(self.plan.windows(rows)):
            batches = self.plan.batches(members)
            seen = tally.digest.hexdigest()
            if window == start.window and start.digest and start.digest != seen:
                raise StatsError(
                    f"The checkpoint cannot be resumed: the texts of label {source.label!r} are "
                    f"not those that the run was started with."
                )
            for position, batch in enumerate(batches):
                number += 1
                if (window, position) < (start.window, start.batch):
                    continue
                if not self.processes.owns(number):
                    continue
                self._runner.run(batch, hooks)
                here = Position(
                    label=start.label,
                    window=window,
                    batch=position + 1,
                    digest=seen,
                    tokens=self._here.tokens + batch.tokens,
                    cap=self._runner.cap,
                    aligned=self._runner.aligned,
                    splits=self._runner.splits,
                )
                self._commit(batch, here)
                self._tokens += batch.tokens
                report(self._event(tally, batch, began))
                if self.checkpoint is not None and self.checkpoint.due():
                    self._write_checkpoint()
        if not tally.tokens:
            raise TextError(
                f"Label {source.label!r}: none of the tokens in its {tally.texts} texts "
                f"({source.name}) counts. Check the text and the token policy."
            )
        if tally.empty:
            log.warning(
                "Label %r: %d of %d texts have no token that counts.",
                source.label,
                tally.empty,
                tally.texts,
            )
        return {
            "corpus": source.name,
            "tokens": tally.tokens,
            "texts": tally.texts if self.reader.policy.packed else tally.rows,
            "rows": tally.rows,
            "sha256": tally.digest.hexdigest(),
        }

    def _state(self) -> dict[Need, Tensor]:
        return {
            **self.collector.totals(),
            _ORDER: torch.tensor(self._order, dtype=torch.int64),
        }

    def _write_checkpoint(self) -> None:
        if self.checkpoint is not None and self._consistent:
            tensors = {str(need): value for need, value in self._state().items()}
            self.checkpoint.write(self._here, tensors)

    def _event(self, tally: Tally, batch: Batch, began: float) -> Progress:
        here, policy = self._here, self.reader.policy
        source = self.sources[here.label]
        part: float | None = None
        if policy.max_tokens is not None:
            part = min(1.0, here.tokens * self.processes.size / policy.max_tokens)
        size = source.size
        if size and tally.tokens:
            # How much of the source was read, less what was read ahead.
            ahead = here.tokens * self.processes.size / tally.tokens
            part = max(part or 0.0, min(1.0, ahead) * tally.seen / size)
        return Progress(
            source.label,
            here.label,
            len(self.sources),
            self._tokens * self.processes.size,
            time.monotonic() - began,
            None if part is None else (here.label + part) / len(self.sources),
            len(batch.rows),
        )

    def _reduce(self, done: list[tuple[Facts, dict[Need, Tensor]]]) -> dict[str, Any]:
        facts = {s.label: found for s, (found, _) in zip(self.sources, done, strict=True)}
        self.processes.require_equal("texts", json.dumps(facts, sort_keys=True))
        arrays: dict[Need, Tensor] = {}
        for need, accumulator in self.collector.accumulators.items():
            # Taken out one by one, so that nothing is in memory twice for long.
            stacked = torch.stack([totals.pop(need) for _, totals in done])
            arrays[need] = self.processes.reduce(stacked, accumulator.reducer.merging)
            _check_finite(need, arrays[need])
        rows: dict[Need, dict[str, Tensor]] = {}
        for need in self.collector.text_rows:
            rows[need] = {}
            for source, (found, totals) in zip(self.sources, done, strict=True):
                shape = (found["rows"], *totals[need].shape[1:])
                full = torch.zeros(shape)
                full[totals[_ORDER]] = totals[need]
                rows[need][source.label] = self.processes.reduce(full, "sum")
        routed = {need.site: arrays.pop(need) for need in list(arrays) if need.reducer == ROUTED}
        return {
            "tokens": {label: found["tokens"] for label, found in facts.items()},
            "texts": {label: found["texts"] for label, found in facts.items()},
            "arrays": arrays,
            "rows": rows,
            "routed": routed,
            "calibration": {
                label: {name: value for name, value in found.items() if name != "rows"}
                for label, found in facts.items()
            },
            "out_of_memory": self._runner.splits,
        }


def _check_finite(need: Need, array: Tensor) -> None:
    """Raise if a sum is not a number: half precision overflows beyond 65504."""
    if need.reducer not in ("sum", "sumsq", "last"):
        return
    bad = (~torch.isfinite(array)).nonzero()
    if len(bad):
        layer, index = bad[0, 1].item(), bad[0, 2].item()
        raise StatsError(
            f"{need} is not finite at layer {layer}, neuron {index} ({len(bad)} values in all): "
            f"the model overflows. Load it in bfloat16 or float32."
        )
