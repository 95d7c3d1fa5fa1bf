"""One run: labels, windows, batches; out of memory; checkpoints; the final reduction."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import StatsError, TextError
from ..models import Anatomy
from ..models.readonly_hooks import Listener
from .activation_collector import ROUTED, Gatherer
from .batches import Batch, BatchPlan
from .checkpoint import Checkpoint, Position
from .distributed import Ranks
from .forward import Forwarder, evaluating
from .needs import Need
from .progress import OnProgress, Progress, reporting
from .texts import Source
from .tokens import RowReader, Tally

log = logging.getLogger(__name__)

#: What is known about a finished label besides tensors.
Facts = dict[str, Any]

# Beside the totals: which row of a label each per-text result belongs to.
_ORDER = Need("order", "texts")


class Run:
    """Collects every label in turn.

    Args:
        anatomy: The model.
        gatherer: What is gathered from it.
        reader: Turns texts into rows.
        plan: Turns rows into batches.
        sources: The texts.
        ranks: The processes.
        device: Where the model takes its input.
        checkpoint: Where the state is kept.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        gatherer: Gatherer,
        reader: RowReader,
        plan: BatchPlan,
        sources: tuple[Source, ...],
        ranks: Ranks,
        device: torch.device,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.anatomy = anatomy
        self.gatherer = gatherer
        self.reader = reader
        self.plan = plan
        self.sources = sources
        self.ranks = ranks
        self.checkpoint = checkpoint
        self._forward = Forwarder(anatomy, gatherer, device)
        self._tokens = 0

    def collect(self, resume: bool, progress: bool | OnProgress) -> dict[str, Any]:
        """Return the fields of `Stats` that come from running the model.

        Raises:
            TextError: If a label has no token that counts.
        """
        done: list[tuple[Facts, dict[Need, Tensor]]] = []
        error: BaseException | None = None
        try:
            with (
                reporting(progress, self.ranks.rank == 0) as report,
                evaluating(self.anatomy.root),
                self.gatherer.mode(),
                self.gatherer.listening() as listener,
            ):
                self._labels(resume, report, listener, done)
        except Exception as found:
            error = found
        # Every process gets here, so that a failed one does not leave the others waiting.
        self.ranks.check(error)
        return self._reduce(done)

    def _labels(
        self,
        resume: bool,
        report: OnProgress,
        listener: Listener,
        done: list[tuple[Facts, dict[Need, Tensor]]],
    ) -> None:
        start, tensors = Position(), {}
        if self.checkpoint is not None:
            found = self.checkpoint.read() if resume else None
            if found is not None:
                start, tensors = found
                log.info("Resuming at label %d, window %d.", start.label, start.window)
            else:
                self.checkpoint.remove()
            for label in range(start.label):
                facts, finished = self.checkpoint.read_finished(label)
                done.append((facts, {_need(name): value for name, value in finished.items()}))
        began = time.monotonic()
        for label in range(start.label, len(self.sources)):
            here = start if label == start.label else Position(label)
            self._restore(here, tensors if label == start.label else {})
            facts = self._label(label, here, report, listener, began)
            totals = self._state()
            done.append((facts, totals))
            if self.checkpoint is not None:
                self.checkpoint.finish(label, facts, {str(n): t for n, t in totals.items()})

    def _restore(self, here: Position, tensors: dict[str, Tensor]) -> None:
        held = {_need(name): value for name, value in tensors.items()}
        order = held.pop(_ORDER, None)
        self.gatherer.load(held)
        forward = self._forward
        forward.order = [] if order is None else order.tolist()
        forward.cap = here.cap or forward.cap
        forward.aligned = forward.aligned and here.aligned

    def _label(
        self, label: int, start: Position, report: OnProgress, listener: Listener, began: float
    ) -> Facts:
        source, tally = self.sources[label], Tally()
        rows = self.reader.read(source.read(), source.label, tally)
        here, dealt = replace(start, label=label), -1
        try:
            for window, held in enumerate(self.plan.windows(rows)):
                batches = self.plan.batches(held)
                seen = tally.digest.hexdigest()
                if window == start.window and start.digest and start.digest != seen:
                    raise StatsError(
                        f"The checkpoint cannot be resumed: the texts of label {source.label!r} "
                        f"are not those that the run was started with."
                    )
                for position, batch in enumerate(batches):
                    dealt += 1
                    if (window, position) < (start.window, start.batch):
                        continue
                    if not self.ranks.mine(dealt):
                        continue
                    self._forward.run(batch, listener)
                    self._tokens += batch.tokens
                    here = Position(
                        label,
                        window,
                        position + 1,
                        seen,
                        here.tokens + batch.tokens,
                        self._forward.cap,
                        self._forward.aligned,
                    )
                    report(self._event(label, tally, here, batch, began))
                    if self.checkpoint is not None and self.checkpoint.due():
                        self._keep(here)
        except KeyboardInterrupt:
            if self.checkpoint is not None and not self._forward.committing:
                self._keep(here)
            raise
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
            **self.gatherer.totals(),
            _ORDER: torch.tensor(self._forward.order, dtype=torch.int64),
        }

    def _keep(self, here: Position) -> None:
        if self.checkpoint is not None:
            tensors = {str(need): value for need, value in self._state().items()}
            self.checkpoint.write(here, tensors)

    def _event(
        self, label: int, tally: Tally, here: Position, batch: Batch, began: float
    ) -> Progress:
        source, policy = self.sources[label], self.reader.policy
        part: float | None = None
        if policy.max_tokens is not None:
            part = min(1.0, here.tokens * self.ranks.size / policy.max_tokens)
        size = source.size
        if size and tally.tokens:
            # How much of the source was read, less what was read ahead.
            ahead = here.tokens * self.ranks.size / tally.tokens
            part = max(part or 0.0, min(1.0, ahead) * tally.seen / size)
        return Progress(
            source.label,
            label,
            len(self.sources),
            self._tokens * self.ranks.size,
            time.monotonic() - began,
            None if part is None else (label + part) / len(self.sources),
            len(batch.rows),
        )

    def _reduce(self, done: list[tuple[Facts, dict[Need, Tensor]]]) -> dict[str, Any]:
        facts = {s.label: found for s, (found, _) in zip(self.sources, done, strict=True)}
        self.ranks.agree("texts", json.dumps(facts, sort_keys=True))
        arrays: dict[Need, Tensor] = {}
        for need, slot in self.gatherer.slots.items():
            # Taken out one by one, so that nothing is held twice for long.
            stacked = torch.stack([totals.pop(need) for _, totals in done])
            arrays[need] = self.ranks.reduce(stacked, slot.reducer.merging)
            _check_finite(need, arrays[need])
        rows: dict[Need, dict[str, Tensor]] = {}
        for need in self.gatherer.texts:
            rows[need] = {}
            for source, (found, totals) in zip(self.sources, done, strict=True):
                shape = (found["rows"], *totals[need].shape[1:])
                full = torch.zeros(shape)
                full[totals[_ORDER]] = totals[need]
                rows[need][source.label] = self.ranks.reduce(full, "sum")
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
            "out_of_memory": self._forward.splits,
        }


def _need(name: str) -> Need:
    reducer, _, site = name.partition("@")
    return Need(reducer, site)


def _check_finite(need: Need, array: Tensor) -> None:
    """Raise if a sum is not a number: half precision overflows beyond 65504."""
    if need.reducer not in ("sum", "sumsq"):
        return
    bad = (~torch.isfinite(array)).nonzero()
    if len(bad):
        layer, index = bad[0, 1].item(), bad[0, 2].item()
        raise StatsError(
            f"{need} is not finite at layer {layer}, neuron {index} ({len(bad)} values in all): "
            f"the model overflows. Load it in bfloat16 or float32."
        )
