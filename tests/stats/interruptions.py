"""Every point at which a run can stop, found by counting the lines that run, not by drawing some.

One run is watched. Before each line of the code that runs batches, adds them up and writes them, a
copy of the run stops there: killed, or by an exception. What each copy leaves on disk is kept.
"""

import hashlib
import os
import re
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import neuronsteer

from .processes import wait

PACKAGE = Path(neuronsteer.__file__).parent
# Where totals, the position or files change. Reading a batch changes only what is pending, which no
# checkpoint holds; `run_in_memory` of the tests is a point in the middle of it.
_SUMS = {"commit", "discard", "load", "total", "totals"}
WATCHED: dict[str, set[str] | None] = {
    str(PACKAGE / "stats/collection_run.py"): None,
    str(PACKAGE / "stats/forward.py"): {"run", "_fits", "_shrink"},
    str(PACKAGE / "stats/checkpoint.py"): None,
    str(PACKAGE / "stats/files.py"): {"save_tensors", "load_tensors", "write"},
    str(PACKAGE / "stats/collect.py"): {"_finish"},
    str(PACKAGE / "stats/activation_collector.py"): _SUMS,
    str(PACKAGE / "stats/accumulators.py"): _SUMS,
    str(PACKAGE / "hub/atomic_files.py"): None,
    str(Path(__file__).with_name("test_interruptions.py")): {"run_in_memory"},
}


def stopped_everywhere(
    task: Callable[[], object], error: BaseException | None, kept: Path, files: str = ""
) -> int:
    """Run `task` in the current folder, and stop a copy of it at every point; return their number.

    Args:
        task: Writes into the current folder only.
        error: What a copy is stopped by; `None` kills it, so that nothing of it runs any more.
        kept: New folder outside the current one: what is left in it, one folder per distinct state.
        files: Only files whose names contain this belong to the task.
    """
    kept.mkdir(parents=True)
    watcher, points, states = os.getpid(), 0, set[str]()

    def keep(folder: Path) -> None:
        state = digest(folder, files)
        if state not in states:
            states.add(state)
            copy(folder, kept / f"{len(states):04}", files)

    def stop() -> None:
        nonlocal points
        points += 1
        if error is None:
            keep(Path())
            return
        folder = kept / "running"
        copy(Path(), folder, files)
        child = os.fork()
        if not child:
            os.chdir(folder)
            raise error
        if wait(child):
            raise AssertionError(f"The copy that stopped at point {points} went wrong.")
        keep(folder)
        shutil.rmtree(folder)

    def local(_frame, event, _value):
        if event == "line":
            stop()
        return local

    def trace(frame, _event, _value):
        names = WATCHED.get(frame.f_code.co_filename, set())
        return local if names is None or frame.f_code.co_name in names else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        task()
    except BaseException as found:
        if os.getpid() != watcher:
            # The writing of files explains what stopped it.
            causes = (found, found.__cause__, found.__context__)
            if error not in causes:
                traceback.print_exception(found)
            os._exit(error not in causes)
        raise
    finally:
        sys.settrace(before)
        if os.getpid() != watcher:
            os._exit(0)  # stopped where it does not matter, such as while cleaning up
    return points


def copy(folder: Path, to: Path, files: str) -> None:
    """Copy those files of a folder whose names contain `files`; others may be changing."""

    def others(_folder: str, names: list[str]) -> list[str]:
        return [name for name in names if "." in name and files not in name]

    shutil.copytree(folder, to, ignore=others)


def digest(folder: Path, files: str) -> str:
    """Return a hash of those files; what is being written has a random name."""
    found = hashlib.sha256()
    # Not rglob, which fails if a folder of another process goes away meanwhile.
    paths = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    for path in sorted(paths):
        name = str(path.relative_to(folder))
        if files in name:
            found.update(re.sub(r"\.[0-9a-f]{8}\.tmp", ".tmp", name).encode() + b"\0")
            # Which save two files belong to is random, too; that they belong together is not.
            content = re.sub(rb'("save": ?)"[0-9a-f]{16}"', rb'\1"S"', path.read_bytes())
            found.update(hashlib.sha256(content).digest())
    return found.hexdigest()
