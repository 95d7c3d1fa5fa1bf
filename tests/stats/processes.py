"""Child processes without the seconds that importing torch takes: fork, and watch."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable


def fork(task: Callable[[], None], environment: dict[str, str] | None = None) -> int:
    """Run `task` in a child process; return its id. The child's exit code is 1 if it raises."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ.update(environment or {})
        task()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    """Return the exit code of a child; minus the signal if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_after(task: Callable[[], None], seconds: float) -> bool:
    """Run `task` in a child and kill it; return whether it was still running."""
    child = fork(task)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return False
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return wait(child) == -signal.SIGKILL


def together(size: int, task: Callable[[], None], **environment: str) -> list[int]:
    """Run `task` in `size` processes that know of each other as torchrun's do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = []
    for rank in range(size):
        facts = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        children.append(fork(task, facts | environment))
    return [wait(child) for child in children]
