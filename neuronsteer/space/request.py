"""What a visitor asks for, checked before a model sees it."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from ..errors import NeuronSteerError, ParameterError, unknown_label
from ..languages import check_known
from ..steering.schedule import Schedule

if TYPE_CHECKING:
    from ..neuron_set import NeuronSet
    from ..operations import Operation
    from .settings import SpaceSettings

#: What the operations do, in a line each, for visitors; others say what their docstring says.
_DESCRIPTIONS = {
    "pull": "Pull the neurons towards what is typical for the language.",
    "add": "Push the neurons in the direction of the language.",
    "set": "Set the neurons to what is typical for the language.",
    "scale": "Multiply the neurons' activations.",
    "zero": "Switch the neurons off: how much does the language need them?",
}
_MAX_STRENGTH = 8.0
_MAX_TEMPERATURE = 2.0
_MAX_PACE = 1000.0
#: Slower than anybody reads; a generation that waits longer only keeps others from theirs.
_MIN_PACE = 1.0
_MAX_SCHEDULE = 2000


@dataclasses.dataclass(frozen=True)
class GenerationRequest:
    """One generation as a visitor requests it; nothing in it can be trusted before `checked`.

    Attributes:
        prompt: The text to continue.
        schedule: Labels over generated tokens, as `Schedule.parse` reads them.
        operation: `""` for the set's own, or the name of another one.
        strength: How strongly the operation is applied.
        max_new_tokens: How many tokens.
        temperature: 0 takes the likeliest token.
        top_p: Sample among the likeliest tokens that have this probability together.
        seed: For sampling, and for the control's random neurons.
        controls: Also generate unsteered, and with random neurons.
        full_length: Do not let the model end the text before `max_new_tokens`.
        pace: Tokens per second, at least 1; 0 for as fast as it goes.
        keep: Code of a language that the steered text is kept in, see `ns.keep`; `""` for none.
    """

    prompt: str
    schedule: str = "-"
    operation: str = ""
    strength: float = 1.0
    max_new_tokens: int = 120
    temperature: float = 0.6
    top_p: float = 0.95
    seed: int = 1
    controls: bool = True
    full_length: bool = True
    pace: float = 0.0
    keep: str = ""

    def checked(self, settings: SpaceSettings, neurons: NeuronSet) -> GenerationRequest:
        """Return the request with proper types.

        Raises:
            NeuronSteerError: If anything is out of bounds; the message is meant for the visitor.
        """
        prompt = self.prompt
        if not isinstance(prompt, str | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ParameterError(
                f"The prompt is {prompt!r:.60} ({type(prompt).__name__}); expected a text."
            )
        if not (prompt or "").strip():
            raise ParameterError("The prompt is empty; write at least one word.")
        if len(prompt) > settings.prompt_characters:
            raise ParameterError(
                f"The prompt has {len(prompt)} characters; here it may have "
                f"{settings.prompt_characters}."
            )
        operations = describe_operations()
        if self.operation not in ("", *operations):
            raise ParameterError(
                f"Unknown operation {str(self.operation)[:40]!r}; expected one of "
                f"{', '.join(operations)}, or nothing for the set's own."
            )
        schedule = str(self.schedule or "-")
        if len(schedule) > _MAX_SCHEDULE:
            raise ParameterError(
                f"The schedule has {len(schedule)} characters; here it may have {_MAX_SCHEDULE}."
            )
        pace = _number("pace", self.pace, 0, _MAX_PACE)
        if 0 < pace < _MIN_PACE:
            raise ParameterError(
                f"pace is {pace:g} tokens per second; expected at least {_MIN_PACE:g}, or 0 for as "
                "fast as it goes."
            )
        found = GenerationRequest(
            prompt=prompt,
            schedule=schedule,
            operation=self.operation,
            strength=_number("strength", self.strength, 0, _MAX_STRENGTH),
            max_new_tokens=_whole(
                "max_new_tokens", self.max_new_tokens, 1, settings.max_new_tokens
            ),
            temperature=_number("temperature", self.temperature, 0, _MAX_TEMPERATURE),
            top_p=_number("top_p", self.top_p, 0.01, 1),
            seed=_whole("seed", self.seed, 0, 2**31 - 1),
            controls=bool(self.controls),
            full_length=bool(self.full_length),
            pace=pace,
            keep=str(self.keep or "")[:40],
        )
        if found.keep:
            check_known(found.keep)
        for label in found.parsed(neurons).labels:
            check_label(label, neurons)
        found.steering(neurons)
        return found

    def parsed(self, neurons: NeuronSet) -> Schedule:
        """Return the schedule; a label of the set is one even if it looks like notation.

        Unless the notation says so, the prompt is not steered, even under a single label: what a
        visitor sees and switches is the text that follows.
        """
        found = (
            Schedule(self.schedule)
            if self.schedule in neurons.labels
            else Schedule.parse(self.schedule)
        )
        prompt = found.prompt if "prompt=" in self.schedule else False
        return Schedule(*found.points, repeat=found.repeat, prompt=prompt)

    def is_watched(self, neurons: NeuronSet) -> bool:
        """Return whether the neurons steer the text back where it leaves what it is kept in.

        They cannot while they steer it along a schedule; then only foreign scripts are held back.
        """
        known = self.keep in neurons.means_of and bool(neurons.counts.get(self.keep))
        return known and len(neurons.means_of) > 1 and not self.parsed(neurons).labels

    @property
    def subtracts_previous(self) -> bool:
        """Whether a switch also subtracts the label before it.

        A model that has written German tends to continue in German. Operations that weaken
        neurons have nothing to subtract.
        """
        return self.operation not in ("zero", "scale")

    def steering(self, neurons: NeuronSet) -> Operation | None:
        """Return the operation; `None` leaves it to the set.

        Raises:
            ParameterError: If the set does not store what the operation needs, or the strength
                makes no sense for it.
        """
        from ..operations import operation

        own = str(neurons.operation.get("name"))
        chosen = None if self.operation in ("", own) else operation(self.operation)
        used = chosen or operation(neurons.operation)
        try:
            used.blended(neurons, used.site_for(neurons.site), self.strength)
        except NeuronSteerError as error:
            raise ParameterError(
                f"The operation {used.name!r} does not work here: {error}"
            ) from error
        return chosen


def write_schedule(schedule: Schedule) -> str:
    """Return the notation that `GenerationRequest.parsed` reads back."""
    short = str(Schedule(*schedule.points, repeat=schedule.repeat))
    return f"{short},prompt=yes" if schedule.prompt else short


def describe_operations() -> dict[str, str]:
    """Return a line about every installed operation, the well-known ones first."""
    from ..operations import OPERATIONS

    names = OPERATIONS.names()
    found = {name: text for name, text in _DESCRIPTIONS.items() if name in names}
    for name in names:
        first = (OPERATIONS.get(name).__doc__ or name).strip().splitlines()[0]
        found.setdefault(name, first)
    return found


def check_label(label: Any, neurons: NeuronSet) -> None:
    """Raise unless `label` can be steered to."""
    if not isinstance(label, str) or label not in neurons.labels:
        raise unknown_label(str(label)[:60], neurons.labels)
    if not neurons.counts[label]:
        raise unknown_label(label, [name for name, count in neurons.counts.items() if count])


def _number(name: str, value: Any, low: float, high: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not low <= number <= high:
        raise ParameterError(
            f"{name} is {_cut(value)}; expected a number from {low:g} to {high:g}."
        )
    return number


def _whole(name: str, value: Any, low: int, high: int) -> int:
    number = _number(name, value, low, high)
    if number != int(number):
        raise ParameterError(f"{name} is {_cut(value)}; expected a whole number.")
    return int(number)


def _cut(value: Any) -> str:
    """Return a value as a message quotes it; Python writes no number of more than 4,300 digits."""
    try:
        return repr(str(value)[:40])
    except ValueError:
        return f"a number of about {value.bit_length() * 3 // 10} digits"
