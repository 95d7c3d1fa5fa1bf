"""One generation: three outputs that differ by steering only, seen token by token."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Generator
from typing import Any

import torch
from transformers import LogitsProcessorList

from ..errors import ParameterError
from ..steering.keeping.vocabulary_gate import VocabularyGate
from ..steering.schedule import Schedule
from ..steering.schedule_text import target_label
from ..steering.steerer import PREVIOUS, Steerer, attach
from .control_messages import ControlMessages
from .loaded_model import LoadedModel, for_random_neurons
from .outputs import Output, scores
from .request import GenerationRequest, write_schedule
from .seeded_sampling import SeededSampling
from .snippet import snippet

#: Seconds after which a generation ends if no snapshot is read.
_ABANDONED_AFTER = 15.0
#: Seconds that a generation may take in all, for starting and for every token, beside its pace.
_STARTING, _PER_TOKEN = 60.0, 5.0
#: Snapshots per second at most, and seconds after which one is sent even if nothing changed.
_MAX_RATE = 16.0
_LONGEST_WAIT = 0.5


class _Stop(Exception):
    """Ends `generate` from within: the visitor stopped it, or left."""


class GenerationJob:
    """Generates in its own thread; iterating gives snapshots until the end.

    Args:
        loaded: Model and set.
        request: What to generate, checked.
        messages: Where switches and stops arrive.
    """

    def __init__(
        self, loaded: LoadedModel, request: GenerationRequest, messages: ControlMessages
    ) -> None:
        self._loaded, self._request, self._messages = loaded, request, messages
        self._changed = threading.Condition()
        self._tokens: list[list[int]] = []
        self._shown_tokens = 0
        self._switches: list[dict[str, Any]] = []
        self._stopped = False
        self._over = False
        self._failure: BaseException | None = None
        self._last_read = time.monotonic()
        self._next_token = 0.0
        token = _PER_TOKEN + (1 / request.pace if request.pace else 0.0)
        self._seconds = _STARTING + request.max_new_tokens * token
        self._ends_at = time.monotonic() + self._seconds
        self._steer: Steerer | None = None
        self._gate: VocabularyGate | None = None
        inputs = loaded.tokenizer(request.prompt, return_tensors="pt")
        self._ids: torch.Tensor = inputs["input_ids"]
        limit = getattr(loaded.model.config, "max_position_embeddings", None)
        length = int(self._ids.shape[1])
        if length == 0:
            raise ParameterError("The model's tokenizer makes no token of this prompt.")
        if limit is not None and length + request.max_new_tokens > limit:
            raise ParameterError(
                f"The prompt has {length} tokens and {request.max_new_tokens} are to follow, but "
                f"the model takes at most {limit} tokens. Shorten one of them."
            )
        names = ("steered", "unsteered", "random") if request.controls else ("steered",)
        self._outputs = [
            Output(
                name,
                request.prompt,
                loaded.tokenizer,
                self._ids[0].tolist(),
                loaded.identifier,
                loaded.end_tokens,
            )
            for name in names
        ]

    def snapshots(self) -> Generator[dict[str, Any], None, None]:
        """Yield snapshots, as often as something changes.

        The last snapshot has another `state` than "running". Closing this ends the generation.

        Raises:
            NeuronSteerError: If it failed for a reason that the visitor can understand.
        """
        thread = threading.Thread(target=self._work, name="neuronsteer-space", daemon=True)
        thread.start()
        shown, before = 0, 0.0
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda seen=shown: self._over or len(self._tokens) > seen,
                        timeout=_LONGEST_WAIT,
                    )
                    over = self._over
                # Tokens that come faster than anyone can read are sent together.
                time.sleep(0 if over else max(0.0, before + 1 / _MAX_RATE - time.monotonic()))
                self._last_read = before = time.monotonic()
                shown = self._push_tokens()
                if over:
                    break
                yield self._snapshot("running")
            thread.join()
            if self._failure is not None:
                raise self._failure
            self._push_tokens()
            for output in self._outputs:
                output.flush()
            yield self._snapshot("stopped" if self._stopped else "done")
        finally:
            self._stopped = self._stopped or not self._over
            thread.join(timeout=_ABANDONED_AFTER)

    # --- the thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._generate()
        except _Stop:
            self._stopped = True
        except BaseException as error:
            self._failure = error
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()

    def _generate(self) -> None:
        loaded, request = self._loaded, self._request
        sets = [loaded.neurons, *([loaded.control(request.seed)] if request.controls else [])]
        with (
            attach(
                loaded.model, sets, tokenizer=loaded.tokenizer, private=True, probe=False
            ) as steer,
            torch.inference_mode(),
        ):
            self._steer = steer
            self._gate = loaded.gate(request, len(self._outputs))
            self._steer_to(request.parsed(loaded.neurons))
            ids = self._ids.to(loaded.model.device).repeat(len(self._outputs), 1)
            steer.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                streamer=self,
                logits_processor=LogitsProcessorList(
                    [
                        *([self._gate] if self._gate else []),
                        SeededSampling(request.seed, request.temperature, request.top_p),
                    ]
                ),
                **loaded.options(request),
            )

    def put(self, value: torch.Tensor) -> None:
        """Take what `generate` streams: the prompt first, then a token per row."""
        rows: list[Any] = value.tolist()
        if isinstance(rows[0], list):  # the prompt
            return
        with self._changed:
            self._tokens.append(rows)
            self._changed.notify_all()
        self._between_tokens()

    def end(self) -> None:
        """Do nothing: the thread itself says when it is over."""

    def _between_tokens(self) -> None:
        """Apply messages, keep the pace, and end when the visitor has left.

        Here, and not in a stopping criterion: that is called before the token is streamed, and a
        switch would come one token after the one that the visitor saw last.
        """
        pace = self._request.pace
        if pace:
            self._next_token = max(self._next_token, time.monotonic()) + 1 / pace
        while True:
            self._apply_messages()
            now = time.monotonic()
            if self._stopped or now - self._last_read > _ABANDONED_AFTER:
                raise _Stop
            if now > self._ends_at:
                raise ParameterError(
                    f"The generation was ended after {self._seconds:.0f} seconds, with "
                    f"{len(self._tokens)} of {self._request.max_new_tokens} tokens. Ask for fewer "
                    "tokens, or try again when fewer visitors are here."
                )
            wait = self._time_to_next_token()
            if wait <= 0:
                return
            time.sleep(min(wait, 0.05))

    def _time_to_next_token(self) -> float:
        return self._next_token - time.monotonic()

    def _apply_messages(self) -> None:
        for message in self._messages.receive():
            if message.get("stop"):
                self._stopped = True
            elif "switch" in message:
                label = message["switch"]
                self._steer_to(Schedule(label))
                self._switches.append({"token": len(self._tokens), "label": label})

    def _steer_to(self, schedule: Schedule) -> None:
        assert self._steer is not None
        if self._request.is_watched(self._loaded.neurons):
            self._steer.keep(
                [self._request.keep, None, None][: len(self._outputs)],
                self._request.steering(self._loaded.neurons),
                self._request.strength,
            )
            return
        targets = [schedule, None, for_random_neurons(schedule)][: len(self._outputs)]
        self._steer.to(
            targets,
            away_from=PREVIOUS if self._request.subtracts_previous else None,
            operation=self._request.steering(self._loaded.neurons),
            strength=self._request.strength,
        )

    # --- snapshots ------------------------------------------------------------------------------

    def _push_tokens(self) -> int:
        """Give the outputs the tokens since the last call; return how many there are in all."""
        done = self._shown_tokens
        new = self._tokens[done:]
        for row in new:
            for output, token in zip(self._outputs, row, strict=True):
                output.push(token)
        self._shown_tokens = done + len(new)
        return self._shown_tokens

    def _runs(self) -> list[tuple[int, int, str | None]]:
        if self._steer is None or not self._tokens:
            return []
        return [
            (start, end, None if label is None else target_label(label))
            for start, end, label in self._steer.spans(0)
        ]

    def _interventions(self) -> list[dict[str, Any]]:
        if self._steer is None or self._gate is None or not self._tokens:
            return []
        return self._outputs[0].interventions(
            sorted([*self._gate.refused, *self._steer.pulled_back(0)], key=lambda each: each.token)
        )

    def _followed_schedule(self) -> str:
        """Return the schedule that gives this text again, switches by hand included."""
        if self._steer is None or not self._tokens:
            return self._request.schedule
        requested = self._request.parsed(self._loaded.neurons)
        if not self._switches:
            return write_schedule(requested)
        if not requested.is_conditional:
            lines = self._steer.timeline
            return write_schedule(_plain(lines[0] if isinstance(lines, list) else lines))
        points = [(start, label) for start, _, label in self._runs()]
        return write_schedule(Schedule(points[0][1], *points[1:], prompt=requested.prompt))

    def _snapshot(self, state: str) -> dict[str, Any]:
        runs = self._runs()
        outputs = [each.snapshot(runs, own=each.name == "steered") for each in self._outputs]
        found: dict[str, Any] = {
            "state": state,
            "prompt": self._request.prompt,
            "tokens": self._shown_tokens,
            "limit": self._request.max_new_tokens,
            "schedule": self._followed_schedule(),
            "note": self._request.parsed(self._loaded.neurons).unreached(
                self._request.max_new_tokens
            ),
            "switches": list(self._switches),
            "interventions": self._interventions(),
            "outputs": outputs,
            "scores": scores(outputs),
        }
        if state != "running":
            # The program asks for as many tokens as there are, also if this was stopped early.
            request = dataclasses.replace(
                self._request,
                schedule=found["schedule"],
                max_new_tokens=max(self._shown_tokens, 1),
            )
            found["code"] = snippet(self._loaded, request)
        return found


def _plain(schedule: Schedule) -> Schedule:
    """Return the schedule without the labels that the request subtracts at each switch."""
    points = [
        dataclasses.replace(point, label=None if point.label is None else target_label(point.label))
        for point in schedule.points
    ]
    return Schedule(*points, repeat=schedule.repeat, prompt=schedule.prompt)
