"""Messages to a generation that is running: switch, stop.

A mailbox is a file that one side appends to and the other reads from between two tokens. That is
the same whether the generation runs in a thread of this process or, as on Spaces with ZeroGPU, in
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


class Mailboxes:
    """A folder of mailboxes that only this user can read, gone when the process ends."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="neuronsteer-")

    def open(self, session: str) -> Mailbox:
        """Return a new mailbox; letters go to whoever knows the session's name.

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
        return Mailbox(path)

    def post(self, session: str, letter: dict[str, Any]) -> bool:
        """Send a letter; return whether there is such a session."""
        try:
            # Without O_CREAT: who has ended gets no mail. Short appends are atomic.
            file = os.open(self._path(session), os.O_WRONLY | os.O_APPEND)
        except FileNotFoundError:
            return False
        try:
            os.write(file, json.dumps(letter).encode() + b"\n")
        finally:
            os.close(file)
        return True

    def _path(self, session: str) -> Path:
        if not _NAME.fullmatch(session):
            raise ParameterError(
                f"{session[:64]!r} cannot name a session: expected 6 to 64 letters, digits, - or _."
            )
        return Path(self._folder.name) / session


class Mailbox:
    """Where one generation finds its letters.

    Args:
        path: The file; it exists as long as the session does.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0

    def letters(self) -> list[dict[str, Any]]:
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
