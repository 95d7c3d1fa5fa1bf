# ruff: noqa: SIM905 - a word list in one string reads better than sixty quoted words
"""Every supported model family, tiny and randomly initialised, plus a tokenizer for them.

Nothing is downloaded. Weights are scaled up because the default initialisation (std 0.02) gives
nearly flat logits, in which steering would not change a single token; biases get random values
because a bias of zero hides mistakes in whoever folds or moves them.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

VOCAB = 320
HIDDEN = 32
WIDTH = 80
HEADS = 4
KV_HEADS = 2
HEAD_DIM = 8
POSITIONS = 512

_TOKENS = {
    "vocab_size": VOCAB,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
    # A tied random head repeats the last token for ever, steered or not.
    "tie_word_embeddings": False,
}
_LLAMA = {
    **_TOKENS,
    "hidden_size": HIDDEN,
    "intermediate_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": POSITIONS,
}
# These configs default to a head size of their own instead of hidden_size / heads.
_HEAD_DIM = {**_LLAMA, "head_dim": HEAD_DIM}
_GPT2 = {
    **_TOKENS,
    "n_embd": HIDDEN,
    "n_head": HEADS,
    "n_inner": WIDTH,
    "n_positions": POSITIONS,
}
_MOE = {**_HEAD_DIM, "intermediate_size": 48, "num_experts_per_tok": 2}
_QWEN_MOE = {**_MOE, "intermediate_size": WIDTH, "moe_intermediate_size": 48, "num_experts": 4}

# model_type -> (config arguments, name of the argument that sets the number of layers)
_FAMILIES: dict[str, tuple[dict[str, Any], str]] = {
    **{
        name: (_LLAMA, "num_hidden_layers")
        for name in (
            "llama mistral qwen2 phi phi3 olmo olmo2 olmo3 granite smollm3 exaone4 "
            "stablelm nemotron apertus arcee starcoder2 gpt_neox"
        ).split()
    },
    **{
        name: (_HEAD_DIM, "num_hidden_layers")
        for name in (
            "qwen3 gemma gemma2 gemma3_text glm4 seed_oss helium ernie4_5 hunyuan_v1_dense"
        ).split()
    },
    "cohere": ({**_LLAMA, "logit_scale": 1.0}, "num_hidden_layers"),
    "cohere2": ({**_LLAMA, "logit_scale": 1.0}, "num_hidden_layers"),
    "lfm2": (
        {**_LLAMA, "block_auto_adjust_ff_dim": False, "conv_L_cache": 3},
        "num_hidden_layers",
    ),
    "bloom": ({**_TOKENS, "hidden_size": HIDDEN, "n_head": HEADS}, "n_layer"),
    "gpt2": (_GPT2, "n_layer"),
    "gptj": ({**_GPT2, "rotary_dim": 4}, "n_layer"),
    "opt": (
        {
            **_TOKENS,
            "hidden_size": HIDDEN,
            "ffn_dim": WIDTH,
            "num_attention_heads": HEADS,
            "max_position_embeddings": POSITIONS,
            "word_embed_proj_dim": HIDDEN,
        },
        "num_hidden_layers",
    ),
    "xglm": (
        {
            **_TOKENS,
            "d_model": HIDDEN,
            "ffn_dim": WIDTH,
            "attention_heads": HEADS,
            "max_position_embeddings": POSITIONS,
        },
        "num_layers",
    ),
    "falcon": (
        {
            **_TOKENS,
            "hidden_size": HIDDEN,
            "ffn_hidden_size": WIDTH,
            "num_attention_heads": HEADS,
            "max_position_embeddings": POSITIONS,
        },
        "num_hidden_layers",
    ),
    "mpt": (
        {**_TOKENS, "d_model": HIDDEN, "n_heads": HEADS, "max_seq_len": POSITIONS},
        "n_layers",
    ),
    "mixtral": ({**_MOE, "num_local_experts": 4}, "num_hidden_layers"),
    "qwen2_moe": (
        {**_QWEN_MOE, "shared_expert_intermediate_size": 40, "decoder_sparse_step": 1},
        "num_hidden_layers",
    ),
    "qwen3_moe": ({**_QWEN_MOE, "decoder_sparse_step": 1}, "num_hidden_layers"),
    "gpt_oss": ({**_MOE, "num_local_experts": 4, "sliding_window": 16}, "num_hidden_layers"),
}

MOE = ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"]
DENSE = [name for name in _FAMILIES if name not in MOE]
PLAIN = (
    "phi nemotron apertus arcee starcoder2 bloom gpt2 gpt_neox gptj opt xglm falcon mpt"
).split()
GATED = [name for name in DENSE if name not in PLAIN]
ALL_FAMILIES = [*DENSE, *MOE]


def tiny_config(model_type: str, *, layers: int = 2, **overrides: Any) -> PretrainedConfig:
    """Return a fresh config of the family; `overrides` win over the tiny defaults."""
    arguments, layers_name = _FAMILIES[model_type]
    arguments = {**arguments, layers_name: layers, **overrides}
    if model_type == "lfm2" and "layer_types" not in overrides:
        # One convolution layer, so that "not every layer has attention" is always covered.
        arguments["layer_types"] = ["conv"] + ["full_attention"] * (layers - 1)
    return AutoConfig.for_model(model_type, **arguments)


def tiny_model(
    model_type: str = "llama",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    layers: int = 2,
    attn_implementation: str | None = None,
    **overrides: Any,
) -> PreTrainedModel:
    """Return a tiny random model of the family, in eval mode, the same for the same arguments."""
    config = tiny_config(model_type, layers=layers, **overrides)
    # Building happens on the caller's behalf: it must not disturb the caller's random numbers.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attn_implementation)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.1)
                elif parameter.dim() >= 2:
                    parameter.mul_(8)
    model.generation_config.bos_token_id = 1
    model.generation_config.eos_token_id = None  # generation runs its full length
    model.generation_config.pad_token_id = 0
    return model.to(dtype).eval()


def tiny_ids(batch: int = 2, length: int = 7, seed: int = 0) -> torch.Tensor:
    """Return random token ids without the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (batch, length), generator=generator)


# Two-letter tokens fill the vocabulary up to VOCAB, so that every id a tiny model can generate
# decodes to text and tokens differ in length.
_PAIRS = (
    "th he in er an re nd at on nt ha es st en ed to it ou ea hi is or ti as te et ng of al de se "
    "le sa si ar ve ra ld ur la ch un qu om me ne us ie pa ma so il ce io ta da no li ca tr ri"
).split()


@functools.lru_cache(maxsize=2)
def _backend(bos: bool) -> str:
    specials = ["<|pad|>", "<|bos|>", "<|eos|>"]
    tokens = specials + sorted(pre_tokenizers.ByteLevel.alphabet()) + _PAIRS
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[(pair[0], pair[1]) for pair in _PAIRS]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", 1)]
        )
    return backend.to_str()


def tiny_tokenizer(*, bos: bool = True, padding_side: str = "right") -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer with exactly VOCAB tokens that round-trips any text."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend(bos)),
        pad_token="<|pad|>",
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        padding_side=padding_side,
        clean_up_tokenization_spaces=False,
        model_max_length=POSITIONS,
    )
