"""Folders in, folders out: local paths, the Hugging Face Hub, and data inside this package.

Handles files, whatever is in them. What comes from the Hub is complete and has the content that the
Hub announced; what goes there is one commit or nothing; every way in which the Hub can refuse
becomes a `HubError` that says what to do. Files are written completely or not at all.
"""

from __future__ import annotations

from .atomic_files import new_folder, write_file, write_folder
from .download import DownloadOptions, connection_error, fetch
from .errors import MissingFileError, hub_error
from .folders import builtin, clean_subfolder, read_folder, read_json
from .output import check_output, kinds_in
from .upload import CommitContent, Repository, UploadOptions

__all__ = [
    "CommitContent",
    "DownloadOptions",
    "MissingFileError",
    "Repository",
    "UploadOptions",
    "builtin",
    "check_output",
    "clean_subfolder",
    "connection_error",
    "fetch",
    "hub_error",
    "kinds_in",
    "new_folder",
    "read_folder",
    "read_json",
    "write_file",
    "write_folder",
]
