"""Loading what the user names: a model with its tokenizer, a neuron set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HubError, NeuronSteerError, ParameterError, did_you_mean
from ..hub import shipped_model
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
    path = _check_model(name, revision)
    # Progress bars of the loader would mix with ours.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ..hub import connection_error

    quiet_transformers()
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if not Path(path).is_dir() and connection_error() is not None:
        # What is in the cache is taken at once, without waiting for the Hub file by file.
        options["local_files_only"] = True
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


def _check_model(name: str, revision: str | None) -> str:
    """Return the path or Hub id of a model, or raise if it holds none."""
    if name == DEMO:
        return model_path(name)
    name = model_path(name)
    from ..hub import MissingFileError, fetch

    try:
        folder = fetch(name, filenames=["config.json"], ownerless=True, revision=revision)
    except MissingFileError as error:
        if "adapter_config.json" not in error.available:
            raise
        return name  # a PEFT adapter: transformers loads its base model
    if (folder / "config.json").exists():
        return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    found = sorted(entry.name for entry in folder.iterdir())
    if "neurons.safetensors" in found:
        what = "it is a neuron set; the model comes first, then the set"
    elif "adapter_config.json" in found:
        return str(folder)
    else:
        what = "it holds " + (", ".join(found[:6]) or "nothing") + ", …" * (len(found) > 6)
    raise HubError(f"The folder {name!r} is not a model, because config.json is missing: {what}.")


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
    where = "The folder" if Path(name).expanduser().is_dir() else "The model"
    said = console.first_line(error)
    return f"{where} {name!r} cannot be loaded as a causal language model: {said}"
