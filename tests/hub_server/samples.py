"""What the tests of the test Hub push and pull, and short names for doing so."""

from __future__ import annotations

import random
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, create_repo, hf_hub_download

WEIGHTS = bytes(range(256)) * 400
FILES = {
    "neurons.safetensors": WEIGHTS,
    "adapter_config.json": b'{"peft_type": "NEURONSTEER"}',
    "README.md": b"---\nlicense: mit\nlibrary_name: neuronsteer\nlanguage: [en, fr]\n---\n# Set\n",
    "sub/other.json": b"{}",
}
# Without repetitions, so that no cut or shift can go unseen.
DATA = random.Random(0).randbytes(60_000)
SMALL = b'{"labels": ["en", "fr"]}' * 20
PATHS = {"neurons.safetensors": DATA, "adapter_config.json": SMALL}


def write_folder(folder: Path) -> Path:
    """FILES on disk."""
    for name, data in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def pushed(folder: Path, **options):
    """A folder as ann/set."""
    create_repo("ann/set", exist_ok=True)
    return HfApi().upload_folder(repo_id="ann/set", folder_path=folder, **options)


def add(path: str, data: bytes) -> CommitOperationAdd:
    """One file of a commit."""
    return CommitOperationAdd(path_in_repo=path, path_or_fileobj=data)


def push(operations, **options):
    """One commit to ann/set."""
    return HfApi().create_commit("ann/set", operations, commit_message="Push", **options)


def get(name: str = "neurons.safetensors", repo_id: str = "ann/set", **options) -> bytes:
    """One file of ann/set."""
    return Path(hf_hub_download(repo_id, name, **options)).read_bytes()
