"""Loading what the user names: a model with its tokenizer, a neuron set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HubError, NeuronSteerError, ParameterError, did_you_mean
from ..hub import builtin, shipped_model
from . import console

if TYPE_CHECKING:
    from ..neuron_set import NeuronSet

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEMO = "demo"


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Return `(model, tokenizer)`, the model in eval mode on its device.

    Raises:
        HubError: If the folder or repository does not hold a causal language model.
        ParameterError: If the device or dtype does not exist.
    """
    import torch

    if dtype not in DTYPES:
        raise ParameterError(
            f"Unknown dtype {dtype!r}; expected {', '.join(DTYPES)}.{did_you_mean(dtype, DTYPES)}"
        )
    placed = _device(device)
    path = _check_model(name)
    # Progress bars of the loader would mix with ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    quiet_transformers()
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            device_map="auto" if device == "map" else None,
            **options,
        )
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    except NeuronSteerError:
        raise
    except Exception as error:  # whatever the folder holds, it was the user who named it
        raise HubError(_explain(name, error)) from error
    return (model if placed is None else model.to(placed)).eval(), tokenizer


def load_set(name: str, **hub: Any) -> NeuronSet:
    """Return the neuron set in a folder or Hub repository.

    Args:
        name: Folder or Hub id.
        **hub: `revision`, `subfolder`, `token`, as `NeuronSet.from_pretrained` takes them.
    """
    from ..neuron_set import NeuronSet

    if "://" not in name and builtin(name) is None:
        _check_path(name, "neuron set")
    return NeuronSet.from_pretrained(name, **hub)


def model_path(name: str) -> str:
    """Return the folder or Hub id that the user means; nothing is loaded.

    The models of shipped sets can be called like the set: 'demo' is part of the package, and
    'gemma' is where `make real` laid it out, else on the Hub.
    """
    if name == DEMO:
        from ..demo import model_folder

        return str(model_folder())
    return name if Path(name).is_dir() else shipped_model(name) or name


def quiet_transformers() -> None:
    """Keep transformers' own progress bars and warnings out of the command's output."""
    from transformers import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _check_model(name: str) -> str:
    """Return the path of a model, or raise if a folder is none."""
    if name == DEMO:
        return model_path(name)
    name = model_path(name)
    _check_path(name, "model")
    path = Path(name)
    if path.is_dir() and not (path / "config.json").exists():
        found = sorted(entry.name for entry in path.iterdir())
        if "neurons.safetensors" in found:
            what = "it is a neuron set; the model comes first, then the set"
        elif "adapter_config.json" in found:
            return name  # a PEFT adapter: transformers loads its base model
        else:
            what = "it holds " + (", ".join(found[:6]) or "nothing") + ", …" * (len(found) > 6)
        raise HubError(
            f"The folder {name!r} is not a model, because config.json is missing: {what}."
        )
    return name


def _check_path(name: str, what: str) -> None:
    """Raise for something that can only be a path and does not exist."""
    path = Path(name).expanduser()
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or os.sep * 2 in name
    if path.exists():
        if not path.is_dir():
            raise HubError(f"{name!r} is a file; expected the folder of a saved {what}.")
    elif looks_local or not name.strip():
        parent = path.parent
        there = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
        raise HubError(f"There is no folder {name!r}.{did_you_mean(path.name, there)}")


def _device(name: str) -> Any:
    """Return the torch device called `name`; None if the loader is to place the model."""
    import torch

    if name == "map":
        from ..errors import require

        require("accelerate", "dev", "--device map")
        return None
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except Exception as error:  # torch has no common class for "no such device"
        raise ParameterError(
            f"Cannot use the device {name!r}: {console.first_line(error)} Expected auto, cpu, "
            "cuda, cuda:N, mps or map."
        ) from error
    return device


def _explain(name: str, error: Exception) -> str:
    where = "The folder" if Path(name).is_dir() else "The model"
    said = console.first_line(error)
    if not Path(name).is_dir() and isinstance(error, OSError):
        if "offline" in str(error).lower() or "connect" in str(error).lower():
            said = (
                "there is no such folder here, it is not in the local cache, and the Hub cannot be "
                "reached"
            )
        else:
            said = f"there is no such folder here, and the Hub says: {said}"
    return f"{where} {name!r} cannot be loaded as a causal language model: {said}"
