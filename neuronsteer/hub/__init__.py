"""Folders in, folders out: local paths, the Hugging Face Hub, and data inside this package.

Knows files, not what is in them. What comes from the Hub is complete and has the content that the
Hub promised; what goes there is one commit or nothing; every way in which the Hub can say no
becomes a `HubError` that tells what to do.
"""

from __future__ import annotations

from .download import fetch
from .failures import MissingFileError, translate
from .folders import builtin, clean_subfolder, read_folder, write_folder
from .upload import Change, Repository

__all__ = [
    "Change",
    "MissingFileError",
    "Repository",
    "builtin",
    "clean_subfolder",
    "fetch",
    "read_folder",
    "translate",
    "write_folder",
]
