"""What is gathered during forward passes: callbacks that read taps and fill accumulators."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from ..codecs import Codec
from ..errors import HookError, LayoutError
from ..models import Anatomy, Experts, HookPoint
from ..models.readonly_hooks import Callback, HookCalls, read_activations
from ..steering.expert_hooks import listen_experts
from .accumulators import Current, Slot, Texts, site_widths
from .document_measures import METERS, Emit, Meter
from .feature_accumulators import TextWatch
from .needs import Need
from .reducers import REDUCERS, Chunk, DocumentReducer, Reducer, Scratch
from .reducers.responses import Responses
from .reducers.texts import BY_TEXT

#: Name of the tokens that each expert saw, by which its counts are divided.
ROUTED = "routed"

# A chunk of values should stay in a CPU core's cache; a GPU wants few launches.
_CPU_CHUNK = 2**17
_GPU_CHUNK = 2**26


class Watch:
    """What is read at one tap.

    Args:
        layer: Layer of the tap.
        offset: Index of the tap's first neuron among the layer's.
        signs: Reducers that take the reading as it is, with their accumulators.
        values: Reducers that take the values.
        texts: Accumulators of per-text means of the values.
        activation: Turns the reading into the values; `None` if it is the values.
    """

    def __init__(
        self,
        layer: int,
        offset: int,
        signs: list[tuple[Reducer, Slot]],
        values: list[tuple[Reducer, Slot]],
        texts: list[Texts],
        activation: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.layer = layer
        self.offset = offset
        self.signs = signs
        self.values = values
        self.texts = texts
        self.activation = activation

    def read(self, tensor: Tensor, current: Current, scratch: Scratch) -> None:
        """Fold the neurons `[..., width]` of every token of the batch into the stages."""
        weight = current.weight_on(tensor.device)
        flat = tensor.reshape(-1, tensor.shape[-1])
        self.fold(flat, weight.reshape(-1), current.whole, self.offset, scratch)
        if self.texts:
            values = tensor if self.activation is None else self.activation(tensor)
            shaped = values.reshape(*weight.shape, -1)[: current.real]
            rows = Responses.rows(shaped, weight[: current.real])
            for texts in self.texts:
                texts.add(self.layer, rows)

    def fold(
        self, flat: Tensor, weight: Tensor, whole: bool, offset: int, scratch: Scratch
    ) -> None:
        """Fold `[tokens, width]` into the stages, in chunks."""
        part = slice(offset, offset + flat.shape[1])
        device, layer = flat.device, self.layer
        signs = [(r.observe, s.stage(device)[layer, part]) for r, s in self.signs]
        values = [(r.observe, s.stage(device)[layer, part]) for r, s in self.values]
        limit = _CPU_CHUNK if device.type == "cpu" else _GPU_CHUNK
        step = max(16, limit // flat.shape[1])
        for start in range(0, flat.shape[0], step):
            piece, kept = flat[start : start + step], weight[start : start + step]
            chunk = Chunk(piece, kept, whole, scratch)
            for observe, stage in signs:
                observe(chunk, stage)
            if values:
                if self.activation is not None:
                    chunk = Chunk(self.activation(piece), kept, whole, scratch)
                for observe, stage in values:
                    observe(chunk, stage)


class Gatherer:
    """Everything that is collected, for one label at a time.

    Args:
        anatomy: The model.
        needs: What to collect.
        codec: What features are read with.

    Attributes:
        widths: Site → number of neurons per layer.
        slots: Need → accumulators; includes the tokens per expert under the name `"routed"`.
        texts: Need → per-text rows.
        meters: Meter's name and site → meter.
    """

    def __init__(
        self, anatomy: Anatomy, needs: tuple[Need, ...], codec: Codec | None = None
    ) -> None:
        self.anatomy = anatomy
        self.needs = needs
        self.codec = codec
        self.taps = {
            need.site: codec.hook_points(anatomy)
            if codec is not None and need.site == codec.site
            else anatomy.hook_points(need.site)
            for need in needs
        }
        layers = anatomy.num_layers
        self.widths = {site: site_widths(taps, layers) for site, taps in self.taps.items()}
        self.slots: dict[Need, Slot] = {}
        self.texts: dict[Need, Texts] = {}
        self.meters: dict[tuple[str, str], Meter] = {}
        for need in needs:
            measured = REDUCERS.get(need.reducer).meter
            if measured and (measured, need.site) not in self.meters:
                meter = METERS.get(measured)(anatomy, need.site)
                self.meters[measured, need.site] = meter
        for need in needs:
            reducer, width = REDUCERS.get(need.reducer), max(self.widths[need.site])
            if reducer.per_text:
                self.texts[need] = Texts(layers, width)
            else:
                self.slots[need] = Slot(reducer, layers, width)
        for site, taps in self.taps.items():
            experts = [tap.experts for tap in taps if tap.experts is not None]
            if not experts:
                continue
            if any(n.site == site for n in self.texts) or Need(BY_TEXT, site) in needs:
                raise LayoutError(
                    f"Per-text responses are not available at {site!r} of "
                    f"{anatomy.model_type!r}: every token sees other experts. Choose another site."
                )
            most = max(block.num_experts for block in experts)
            self.slots[Need(ROUTED, site)] = Slot(REDUCERS.get("count"), layers, most)
        self._current = Current()
        self._scratch = Scratch()

    @property
    def gradient(self) -> bool:
        """Whether the decoder has to run with gradients."""
        return any(meter.gradient for meter in self.meters.values())

    @contextmanager
    def mode(self) -> Generator[None, None, None]:
        """Run the model without gradients, except where a meter asks for them."""
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad() if self.meters else torch.inference_mode())
            for meter in self.meters.values():
                stack.enter_context(meter.prepared())
            yield

    @contextmanager
    def listening(self) -> Generator[HookCalls, None, None]:
        """Fill the stages in every forward pass inside the block."""
        entries: list[tuple[HookPoint, Callback]] = []
        blocks: dict[nn.Module, list[tuple[str, Experts, Watch]]] = {}
        for key, meter in self.meters.items():
            meter.current, meter.emit = self._running, self._emit(*key)
            entries += meter.entries()
        for site, taps in self.taps.items():
            if not any(n.site == site and not REDUCERS.get(n.reducer).meter for n in self.needs):
                continue
            for tap in taps:
                if tap.experts is None:
                    entries.append((tap, self._callback(self._reader(site, tap))))
                    continue
                block = tap.experts
                watch = self._watch(site, tap, 0)
                blocks.setdefault(block.module, []).append((site, block, watch))
                if block.shared is not None:
                    offset = block.num_experts * block.expert_width
                    shared = self._watch(site, block.shared, offset)
                    entries.append((block.shared, self._callback(shared)))
        with ExitStack() as stack:
            if blocks:
                calls = {module: self._expert_callback(found) for module, found in blocks.items()}
                stack.enter_context(listen_experts(self.anatomy.root, calls))
            listener = stack.enter_context(read_activations(entries))
            try:
                yield listener
            finally:
                self._scratch.clear()

    def begin(self, ids: Tensor, weight: Tensor, real: int) -> None:
        """Tell which tokens of the next forward pass count.

        Args:
            ids: `[rows, length]` int64, on the CPU.
            weight: `[rows, length]` float32, on the CPU.
            real: Rows that are texts; what follows is filling.
        """
        self._current = Current(weight, ids, real, bool((weight == 1).all()))

    def finish(self, hidden: Tensor) -> None:
        """Take the decoder's output at the end of a forward pass."""
        for meter in self.meters.values():
            meter.finish(hidden)

    def require(self) -> None:
        """Raise if a block of experts did not run through our implementation.

        Raises:
            HookError: Its counts would silently be zero.
        """
        for need, slot in self.slots.items():
            layers = [tap.layer for tap in self.taps[need.site] if tap.experts is not None]
            if need.reducer == ROUTED and not slot.seen(layers):
                raise HookError(
                    f"The experts of layers {layers} did not run through the experts "
                    f"implementation that counts. Load the model without replaced MoE kernels."
                )
        for meter in self.meters.values():
            meter.require()

    def commit(self) -> None:
        """Keep what the last forward pass added."""
        for held in (*self.slots.values(), *self.texts.values()):
            held.commit()

    def drop(self) -> None:
        """Forget what the last, failed forward pass added."""
        for held in (*self.slots.values(), *self.texts.values()):
            held.drop()
        for meter in self.meters.values():
            meter.drop()
        self._scratch.clear()

    def totals(self) -> dict[Need, Tensor]:
        """Return the totals of the label so far, on the CPU."""
        return {need: held.total() for need, held in (*self.slots.items(), *self.texts.items())}

    def load(self, totals: dict[Need, Tensor]) -> None:
        """Start a label from given totals; from nothing where they lack a need."""
        for need, held in (*self.slots.items(), *self.texts.items()):
            held.load(totals.get(need))

    def _watch(self, site: str, tap: HookPoint, offset: int) -> Watch:
        found = [
            (held.reducer, held)
            for need, held in self.slots.items()
            if need.site == site and need.reducer != ROUTED and not held.reducer.meter
        ]
        layer = tap.layer
        # A reading of mlp.act is a pre-activation, unless the layout says g itself is read.
        raw = site == "mlp.act" and tap.side != "input"
        activation: Callable[[Tensor], Tensor] | None = None
        if tap.experts is not None:
            activation = tap.experts.act if raw else None
        elif raw:
            activation = functools.partial(_activation, self.anatomy, layer)
        return Watch(
            layer,
            offset,
            signs=[(r, s) for r, s in found if r.sign_only],
            values=[(r, s) for r, s in found if not r.sign_only],
            texts=[texts for need, texts in self.texts.items() if need.site == site],
            activation=activation,
        )

    def _reader(self, site: str, tap: HookPoint) -> Watch | TextWatch:
        watch = self._watch(site, tap, 0)
        held, values = [*watch.signs, *watch.values], watch.activation
        if self.codec is not None and site == self.codec.site:
            values = functools.partial(self.codec.encode, tap.layer)
        elif not any(reducer.name == BY_TEXT for reducer, _ in held):
            return watch
        return TextWatch(tap.layer, tap.width, held, watch.texts, values)

    def _callback(self, watch: Watch | TextWatch) -> Callback:
        # Detached, because a meter may make the model run with gradients.
        return lambda tensor: watch.read(tensor.detach(), self._current, self._scratch)

    def _running(self) -> Current:
        return self._current

    def _emit(self, measured: str, site: str) -> Emit:
        held = [
            (slot.reducer, slot)
            for need, slot in self.slots.items()
            if need.site == site and slot.reducer.meter == measured
        ]

        def emit(layer: int, scores: Tensor) -> None:
            scores = scores.detach()
            weight = self._current.weight_on(scores.device)[: self._current.real]
            # A text of which no token counts says nothing.
            scores = scores[weight.any(1)]
            for reducer, slot in held:
                if isinstance(reducer, DocumentReducer):
                    stage = slot.stage(scores.device)[layer, : scores.shape[1]]
                    reducer.fold(scores, stage)

        return emit

    def _expert_callback(
        self, watches: list[tuple[str, Experts, Watch]]
    ) -> Callable[[int, Tensor, Tensor, Tensor], None]:
        def see(expert: int, fused: Tensor, a: Tensor, tokens: Tensor) -> None:
            weight = self._current.weight_on(a.device).reshape(-1)[tokens]
            for site, block, watch in watches:
                values = block.gate(fused) if site == "mlp.act" else a
                offset = expert * block.expert_width
                watch.fold(values, weight, self._current.whole, offset, self._scratch)
                routed = self.slots[Need(ROUTED, site)].stage(a.device)
                routed[watch.layer, expert] += weight.sum()

        return see


def _activation(anatomy: Anatomy, layer: int, gate: Tensor) -> Tensor:
    return anatomy.activation(gate, layer)
