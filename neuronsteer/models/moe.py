"""Mixture-of-experts families: neurons live in 3-D parameters, reached through the block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .layout import LAYOUTS, Bias, ExpertLayout, Layout


def _interleaved_gate(_experts: Any, fused: Tensor) -> Tensor:
    return fused[..., ::2]


def _clamped_swish(experts: Any, gate: Tensor) -> Tensor:
    gate = gate.clamp(max=experts.limit)
    return gate * torch.sigmoid(gate * experts.alpha)


def _shifted_up(experts: Any, fused: Tensor) -> Tensor:
    return fused[..., 1::2].clamp(-experts.limit, experts.limit) + 1


MOE = (
    Layout(
        "mixtral",
        experts=ExpertLayout(width=("intermediate_size",)),
        residual="no",
    ),
    Layout(
        "qwen2_moe",
        experts=ExpertLayout(shared="mlp.shared_expert"),
        residual="no",
        note="shared expert after the routed ones; some layers may be dense",
    ),
    Layout("qwen3_moe", experts=ExpertLayout(), residual="no", note="some layers may be dense"),
    Layout(
        "gpt_oss",
        experts=ExpertLayout(
            width=("intermediate_size",),
            gate=_interleaved_gate,
            act=_clamped_swish,
            up=_shifted_up,
        ),
        bias=Bias("always"),
        residual="no",
        note="gate in even columns, u = clamp(up) + 1; the bias is per expert",
    ),
)

for _row in MOE:
    LAYOUTS.register(_row.model_type)(_row)
