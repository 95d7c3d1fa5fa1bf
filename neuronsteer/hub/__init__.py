"""Folders in, folders out: local paths, the Hugging Face Hub, and data inside this package.

Handles files, whatever is in them. What comes from the Hub is complete and has the content that the
Hub announced; what goes there is one commit or nothing; every way in which the Hub can refuse
becomes a `HubError` that says what to do. Files are written completely or not at all.
"""

from __future__ import annotations

from .atomic_files import new_folder, scratch_folder, write_file, write_folder
from .download import DownloadOptions, connection_error, fetch
from .errors import MissingFileError, hub_error
from .folders import clean_subfolder, commit_of, public_name, read_folder
from .output import check_output, kinds_in
from .reading import read_json, read_tensors, stays_inside
from .shipped import SHIPPED, builtin, hub_name, laid_out, models_folder, shipped_model
from .upload import CommitContent, Repository, UploadOptions

__all__ = [
    "SHIPPED",
    "CommitContent",
    "DownloadOptions",
    "MissingFileError",
    "Repository",
    "UploadOptions",
    "builtin",
    "check_output",
    "clean_subfolder",
    "commit_of",
    "connection_error",
    "fetch",
    "hub_error",
    "hub_name",
    "kinds_in",
    "laid_out",
    "models_folder",
    "new_folder",
    "public_name",
    "read_folder",
    "read_json",
    "read_tensors",
    "scratch_folder",
    "shipped_model",
    "stays_inside",
    "write_file",
    "write_folder",
]
