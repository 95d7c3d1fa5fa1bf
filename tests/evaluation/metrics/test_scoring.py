"""Log-likelihoods against a plain forward pass: padding, batches and windows change nothing."""

import math

import pytest
import torch

from neuronsteer.errors import ParameterError
from neuronsteer.evaluation.metrics.scoring import (
    continuations,
    likelihoods,
    text_likelihoods,
    windows,
)

from ...tiny_models import tiny_model, tiny_tokenizer
from .texts import BY_LANGUAGE

PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " Berlin"),
    ("La", " capitale de la France est Paris, et celle de l'Allemagne est Berlin"),
    ("", "nothing before"),
    ("日本の首都は", "東京"),
    ("x", "y"),
    ("the", "re"),
    ("a somewhat longer prompt than all of the others here", " z"),
    ("b", " c"),
]


def plain(model, tokenizer, prompt, continuation):
    """The same by hand: one row, no padding, every logit."""
    whole = tokenizer(prompt + continuation).input_ids
    given = tokenizer(prompt).input_ids
    start = next(
        (i for i, pair in enumerate(zip(whole, given, strict=False)) if pair[0] != pair[1]),
        min(len(whole), len(given)),
    )
    with torch.no_grad():
        logprobs = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(float(logprobs[i - 1, whole[i]]) for i in range(start, len(whole)))


# Rotary, learned, ALiBi and computed positions; OPT's head bypasses its base model.
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "opt", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_equal_to_a_plain_forward_pass(family, padding):
    model, tokenizer = tiny_model(family), tiny_tokenizer(padding_side="left")
    expected = [plain(model, tokenizer, *pair) for pair in PAIRS]
    for batch_size in (1, 8):
        found = likelihoods(model, tokenizer, PAIRS, batch_size=batch_size, padding=padding)
        assert [each.logprob for each in found] == pytest.approx(expected, abs=2e-3, rel=1e-4)


@pytest.mark.parametrize("family", ["llama", "bloom", "opt"])
def test_left_is_right_and_one_is_eight(family):
    model, texts = tiny_model(family), list(BY_LANGUAGE.values()) * 2
    found = [
        text_likelihoods(
            model,
            tiny_tokenizer(padding_side=side),
            texts,
            batch_size=batch_size,
            padding=padding,
        )
        for side in ("left", "right")
        for padding in ("left", "right")
        for batch_size in (1, 8)
    ]
    for other in found[1:]:
        assert [each.tokens for each in other] == [each.tokens for each in found[0]]
        assert [each.nll for each in other] == pytest.approx(
            [each.nll for each in found[0]], rel=1e-4
        )


def test_only_real_tokens_count_and_each_once():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    text = BY_LANGUAGE["fr"]
    ids = tokenizer(text, add_special_tokens=False).input_ids
    (one,) = text_likelihoods(model, tokenizer, [text])
    assert one.tokens == len(ids)
    with torch.no_grad():
        loss = model(torch.tensor([[1, *ids]]), labels=torch.tensor([[1, *ids]])).loss
    assert one.nll == pytest.approx(loss.item(), rel=1e-5)
    longer = text_likelihoods(model, tokenizer, [text, text * 3])
    assert longer[0].nll == pytest.approx(one.nll, rel=1e-5)


def test_long_texts_are_scored_in_windows():
    tokenizer = tiny_tokenizer()
    ids = tokenizer("abcdefghijklmnop", add_special_tokens=False).input_ids
    rows = windows(tokenizer, "abcdefghijklmnop", 5)
    assert [row.ids[0] for row in rows] == [1] * len(rows)
    assert [i for row in rows for i in row.ids[1:]] == ids
    assert max(len(row.ids) for row in rows) == 5


def test_without_bos_the_first_token_is_not_scored():
    tokenizer = tiny_tokenizer(bos=False)
    tokenizer.bos_token = None
    ids = tokenizer("abcdefg").input_ids
    (row,) = windows(tokenizer, "abcdefg", 100)
    assert list(row.ids) == ids and row.start == 1
    assert text_likelihoods(tiny_model(), tokenizer, ["", "x"])[0].tokens == 0


def test_a_token_across_the_border_is_scored_with_the_continuation():
    tokenizer = tiny_tokenizer()
    (row,) = continuations(tokenizer, [("t", "he")])
    assert tokenizer.convert_ids_to_tokens(list(row.ids[row.start :])) == ["th", "e"]


def test_a_tokenizer_that_appends_eos_does_not_end_the_prompt():
    tokenizer = tiny_tokenizer()

    class Appending:
        bos_token_id, eos_token_id = 1, 2

        def __call__(self, text, add_special_tokens=True):
            ids = tokenizer(text, add_special_tokens=add_special_tokens).input_ids
            return {"input_ids": [*ids, 2] if add_special_tokens else ids}

    assert continuations(Appending(), [("ab", " cd")]) == continuations(tokenizer, [("ab", " cd")])


def test_mistakes_are_named():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    with pytest.raises(ParameterError, match="no tokens of its own"):
        likelihoods(model, tokenizer, [("a", "")])
    with pytest.raises(ParameterError, match="padding must be"):
        likelihoods(model, tokenizer, PAIRS, padding="both")
    with pytest.raises(ParameterError, match="batch_size"):
        likelihoods(model, tokenizer, PAIRS, batch_size=0)
    with pytest.raises(ParameterError, match="max_length"):
        text_likelihoods(model, tokenizer, ["a"], max_length=1)


def test_a_model_in_training_is_scored_without_dropout_and_left_in_training():
    model, tokenizer = tiny_model("gpt2", resid_pdrop=0.5), tiny_tokenizer()
    expected = likelihoods(model, tokenizer, PAIRS)
    model.train()
    assert likelihoods(model, tokenizer, PAIRS) == expected
    assert model.training and not math.isnan(expected[0].logprob)
