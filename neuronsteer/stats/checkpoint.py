"""What a killed run needs to continue: totals and the position in the texts, on disk.

A finished label is one file that is never touched again; the running label is another that is
replaced as a whole. Being killed between any two instructions leaves a state from which the same
result is reached.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import ParameterError, StatsError, shown
from .files import load_tensors, save_tensors

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """How far this process got in the running label, and how it ran.

    Attributes:
        label: Position of the label.
        window: Window of its stream.
        batch: First batch of the window that is not done.
        digest: Hash over the texts up to and including the window.
        tokens: Counted tokens of this process so far in this label.
        cap: Largest batch, in positions, after running out of memory.
        aligned: Batches are still filled up.
        splits: How often memory ran out.
    """

    label: int = 0
    window: int = 0
    batch: int = 0
    digest: str = ""
    tokens: int = 0
    cap: int | None = None
    aligned: bool = True
    splits: int = 0

    def next_label(self) -> Position:
        """Return the start of the next label, where batches run as they did at the end of this."""
        started = Position(self.label + 1)
        return replace(started, cap=self.cap, aligned=self.aligned, splits=self.splits)


class CollectionCheckpoint:
    """The files of one process of one run.

    Args:
        folder: Where they are; created when needed.
        fingerprint: What the run depends on: model, policy, texts, batches, processes.
        rank: Position of this process.
        size: Number of processes.
        every: Seconds between two checkpoints.
    """

    def __init__(
        self, folder: Path, fingerprint: dict[str, Any], rank: int, size: int, every: float
    ) -> None:
        if every < 0:
            raise ParameterError(f"checkpoint_every={every}; expected seconds, 0 or more.")
        self.folder = folder
        self.every = every
        self._fingerprint = json.loads(json.dumps(fingerprint))
        self._name = f"rank{rank}-of-{size}"
        self._same_size = re.compile(rf"rank\d+-of-{size}\D")
        self._last = time.monotonic()
        self._cost = 0.0

    @property
    def _running(self) -> Path:
        return self.folder / f"{self._name}.safetensors"

    def _owns(self, path: Path) -> bool:
        # With a dot in front: what a process was writing when it was killed.
        return path.name.lstrip(".").startswith((f"{self._name}.", f"{self._name}-label"))

    def _finished(self, label: int) -> Path:
        return self.folder / f"{self._name}-label{label}.safetensors"

    def due(self) -> bool:
        """Return whether it is time to write, without spending a tenth of the time on it."""
        return time.monotonic() - self._last >= max(self.every, 10 * self._cost * (self.every > 0))

    def write(self, position: Position, tensors: dict[str, Tensor]) -> None:
        """Keep the state of the running label."""
        began = time.monotonic()
        facts = {"fingerprint": self._fingerprint, "position": asdict(position)}
        save_tensors(self._running, tensors, {"state": json.dumps(facts)})
        self._last = time.monotonic()
        self._cost = self._last - began

    def finish(self, position: Position, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Keep the label that ends at a position, then say that the next one has begun."""
        save_tensors(self._finished(position.label), tensors, {"state": json.dumps(facts)})
        self.write(position.next_label(), {})

    def read(self) -> tuple[Position, dict[str, Tensor]] | None:
        """Return the state of the running label, or `None` if there is none.

        Raises:
            StatsError: If it belongs to another run; names what differs.
        """
        if not self._running.exists():
            # A process that was killed early, or while cleaning up, leaves no state, but perhaps
            # other files of its own, beside those of the other processes.
            found = sorted(self.folder.glob("rank*-of-*.safetensors"))
            others = [path for path in found if not self._same_size.match(path.name)]
            if others:
                raise StatsError(
                    f"The checkpoint in {str(self.folder)!r} ({others[0].name}) was written by "
                    f"another number of processes. Resume with the same number, or start over."
                )
            return None
        state, tensors = _load(self._running)
        found = state.get("fingerprint")
        known: dict[str, Any] = found if isinstance(found, dict) else {}
        for name, value in self._fingerprint.items():
            before = known.get(name)
            if before != value:
                raise StatsError(
                    f"The checkpoint in {str(self.folder)!r} cannot be resumed: {name} was "
                    f"{_shown(before)} and is now {_shown(value)}. Use what the run was started "
                    f"with, or start over without resuming."
                )
        return _position(self._running, state.get("position")), tensors

    def read_finished(self, label: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what `finish` kept."""
        return _load(self._finished(label))

    def remove(self) -> None:
        """Delete this process's files, and the folder if nothing else is in it."""
        if not self.folder.is_dir():
            return
        # The position first: it promises that the labels before it are there.
        self._running.unlink(missing_ok=True)
        for path in list(self.folder.iterdir()):
            if self._owns(path):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            self.folder.rmdir()
        except OSError:
            log.debug("%s is kept: it holds other files", self.folder)


def _load(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the facts and tensors of a file of a checkpoint."""
    tensors, metadata = load_tensors(path)
    try:
        state: Any = json.loads(metadata.get("state", ""))
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict):
        raise _not_ours(path, f"its 'state' is {shown(metadata.get('state'))}")
    return state, tensors  # pyright: ignore[reportUnknownVariableType]


def _position(path: Path, found: Any) -> Position:
    plain = asdict(Position())
    if not isinstance(found, dict) or set(found) != set(plain):
        raise _not_ours(path, f"its 'position' is {shown(found)}")
    for name, usual in plain.items():
        value: Any = found[name]
        right = type(value) is type(usual) or (name == "cap" and type(value) in (int, type(None)))
        if not right or (type(value) is int and value < 0):
            raise _not_ours(path, f"its 'position' has {name}={shown(value)}")
    return Position(**found)


def _not_ours(path: Path, why: str) -> StatsError:
    return StatsError(
        f"The checkpoint {str(path)!r} cannot be resumed: {why}, which no collection writes. It "
        "was made or changed by hand; start over without resuming."
    )


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "…"
