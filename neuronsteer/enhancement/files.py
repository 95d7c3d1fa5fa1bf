"""An enhancement on disk: `enhancement_config.json` for the facts, `enhancement.safetensors`."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .. import hub
from ..errors import ArtifactError, shown
from ..neuron_set.storage import package_version
from .units import COLUMNS, ROWS, Units

CONFIG, TENSORS = "enhancement_config.json", "enhancement.safetensors"
FORMAT = 1


def write(
    folder: str | os.PathLike[str], facts: dict[str, Any], parts: list[tuple[Units, Tensor]]
) -> Path:
    """Write an enhancement into a folder, each file whole or not at all; return the folder."""
    tensors: dict[str, Tensor] = {}
    modules: list[dict[str, Any]] = []
    for place, (each, delta) in enumerate(parts):
        tensors[f"{place}.index"] = each.index.to(device="cpu", dtype=torch.int32).contiguous()
        tensors[f"{place}.delta"] = delta.detach().to(device="cpu").contiguous()
        modules.append({"path": each.path, "kind": each.kind, "size": len(each.index)})
    # In both files, so that files of two saves are not taken for one. Of the content, so that the
    # same enhancement gives the same bytes.
    stamp = hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()[:16]
    config = {"format": FORMAT, "neuronsteer_version": package_version(), "save": stamp, **facts}
    text = json.dumps({**config, "modules": modules}, indent=2, ensure_ascii=False) + "\n"
    data = safetensors.torch.save(tensors, metadata={"save": stamp})
    # The config last, because a folder without it is not an enhancement.
    return hub.write_folder(folder, {TENSORS: data, CONFIG: text.encode()})


def read(
    name: str | os.PathLike[str], revision: str | None = None
) -> tuple[dict[str, Any], list[tuple[Units, Tensor]]]:
    """Return the facts and parts that `write` wrote, checked.

    Args:
        name: Folder or Hub repository.
        revision: Branch, tag or commit.

    Raises:
        ArtifactError: If it is something else or damaged; the message names the field.
    """
    folder = hub.fetch(os.fspath(name), filenames=[CONFIG, TENSORS], revision=revision)
    config = _config(folder)
    tensors, metadata = hub.read_tensors(folder / TENSORS, ArtifactError)
    if metadata.get("save") != config.get("save"):
        raise ArtifactError(
            f"{CONFIG} and {TENSORS} of {os.fspath(name)!r} come from different saves: writing was "
            "interrupted, or the files were mixed. Save or download the enhancement again."
        )
    parts: list[tuple[Units, Tensor]] = []
    for place, module in enumerate(config["modules"]):
        index, delta = (tensors.get(f"{place}.{part}") for part in ("index", "delta"))
        sound = isinstance(module, dict) and isinstance(module.get("path"), str)
        if not sound or module.get("kind") not in (ROWS, COLUMNS):
            raise ArtifactError(f"{CONFIG}: field 'modules[{place}]' is {shown(module)}.")
        if index is None or delta is None or index.dim() != 1 or delta.dim() != 2:
            raise ArtifactError(f"{TENSORS}: {shown(module['path'])} has no index and change.")
        if len(index) != len(delta) or len(index) != module.get("size"):
            raise ArtifactError(
                f"{TENSORS}: {shown(module['path'])} has {len(delta)} {module['kind']} for "
                f"{len(index)} indices; expected {shown(module.get('size'))}. The files come from "
                "different saves."
            )
        if not bool(delta.isfinite().all()):
            raise ArtifactError(f"{TENSORS}: the change of {shown(module['path'])} is not finite.")
        parts.append((Units(module["path"], module["kind"], index.long()), delta.float()))
    return config, parts


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise ArtifactError(
            f"No {CONFIG} in the folder, so it is not an enhancement. Expected what "
            f"Enhanced.save_pretrained wrote."
        )
    found = hub.read_json(path, ArtifactError)
    if not isinstance(found.get("modules"), list):
        raise ArtifactError(f"{CONFIG}: field 'modules' is missing.")
    if found.get("format") != FORMAT:
        raise ArtifactError(
            f"{CONFIG}: field 'format' is {shown(found.get('format'))}; this neuronsteer reads "
            f"{FORMAT}."
        )
    return found
