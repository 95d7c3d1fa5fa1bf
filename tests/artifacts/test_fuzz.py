"""Damaged artifacts give a named error, soon and in little memory, or an object that works.

`NEURONSTEER_MUTATIONS=100000` makes as many mutations as that; by default it is what a test run
bears. `NEURONSTEER_MUTATION=kind:number` repeats one, with its traceback.
"""

from __future__ import annotations

import os
import random
import resource
import time
import traceback
import warnings
from pathlib import Path

import pytest

from neuronsteer.errors import NeuronSteerError

from .kinds import KINDS, Kind, empty

MUTATIONS = int(os.environ.get("NEURONSTEER_MUTATIONS", "2500"))
ONE = os.environ.get("NEURONSTEER_MUTATION", "").rpartition(":")
SECONDS, MEGABYTES = 1.0, 200


def _resident() -> float:
    """Return the memory of this process in megabytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        pytest.skip("needs /proc, to see how much memory is taken")
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _try(kind: Kind, sound: object, number: int, folder: Path) -> tuple[str, str]:
    """Return how one mutation ended, and what is wrong with that."""
    damaged = kind.damage(sound, random.Random(f"{kind.name}:{number}"))
    before, peak, began = _resident(), _peak(), time.process_time()
    outcome, wrong = "loaded", ""
    try:
        kind.use(damaged, folder)
    except NeuronSteerError as error:
        outcome = type(error).__name__
        if len(str(error)) > 3_000:
            wrong = f"a message of {len(str(error))} characters"
    except Exception as error:
        if ONE[0]:
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        wrong = (
            f"{type(error).__name__}: {str(error)[:160]} ({Path(last.filename).name}:{last.lineno})"
        )
    # The processor's time, for another process may have the processor for most of a second.
    took = time.process_time() - began
    if took > SECONDS:
        wrong = wrong or f"took {took:.1f} s"
    if _peak() > peak and _peak() - before > MEGABYTES:
        wrong = wrong or f"took {_peak() - before:.0f} MB"
    return outcome, wrong


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.replace(" ", "-"))
@pytest.mark.timeout(0 if MUTATIONS > 10_000 else 300)
def test_damaged_artifacts(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if ONE[0] and ONE[0] != kind.name:
        pytest.skip("another mutation is repeated")
    # What is on disk at once does not matter here, and waiting for it would take most of the time.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    sound = kind.make(empty(tmp_path / "sound"))
    kind.use(sound if kind.name != "schedules" else "en,24:fr", empty(tmp_path / "case"))
    count = MUTATIONS * kind.share // sum(each.share for each in KINDS)
    numbers = [int(ONE[2])] if ONE[0] else range(count)
    ended: dict[str, int] = {}
    failures: dict[str, list[int]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in numbers:
            outcome, wrong = _try(kind, sound, number, empty(tmp_path / "case"))
            ended[outcome] = ended.get(outcome, 0) + 1
            if wrong:
                failures.setdefault(wrong, []).append(number)
    print(f"\n{kind.name}: {len(numbers)} mutations, {ended}")
    assert not failures, "\n" + "\n".join(
        f"{len(which)} x {wrong}, first {kind.name}:{which[0]}"
        for wrong, which in sorted(failures.items(), key=lambda pair: -len(pair[1]))[:40]
    )
    # Damage that is always found, or never, would not test what comes after reading.
    assert len(numbers) < 20 or 0 < ended.get("loaded", 0) < len(numbers)
