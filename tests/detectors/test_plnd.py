"""PLND against sets of documents, one after the other; and on a model."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronsteer.detectors import detect, detector
from neuronsteer.detectors.plnd import SITES, stages
from neuronsteer.errors import ParameterError, StatsError
from neuronsteer.stats import collect
from neuronsteer.steering.steerer import attach

from ..tiny_models import tiny_model, tiny_tokenizer
from .material import measured, rows_of

PAPER = ("importance_min", "importance_rank")


def reference(documents, top, epsilon, common):
    """`documents`: `[labels, documents, layers, width]`, as nested loops over sets."""
    taken = []
    for label in documents:
        mine = None
        for document in label:
            here = set()
            for layer, row in enumerate(document):
                if epsilon is not None:
                    best = [i for i, value in enumerate(row) if value >= epsilon]
                else:
                    best = sorted(range(len(row)), key=lambda i: (-row[i], i))[:top]
                here |= {(layer, i) for i in best if row[i] > 0}
            mine = here if mine is None else mine & here
        taken.append(mine)
    everywhere = set.intersection(*taken)
    return {
        (k, *unit)
        for k, mine in enumerate(taken)
        for unit in (mine if common else mine - everywhere)
    }


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(draw(st.integers(low, high)) for low, high in ((2, 4), (1, 5), (1, 3), (1, 9)))
    documents = rng.random(shape)
    # Documents of one label resemble each other, or nothing would be in all of them.
    documents = documents * 0.3 + rng.random((shape[0], 1, *shape[2:]))
    if draw(st.booleans()):
        documents = np.round(documents * 3)  # ties, and units that do nothing
    if draw(st.booleans()):
        documents[:, :, :, 0] = 0
    return torch.tensor(documents, dtype=torch.float32)


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(1, 10), st.sampled_from([None, 0.4, 1.0, 2.0]), st.booleans())
def test_equals_the_rule(documents, top, epsilon, common):
    stats = measured(documents, *PAPER)
    rule = {"top": top} if epsilon is None else {"epsilon": epsilon}
    neurons = detect(stats, "plnd", common=common, **rule)
    expected = reference(documents.tolist(), top, epsilon, common)
    assert rows_of(neurons) == expected
    least = documents.amin(1)
    for row in range(len(neurons)):
        place = tuple(int(c[row]) for c in (neurons.label, neurons.layer, neurons.index))
        assert float(neurons.values["mlp.neuron.importance"][row]) == float(least[place])
        if epsilon is not None:
            assert float(neurons.score[row]) == float(least[place])
        else:
            assert 0 < float(neurons.score[row]) <= 1


def test_a_share_is_of_each_layer():
    documents = torch.rand(2, 1, 2, 10)
    stats = measured(documents, *PAPER, widths=(4, 10))
    documents[:, :, 0, 4:] = 0  # padding measures nothing
    stats = measured(documents, *PAPER, widths=(4, 10))
    neurons = detect(stats, "plnd", share=0.5, common=True)
    assert neurons.layer_profile().tolist() == [[2, 5], [2, 5]]


def test_stages_are_ranges_of_layers():
    assert stages(32) == {
        "understanding": range(8),
        "reasoning": range(8, 28),
        "generation": range(28, 32),
    }
    for count in range(2, 40):
        parts = stages(count)
        assert [layer for part in parts.values() for layer in part] == list(range(count))
        assert len(parts["understanding"]) and len(parts["generation"])
    stats = measured(torch.rand(2, 3, 8, 20), *PAPER)
    whole = rows_of(detect(stats, "plnd", top=15))
    pieces = [rows_of(detect(stats, "plnd", top=15, stage=name)) for name in stages(8)]
    assert set.union(*pieces) == whole and sum(map(len, pieces)) == len(whole)
    ends = detect(stats, "plnd", top=15, stage="understanding+generation", first=3, last=2)
    assert set(ends.layer.tolist()) <= {0, 1, 2, 6, 7}
    assert ends.method["results"]["layers"] == [0, 1, 2, 6, 7]
    with pytest.raises(ParameterError, match="do not fit"):
        detect(stats, "plnd", stage="generation", first=6, last=3)


def test_a_label_alone_has_nothing_to_be_compared_with():
    stats = measured(torch.rand(1, 3, 2, 20), *PAPER)
    with pytest.raises(StatsError, match="only l0"):
        detect(stats, "plnd")
    assert len(detect(stats, "plnd", common=True, share=1.0)) == 40


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 0}, "share=0"),
        ({"top": 0}, "top=0"),
        ({"epsilon": 0}, "epsilon=0"),
        ({"epsilon": 1.0, "top": 3}, "another rule"),
        ({"site": "mlp.act"}, "site='mlp.act'"),
        ({"variant": "code"}, "variant='code'"),
        ({"stage": "thinking"}, "stage='thinking'"),
        ({"first": -1}, "first=-1"),
    ],
)
def test_mistakes(wrong, message):
    with pytest.raises(ParameterError, match=message):
        detector("plnd", **wrong)


TEXTS = {"a": ["one two three", "four five six"], "b": ["ñandú año", "señor ñu"]}


def test_every_site_of_a_model_is_detected_and_switched_off_together():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    methods = [detector("plnd", site=site, share=0.4) for site in SITES]
    needs = [need for method in methods for need in method.needs]
    stats = collect(model, tokenizer, TEXTS, needs=needs, progress=False)
    sets = [detect(stats, method) for method in methods]
    assert [each.site for each in sets] == list(SITES)
    assert all(len(each) for each in sets)
    ids = tokenizer("one two", return_tensors="pt").input_ids
    with torch.no_grad():
        before = model(ids).logits
        with attach(model, sets) as steer:
            steer.to("a")
            together = model(ids).logits
        with attach(model, sets[:1]) as steer:
            steer.to("a")
            alone = model(ids).logits
    assert not torch.allclose(before, alone) and not torch.allclose(alone, together)


def test_the_released_variant_measures_what_the_code_does():
    """Slowly: hooks, one text at a time, one unit after the other."""
    model, tokenizer, text = tiny_model(layers=1), tiny_tokenizer(), "one two"
    ids = tokenizer(text, return_tensors="pt").input_ids
    layer, seen = model.model.layers[0], {}
    attention = layer.self_attn
    handles = [
        layer.mlp.up_proj.register_forward_hook(lambda _m, _a, out: seen.update(u=out[0])),
        attention.o_proj.register_forward_pre_hook(lambda _m, args: seen.update(z=args[0][0])),
        attention.q_proj.register_forward_hook(lambda _m, _a, out: seen.update(q=out)),
        attention.k_proj.register_forward_hook(lambda _m, _a, out: seen.update(k=out)),
        attention.register_forward_pre_hook(
            lambda _m, _a, kw: seen.update(position=kw["position_embeddings"]), with_kwargs=True
        ),
    ]
    with torch.no_grad():
        model.model(ids)
    for handle in handles:
        handle.remove()
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    length = ids.shape[1]
    query, key = (seen[x].view(1, length, -1, 8).transpose(1, 2) for x in "qk")
    query, key = (each[0] for each in apply_rotary_pos_emb(query, key, *seen["position"]))
    future = torch.full((length, length), -torch.inf).triu(1)
    queries = torch.zeros(4, 8)
    for head in range(4):
        scores = query[head] @ key[head // 2].T * 8**-0.5 + future
        for unit in range(8):
            product = query[head, :, unit, None] * key[head // 2, None, :, unit]
            change = (scores - product).softmax(-1) - scores.softmax(-1)
            queries[head, unit] = change[1:].square().sum()  # BOS does not count
    passed = seen["z"][1:].abs().sum(0).view(2, 2, 8)
    want = {
        "mlp.neuron": seen["u"][1:].abs().sum(0),
        "attn.q": queries.flatten(),
        "attn.k": queries.view(2, 2, 8).sum(1).flatten(),
        "attn.v": passed.sum(1).flatten(),
    }
    needs = [f"released_min@{site}" for site in want]
    stats = collect(model, tokenizer, {"a": [text]}, needs=needs, progress=False)
    for site, expected in want.items():
        got = stats.get("released_min", site)[0, 0]
        assert torch.allclose(got, expected, rtol=1e-3, atol=1e-5), site


def test_collecting_takes_the_method_by_name():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    stats = collect(model, tokenizer, TEXTS, needs=detector("plnd"), progress=False)
    assert set(stats.needs) == set(detector("plnd").needs)
    chosen = detector("plnd", site="attn.v", variant="released")
    stats = collect(model, tokenizer, TEXTS, needs=chosen, progress=False)
    assert detect(stats, chosen).site == "attn.v"
