"""The model's side of an experiment: who is attached, what is generated, what is read."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ...neuron_set import NeuronSet
from ...steering.steerer import OperationLike, Steerer, Target, attach
from ..metrics.langid import IdentifierLike
from ..readers import Library, Material, languages, thinned

#: The arm that is evaluated, and the one without any set.
NEURONS, NONE = "neurons", "none"


@dataclass(frozen=True)
class Settings:
    """How a run is made.

    Attributes:
        limit: Items per label of every experiment; `None` leaves it to each.
        seed: Of sampling and of bootstraps.
        batch_size: Rows that are generated or scored together.
        generation: Arguments of `generate`; they are recorded.
        identifier: Who says which language a text is in.
        candidates: Languages the identifier chooses from; `None` is all that it knows.
        floor: Confidence below which nothing was heard.
        chat: Whether prompts go through the tokenizer's chat template.
        strength: How much of the set's operation.
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


@dataclass(frozen=True)
class Arm:
    """One of the things that are compared.

    Attributes:
        name: `neurons`, `none`, `random:<seed>` or `diffmean`.
        neurons: What is attached; `None` is nothing.
        direction: Whether the rows are a direction rather than selected neurons.
    """

    name: str
    neurons: NeuronSet | None
    direction: bool = False


class Bench:
    """A model under measurement.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        labels: The labels that have neurons.
        library: What there is to read.
        settings: How the run is made.
        arm: What is attached.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        labels: Sequence[str],
        library: Library,
        settings: Settings,
        neurons: NeuronSet,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.labels = list(labels)
        self.library = library
        self.settings = settings
        self.neurons = neurons
        self.arm = Arm(NONE, None)
        self._steer: Steerer | None = None
        self._memory: dict[Any, Any] = {}

    @contextmanager
    def using(self, arm: Arm) -> Generator[None, None, None]:
        """Attach an arm while inside."""
        before = self.arm, self._steer
        # What an outer arm does would add to this one.
        self.off()
        self.arm, self._steer = arm, None
        try:
            if arm.neurons is None:
                yield
            else:
                with attach(self.model, arm.neurons, tokenizer=self.tokenizer) as self._steer:
                    yield
        finally:
            self.arm, self._steer = before

    # --- what is read ---------------------------------------------------------------------------

    def material(self, kind: str) -> Material:
        """Return the material of a kind."""
        return self.library.get(kind)

    def items(self, kind: str, label: str, count: int) -> list[Any]:
        """Return `count` items of a label, evenly spread."""
        return thinned(list(self.material(kind).items.get(label, ())), count)

    def once(self, key: Any, make: Any) -> Any:
        """Return what `make()` returned when it was first asked for: what no arm changes."""
        if key not in self._memory:
            self._memory[key] = make()
        return self._memory[key]

    # --- what is in force -------------------------------------------------------------------------

    def switch(self, operation: OperationLike | None = None, strength: float | None = None) -> Any:
        """Return a function that puts a label in force, as metrics take it."""
        chosen = self.settings.strength if strength is None else strength

        def put(label: str | None) -> None:
            if self._steer is not None:
                self._steer.to(label, operation, chosen if label is not None else 1.0)

        return put

    def off(self) -> None:
        """Steer to nothing."""
        if self._steer is not None:
            self._steer.off()

    # --- what is generated ------------------------------------------------------------------------

    def generate(
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

        Sampling is seeded by the run's seed and `key`, so a cell's texts do not depend on which
        other cells were made in the same process, and all arms draw alike.

        Args:
            prompts: What to go on from.
            targets: A label, a schedule or `None` per prompt; ignored where nothing is attached.
            tokens: How many new tokens; models that talk may end sooner, others go on to the end.
            key: What tells these generations from others.
            operation: What is done with the neurons; default: what the set says.
            strength: How much of it; default: the run's.
            away_from: Labels whose neurons are switched off, for all rows alike.
            greedy: Take the likeliest token, where an answer and not a text is wanted.
        """
        room = max(_context(self.model) - tokens, 1)
        # The end of a prompt is what is gone on from.
        ids = [self.encode(prompt)[-room:] for prompt in prompts]
        found: list[list[int]] = []
        seed = _seed(self.settings.seed, key)
        with torch.random.fork_rng(devices=_devices(self.model)):
            torch.manual_seed(seed)
            for begin in range(0, len(ids), self.settings.batch_size):
                rows = ids[begin : begin + self.settings.batch_size]
                some = list(targets[begin : begin + self.settings.batch_size])
                self._put(some, operation, strength, away_from)
                found += self._run(rows, tokens, greedy)
        self.off()
        return found

    def texts(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        """Return tokens as texts, without special tokens."""
        decoded = self.tokenizer.batch_decode(
            [list(row) for row in tokens], skip_special_tokens=True
        )
        # A text may be cut inside a character of several bytes.
        return [text.strip("�").strip() for text in decoded]

    def encode(self, prompt: str) -> list[int]:
        """Return the ids of a prompt, as the model is spoken to."""
        if self.settings.chat:
            messages = [{"role": "user", "content": prompt}]
            found = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True
            )
            return [int(i) for i in found["input_ids"]]
        ids = [int(i) for i in self.tokenizer(prompt)["input_ids"]]
        plain = [int(i) for i in self.tokenizer(prompt, add_special_tokens=False)["input_ids"]]
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        while ids and ids[-1] == eos and len(ids) > len(plain):
            ids.pop()
        # A model that was trained with a first token is lost without it.
        return [int(bos), *ids] if bos is not None and ids[:1] != [bos] else ids

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
            self._steer.to(targets, operation, chosen)

    def _run(self, rows: Sequence[Sequence[int]], tokens: int, greedy: bool) -> list[list[int]]:
        device = self.model.get_input_embeddings().weight.device
        longest = max(len(row) for row in rows)
        pad = self._pad()
        ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        options: dict[str, Any] = {"do_sample": False} if greedy else dict(self.settings.generation)
        if not (self.settings.chat or greedy):
            # Texts of one length are judged alike; a model that only continues text has no reason
            # to end it here.
            options.setdefault("min_new_tokens", tokens)
        made = self.model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=tokens,
            pad_token_id=pad,
            **options,
        )
        return [row[longest:] for row in made.tolist()]

    def _pad(self) -> int:
        for token in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        return 0


def candidates(labels: Sequence[str]) -> tuple[str, ...]:
    """Return what the identifier chooses from: the labels, and the languages built in.

    All 75 languages of lingua would take a minute and two gigabytes on a laptop; only the labels
    would call everything one of them.
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
