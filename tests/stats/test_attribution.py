"""What a neuron's column does to the logits of a label's tokens: against the formula."""

from __future__ import annotations

import pytest
import torch

from neuronsteer.detectors import detect, detector
from neuronsteer.errors import ParameterError
from neuronsteer.stats import Need, collect
from tests.tiny_models import tiny_model, tiny_tokenizer

TEXTS = {
    "a": ["abc abc", "a cab and a bac", "abacus abc cab"],
    "b": ["xyz xyz zyx", "zzy xxy", "x y z zyx xyz"],
}
NEED = Need("attribution", "mlp.neuron")


def by_hand(model, tokenizer, texts, gain, weights):
    """Sum over the counted tokens (the BOS token is none) of unembedding row · gain · column."""
    rows = model.get_output_embeddings().weight
    total = torch.zeros(rows.shape[1])
    for text in texts:
        for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
            total += rows[token].detach() * gain
    return torch.stack([total @ weight for weight in weights])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "bloom"])
def test_is_the_direct_path_to_the_label_s_tokens(family):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    with torch.no_grad():  # weights that a gain can be told from
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and "weight" in name:
                parameter.copy_(1 + 0.5 * torch.rand(parameter.shape))
    body = model.get_decoder()
    if family == "llama":
        gain = body.norm.weight
        weights = [layer.mlp.down_proj.weight for layer in body.layers]
    elif family == "gemma2":
        gain = 1 + body.norm.weight
        weights = [layer.mlp.down_proj.weight for layer in body.layers]
    elif family == "gpt2":
        gain = body.ln_f.weight
        weights = [block.mlp.c_proj.weight.T for block in body.h]
    else:
        gain = body.ln_f.weight
        weights = [block.mlp.dense_4h_to_h.weight for block in body.h]
    stats = collect(model, tokenizer, TEXTS, needs=[NEED], progress=False)
    found = stats.get(*NEED)
    for k, texts in enumerate(TEXTS.values()):
        expected = by_hand(model, tokenizer, texts, gain.detach(), weights)
        torch.testing.assert_close(found[k].float(), expected, rtol=1e-3, atol=1e-4)


def test_batches_do_not_matter_and_parts_add_up():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    whole = collect(model, tokenizer, TEXTS, needs=[NEED], progress=False)
    single = collect(model, tokenizer, TEXTS, needs=[NEED], batch_size=1, progress=False)
    torch.testing.assert_close(whole.get(*NEED), single.get(*NEED), rtol=1e-5, atol=1e-5)
    parts = [
        collect(model, tokenizer, {n: some[i:j] for n, some in TEXTS.items()}, needs=[NEED])
        for i, j in ((0, 1), (1, 3))
    ]
    torch.testing.assert_close(parts[0].merge(parts[1]).get(*NEED), whole.get(*NEED))


def test_effect_selects_by_it():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    method = detector("effect", attribution="output", per_label=5)
    stats = collect(model, tokenizer, TEXTS, needs=method.needs, progress=False)
    found = detect(stats, method)
    tokens = torch.tensor([stats.tokens[name] for name in stats.labels])[:, None, None]
    towards = stats.get(*NEED) / tokens
    mean = stats.mean("mlp.neuron").double()
    score = (mean - mean.flip(0)) * (towards - towards.flip(0))
    for k, label in enumerate(stats.labels):
        best = score[k].flatten().sort(descending=True, stable=True)
        rows = found.rows(label)
        picked = set((rows.layer * rows.width + rows.index).tolist())
        assert picked == set(best.indices[:5].tolist())
        assert bool((rows.score > 0).all())


def test_refuses_other_sites_and_rules():
    with pytest.raises(ParameterError, match=r"not at 'mlp\.act'"):
        collect(tiny_model("llama"), tiny_tokenizer(), TEXTS, needs=["attribution@mlp.act"])
    with pytest.raises(ParameterError, match="attribution='logits'"):
        detector("effect", attribution="logits")
