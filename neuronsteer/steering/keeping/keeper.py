"""`keep`: a model that stays in the language it was asked for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any

from ...errors import HookError, ParameterError
from ...models import inspect
from ...models.plain_copies import keep_copies_plain, release
from ..steerer import SetLike, Steerer, attach
from ..wrapped_methods import wrap_method
from .gate_rules import NAMES, PROMPT, Kept
from .language_sensor import PullBack
from .running_text import ALL, ANSWER, THINKING, THOUGHT_MARKS
from .token_choice import Candidates
from .vocabulary_gate import Refusal, VocabularyGate

#: Where `generate` takes logits processors if they are not named.
_POSITION = 2


class Keeper:
    """A model whose generations are kept in a language; made by `keep()`.

    Every `generate` of the model gets a vocabulary gate, those of pipelines and streamers too.
    Use it as a context manager, or call `detach()`.

    Attributes:
        steer: Steers where the text leaves its language, if there are neurons for that.
    """

    def __init__(
        self,
        model: Any,
        make_gate: Callable[[Candidates], VocabularyGate],
        reach: float,
        steer: Steerer | None = None,
    ):
        root: Any = inspect(model).root
        if not root.can_generate():
            raise HookError(
                f"{type(root).__name__} generates nothing that could be kept in a language. Load "
                "it with AutoModelForCausalLM."
            )
        self.steer, self._make_gate, self._reach = steer, make_gate, reach
        self._gate: VocabularyGate | None = None
        keep_copies_plain(root)
        self._undo: list[Callable[[], object]] = [functools.partial(release, root)]
        generate = functools.partial(self._generate, root)
        for name, around in (
            ("generate", generate),
            ("generate_batch", _refuse),
            ("init_continuous_batching", _refuse),
        ):
            if hasattr(root, name):
                self._undo.append(wrap_method(root, name, around))

    def _generate(self, root: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if getattr(kwargs.get("generation_config"), "is_assistant", False):
            return original(*args, **kwargs)  # a draft of this model's own, with the gate already
        given = dict(zip(("inputs", "generation_config", "logits_processor"), args, strict=False))
        before = given.get("logits_processor", kwargs.get("logits_processor"))
        gate = self._make_gate(Candidates.of(root, {**given, **kwargs}, self._reach))
        processors = [*(before or ()), gate]
        self._gate = gate
        if len(args) > _POSITION:
            args = (*args[:_POSITION], processors, *args[_POSITION + 1 :])
            return original(*args, **kwargs)
        return original(*args, **{**kwargs, "logits_processor": processors})

    def report(self, row: int | None = None) -> list[Refusal | PullBack]:
        """Return what was done in the last generation, in the order of rows and tokens.

        A `Refusal` says what was held back and what came instead (what the model gave less than a
        thousandth is not told), a `PullBack` where the text was steered back.

        Args:
            row: Of this row of the batch only.
        """
        found: list[Refusal | PullBack] = [] if self._gate is None else [*self._gate.refused]
        if self.steer is not None and self._gate is not None:
            for each in range(self.steer.rows):
                found += self.steer.pulled_back(each)
        chosen = [each for each in found if row is None or each.row == row]
        return sorted(chosen, key=lambda each: (each.row, each.token))

    def detach(self) -> None:
        """Let the model generate as before; calling it twice is fine."""
        if self.steer is not None:
            self.steer.detach()
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Keeper:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()


def _refuse(_original: Callable[..., Any], *_args: Any, **_kwargs: Any) -> Any:
    raise HookError(
        "Continuous batching packs all requests into one row, so no text can be followed there "
        "or kept in a language. Use model.generate(), or detach() first."
    )


def keep(
    model: Any,
    tokenizer: Any,
    language: Kept | Sequence[Kept],
    *,
    neurons: SetLike | None = None,
    where: str = ANSWER,
    thinking: str | None = None,
    allow: str | Iterable[str] = PROMPT,
    names: int = NAMES,
    reach: float = 0.01,
    marks: tuple[str, str] = THOUGHT_MARKS,
) -> Keeper:
    """Keep what a model generates in a language: in its scripts, and with neurons in its words.

    Tokens with letters of a foreign script are held back wherever a token without any is among
    those that would be chosen; elsewhere the logits stay as they are, bit by bit. That stops
    Chinese characters in an English answer, and a Korean answer that goes on in English, and needs
    no neuron set. Languages that share a script, as English and French do, are told apart by the
    neurons of a set: where a text leaves its language it is steered back, see `Steerer.keep`.

    Args:
        model: A causal LM of transformers, bare or PEFT-wrapped.
        tokenizer: Its tokenizer.
        language: A language code, a schedule of them (`"en,24:ko"`), or a list with one per row of
            the batch; `None` leaves a row alone.
        neurons: A neuron set that carries the means of its labels, or its Hub id or folder.
        where: For reasoning models: "answer" leaves thoughts alone, "thinking" answers, "all"
            nothing.
        thinking: Another language for the thoughts: `keep(model, tokenizer, "ko", thinking="en")`.
        allow: Words that stay allowed. "prompt": foreign words of the prompt, if they are at most a
            quarter of it.
        names: Latin tokens in a row that may stand in a text of another script.
        reach: Where nothing is sampled: what counts as a choice is at least this share as likely as
            the likeliest token.
        marks: What begins and what ends a thought.

    Returns:
        A context manager; `detach()` ends it, and `report()` tells what was held back.

    Example:
        >>> with ns.keep(model, tokenizer, "ko") as kept:  # doctest: +SKIP
        ...     model.generate(**inputs)
        ...     kept.report()
    """
    if where not in (ANSWER, THINKING, ALL):
        raise ParameterError(f"where={where!r}; it is 'answer', 'thinking' or 'all'.")
    if where != ANSWER and thinking is None:
        if isinstance(language, str) and not any(mark in language for mark in ",:"):
            thinking = language
        elif language is not None:
            raise ParameterError(
                f"where={where!r} takes one language for the thoughts; pass thinking='en' beside "
                "a schedule or a list."
            )
    answer = None if where == THINKING else language
    if not isinstance(allow, str):
        allow = tuple(allow)
    if not 0 < reach <= 1:
        raise ParameterError(f"reach={reach}: it is a share of a probability, above 0, at most 1.")

    def gate(candidates: Candidates) -> VocabularyGate:
        return VocabularyGate(
            tokenizer,
            answer,
            allow=allow,
            thinking=thinking,
            marks=marks,
            names=names,
            candidates=candidates,
        )

    gate(Candidates())  # what is wrong is said now, not in the first generation
    if neurons is None:
        return Keeper(model, gate, reach)
    if where == THINKING:
        raise ParameterError(
            "where='thinking' leaves answers alone, and neurons are only used in answers, or with "
            "where='all' everywhere. Leave out neurons=."
        )
    steer = attach(model, neurons, tokenizer=tokenizer)
    try:
        steer.keep(language, where=where, marks=marks)
        return Keeper(model, gate, reach, steer)
    except BaseException:
        steer.detach()
        raise
