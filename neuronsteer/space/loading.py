"""Loading a model and its neuron set, in steps that a page can show."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HubError, MismatchError, NeuronSteerError, ParameterError
from ..hub import hub_error, shipped_model
from ..neuron_set import NeuronSet
from .loaded_model import LoadedModel
from .settings import DEMO, SpaceSettings

if TYPE_CHECKING:
    import torch

#: Beside the weights a generation needs memory for activations and cache.
_MEMORY_FACTOR = 1.25
#: Weights that hold no code, and what a tokenizer may consist of.
_FILES = ["*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja"]
#: Seconds between two looks at a download, and its share of the whole.
_INTERVAL = 0.5
_FROM, _TO = 0.2, 0.75

#: `(share done, what is being done)`.
Progress = tuple[float, str]


def load(
    model_id: str, set_id: str, settings: SpaceSettings
) -> Generator[Progress, None, LoadedModel]:
    """Yield progress and return the loaded model.

    Cheap checks come first: a typo in the set is reported before gigabytes are downloaded.

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
    # The model of a shipped set may be called like it, and `make real` may have laid it out.
    source = shipped_model(model_id) or model_id
    folder = _folder(source)
    config = _config(source, folder)
    _check_config(config, neurons, model_id, set_id)
    device = _device(settings.device)
    size = _size(source, folder)
    check_memory(size, device, model_id)
    if folder is None:
        folder = yield from _download(source)
    shown_size = f" ({size / 1e9:.1f} GB)" if size > 10**8 else ""
    yield 0.75, f"Loading the weights{shown_size}"
    model, tokenizer = _weights(model_id, folder, device)
    yield 0.85, "Checking that the neurons can be steered"
    from ..steering.steerer import attach

    attach(model, neurons, private=True).detach()
    yield 0.95, "Loading the language identifier"
    from ..demo.language_identifier import language_identifier

    identifier = language_identifier([label for label, n in neurons.counts.items() if n])
    if identifier is not None:
        identifier("A first sentence makes it load its own models.")
    return LoadedModel(
        model_id=model_id,
        set_id=set_id,
        model=model,
        tokenizer=tokenizer,
        neurons=neurons,
        identifier=identifier,
        dtype=str(model.dtype).removeprefix("torch."),
    )


def check_memory(size: int, device: torch.device, name: str) -> None:
    """Raise if weights of `size` bytes do not fit into the memory that is free."""
    free = _free_memory(device)
    if free is not None and size * _MEMORY_FACTOR > free:
        where = "graphics card" if device.type == "cuda" else "machine"
        raise ParameterError(
            f"The model {name!r} is too large: its weights take {size / 1e9:.1f} GB, and this "
            f"{where} has {free / 1e9:.1f} GB free. Choose a smaller one, or run this page on a "
            "larger machine."
        )


def _folder(model_id: str) -> Path | None:
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
    return None


def _config(model_id: str, folder: Path | None) -> Any:
    from transformers import AutoConfig

    try:
        if folder is None:
            from ..hub import fetch

            folder = fetch(model_id, filenames=["config.json"], ownerless=True)
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except NeuronSteerError:
        raise
    except Exception as error:  # any content of the repository that the visitor named
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


def _size(model_id: str, folder: Path | None) -> int:
    """Return the bytes of a model's weights, 0 if unknown."""
    if folder is not None:
        return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
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


def _free_memory(device: torch.device) -> int | None:
    """Return the bytes of memory that are free, or `None` if unknown."""
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


def _weights(model_id: str, folder: Path, device: torch.device) -> tuple[Any, Any]:
    # Progress bars of the loader would fill the log of a server.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers import AutoModelForCausalLM, AutoTokenizer, logging

    logging.disable_progress_bar()
    safe: dict[str, Any] = {"trust_remote_code": False}
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            # The embedded model is small and its weights were rounded to be shipped.
            folder,
            dtype="float32" if model_id == DEMO else "auto",
            use_safetensors=True,
            **safe,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
    except NeuronSteerError:
        raise
    except Exception as error:
        raise _unloadable(model_id, error) from error
    return model.to(device).eval(), tokenizer


def _unloadable(model_id: str, error: Exception) -> NeuronSteerError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[0] if lines else type(error).__name__
    return HubError(f"{model_id!r} cannot be loaded as a causal language model: {reason[:300]}")


# --- downloading -------------------------------------------------------------------------------


def _download(repo_id: str) -> Generator[Progress, None, Path]:
    """Yield progress and return the folder with a model's files, without files that hold code.

    Raises:
        HubError: If it cannot be downloaded.
    """
    from huggingface_hub import snapshot_download

    seen: dict[int, tuple[int, int]] = {}
    found: dict[str, Any] = {}

    def work() -> None:
        try:
            found["folder"] = snapshot_download(
                repo_id,
                allow_patterns=_FILES,
                tqdm_class=_counting_bar(seen),
                library_name="neuronsteer",
            )
        except BaseException as error:
            found["error"] = error

    thread = threading.Thread(target=work, name="neuronsteer-download", daemon=True)
    thread.start()
    while thread.is_alive():
        yield _progress(repo_id, seen)
        thread.join(_INTERVAL)
    if "error" in found:
        error = found["error"]
        raise hub_error(error, repo_id) if isinstance(error, Exception) else error
    return Path(found["folder"])


def _progress(repo_id: str, seen: dict[int, tuple[int, int]]) -> Progress:
    done, total = max(seen.copy().values(), key=lambda bar: bar[1], default=(0, 0))
    if not total:
        return _FROM, f"Downloading {repo_id}"
    share = min(done / total, 1.0)
    text = f"Downloading {repo_id}: {done / 1e9:.2f} of {total / 1e9:.2f} GB"
    return _FROM + share * (_TO - _FROM), text


def _counting_bar(seen: dict[int, tuple[int, int]]) -> Any:
    """Return a progress bar class that shows nothing and writes bytes to `seen`."""
    from tqdm import tqdm

    class Counting(tqdm):  # pyright: ignore[reportMissingTypeArgument]
        def __init__(self, *args: Any, **options: Any) -> None:
            for ours in ("disable", "file", "name"):
                options.pop(ours, None)
            super().__init__(*args, disable=False, file=io.StringIO(), **options)

        def display(self, *_args: Any, **_options: Any) -> None:
            pass

        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self.unit == "B":
                seen[id(self)] = (int(self.n), int(self.total or 0))
            return shown

    return Counting
