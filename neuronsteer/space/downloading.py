"""A model's files from the Hub, with progress that a page can show."""

from __future__ import annotations

import io
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

from ..hub import hub_error

#: Weights that hold no code, and what a tokenizer may consist of.
_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja"]
_LOOK = 0.5
#: Which part of loading a pair this is.
_FROM, _TO = 0.2, 0.75

#: `(share done, what is being done)`.
Step = tuple[float, str]


def download(repo_id: str) -> Generator[Step, None, Path]:
    """Yield steps and return the folder with a model's files; no file that could hold code.

    Raises:
        HubError: If it cannot be downloaded.
    """
    from huggingface_hub import snapshot_download

    seen: dict[int, tuple[int, int]] = {}
    found: dict[str, Any] = {}

    def work() -> None:
        try:
            found["folder"] = snapshot_download(
                repo_id,
                allow_patterns=_FILES,
                tqdm_class=_counting(seen),
                library_name="neuronsteer",
            )
        except BaseException as error:
            found["error"] = error

    thread = threading.Thread(target=work, name="neuronsteer-download", daemon=True)
    thread.start()
    while thread.is_alive():
        yield _step(repo_id, seen)
        thread.join(_LOOK)
    if "error" in found:
        error = found["error"]
        raise hub_error(error, repo_id) if isinstance(error, Exception) else error
    return Path(found["folder"])


def _step(repo_id: str, seen: dict[int, tuple[int, int]]) -> Step:
    done, total = max(seen.copy().values(), key=lambda bar: bar[1], default=(0, 0))
    if not total:
        return _FROM, f"Downloading {repo_id}"
    share = min(done / total, 1.0)
    told = f"Downloading {repo_id}: {done / 1e9:.2f} of {total / 1e9:.2f} GB"
    return _FROM + share * (_TO - _FROM), told


def _counting(seen: dict[int, tuple[int, int]]) -> Any:
    """Return a progress bar class that shows nothing and notes bytes in `seen`."""
    from tqdm import tqdm

    class Counting(tqdm):  # pyright: ignore[reportMissingTypeArgument]
        def __init__(self, *args: Any, **options: Any) -> None:
            for ours in ("disable", "file", "name"):
                options.pop(ours, None)
            super().__init__(*args, disable=False, file=io.StringIO(), **options)

        def display(self, *_args: Any, **_options: Any) -> None:
            pass

        def update(self, n: float | None = 1) -> bool | None:
            told = super().update(n)
            if self.unit == "B":
                seen[id(self)] = (int(self.n), int(self.total or 0))
            return told

    return Counting
