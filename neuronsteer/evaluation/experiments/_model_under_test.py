"""The model as experiments use it: what is attached, what is generated, which language it is in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from ...languages import canonical, same
from ...neuron_set import NeuronSet
from ...neuron_set.row_values import is_relative
from ...operations import operation as make_operation
from ...steering.steerer import OperationLike, Steerer, Target, attach
from ..continuations import continue_rows, decode, encode_prompt, without_end
from ..metrics.fluency import degenerate, distinct_ngrams
from ..metrics.langid import IdentifierLike, identifier
from ..readers import EvaluationData, languages, thinned

T = TypeVar("T")

#: The treatment that is evaluated, and the one without any set.
NEURONS, NONE = "neurons", "none"
#: Nothing attached, and a prompt that asks for the language, in English or in the language itself.
PROMPTED, PROMPTED_NATIVELY = "prompted", "prompted_natively"


@dataclass(frozen=True)
class EvaluationSettings:
    """How a run is made.

    Attributes:
        limit: Items per label of every experiment; `None` leaves it to each.
        seed: Of sampling and of bootstraps.
        batch_size: Rows that are generated or scored together.
        generation: Arguments of `generate`; they are recorded.
        identifier: What identifies the language of a text.
        candidates: Languages the identifier chooses from; `None` is all that it knows.
        floor: Confidence below which a language counts as unclear.
        chat: Whether prompts go through the tokenizer's chat template.
        strength: How much of the set's operation.
        source: What is left, as in `steer.to`; default: what the set's header says.
    """

    limit: int | None = None
    seed: int = 0
    batch_size: int = 64
    generation: Mapping[str, Any] = field(default_factory=dict)
    identifier: IdentifierLike = "lingua"
    candidates: tuple[str, ...] | None = None
    floor: float = 0.0
    chat: bool = False
    strength: float = 1.0
    source: str | Sequence[str] | None = None


@dataclass(frozen=True)
class Treatment:
    """One of the things that are compared.

    Attributes:
        name: `neurons`, `none`, `random:<seed>` or `diffmean`; or a baseline of an experiment.
        neurons: What is attached; `None` is nothing.
        direction: Whether the rows are a direction rather than selected neurons.
        baseline: Whether only the experiments that name it are measured under it.
    """

    name: str
    neurons: NeuronSet | None
    direction: bool = False
    baseline: bool = False


class ModelUnderTest:
    """A model under measurement.

    Attributes:
        model: The model.
        neurons: The set that is evaluated.
        tokenizer: The model's tokenizer.
        labels: The labels that have neurons.
        data: What there is to read.
        settings: How the run is made.
        treatment: What is attached.
    """

    def __init__(
        self,
        model: Any,
        neurons: NeuronSet,
        tokenizer: Any,
        labels: Sequence[str],
        data: EvaluationData,
        settings: EvaluationSettings,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.labels = list(labels)
        self.data = data
        self.settings = settings
        self.neurons = neurons
        self.treatment = Treatment(NONE, None)
        self._steer: Steerer | None = None
        self._memory: dict[Any, Any] = {}

    @contextmanager
    def under(self, treatment: Treatment) -> Generator[None, None, None]:
        """Attach a treatment inside the `with` block."""
        before = self.treatment, self._steer
        # What an outer treatment does would add to this one.
        self.off()
        self.treatment, self._steer = treatment, None
        try:
            if treatment.neurons is None:
                yield
            else:
                with attach(self.model, treatment.neurons, tokenizer=self.tokenizer) as self._steer:
                    yield
        finally:
            self.treatment, self._steer = before

    # --- what is read ---------------------------------------------------------------------------

    def items(self, kind: str, label: str, count: int) -> list[Any]:
        """Return `count` items of a label, evenly spread."""
        return thinned(list(self.data.get(kind).items.get(label, ())), count)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """Return what `make()` returned when it was first asked for: what no treatment changes."""
        if key not in self._memory:
            self._memory[key] = make()
        return self._memory[key]

    # --- what is active -------------------------------------------------------------------------

    def switch(self, operation: OperationLike | None = None, strength: float | None = None) -> Any:
        """Return a function that makes a label active, as metrics take it."""
        chosen = self.settings.strength if strength is None else strength

        def put(label: str | None) -> None:
            if self._steer is not None:
                strong = chosen if label is not None else 1.0
                self._steer.to(label, operation, strong, source=self._source(operation))

        return put

    def off(self) -> None:
        """Steer to nothing."""
        if self._steer is not None:
            self._steer.off()

    def before_and_after(
        self,
        key: Any,
        label: str,
        measure: Callable[[], T],
        operation: OperationLike | None = None,
        strength: float | None = None,
    ) -> tuple[T, T]:
        """Return what `measure()` returns without steering and with `label` active.

        Args:
            key: What tells this measurement from others; the first half is measured once per key,
                because no treatment changes a model that is not steered.
            label: What to steer to.
            measure: Reads the model.
            operation: What is done with the neurons; default: what the set says.
            strength: How much of it; default: the run's.
        """
        put = self.switch(operation, strength)
        put(None)
        before = self.once(key, measure)
        put(label)
        try:
            return before, measure()
        finally:
            put(None)

    # --- which language it is in -----------------------------------------------------------------

    def identify(
        self, texts: Sequence[str], candidates: Sequence[str] | None = None
    ) -> list[str | None]:
        """Return the language of every text, as the labels spell it; `None` where it is unclear.

        Args:
            texts: What to identify.
            candidates: Languages to choose from; default: the run's.
        """
        settings = self.settings
        chosen = settings.candidates if candidates is None else tuple(candidates)
        # A model file is read once.
        found = self.once(("identifier", chosen), lambda: identifier(settings.identifier, chosen))
        return [
            None
            if guess.label is None or guess.confidence < settings.floor
            else next(
                (each for each in self.labels if same(each, guess.label)), canonical(guess.label)
            )
            for guess in found.identify(list(texts))
        ]

    # --- what is generated ------------------------------------------------------------------------

    def continuations(
        self,
        prompts: Sequence[str],
        targets: Sequence[Target],
        tokens: int,
        *,
        keep_ids: bool = False,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Return what `generate` made of every prompt, with its language and whether it stutters.

        Args:
            prompts: See `generate`.
            targets: See `generate`; they are recorded.
            tokens: See `generate`.
            keep_ids: Also return the tokens, as `ids`, up to the one that ended the text.
            **options: See `generate`.
        """
        rows = self.generate_tokens(prompts, targets, tokens, **options)
        made = decode(self.tokenizer, rows)
        return [
            ({"ids": without_end(self.model, self.tokenizer, row)} if keep_ids else {})
            | {
                "prompt": prompt,
                "target": target,
                "text": text,
                "identified": label,
                "degenerate": degenerate(text),
                "distinct": distinct_ngrams(text),
            }
            for row, prompt, target, text, label in zip(
                rows, prompts, targets, made, self.identify(made), strict=True
            )
        ]

    def generate(self, *args: Any, **options: Any) -> list[str]:
        """Return the new text of every prompt; see `generate_tokens`."""
        return decode(self.tokenizer, self.generate_tokens(*args, **options))

    def generate_tokens(
        self,
        prompts: Sequence[str],
        targets: Sequence[Target],
        tokens: int,
        *,
        key: Sequence[str],
        operation: OperationLike | None = None,
        strength: float | None = None,
        away_from: Sequence[str] = (),
        greedy: bool = False,
    ) -> list[list[int]]:
        """Return the new tokens of every prompt, steered to its own target.

        Sampling is seeded by the run's seed and `key`, so a case's texts do not depend on which
        other cases were made in the same process, and all treatments draw the same random numbers.

        Args:
            prompts: What is continued.
            targets: A label, a schedule or `None` per prompt; ignored where nothing is attached.
            tokens: How many new tokens; chat models may end sooner, others continue to the end.
            key: What tells these generations from others.
            operation: What is done with the neurons; default: what the set says.
            strength: How much of it; default: the run's.
            away_from: Labels whose neurons are switched off, for all rows alike.
            greedy: Take the likeliest token, where an answer and not a text is wanted.
        """
        ids = self.encode_all(prompts, tokens)
        found: list[list[int]] = []
        seed = _seed(self.settings.seed, key)
        with torch.random.fork_rng(devices=_devices(self.model)):
            torch.manual_seed(seed)
            for begin in range(0, len(ids), self.settings.batch_size):
                rows = ids[begin : begin + self.settings.batch_size]
                some = list(targets[begin : begin + self.settings.batch_size])
                self._put(some, operation, strength, away_from)
                found += continue_rows(
                    self.model, self.tokenizer, rows, tokens, **self._decoding(tokens, greedy)
                )
        self.off()
        return found

    def encode_all(self, prompts: Sequence[str], tokens: int) -> list[list[int]]:
        """Return the ids of prompts that leave room for so many tokens."""
        limit = max(_context(self.model) - tokens, 1)
        # A prompt that is too long loses its beginning: the text continues its end.
        return [self.encode(prompt)[-limit:] for prompt in prompts]

    def encode(self, prompt: str) -> list[int]:
        """Return the ids of a prompt, in the chat template if prompts go through it."""
        return encode_prompt(self.tokenizer, prompt, self.settings.chat)

    def _put(
        self,
        targets: list[Target],
        operation: OperationLike | None,
        strength: float | None,
        away_from: Sequence[str],
    ) -> None:
        if self._steer is None:
            return
        chosen = self.settings.strength if strength is None else strength
        if away_from:
            # Rows of one call share what is switched off.
            self._steer.to(None, away_from=tuple(away_from), away="zero")
        else:
            self._steer.to(targets, operation, chosen, source=self._source(operation))

    def _source(self, operation: OperationLike | None) -> str | Sequence[str] | None:
        """Return what is left; nothing where an experiment's own operation does not ask."""
        given = self.settings.source
        neurons = self.treatment.neurons
        if given is None or neurons is None:
            return None
        chosen = make_operation(neurons.operation if operation is None else operation)
        return given if is_relative(neurons, chosen) else None

    def _decoding(self, tokens: int, greedy: bool) -> dict[str, Any]:
        if greedy:
            return {"do_sample": False}
        options = dict(self.settings.generation)
        if not self.settings.chat:
            # Texts of one length are scored alike; a model that only continues text has no reason
            # to end it here.
            options.setdefault("min_new_tokens", tokens)
        return options


def candidates(labels: Sequence[str]) -> tuple[str, ...]:
    """Return what the identifier chooses from: the labels, and the languages built in.

    All 75 languages of lingua would take a minute and two gigabytes on a laptop; choosing
    among the labels alone, it would take every text for one of them.
    """
    return tuple(dict.fromkeys([*labels, *languages()]))


def _context(model: Any) -> int:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else 1 << 20


def _seed(seed: int, key: Sequence[str]) -> int:
    digest = hashlib.sha256("\0".join([str(seed), *key]).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def _devices(model: Any) -> list[int]:
    device = model.get_input_embeddings().weight.device
    return [device.index or 0] if device.type == "cuda" else []
