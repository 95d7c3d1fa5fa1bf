"""Dense families with a plain MLP: a neuron is `act(up)`."""

from __future__ import annotations

from functools import partial
from typing import Any

from .layout import (
    LAYOUTS,
    Attention,
    Bias,
    Columns,
    Layout,
    Part,
    per_group,
    per_head,
    thirds,
)

_ALWAYS = Bias("always")
_MLP_BIAS = Bias("config", "mlp_bias", True)
_up = partial(Layout, gate=Part("mlp.up_proj"), up=None)
_fc = partial(Layout, down="fc2", gate=Part("fc1"), up=None, act="activation_fn")
_neox = partial(Layout, down="mlp.dense_4h_to_h", gate=Part("mlp.dense_h_to_4h"), up=None)


def falcon_split(config: Any, width: int) -> dict[str, Columns]:
    """Return where Falcon keeps q, k, v: three generations of the family, three ways."""
    if config.new_decoder_architecture:
        return per_group(config, width, config.num_kv_heads)
    if config.multi_query:
        return per_group(config, width, 1)
    return per_head(config, width)


PLAIN = (
    _up("nemotron", bias=_MLP_BIAS),
    _up("arcee", bias=_MLP_BIAS),
    # xIELU turns strongly negative inputs positive: the sign before it says nothing.
    _up("apertus", signed=False, note="xIELU: g is read behind the activation"),
    Layout(
        "phi",
        down="mlp.fc2",
        gate=Part("mlp.fc1"),
        up=None,
        act="mlp.activation_fn",
        attention=Attention(o="self_attn.dense"),
        bias=_ALWAYS,
    ),
    Layout(
        "starcoder2",
        down="mlp.c_proj",
        gate=Part("mlp.c_fc"),
        up=None,
        act="mlp.act",
        bias=Bias("config", "use_bias", True),
    ),
    Layout(
        "gpt2",
        layers="h",
        down="mlp.c_proj",
        gate=Part("mlp.c_fc"),
        up=None,
        act="mlp.act",
        attention=Attention(q="attn.c_attn", o="attn.c_proj", split=thirds, note="[q; k; v]"),
        width=("n_inner",),
        bias=_ALWAYS,
        note="Conv1D",
    ),
    Layout(
        "gptj",
        layers="h",
        down="mlp.fc_out",
        gate=Part("mlp.fc_in"),
        up=None,
        act="mlp.act",
        attention=Attention("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj"),
        width=("n_inner",),
        bias=_ALWAYS,
    ),
    _neox(
        "gpt_neox",
        act="mlp.act",
        attention=Attention(
            q="attention.query_key_value", o="attention.dense", split=per_head, note="per head"
        ),
        bias=_ALWAYS,
    ),
    _neox(
        "bloom",
        layers="h",
        act="mlp.gelu_impl",
        attention=Attention(
            q="self_attention.query_key_value",
            o="self_attention.dense",
            split=per_head,
            note="per head",
        ),
        bias=_ALWAYS,
        note="not with pretraining_tp > 1 and slow_but_exact",
    ),
    _neox(
        "falcon",
        layers="h",
        act="mlp.act",
        attention=Attention(
            q="self_attention.query_key_value",
            o="self_attention.dense",
            split=falcon_split,
            note="multi-query, per group or per head",
        ),
        width=("ffn_hidden_size",),
        bias=Bias("config", "bias", True),
    ),
    Layout(
        "mpt",
        layers="blocks",
        down="ffn.down_proj",
        gate=Part("ffn.up_proj"),
        up=None,
        act="ffn.act",
        attention=Attention(q="attn.Wqkv", o="attn.out_proj", split=thirds, note="[q; k; v]"),
    ),
    _fc(
        "opt",
        attention=Attention(o="self_attn.out_proj"),
        width=("ffn_dim",),
        flattened=True,
        head_bypass=True,
        bias=Bias("config", "enable_bias", True),
        note="MLP sees [batch * sequence, hidden]",
    ),
    _fc(
        "xglm",
        attention=Attention(o="self_attn.out_proj"),
        width=("ffn_dim",),
        bias=_ALWAYS,
    ),
)

for _row in PLAIN:
    LAYOUTS.register(_row.model_type)(_row)
