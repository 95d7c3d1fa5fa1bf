"""What is collected during forward passes: callbacks read hook points and fill accumulators."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ..codecs import Codec
from ..errors import HookError, LayoutError
from ..models import Anatomy, Experts, HookPoint
from ..models.expert_blocks import read_experts
from ..models.readonly_hooks import Callback, HookCalls, read_activations
from .accumulators import (
    Accumulator,
    ActivationReader,
    CurrentBatch,
    PerTextReader,
    TextRows,
    site_widths,
)
from .document_measures import DOCUMENT_MEASURES, DocumentMeasure, Emit
from .needs import Need
from .reducers import REDUCERS, DocumentReducer, Scratch
from .reducers.per_text import BY_TEXT

#: Name of the tokens that each expert saw, by which its counts are divided.
ROUTED = "routed"


class ActivationCollector:
    """Everything that is collected, for one label at a time.

    Args:
        anatomy: The model.
        needs: What to collect.
        codec: What features are read with.

    Attributes:
        widths: Site → number of neurons per layer.
        accumulators: Need → accumulator; includes the tokens per expert under the name `"routed"`.
        text_rows: Need → per-text rows.
        measures: Name of a document measure and site → measure.
    """

    def __init__(
        self, anatomy: Anatomy, needs: tuple[Need, ...], codec: Codec | None = None
    ) -> None:
        self.anatomy = anatomy
        self.needs = needs
        self.codec = codec
        self.points = {
            need.site: codec.hook_points(anatomy)
            if codec is not None and need.site == codec.site
            else anatomy.hook_points(need.site)
            for need in needs
        }
        layers = anatomy.num_layers
        self.widths = {site: site_widths(points, layers) for site, points in self.points.items()}
        self.accumulators: dict[Need, Accumulator] = {}
        self.text_rows: dict[Need, TextRows] = {}
        self.measures: dict[tuple[str, str], DocumentMeasure] = {}
        for need in needs:
            name = REDUCERS.get(need.reducer).document_measure
            if name and (name, need.site) not in self.measures:
                self.measures[name, need.site] = DOCUMENT_MEASURES.get(name)(anatomy, need.site)
        for need in needs:
            reducer, width = REDUCERS.get(need.reducer), max(self.widths[need.site])
            if reducer.per_text:
                self.text_rows[need] = TextRows(layers, width)
            else:
                self.accumulators[need] = Accumulator(reducer, layers, width)
        for site, points in self.points.items():
            experts = [point.experts for point in points if point.experts is not None]
            if not experts:
                continue
            if any(need.site == site and _by_text(need) for need in needs):
                raise LayoutError(
                    f"Per-text responses are not available at {site!r} of "
                    f"{anatomy.model_type!r}: every token sees other experts. Choose another site."
                )
            most = max(block.num_experts for block in experts)
            count = REDUCERS.get("count")
            self.accumulators[Need(ROUTED, site)] = Accumulator(count, layers, most)
        self._batch = CurrentBatch()
        self._scratch = Scratch()

    @property
    def gradient(self) -> bool:
        """Whether the decoder has to run with gradients."""
        return any(measure.gradient for measure in self.measures.values())

    @contextmanager
    def mode(self) -> Generator[None, None, None]:
        """Run the model without gradients, except where a document measure asks for them."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad() if self.measures else torch.inference_mode())
            for measure in self.measures.values():
                stack.enter_context(measure.prepared())
            yield

    @contextmanager
    def reading(self) -> Generator[HookCalls, None, None]:
        """Read every forward pass inside the block."""
        callbacks: list[tuple[HookPoint, Callback]] = []
        blocks: dict[nn.Module, list[tuple[str, Experts, ActivationReader]]] = {}
        for key, measure in self.measures.items():
            measure.batch, measure.emit = self._running_batch, self._emit(*key)
            callbacks += measure.callbacks()
        for site, points in self.points.items():
            # The rest is read by the document measures.
            needs = [REDUCERS.get(n.reducer) for n in self.needs if n.site == site]
            if all(reducer.document_measure for reducer in needs):
                continue
            for point in points:
                if point.experts is None:
                    callbacks.append((point, self._callback(self._reader(site, point))))
                    continue
                block = point.experts
                reader = self._activation_reader(site, point, 0)
                blocks.setdefault(block.module, []).append((site, block, reader))
                if block.shared is not None:
                    offset = block.num_experts * block.expert_width
                    shared = self._activation_reader(site, block.shared, offset)
                    callbacks.append((block.shared, self._callback(shared)))
        with ExitStack() as stack:
            if blocks:
                calls = {module: self._expert_callback(found) for module, found in blocks.items()}
                stack.enter_context(read_experts(calls))
            hooks = stack.enter_context(read_activations(callbacks))
            try:
                yield hooks
            finally:
                self._scratch.clear()

    def begin(self, ids: Tensor, weight: Tensor, texts: int) -> None:
        """Tell which tokens of the next forward pass count.

        Args:
            ids: `[rows, length]` int64, on the CPU.
            weight: `[rows, length]` float32, on the CPU.
            texts: Number of rows that are texts; the others only fill the batch.
        """
        self._batch = CurrentBatch(weight, ids, texts, bool((weight == 1).all()))

    def finish(self, hidden: Tensor) -> None:
        """Take the decoder's output at the end of a forward pass."""
        for measure in self.measures.values():
            measure.finish(hidden)

    def check_read(self) -> None:
        """Raise if something did not run where it is read, such as a block of experts.

        Raises:
            HookError: Its counts would silently be zero.
        """
        for need, accumulator in self.accumulators.items():
            layers = [point.layer for point in self.points[need.site] if point.experts is not None]
            if need.reducer == ROUTED and not accumulator.has_pending(layers):
                raise HookError(
                    f"The experts of layers {layers} did not run through the experts "
                    f"implementation that counts. Load the model without replaced MoE kernels."
                )
        for measure in self.measures.values():
            measure.check_measured()

    def commit(self) -> None:
        """Add what the running batch added to the totals."""
        for each in self._everything().values():
            each.commit()

    def discard(self) -> None:
        """Forget what the running batch added, because a forward pass of it failed."""
        for each in self._everything().values():
            each.discard()
        for measure in self.measures.values():
            measure.discard()
        self._scratch.clear()

    def totals(self) -> dict[Need, Tensor]:
        """Return the totals of the label so far, on the CPU."""
        return {need: each.total() for need, each in self._everything().items()}

    def load(self, totals: dict[Need, Tensor]) -> None:
        """Start a label from given totals; from nothing where they lack a need."""
        for need, each in self._everything().items():
            each.load(totals.get(need))

    def _everything(self) -> dict[Need, Accumulator | TextRows]:
        return {**self.accumulators, **self.text_rows}

    def _activation_reader(self, site: str, point: HookPoint, offset: int) -> ActivationReader:
        layer = point.layer
        # A reading of mlp.act is a pre-activation, unless the layout says g itself is read.
        raw = site == "mlp.act" and point.side != "input"
        activation: Callable[[Tensor], Tensor] | None = None
        if point.experts is not None:
            activation = point.experts.act if raw else None
        elif raw:
            activation = functools.partial(_activation, self.anatomy, layer)
        return ActivationReader(
            layer,
            offset,
            [
                each
                for need, each in self.accumulators.items()
                if need.site == site
                and need.reducer != ROUTED
                and not each.reducer.document_measure
            ],
            [rows for need, rows in self.text_rows.items() if need.site == site],
            activation,
        )

    def _reader(self, site: str, point: HookPoint) -> ActivationReader | PerTextReader:
        whole = self._activation_reader(site, point, 0)
        values = whole.activation
        if self.codec is not None and site == self.codec.site:
            values = functools.partial(self.codec.encode, point.layer)
        elif Need(BY_TEXT, site) not in self.needs:
            return whole
        return PerTextReader(point.layer, point.width, whole.accumulators, whole.text_rows, values)

    def _callback(self, reader: ActivationReader | PerTextReader) -> Callback:
        # Detached, because a document measure may make the model run with gradients.
        return lambda tensor: reader.read(tensor.detach(), self._batch, self._scratch)

    def _running_batch(self) -> CurrentBatch:
        return self._batch

    def _emit(self, measure: str, site: str) -> Emit:
        targets = [
            (each, each.reducer)
            for need, each in self.accumulators.items()
            if need.site == site and each.reducer.document_measure == measure
        ]

        def emit(layer: int, scores: Tensor) -> None:
            scores = scores.detach()
            weight = self._batch.weight_on(scores.device)[: self._batch.texts]
            # A text of which no token counts says nothing.
            scores = scores[weight.any(1)]
            for accumulator, reducer in targets:
                if isinstance(reducer, DocumentReducer):
                    pending = accumulator.pending(scores.device)[layer, : scores.shape[1]]
                    reducer.fold(scores, pending)

        return emit

    def _expert_callback(
        self, readers: list[tuple[str, Experts, ActivationReader]]
    ) -> Callable[[int, Tensor, Tensor, Tensor], None]:
        def read(expert: int, fused: Tensor, a: Tensor, tokens: Tensor) -> None:
            weight = self._batch.weight_on(a.device).reshape(-1)[tokens]
            for site, block, reader in readers:
                values = block.gate(fused) if site == "mlp.act" else a
                offset = expert * block.expert_width
                reader.fold(values, weight, self._batch.all_count, offset, self._scratch)
                routed = self.accumulators[Need(ROUTED, site)].pending(a.device)
                routed[reader.layer, expert] += weight.sum()

        return read


def _by_text(need: Need) -> bool:
    reducer = REDUCERS.get(need.reducer)
    return reducer.per_text or reducer.last_only or reducer.name == BY_TEXT


def _activation(anatomy: Anatomy, layer: int, gate: Tensor) -> Tensor:
    return anatomy.activation(gate, layer)
