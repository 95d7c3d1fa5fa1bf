"""Loading a model and its neuron set, in steps that a page can show."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HubError, MismatchError, NeuronSteerError, ParameterError
from ..hub import hub_error
from ..neuron_set import NeuronSet
from .downloading import Step, download
from .loaded_model import Pair
from .settings import DEMO, Settings

if TYPE_CHECKING:
    import torch

#: Beside the weights a generation needs room for activations and cache.
_SPARE = 1.25


def load(model_id: str, set_id: str, settings: Settings) -> Generator[Step, None, Pair]:
    """Yield steps and return the pair.

    What is cheap comes first: a typo in the set is told before gigabytes are downloaded.

    Raises:
        NeuronSteerError: If it cannot be loaded; the message is meant for the visitor.
    """
    model_id, set_id = model_id.strip(), set_id.strip()
    if not model_id or not set_id:
        raise ParameterError("Name a model and the neuron set that was made for it.")
    settings.check_allowed(model_id, "model")
    settings.check_allowed(set_id, "neuron set")
    yield 0.05, f"Reading the neuron set {set_id}"
    neurons = NeuronSet.from_pretrained(set_id)
    if not any(neurons.counts.values()):
        raise ParameterError(
            f"The set {set_id!r} has no neurons, so there is nothing to steer with."
        )
    yield 0.1, f"Looking at the model {model_id}"
    place = _place(model_id)
    config = _config(model_id, place)
    _check_config(config, neurons, model_id, set_id)
    device = _device(settings.device)
    size = _size(model_id, place)
    check_room(size, device, model_id)
    if place is None:
        place = yield from download(model_id)
    told = f" ({size / 1e9:.1f} GB)" if size > 10**8 else ""
    yield 0.75, f"Loading the weights{told}"
    model, tokenizer = _weights(model_id, place, device)
    yield 0.85, "Attaching the neurons, once, to see that every hook fires"
    from ..steering.steerer import attach

    attach(model, neurons, private=True).detach()
    yield 0.95, "Calling the language identifier"
    from ..demo.judge import judge

    labels = [label for label, count in neurons.counts.items() if count]
    listener = judge(labels)
    if listener is not None:
        listener("A first sentence loads what it needs.")
    return Pair(
        model_id=model_id,
        set_id=set_id,
        model=model,
        tokenizer=tokenizer,
        neurons=neurons,
        judge=listener,
        dtype=str(model.dtype).removeprefix("torch."),
    )


def check_room(size: int, device: torch.device, name: str) -> None:
    """Raise if weights of `size` bytes do not fit into the memory that is free."""
    free = _free(device)
    if free is not None and size * _SPARE > free:
        where = "graphics card" if device.type == "cuda" else "machine"
        raise ParameterError(
            f"The model {name!r} is too large: its weights take {size / 1e9:.1f} GB, and this "
            f"{where} has {free / 1e9:.1f} GB free. Choose a smaller one, or run this page on a "
            "larger machine."
        )


def _place(model_id: str) -> Path | None:
    """Return the folder that a name means, or `None` for a Hub id."""
    if model_id == DEMO:
        from ..demo import model_folder

        return model_folder()
    path = Path(model_id).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise HubError(
                f"The folder {model_id!r} is not a model: config.json is missing."
                + (" It is a neuron set." if (path / "neurons.safetensors").exists() else "")
            )
        return path
    if model_id.startswith((".", "/", "~")) or model_id.count("/") > 1:
        raise HubError(f"There is no folder {model_id!r}.")
    return None


def _config(model_id: str, place: Path | None) -> Any:
    from transformers import AutoConfig

    try:
        if place is None:
            from ..hub import fetch

            place = fetch(model_id, filenames=["config.json"])
        return AutoConfig.from_pretrained(place, trust_remote_code=False)
    except NeuronSteerError:
        raise
    except Exception as error:  # whatever the repository holds, it was the visitor who named it
        raise _unloadable(model_id, error) from error


def _check_config(config: Any, neurons: NeuronSet, model_id: str, set_id: str) -> None:
    """Raise for a set that was made for another model, before weights are downloaded."""
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    found = {
        "model_type": (neurons.model_type, getattr(text, "model_type", None)),
        "num_layers": (neurons.num_layers, getattr(text, "num_hidden_layers", None)),
    }
    for field, (wanted, there) in found.items():
        if wanted is not None and there is not None and wanted != there:
            raise MismatchError(
                f"The set {set_id!r} was made for another model: its {field} is {wanted}, that of "
                f"{model_id!r} is {there}."
                + (f" It belongs to {neurons.base_model!r}." if neurons.base_model else "")
            )


def _size(model_id: str, place: Path | None) -> int:
    """Return the bytes of a model's weights, 0 if nobody knows."""
    if place is not None:
        return sum(file.stat().st_size for file in place.glob("*.safetensors"))
    from huggingface_hub import HfApi

    try:
        info = HfApi(library_name="neuronsteer").model_info(model_id, files_metadata=True)
    except Exception as error:
        raise hub_error(error, model_id) from error
    names = {file.rfilename: file.size or 0 for file in info.siblings or []}
    size = sum(size for name, size in names.items() if name.endswith(".safetensors"))
    if not size:
        raise HubError(
            f"The repository {model_id!r} has no .safetensors weights, and other formats can run "
            "code when they are read. Convert them first."
        )
    return size


def _free(device: torch.device) -> int | None:
    """Return the bytes of memory that are free, or `None` if nobody knows."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    facts = dict(line.split(":", 1) for line in lines)
    return int(facts["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in facts else None


def _device(name: str) -> torch.device:
    import torch

    if name != "auto":
        try:
            return torch.device(name)
        except RuntimeError as error:
            raise ParameterError(f"There is no device {name!r}; try auto, cpu or cuda.") from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _weights(model_id: str, place: Path, device: torch.device) -> tuple[Any, Any]:
    # Progress bars of the loader would fill the log of a server.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.disable_progress_bar()
    safe: dict[str, Any] = {"trust_remote_code": False}
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            # The embedded model is small and its weights were rounded to be shipped.
            place,
            dtype="float32" if model_id == DEMO else "auto",
            use_safetensors=True,
            **safe,
        )
        tokenizer = AutoTokenizer.from_pretrained(place, **safe)
    except NeuronSteerError:
        raise
    except Exception as error:
        raise _unloadable(model_id, error) from error
    return model.to(device).eval(), tokenizer


def _unloadable(model_id: str, error: Exception) -> NeuronSteerError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    return HubError(f"{model_id!r} cannot be loaded as a causal language model: {said[:300]}")
