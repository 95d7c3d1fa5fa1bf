"""The architecture (plain `transformers` Llama) and its training loss.

Nothing of the model itself is written here: the network is `LlamaForCausalLM`. The only custom
piece is the loss, because materialising the logits of a whole batch in float32 costs more time on a
CPU than the transformer in front of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network (the vocabulary comes from the tokenizer)."""

    hidden: int = 256
    layers: int = 6
    mlp_width: int = 768
    heads: int = 4
    kv_heads: int = 2
    positions: int = 1024


def build_model(config: ModelConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Returns a freshly initialised float32 model."""
    llama = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.hidden // config.heads,
        max_position_embeddings=config.positions,
        tie_word_embeddings=True,
        mlp_bias=False,
        attention_bias=False,
        hidden_act="silu",
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=False,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(llama)


class _LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of a linear head; gradients are made chunk by chunk in the forward pass.

    The full logits never exist, each chunk of them stays in cache, and the head is multiplied once
    (not recomputed in the backward pass).
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        n = hidden.shape[0]
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        head = weight.to(hidden.dtype)
        for start in range(0, n, chunk):
            h = hidden[start : start + chunk]
            t = targets[start : start + chunk, None]
            log_probs = F.log_softmax(h @ head.T, dim=-1, dtype=torch.float32)
            loss -= log_probs.gather(1, t).sum()
            grad = log_probs.exp_()
            grad.scatter_add_(1, t, torch.full_like(t, -1, dtype=grad.dtype))
            grad = grad.to(hidden.dtype)
            torch.matmul(grad, head, out=grad_hidden[start : start + chunk])
            grad_weight += grad.T @ h
        ctx.save_for_backward(grad_hidden.div_(n), grad_weight.div_(n))
        return loss / n

    @staticmethod
    def backward(ctx, upstream: Tensor):
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * upstream, grad_weight * upstream, None, None


class LossModel(nn.Module):
    """Wraps a causal LM so that calling it returns the mean next-token loss.

    Args:
        model: The `transformers` model (shared, not copied).
        dtype: Compute type; parameters stay float32, so no separate master copy is needed.
        chunk: Rows of logits in memory at a time.
        compiled: Compile the transformer with `torch.compile`.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        dtype: torch.dtype = torch.bfloat16,
        chunk: int = 512,
        compiled: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.dtype, self.chunk = model, dtype, chunk
        self._trunk = torch.compile(self._hidden) if compiled else self._hidden

    def _hidden(self, ids: Tensor) -> Tensor:
        # Feeding the embeddings in the compute type keeps the residual stream in it too: half the
        # memory traffic of autocast's float32 residuals.
        embedded = self.model.get_input_embeddings()(ids).to(self.dtype)
        return self.model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state

    def forward(self, blocks: Tensor) -> Tensor:
        """Returns the mean loss of blocks ``[rows, block + 1]``."""
        with torch.autocast(blocks.device.type, self.dtype, enabled=self.dtype != torch.float32):
            hidden = self._trunk(blocks[:, :-1]).to(self.dtype)
        hidden = hidden.reshape(-1, hidden.shape[-1])
        weight = self.model.get_output_embeddings().weight
        return _LinearCrossEntropy.apply(hidden, weight, blocks[:, 1:].reshape(-1), self.chunk)
