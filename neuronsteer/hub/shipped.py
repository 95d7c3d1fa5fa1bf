"""Neuron sets that come with the library, and where their models lie."""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shipped:
    """A set of this package, and its model.

    Attributes:
        folders: Where the set may be, below the package; the first that is there is it. A wheel
            holds it, and a clone has it beside the package.
        model: The model on the Hub; `None` if it is part of the package.
    """

    folders: tuple[str, ...]
    model: str | None = None


def _ready_made(folder: str, model: str) -> Shipped:
    return Shipped((f"ready_made/{folder}", f"../model_cards/{folder}"), model)


#: By the name that users give. `"demo/lape"` is another set, in a folder of the first.
SHIPPED = {
    "demo": Shipped(("demo",)),
    "gemma": _ready_made("gemma-3-270m-languages", "google/gemma-3-270m"),
    "qwen": _ready_made(
        "qwen2.5-coder-0.5b-instruct-languages", "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    ),
}


def builtin(name: str) -> Path | None:
    """Return the folder of a set shipped with this package, or `None`.

    `"demo"`, `"gemma"` and `"gemma/neurons"` are such names. The folder is looked up without
    importing anything from it, so this module needs to know nothing about the demo.
    """
    first, *rest = name.split("/")
    if first not in SHIPPED or not all(re.fullmatch(r"[\w-]+", part) for part in rest):
        return None
    spec = importlib.util.find_spec(__name__.split(".")[0])
    for root in (spec.submodule_search_locations or []) if spec else []:
        for folder in SHIPPED[first].folders:
            found = Path(root, folder).resolve().joinpath(*rest)
            if found.is_dir():
                return found
    return None


def models_folder() -> Path:
    """Return the folder that `make real` lays pretrained models out in, one folder each."""
    named = os.environ.get("NEURONSTEER_MODELS")
    if named:
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "neuronsteer" / "models"


def laid_out() -> list[str]:
    """Return the shipped sets whose models are part of the package or on this disk, by name."""
    folder = models_folder()
    return [
        name
        for name, shipped in SHIPPED.items()
        if builtin(name) is not None
        # The folder appears only when it is complete.
        and (shipped.model is None or (folder / name / "config.json").is_file())
    ]


def hub_name(model: str) -> str:
    """Return the Hub id of a shipped set's model, and any other name as it is."""
    shipped = SHIPPED.get(model)
    return model if shipped is None or shipped.model is None else shipped.model


def shipped_model(name: str) -> str | None:
    """Return where the model of a shipped set is: laid out by `make real`, else on the Hub.

    Returns:
        `None` if no shipped set has this name, or its model is part of the package.
    """
    shipped = SHIPPED.get(name)
    if shipped is None or shipped.model is None:
        return None
    folder = models_folder() / name
    # The folder appears only when it is complete.
    return str(folder) if (folder / "config.json").is_file() else shipped.model
