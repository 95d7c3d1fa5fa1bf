"""The names in what the endpoints give: clients and agents are shown them as JSON schemas."""

from __future__ import annotations

from typing import Any, TypedDict


class Span(TypedDict):
    """A stretch of a text under one label; `start` and `end` count characters."""

    label: str | None
    start: int
    end: int
    token_start: int
    token_end: int
    detected: str | None


class Passage(TypedDict):
    """About ten tokens, and the language detected in them; `start` and `end` count tokens."""

    start: int
    end: int
    requested: str | None
    detected: str | None


class OutputText(TypedDict):
    """The steered text, or one of its controls."""

    name: str
    text: str
    spans: list[Span]
    passages: list[Passage]
    tokens: int
    ended: bool


class Intervention(TypedDict):
    """What was done at a token to keep the text in its language; `start`, `end` count characters.

    `kind` is "refused" (`text`, to which the model gave `probability`, was held back, and `instead`
    was the likeliest that was left) or "pulled back" (for so many `tokens`; `left` is the language
    that the text was found in).
    """

    kind: str
    token: int
    tokens: int
    start: int
    end: int
    text: str | None
    probability: float | None
    instead: str | None
    left: str | None


class Switch(TypedDict):
    """A switch by hand."""

    token: int
    label: str | None


class _Snapshot(TypedDict):
    session: str
    state: str
    prompt: str
    tokens: int
    limit: int
    schedule: str
    note: str
    switches: list[Switch]
    interventions: list[Intervention]
    outputs: list[OutputText]
    scores: dict[str, dict[str, int]]


class Snapshot(_Snapshot, total=False):
    """How far a generation is; the last one has the program that gives its text."""

    code: str


class _Switched(TypedDict):
    switched: bool


class Switched(_Switched, total=False):
    """Whether a generation was there to be switched; if not, why."""

    label: str | None
    why: str


class Stopped(TypedDict):
    """Whether a generation was there to be stopped."""

    stopped: bool


class LoadStep(TypedDict):
    """How far loading is, from 0 to 1; the last step has the name of what is loaded."""

    done: float
    doing: str
    name: str | None


class NeuronFacts(TypedDict):
    """Facts about a loaded model and its set, see `LoadedModel.describe`."""

    name: str
    model: str
    set: str
    labels: list[str]
    languages: list[str]
    counts: dict[str, int]
    layers: dict[str, list[int]]
    neurons: int
    num_layers: int
    width: int
    site: str
    method: dict[str, Any]
    sharing: dict[str, int]
    exclusive: dict[str, int]
    best: dict[str, list[dict[str, float]]]
    operation: dict[str, Any]
    operations: dict[str, bool]
    schedule: str
    presets: list[dict[str, str]]
    parameters: int
    kind: str
    identifier: bool
