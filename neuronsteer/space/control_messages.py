"""Messages to a running generation: switch, stop.

They lie in a file that one side appends to and the other reads between two tokens. That works the
same whether the generation runs in a thread of this process or, as on Spaces with ZeroGPU, in
another process.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from ..errors import ParameterError

_NAME = re.compile(r"[A-Za-z0-9_-]{6,64}")


class ControlFolder:
    """The message files of all running generations; readable by this user only, and temporary."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="neuronsteer-")

    def open(self, session: str) -> ControlMessages:
        """Return the messages of a new session, to which anyone who knows its name can send.

        Raises:
            ParameterError: If the name is malformed or in use.
        """
        path = self._path(session)
        try:
            path.touch(mode=0o600, exist_ok=False)
        except FileExistsError:
            raise ParameterError(
                f"The session {session[:64]!r} is generating already; stop it first, or use "
                "another name."
            ) from None
        return ControlMessages(path)

    def send(self, session: str, message: dict[str, Any]) -> bool:
        """Send a message; return whether there is such a session."""
        try:
            # Without O_CREAT, so that a session that has ended is not revived. Short appends are
            # atomic.
            file = os.open(self._path(session), os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:
            return False
        try:
            os.write(file, json.dumps(message).encode() + b"\n")
        finally:
            os.close(file)
        return True

    def _path(self, session: str) -> Path:
        if not _NAME.fullmatch(session):
            raise ParameterError(
                f"{session[:64]!r} cannot name a session: expected 6 to 64 letters, digits, - or _."
            )
        return Path(self._folder.name) / session


class ControlMessages:
    """The messages to one generation.

    Args:
        path: Their file; it exists as long as the session does.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def receive(self) -> list[dict[str, Any]]:
        """Return what arrived since the last call."""
        try:
            if os.stat(self._path).st_size == self._read:
                return []
            with self._path.open("rb") as file:
                file.seek(self._read)
                whole, _, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._read += len(whole) + 1 if whole else 0
        return [json.loads(line) for line in whole.splitlines()]

    def close(self) -> None:
        """End the session."""
        self._path.unlink(missing_ok=True)
