"""Dense families with a gated MLP: a neuron is `act(gate) * up`."""

from __future__ import annotations

from functools import partial

from .layout import LAYOUTS, Attention, Bias, Layout, Part, concatenated

_MLP_BIAS = Bias("config", "mlp_bias", True)
_fused = partial(
    Layout,
    gate=Part("mlp.gate_up_proj", "first"),
    up=Part("mlp.gate_up_proj", "second"),
    act="mlp.activation_fn",
)

# residual="no": a norm after the MLP rescales whatever the down projection adds.
GATED = (
    Layout("llama", bias=_MLP_BIAS),
    Layout("mistral"),
    Layout("qwen2"),
    Layout("qwen3"),
    Layout("gemma"),
    Layout("gemma2", residual="no"),
    Layout("gemma3_text", residual="no"),
    _fused(
        "phi3",
        attention=Attention(q="self_attn.qkv_proj", split=concatenated, note="[q; k; v]"),
    ),
    _fused("glm4", residual="no"),
    Layout("olmo"),
    Layout("olmo2", residual="no"),
    Layout("olmo3", residual="no"),
    Layout("cohere"),
    Layout("cohere2"),
    Layout("granite", bias=_MLP_BIAS, residual="residual_multiplier"),
    Layout("smollm3", bias=_MLP_BIAS),
    Layout("seed_oss", bias=_MLP_BIAS),
    Layout("helium", bias=_MLP_BIAS),
    Layout("ernie4_5", bias=Bias("config", "use_bias", True)),
    Layout("exaone4", residual="no"),
    Layout("stablelm"),
    Layout("hunyuan_v1_dense"),
    Layout(
        "lfm2",
        down="feed_forward.w2",
        gate=Part("feed_forward.w1"),
        up=Part("feed_forward.w3"),
        act="silu",
        attention=Attention(o="self_attn.out_proj"),
        note="convolution layers have no attention sites",
    ),
)

for _row in GATED:
    LAYOUTS.register(_row.model_type)(_row)
