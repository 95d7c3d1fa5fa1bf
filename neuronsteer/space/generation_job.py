"""One generation: three rows that differ by steering only, seen token by token."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Generator
from typing import Any

import torch
from transformers import LogitsProcessorList

from ..errors import ParameterError
from ..steering.schedule import Schedule
from ..steering.schedule_text import target_label
from ..steering.steerer import PREVIOUS, Steerer, attach
from .control_messages import Mailbox
from .loaded_model import Pair, mirrored
from .outputs import Lane, scores
from .request import Order, written
from .sampling import Seeded
from .snippet import snippet

#: Seconds after which a generation that nobody looks at ends.
_LEASE = 15.0
#: Snapshots per second at most, and seconds without news after which one is sent all the same.
_RATE = 16.0
_SILENCE = 0.5


class _Enough(Exception):
    """Ends `generate` from within: the visitor stopped it, or left."""


class Running:
    """Generates in a thread of its own; iterating gives snapshots until the end.

    Args:
        pair: Model and set.
        order: What was asked, checked.
        mailbox: Where switches and stops arrive.
    """

    def __init__(self, pair: Pair, order: Order, mailbox: Mailbox) -> None:
        self._pair, self._order, self._mailbox = pair, order, mailbox
        self._news = threading.Condition()
        self._tokens: list[list[int]] = []
        self._switches: list[dict[str, Any]] = []
        self._stopped = False
        self._over = False
        self._failure: BaseException | None = None
        self._looked = time.monotonic()
        self._next_token = 0.0
        self._steer: Steerer | None = None
        inputs = pair.tokenizer(order.prompt, return_tensors="pt")
        self._ids: torch.Tensor = inputs["input_ids"]
        room = getattr(pair.model.config, "max_position_embeddings", None)
        length = int(self._ids.shape[1])
        if length == 0:
            raise ParameterError("The model's tokenizer makes no token of this prompt.")
        if room is not None and length + order.max_new_tokens > room:
            raise ParameterError(
                f"The prompt has {length} tokens and {order.max_new_tokens} are to follow, but the "
                f"model reads {room} at most. Shorten one of them."
            )
        names = ("steered", "unsteered", "random") if order.controls else ("steered",)
        prompt_ids: list[int] = self._ids[0].tolist()
        self._lanes = [
            Lane(name, order.prompt, pair.tokenizer, prompt_ids, pair.judge, pair.ends)
            for name in names
        ]

    def snapshots(self) -> Generator[dict[str, Any], None, None]:
        """Yield what there is to see, as often as it changes.

        The last snapshot has another `state` than "running". Closing this ends the generation.

        Raises:
            NeuronSteerError: If it failed for a reason that the visitor can understand.
        """
        thread = threading.Thread(target=self._work, name="neuronsteer-space", daemon=True)
        thread.start()
        shown, before = 0, 0.0
        try:
            while True:
                with self._news:
                    self._news.wait_for(
                        lambda seen=shown: self._over or len(self._tokens) > seen, timeout=_SILENCE
                    )
                    over = self._over
                # Tokens that come faster than anybody can read travel together.
                time.sleep(0 if over else max(0.0, before + 1 / _RATE - time.monotonic()))
                self._looked = before = time.monotonic()
                shown = self._take()
                if over:
                    break
                yield self._snapshot("running")
            thread.join()
            if self._failure is not None:
                raise self._failure
            self._take()
            for lane in self._lanes:
                lane.flush()
            yield self._snapshot("stopped" if self._stopped else "done")
        finally:
            self._stopped = self._stopped or not self._over
            thread.join(timeout=_LEASE)

    # --- the thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._generate()
        except _Enough:
            self._stopped = True
        except BaseException as error:
            self._failure = error
        finally:
            with self._news:
                self._over = True
                self._news.notify_all()

    def _generate(self) -> None:
        pair, order = self._pair, self._order
        sets = [pair.neurons, *([pair.control(order.seed)] if order.controls else [])]
        with (
            attach(pair.model, sets, tokenizer=pair.tokenizer, private=True, probe=False) as steer,
            torch.inference_mode(),
        ):
            self._steer = steer
            self._to(order.parsed(pair.neurons))
            ids = self._ids.to(pair.model.device).repeat(len(self._lanes), 1)
            steer.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                streamer=self,
                logits_processor=LogitsProcessorList(
                    [Seeded(order.seed, order.temperature, order.top_p)]
                ),
                **pair.options(order),
            )

    def put(self, value: torch.Tensor) -> None:
        """Take what `generate` streams: the prompt first, then a token per row."""
        rows: list[Any] = value.tolist()
        if isinstance(rows[0], list):  # the prompt
            return
        with self._news:
            self._tokens.append(rows)
            self._news.notify_all()
        self._between()

    def end(self) -> None:
        """Do nothing: the thread itself says when it is over."""

    def _between(self) -> None:
        """Look after pace, mail and visitor between two tokens.

        Here, and not in a stopping criterion: that is asked before the token is streamed, and a
        switch would come one token after the one that the visitor saw last.
        """
        pace = self._order.pace
        if pace:
            self._next_token = max(self._next_token, time.monotonic()) + 1 / pace
        while True:
            self._read_mail()
            if self._stopped or time.monotonic() - self._looked > _LEASE:
                raise _Enough
            rest = self._next_token - time.monotonic()
            if rest <= 0:
                return
            time.sleep(min(rest, 0.05))

    def _read_mail(self) -> None:
        for letter in self._mailbox.letters():
            if letter.get("stop"):
                self._stopped = True
            elif "switch" in letter:
                label = letter["switch"]
                self._to(Schedule(label))
                self._switches.append({"token": len(self._tokens), "label": label})

    def _to(self, schedule: Schedule) -> None:
        assert self._steer is not None
        targets = [schedule, None, mirrored(schedule)][: len(self._lanes)]
        self._steer.to(
            targets,
            away_from=PREVIOUS if self._order.leaves else None,
            operation=self._order.steering(self._pair.neurons),
            strength=self._order.strength,
        )

    # --- what is seen ---------------------------------------------------------------------------

    def _take(self) -> int:
        """Give the lanes the tokens that came since the last time; return how many there are."""
        done = self._shown_tokens
        fresh = self._tokens[done:]
        for rows in fresh:
            for lane, token in zip(self._lanes, rows, strict=True):
                lane.push(token)
        self._shown_tokens = done + len(fresh)
        return self._shown_tokens

    _shown_tokens = 0

    def _runs(self) -> list[tuple[int, int, str | None]]:
        if self._steer is None or not self._tokens:
            return []
        return [
            (start, end, None if label is None else target_label(label))
            for start, end, label in self._steer.spans(0)
        ]

    def _followed(self) -> str:
        """Return the schedule that gives this text again, switches by hand included."""
        if self._steer is None or not self._tokens:
            return self._order.schedule
        asked = self._order.parsed(self._pair.neurons)
        if not self._switches:
            return written(asked)
        if not asked.is_conditional:
            lines = self._steer.timeline
            return written(_plain(lines[0] if isinstance(lines, list) else lines))
        points = [(start, label) for start, _, label in self._runs()]
        return written(Schedule(points[0][1], *points[1:], prompt=asked.prompt))

    def _snapshot(self, state: str) -> dict[str, Any]:
        runs = self._runs()
        lanes = [lane.snapshot(runs, own=lane.name == "steered") for lane in self._lanes]
        found: dict[str, Any] = {
            "state": state,
            "prompt": self._order.prompt,
            "tokens": self._shown_tokens,
            "limit": self._order.max_new_tokens,
            "schedule": self._followed(),
            "switches": list(self._switches),
            "lanes": lanes,
            "scores": scores(lanes),
        }
        if state != "running":
            # What was stopped early is given again by asking for as much.
            order = dataclasses.replace(
                self._order,
                schedule=found["schedule"],
                max_new_tokens=max(self._shown_tokens, 1),
            )
            found["code"] = snippet(self._pair, order)
        return found


def _plain(schedule: Schedule) -> Schedule:
    """Return the schedule without what it leaves at each switch: that follows from the order."""
    points = [
        dataclasses.replace(point, label=None if point.label is None else target_label(point.label))
        for point in schedule.points
    ]
    return Schedule(*points, repeat=schedule.repeat, prompt=schedule.prompt)
