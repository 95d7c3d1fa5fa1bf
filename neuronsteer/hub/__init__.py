"""Folders in, folders out: local paths, the Hugging Face Hub, and data inside this package.

Handles files, whatever is in them. What comes from the Hub is complete and has the content that the
Hub announced; what goes there is one commit or nothing; every way in which the Hub can refuse
becomes a `HubError` that says what to do. Files are written completely or not at all.
"""

from __future__ import annotations

from .atomic_files import new_folder, write_file, write_folder
from .download import DownloadOptions, fetch
from .errors import MissingFileError, hub_error
from .folders import builtin, clean_subfolder, public_name, read_folder
from .reading import read_json, read_tensors, stays_inside
from .upload import CommitContent, Repository, UploadOptions

__all__ = [
    "CommitContent",
    "DownloadOptions",
    "MissingFileError",
    "Repository",
    "UploadOptions",
    "builtin",
    "clean_subfolder",
    "fetch",
    "hub_error",
    "new_folder",
    "public_name",
    "read_folder",
    "read_json",
    "read_tensors",
    "stays_inside",
    "write_file",
    "write_folder",
]
