"""Optimisers and the learning-rate schedule.

Hidden matrices are trained by Muon, the embedding (which is also the output head) and the norms by
AdamW; `sweep.md` has the measurement behind that choice. The schedule is warmup-stable-decay: the
stable part has no planned end, so training can go on in any later session, and a model is finished
by a short linear decay that starts from any checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class OptimConfig:
    """Settings of the optimisers and the schedule.

    Attributes:
        kind: ``"muon"`` (with AdamW for embedding and norms) or ``"adamw"`` for everything.
        lr: Learning rate of the hidden matrices.
        embed_lr: Learning rate of the embedding and the norms.
        weight_decay: Decoupled decay, on hidden matrices only.
        clip: Largest gradient norm.
        warmup: Steps of linear warmup.
    """

    kind: str = "muon"
    lr: float = 6e-3
    embed_lr: float = 6e-3
    weight_decay: float = 0.1
    clip: float = 1.0
    warmup: int = 100


def build_optimizers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """Returns the optimisers of a model; each group remembers its peak rate as ``peak_lr``."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        is_hidden = parameter.ndim == 2 and "embed_tokens" not in name and "lm_head" not in name
        (matrices if is_hidden else others).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    adam_groups = [{"params": others, "lr": config.embed_lr, "weight_decay": 0.0}]
    if config.kind == "muon":
        optimizers.append(
            torch.optim.Muon(
                matrices,
                lr=config.lr,
                weight_decay=config.weight_decay,
                # Scales updates to AdamW's usual size whatever the matrix's shape.
                adjust_lr_fn="match_rms_adamw",
            )
        )
    elif config.kind == "adamw":
        adam_groups.append(
            {"params": matrices, "lr": config.lr, "weight_decay": config.weight_decay}
        )
    else:
        raise ValueError(f"unknown optimizer {config.kind!r}; use 'muon' or 'adamw'")
    optimizers.append(torch.optim.AdamW(adam_groups, betas=(0.9, 0.95), eps=1e-10, fused=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def multiplier(step: int, warmup: int, decay_start: int | None, decay_steps: int) -> float:
    """Returns the factor on the peak learning rate at a step (0-based)."""
    factor = min(1.0, (step + 1) / max(1, warmup))
    if decay_start is not None:
        factor *= max(0.0, 1.0 - (step - decay_start) / decay_steps)
    return factor


def set_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    """Sets every group's learning rate to a fraction of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
