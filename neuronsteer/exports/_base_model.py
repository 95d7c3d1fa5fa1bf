"""The model that an export is made for: loaded, in a folder, or on the Hub.

Most exports need only names and sizes, so a folder or repository is never loaded: its config makes
a model without memory (`meta`), and single tensors are read where weights are needed.
"""

from __future__ import annotations

import functools
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from .. import hub
from ..errors import HubError, LayoutError, ParameterError
from ..models import LAYOUTS, Anatomy, inspect
from ..models.layout import text_config
from ..models.modules import find, innermost
from ..neuron_set.rows import Rows
from ._safetensors_rewrite import Checkpoint

# What a checkpoint needs beside config and weights: tokenizer, templates, remote code, licence.
_COMPANIONS = (
    "generation_config.json",
    "token*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "chat_template.json",
    "*processor_config.json",
    "tekken.json",
    "*.py",
    "LICENSE*",
    "NOTICE*",
)


class BaseModel:
    """A model to export for.

    Args:
        anatomy: Where its neurons are; of a model without memory when `folder` or `repo` is given.
        folder: The checkpoint's folder; `None` for a model in memory.
        repo: The Hub repository, when `folder` is its download.
        revision: Its revision.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        folder: Path | None = None,
        repo: str | None = None,
        revision: str | None = None,
    ) -> None:
        self.anatomy = anatomy
        self.folder = folder
        self.repo = repo
        self.revision = revision
        # The branch may move before all files are here.
        self._commit = revision if folder is None else hub.commit_of(folder) or revision

    @classmethod
    def open(cls, model: Any, revision: str | None = None) -> BaseModel:
        """Return what a user means by a model, a folder or a Hub id."""
        if not isinstance(model, str | os.PathLike):
            return cls(_plain(inspect(model)))
        name = os.fspath(model)
        folder = hub.fetch(name, filenames=["config.json"], ownerless=True, revision=revision)
        if not (folder / "config.json").is_file():
            raise HubError(
                f"The folder {name!r} holds no model: config.json is missing. Expected the folder "
                "of a saved causal language model."
            )
        local = Path(name).expanduser().is_dir() or hub.builtin(name) is not None
        return cls(
            inspect(without_memory(_config(folder, name))),
            folder,
            *((None, None) if local else (name, revision)),
        )

    @classmethod
    def of_family(cls, neurons: Rows) -> BaseModel | None:
        """Return a base model that has module names only, for a set without a base model.

        Enough for exports that need no weights. `None` if the family's config does not give the
        set's shape in the usual two fields.
        """
        if neurons.model_type is None or neurons.model_type not in LAYOUTS:
            return None
        config = AutoConfig.for_model(neurons.model_type)
        config.num_hidden_layers = neurons.num_layers
        config.intermediate_size = neurons.width
        # Some families have defaults that only their own checkpoints complete.
        if getattr(config, "head_dim", 0) is None:
            config.head_dim = config.hidden_size // config.num_attention_heads
        try:
            anatomy = inspect(without_memory(config))
        except (TypeError, ValueError, RuntimeError):
            return None
        fits = anatomy.widths == tuple(neurons.width_per_layer)
        return cls(anatomy) if fits and not anatomy.is_moe else None

    @property
    def root(self) -> Any:
        """The causal language model; its tensors may be `meta`."""
        return self.anatomy.root

    @property
    def config(self) -> Any:
        """The whole model's config."""
        return self.root.config

    @property
    def hub_id(self) -> str | None:
        """The Hub id of the base model, if it is known to have one."""
        if self.folder is not None:
            return self.repo
        name = str(getattr(self.config, "_name_or_path", "") or "")
        return None if not name or Path(name).exists() else name

    @functools.cached_property
    def checkpoint(self) -> Checkpoint:
        """The weight files of a folder or repository."""
        folder = self.folder
        if folder is None:
            raise ParameterError("A model in memory has no weight files; save it first.")
        self.refuse_quantised()
        if self.repo is None:
            return Checkpoint.of(folder)
        repo = self.repo

        def fetch(file: str) -> Path | None:
            try:
                found = hub.fetch(repo, filenames=[file], ownerless=True, revision=self._commit)
                return found / file
            except hub.MissingFileError:
                return None

        return Checkpoint(fetch, repo)

    def refuse_quantised(self) -> None:
        """Raise if weights are stored in a form that cannot be edited exactly."""
        if getattr(self.config, "quantization_config", None):
            raise ParameterError(
                "The model is quantised, and its weights cannot be read or rewritten exactly. "
                "Start from the checkpoint in 16 or 32 bits and quantise the result; or use the "
                "IA3 export (zero and scale), which needs no weights."
            )

    def refuse_out_of_reach(self) -> None:
        """Raise if a model in memory has weights that `save_pretrained` would not find."""
        places = set((getattr(self.root, "hf_device_map", None) or {}).values())
        away = next((name for name, p in self.root.named_parameters() if p.is_meta), None)
        # What transformers itself requires to fetch offloaded weights.
        if away is not None and not places & {"cpu", "disk"}:
            raise ParameterError(
                f"The weight {away!r} is offloaded by other means than device_map, so the model "
                "cannot be saved from memory. Pass the path of its checkpoint instead."
            )

    def transposed(self, name: str) -> bool:
        """Return whether a projection stores its weight as `[in, out]`."""
        module = find(self.root, name)
        return module is not None and isinstance(innermost(module), Conv1D)

    def weight(self, name: str) -> Tensor:
        """Return a projection's weight, float32 `[out, in]`."""
        found = self._tensor(name, "weight")
        return found.T if self.transposed(name) else found

    def bias(self, name: str) -> Tensor | None:
        """Return a projection's bias, float32, if it has one."""
        has = f"{name}.bias" in self.parameters()
        return self._tensor(name, "bias") if has else None

    def _tensor(self, name: str, kind: str) -> Tensor:
        self.refuse_quantised()
        if (
            self.folder is None
            and self.root.device.type == "meta"
            and not hasattr(self.root, "hf_device_map")
        ):
            raise ParameterError(
                "This export needs the model's weights, and the neuron set does not record its "
                "base model. Pass the model, its folder, or its Hub id."
            )
        if self.folder is not None:
            found = self.checkpoint.read(self.checkpoint.key(f"{name}.{kind}"))
        else:
            found = _loaded(innermost(self.root.get_submodule(name)), name, kind)
        return found.detach().to("cpu", torch.float32)

    def parameters(self) -> dict[str, torch.Size]:
        """Return name → shape of every parameter."""
        return {name: p.shape for name, p in self.root.named_parameters(remove_duplicate=False)}

    def companion_files(self) -> list[tuple[Path, str]]:
        """Return `(path, name)` of the files beside config and weights that belong to the model."""
        folder = self.folder
        if folder is None:
            name = Path(str(getattr(self.config, "_name_or_path", "") or ""))
            folder = name if name.is_dir() and (name / "config.json").is_file() else None
        elif self.repo is not None:
            folder = self._download()
        if folder is None:
            return []
        return sorted(
            {
                (path, path.relative_to(folder).as_posix())
                for pattern in _COMPANIONS
                for path in folder.glob(pattern)
                if path.is_file()
            }
        )

    def _download(self) -> Path:
        from huggingface_hub import snapshot_download

        repo = str(self.repo)
        try:
            found = snapshot_download(repo, revision=self._commit, allow_patterns=list(_COMPANIONS))
        except Exception as error:
            raise hub.hub_error(error, repo, self.revision) from error
        return Path(found)


def without_memory(config: Any) -> Any:
    """Return the model of a config whose tensors have shapes but no contents."""
    with torch.device("meta"):
        # A set may name the model; transformers would ask whether its code may run.
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _config(folder: Path, name: str) -> Any:
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise HubError(f"The config of {name!r} cannot be read: {lines[0]}") from error
    family = text_config(config).model_type
    if family not in LAYOUTS:
        # Locating neurons by shape takes a forward pass, which needs real weights.
        raise LayoutError(
            f"model_type {family!r} of {name!r} is not in the table of families. Load the model "
            "with AutoModelForCausalLM and pass it instead of its path, or register a Layout."
        )
    return config


def _plain(anatomy: Anatomy) -> Anatomy:
    if "peft" in anatomy.wrapped or any(
        hasattr(point.module, "base_layer") for point in anatomy.hook_points("mlp.neuron")
    ):
        raise ParameterError(
            "The model has a PEFT adapter, which an export would silently leave out. Merge it "
            "(merge_and_unload()) or pass the base model."
        )
    return anatomy


def _loaded(module: nn.Module, name: str, kind: str) -> Tensor:
    """Return weight or bias of a module in memory, also when accelerate keeps it elsewhere."""
    aligned: Any = nullcontext()
    if hasattr(module, "_hf_hook"):
        from accelerate.utils import align_module_device

        aligned = align_module_device(module)
    with aligned:
        weight = getattr(module, kind, None)
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            raise ParameterError(
                f"The {kind} of {name!r} ({type(module).__name__}) is not a plain floating-point "
                "tensor (a quantised layer?). Pass the path of the checkpoint in 16 or 32 bits."
            )
        # Tensor parallel models keep a share of the weight in each process.
        gather = getattr(weight, "full_tensor", None)
        weight = weight if gather is None else gather()
        if weight.device.type == "meta":
            raise ParameterError(f"The {kind} of {name!r} is not in memory; pass the model's path.")
        return weight.detach().clone()
