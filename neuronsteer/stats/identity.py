"""What a run depends on, in a form that can be compared and recorded."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
import transformers
from torch import nn

from ..hub import public_name
from ..models import Anatomy

_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")


def context_length(anatomy: Anatomy) -> int | None:
    """Return the longest sequence the model takes, if its config tells."""
    for name in _CONTEXT:
        value = getattr(anatomy.config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def weights_digest(model: nn.Module) -> str:
    """Return a hash over a sample of every weight: a changed checkpoint gives another one."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        # What is offloaded to disk has no values here.
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta or not tensor.numel():
            continue
        flat = tensor.detach().reshape(-1)
        step = max(1, flat.numel() // 64)
        sample = flat[::step][:64]
        if sample.is_floating_point():
            sample = sample.float()
        digest.update(sample.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def model_identity(anatomy: Anatomy) -> dict[str, Any]:
    """Return what tells this model from others."""
    config = {
        name: value
        for name, value in anatomy.config.to_dict().items()
        if name not in ("transformers_version", "_name_or_path")
    }
    text = json.dumps(config, sort_keys=True, default=str)
    return {
        "model": anatomy.model_type,
        "config": hashlib.sha256(text.encode()).hexdigest(),
        "weights": weights_digest(anatomy.root),
    }


def tokenizer_identity(tokenizer: Any) -> str:
    """Return a hash that another tokenizer would not have."""
    vocabulary = tokenizer.get_vocab()
    probe = tokenizer("The quick brown fox.\tZażółć gęślą jaźń — 你好 🙂 12345")["input_ids"]
    text = json.dumps([sorted(vocabulary.items()), list(probe)])
    return hashlib.sha256(text.encode()).hexdigest()


def model_facts(anatomy: Anatomy) -> dict[str, Any]:
    """Return the header fields that describe a model, JSON-plain."""
    return {
        "model_type": anatomy.model_type,
        "num_layers": anatomy.num_layers,
        "width": anatomy.width,
        "widths": list(anatomy.widths),
        "base_model": public_name(getattr(anatomy.root.config, "_name_or_path", None)),
        "revision": getattr(anatomy.root.config, "_commit_hash", None),
        "gated": anatomy.gated,
        "dtype": str(anatomy.root.dtype).removeprefix("torch."),
    }


def versions() -> dict[str, str]:
    """Return the versions that influence the last bits of a result."""
    return {"torch": torch.__version__, "transformers": transformers.__version__}
