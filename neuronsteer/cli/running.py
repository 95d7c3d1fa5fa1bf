"""One steered generation, and what came out of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ParameterError, unknown_label
from ..steering.schedule_text import is_arithmetic
from ..steering.steerer import PREVIOUS
from ..steering.token_text import Run, locate, pieces
from .streaming import Painter, Streamer

if TYPE_CHECKING:
    from ..neuron_set import NeuronSet
    from ..operations import Operation
    from ..steering.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Request:
    """What to generate.

    Attributes:
        prompt: The text to go on from.
        schedule: Labels over generated tokens.
        operation: What is done to the neurons; `None` leaves it to the set.
        strength: How much of it.
        away_from: Labels whose neurons are switched off; "previous": at switches, the one before.
        away: How; `None` leaves it to the set.
        max_new_tokens: How many tokens at most.
        min_new_tokens: The text does not end before that many.
        temperature: 0 takes the likeliest token.
        seed: For sampling.
    """

    prompt: str
    schedule: Schedule
    operation: Operation | None = None
    strength: float = 1.0
    away_from: Sequence[str] = ()
    away: Operation | None = None
    max_new_tokens: int = 64
    min_new_tokens: int = 0
    temperature: float = 0.0
    seed: int = 0

    def check(self, neurons: NeuronSet) -> None:
        """Raise for a label the set does not have, before a large model is loaded."""
        from ..steering.label_sums import arith

        away = () if tuple(self.away_from) == (PREVIOUS,) else self.away_from
        for label in (*self.schedule.labels, *away):
            if label in neurons.labels:
                continue
            for each in arith(label).labels if is_arithmetic(label) else (label,):
                if each not in neurons.labels:
                    raise unknown_label(each, neurons.labels)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was generated.

    Attributes:
        prompt: The prompt.
        text: Prompt and completion.
        spans: Which label made which part of `text`, see `spans.locate`.
        tokens: Number of generated tokens.
        report: What was steered, per layer.
    """

    prompt: str
    text: str
    spans: list[dict[str, Any]]
    tokens: int
    report: dict[str, Any]


def run(
    model: Any,
    tokenizer: Any,
    neurons: NeuronSet,
    request: Request,
    painter: Painter | None = None,
) -> Outcome:
    """Generate one text; with a painter, its tokens are shown as they come."""
    from ..steering.steerer import attach

    inputs = tokenizer(request.prompt, return_tensors="pt").to(model.device)
    # Some tokenizers add ids that the model's forward does not take.
    inputs.pop("token_type_ids", None)
    length = int(inputs["input_ids"].shape[1])
    if length == 0:
        raise ParameterError(f"The tokenizer makes no token of the prompt {request.prompt!r}.")
    with attach(model, neurons, tokenizer=tokenizer) as steer:
        steer.to(
            request.schedule,
            operation=request.operation,
            strength=request.strength,
            away_from=request.away_from,
            away=request.away,
        )
        streamer = None
        if painter is not None:
            painter.prompt(request.prompt)
            streamer = Streamer(painter, tokenizer, steer.spans)
        ids = _generate(model, tokenizer, inputs, request, streamer)
        report = steer.report()
        new: list[int] = ids[0, length:].tolist()
        runs: list[Run] = [run for run in steer.spans() if run[0] < len(new)] if new else []
    texts = pieces(tokenizer, ids[0, :length].tolist(), new)
    return Outcome(
        prompt=request.prompt,
        text=request.prompt + "".join(texts),
        spans=locate(runs, texts, len(request.prompt)),
        tokens=len(new),
        report=report,
    )


def _generate(
    model: Any, tokenizer: Any, inputs: Any, request: Request, streamer: Streamer | None
) -> Any:
    import torch

    options: dict[str, Any] = {"do_sample": False}
    if request.temperature > 0:
        options = {"do_sample": True, "temperature": request.temperature}
        torch.manual_seed(request.seed)
    if request.min_new_tokens:
        options["min_new_tokens"] = request.min_new_tokens
    if tokenizer.pad_token_id is None and model.generation_config.pad_token_id is None:
        options["pad_token_id"] = tokenizer.eos_token_id
    return model.generate(
        **inputs, max_new_tokens=request.max_new_tokens, streamer=streamer, **options
    )
