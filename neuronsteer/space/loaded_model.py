"""A model with its neuron set, ready to be steered by several visitors at once."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..languages import is_known
from ..models.special_tokens import end_tokens, unwritten_tokens
from ..steering.keeping.vocabulary_gate import Candidates, VocabularyGate
from ..steering.schedule import Schedule
from .settings import DEMO, model_name

if TYPE_CHECKING:
    from ..demo.language_identifier import LanguageIdentifier
    from ..neuron_set import NeuronSet
    from .request import GenerationRequest

#: Prefix of the control's labels, so that both sets fit into one steerer.
RANDOM = "random-"
_TOP = 5
_TOKENS = 120


@dataclasses.dataclass(eq=False)
class LoadedModel:
    """A model, its tokenizer and its neuron set.

    Attributes:
        model_id: What the visitor called the model.
        set_id: What the visitor called the neuron set.
        model: The model, in eval mode.
        tokenizer: Its tokenizer.
        neurons: The neuron set.
        identifier: Tells the language of a text, if one is installed.
        dtype: The name of the model's dtype, for the snippet.
    """

    model_id: str
    set_id: str
    model: Any
    tokenizer: Any
    neurons: NeuronSet
    identifier: LanguageIdentifier | None
    dtype: str

    def __post_init__(self) -> None:
        self._control = lru_cache(maxsize=8)(self._draw)

    @property
    def name(self) -> str:
        """The name by which visitors ask for it."""
        return model_name(self.model_id, self.set_id)

    @property
    def kind(self) -> str:
        """What a visitor may expect of the text: `"demo"`, `"chat model"` or `"base model"`.

        Nothing in a checkpoint says so. Chat models have a chat template; base models that have
        one, too, are mostly called so.
        """
        if self.model_id == DEMO:
            return "demo"
        base = re.search(r"(?:^|[-_./])(?:base|pt)(?:$|[-_.])", self.model_id.lower())
        chat = getattr(self.tokenizer, "chat_template", None) is not None and not base
        return "chat model" if chat else "base model"

    @property
    def labels(self) -> list[str]:
        """Labels that have neurons, in the order of the set."""
        return [label for label, count in self.neurons.counts.items() if count]

    @property
    def end_tokens(self) -> frozenset[int]:
        """Token ids that end a text."""
        return frozenset(end_tokens(self.model, self.tokenizer))

    def control(self, seed: int) -> NeuronSet:
        """Return as many random neurons per label and layer, under their own labels."""
        return self._control(seed)

    def _draw(self, seed: int) -> NeuronSet:
        drawn = self.neurons.random_like(seed)
        return drawn.relabel({label: RANDOM + label for label in drawn.labels})

    def gate(self, request: GenerationRequest, rows: int) -> VocabularyGate | None:
        """Return what keeps the first of so many rows in a language; `None` if nothing is to."""
        if not request.keep:
            return None
        languages = [request.keep, *[None] * (rows - 1)]
        return VocabularyGate(self.tokenizer, languages, candidates=candidates(request))

    def options(self, request: GenerationRequest) -> dict[str, Any]:
        """Return the arguments of `model.generate` for a request."""
        options: dict[str, Any] = {"max_new_tokens": request.max_new_tokens, "do_sample": False}
        if request.full_length:
            options["min_new_tokens"] = request.max_new_tokens
        if unwritten := unwritten_tokens(self.model, self.tokenizer):
            options["suppress_tokens"] = unwritten
        if (
            self.tokenizer.pad_token_id is None
            and self.model.generation_config.pad_token_id is None
        ):
            options["pad_token_id"] = min(self.end_tokens, default=0)
        return options

    def describe(self) -> dict[str, Any]:
        """Return what a page needs to know, JSON-able: facts about the set and the model."""
        neurons, summary = self.neurons, self.neurons.summary()
        kept = ("counts", "layers", "neurons", "num_layers", "width", "site", "method")
        best: dict[str, list[dict[str, float | int]]] = {}
        for label in self.labels:
            rows = neurons.only(label).top(_TOP)
            order = rows.score.argsort(descending=True)
            best[label] = [
                {
                    "layer": int(rows.layer[i]),
                    "index": int(rows.index[i]),
                    "score": float(rows.score[i]),
                }
                for i in order.tolist()
            ]
        return {
            "name": self.name,
            "model": self.model_id,
            "set": self.set_id,
            "labels": self.labels,
            "languages": [label for label in self.labels if is_known(label)],
            **{key: summary[key] for key in kept},
            "sharing": {str(owners): count for owners, count in summary["sharing"].items()},
            "exclusive": neurons.exclusive_counts(),
            "best": best,
            "operation": neurons.operation,
            "operations": self.operations(),
            "schedule": self.default_schedule(),
            "presets": presets(self.labels, _TOKENS),
            "parameters": int(self.model.num_parameters()),
            "kind": self.kind,
            "identifier": self.identifier is not None,
        }

    def operations(self) -> dict[str, bool]:
        """Return the operations that the set has values for, the set's own first.

        The value tells whether a strength beyond 1 makes sense.
        """
        from ..errors import NeuronSteerError
        from ..operations import operation
        from .request import describe_operations

        own = operation(self.neurons.operation)
        found = {own.name: own.unbounded}
        for name in describe_operations():
            try:
                one = operation(name)
                one.affine(self.neurons, one.site_for(self.neurons.site))
            except NeuronSteerError:
                continue
            found.setdefault(name, one.unbounded)
        return found

    def default_schedule(self) -> str:
        """Return a schedule of three labels: those of the set's own schedule, if it has one.

        A model needs some tokens to change its language, so each label gets a third of the text.
        """
        stored = self.neurons.schedule
        if stored is None:
            tours = presets(self.labels, _TOKENS)
            return next((e["schedule"] for e in tours if e["name"] == "Three"), self.labels[0])
        read = Schedule.parse(stored) if isinstance(stored, str) else Schedule.from_dict(stored)
        labels = [label for label in read.labels if label in self.labels][:3] or self.labels[:1]
        every = _TOKENS // len(labels)
        return str(Schedule(labels[0], *((i * every, each) for i, each in enumerate(labels) if i)))


def candidates(request: GenerationRequest) -> Candidates:
    """Return what a token must be to be chosen by the page's sampling."""
    if not request.temperature:
        return Candidates()
    return Candidates(True, request.temperature, top_p=request.top_p)


def for_random_neurons(schedule: Schedule) -> Schedule:
    """Return the schedule for the random neurons: the same, under their labels."""
    points = [
        dataclasses.replace(point, label=None if point.label is None else RANDOM + point.label)
        for point in schedule.points
    ]
    return Schedule(*points, repeat=schedule.repeat, prompt=schedule.prompt)


def presets(labels: Sequence[str], tokens: int) -> list[dict[str, str]]:
    """Return schedules to start from: `name` and `schedule`, for any labels."""
    if not labels:
        return []
    # The page's examples are English: a text goes on in its language before it changes.
    labels = sorted(labels, key=lambda label: label != "en")
    third = max(tokens // 3, 1)
    first, last = labels[0], labels[-1]
    second = labels[min(2, len(labels) - 1)]
    third_label = labels[min(5, len(labels) - 1)]
    found = [{"name": "One language", "schedule": second}]
    if len(labels) > 1:
        found.append({"name": "One switch", "schedule": f"{first},{tokens // 2}:{second}"})
        found.append(
            {
                "name": "There and back",
                "schedule": f"{first},{third}:{third_label},{2 * third}:{first}",
            }
        )
    if len(labels) > 2:
        found.append(
            {"name": "Three", "schedule": f"{first},{third}:{second},{2 * third}:{third_label}"}
        )
        every = max(tokens // len(labels), 6)
        relay = [f"{i * every}:{label}" for i, label in enumerate(labels) if i]
        found.append({"name": "Relay", "schedule": ",".join([first, *relay])})
    found.append({"name": "Next sentence", "schedule": f"{first},sentence@6:{last}"})
    return found
