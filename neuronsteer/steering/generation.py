"""Time: tells every steerer of a model which generated tokens a forward pass is about.

`generate` asks `prepare_inputs_for_generation` before each forward pass, outside any compiled graph
and with the full token sequence. Wrapping it gives the position of every column without keeping a
counter, so that beams, assisted decoding, chunked prefill, static caches and `use_cache=False` come
out right. A direct call of the model is placed by the length of its cache instead.

There is one clock per model. Steerers join and leave in any order; the last one to leave takes the
wrappers away.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from .layer_hooks import watch_root


@dataclass(eq=False)
class Session:
    """One call of `generate`.

    Attributes:
        batch: Rows of the batch as given (before beams), once known.
        prompt: Columns of the prompt in the frame of `input_ids`.
        offset: Cached positions that lie before that frame.
        owner: The only follower that takes part, or `None` for all public ones.
        token: The generated token that the next forward pass predicts last.
        forwards: Forward passes so far.
        hits: Per follower: layers changed over all forward passes.
        wanted: Per follower: positions that should have been changed.
        armed: A forward pass has been prepared and not yet run.
    """

    batch: int | None
    prompt: int | None
    offset: int
    owner: Follower | None
    token: int = 0
    forwards: int = 0
    armed: bool = False
    hits: dict[int, int] = field(default_factory=dict)
    wanted: dict[int, int] = field(default_factory=dict)


class Follower(Protocol):
    """What a steerer does when the clock ticks."""

    private: bool

    def begin(self, session: Session) -> None:
        """A generation starts."""
        ...

    def place(self, session: Session, first: int, batch: int, length: int, ids: Tensor) -> None:
        """Plan a forward pass over `length` positions; the first predicts token `first`."""
        ...

    def place_direct(self, start: int, batch: int, length: int, ids: Tensor | None) -> None:
        """Plan a direct call whose first position is `start`."""
        ...

    def passed(self, session: Session | None) -> None:
        """A forward pass is over."""
        ...

    def finish(self, session: Session, failed: bool) -> None:
        """A generation is over."""
        ...

    def packed(self) -> None:
        """Rows are about to be packed without a batch dimension; raise unless that is fine."""
        ...


class _Local(threading.local):
    session: Session | None = None
    owner: Follower | None = None


class Clock:
    """The clock of one model; `Clock.of(root)` finds or makes it."""

    _clocks: weakref.WeakKeyDictionary[nn.Module, Clock] = weakref.WeakKeyDictionary()
    _lock = threading.Lock()

    def __init__(self, root: Any) -> None:
        # The clock is a value in a dictionary keyed weakly by the model; it must not keep it alive.
        self._root = weakref.ref(root)
        self._followers: list[Follower] = []
        self._local = _Local()
        self._undo: list[Callable[[], None]] = []

    @classmethod
    def of(cls, root: Any) -> Clock:
        """Return the clock of the causal LM `root`."""
        with cls._lock:
            clock = cls._clocks.get(root)
            if clock is None:
                clock = cls._clocks[root] = cls(root)
            return clock

    @property
    def session(self) -> Session | None:
        """The generation running in this thread."""
        return self._local.session

    def join(self, follower: Follower) -> None:
        """Tell `follower` the time from now on."""
        with self._lock:
            if not self._followers:
                self._install()
            self._followers = [*self._followers, follower]

    def leave(self, follower: Follower) -> None:
        """Stop telling `follower`; the last one out removes every wrapper."""
        with self._lock:
            self._followers = [f for f in self._followers if f is not follower]
            if not self._followers:
                for undo in reversed(self._undo):
                    undo()
                self._undo = []

    def alone(self, owner: Follower, call: Callable[[], Any]) -> Any:
        """Run `call`; generations in it follow `owner` only."""
        before = self._local.owner
        self._local.owner = owner
        try:
            return call()
        finally:
            self._local.owner = before

    def _active(self, session: Session | None) -> list[Follower]:
        owner = session.owner if session is not None else self._local.owner
        if owner is not None:
            return [owner]
        return [follower for follower in self._followers if not follower.private]

    def _install(self) -> None:
        root = self._root()
        if root is None:
            return
        self._undo = [
            watch_root(root, self._before, self._after),
            _wrap(root, "prepare_inputs_for_generation", self._prepare),
            _wrap(root, "generate", self._generate),
        ]
        for name in ("generate_batch", "init_continuous_batching"):
            if hasattr(root, name):
                self._undo.append(_wrap(root, name, self._packed))

    def _generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._local.session is not None:
            # Self-speculation: the model drafts for itself, in the frame of the outer call.
            return original(*args, **kwargs)
        session = _open(args, kwargs, self._local.owner)
        followers = self._active(session)
        for follower in followers:
            follower.begin(session)
        self._local.session = session
        failed = True
        try:
            found = original(*args, **kwargs)
            failed = False
        finally:
            self._local.session = None
            for follower in followers:
                follower.finish(session, failed)
        return found

    def _prepare(
        self, original: Callable[..., Any], input_ids: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        out = original(input_ids, *args, **kwargs)
        session = self._local.session
        if session is None:  # a custom loop: the forward pass itself is placed by its cache
            return out
        new = out.get("input_ids")
        new = out["inputs_embeds"] if new is None else new
        batch, length = int(new.shape[0]), int(new.shape[1])
        columns = int(input_ids.shape[1])
        if session.prompt is None:
            session.prompt = columns
        if session.batch is None:
            session.batch = batch
        if columns < session.prompt:  # chunked prefill passes the chunk instead of the sequence
            cache = kwargs.get("past_key_values")
            start = int(cache.get_seq_length()) - session.offset if cache is not None else 0
        else:
            start = columns - length
        session.armed = True
        session.forwards += 1
        session.token = start + length - session.prompt
        for follower in self._active(session):
            follower.place(session, start - session.prompt + 1, batch, length, input_ids)
        return out

    def _packed(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        for follower in self._active(None):
            follower.packed()
        return original(*args, **kwargs)

    def _before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        session = self._local.session
        if session is not None and session.armed:
            session.armed = False
            return
        ids = kwargs.get("input_ids", args[0] if args else None)
        shaped = ids if ids is not None else kwargs.get("inputs_embeds")
        if shaped is None:
            return
        cache = kwargs.get("past_key_values")
        start = int(cache.get_seq_length()) if cache is not None else 0
        for follower in self._active(session):
            follower.place_direct(start, int(shaped.shape[0]), int(shaped.shape[1]), ids)

    def _after(self) -> None:
        session = self._local.session
        for follower in self._active(session):
            follower.passed(session)


def _open(args: tuple[Any, ...], kwargs: dict[str, Any], owner: Follower | None) -> Session:
    ids = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
    embeds = kwargs.get("inputs_embeds")
    batch = prompt = None
    if ids is not None:
        batch, prompt = int(ids.shape[0]), int(ids.shape[1])
    elif embeds is not None:  # generate starts counting columns after the embeddings
        batch, prompt = int(embeds.shape[0]), 0
    cache, mask = kwargs.get("past_key_values"), kwargs.get("attention_mask")
    offset = 0
    if cache is not None and mask is not None and prompt is not None:
        before = int(cache.get_seq_length())
        # Either the whole sequence is given again, or only what the cache does not hold yet.
        offset = before if int(mask.shape[1]) == prompt + before else 0
    return Session(batch=batch, prompt=prompt, offset=offset, owner=owner)


def _wrap(root: Any, name: str, around: Callable[..., Any]) -> Callable[[], None]:
    """Put `around(original, …)` before a method of this one object; return what undoes it."""
    original = getattr(root, name)
    shadowed = root.__dict__.get(name)

    # generate() looks at the signature of prepare_inputs_for_generation: wraps() preserves it.
    live = True

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs) if live else original(*args, **kwargs)

    root.__dict__[name] = wrapper

    def undo() -> None:
        nonlocal live
        live = False
        if root.__dict__.get(name) is not wrapper:
            return  # somebody wrapped ours: it stays in their chain and only passes calls on
        if shadowed is None:
            del root.__dict__[name]
        else:
            root.__dict__[name] = shadowed

    return undo


__all__ = ["Clock", "Follower", "Session"]
