"""Importance against switching every unit off, one after the other."""

import pytest
import torch

import neuronsteer.stats as st
from neuronsteer.errors import HookError, LayoutError, ParameterError, StatsError
from neuronsteer.models import inspect
from neuronsteer.stats import REDUCERS
from neuronsteer.stats.document_measures import DOCUMENT_MEASURES
from tests.tiny_models import tiny_model, tiny_tokenizer

from .material import corpus, hooks, stop_after

SITES = ("mlp.neuron", "attn.q", "attn.k", "attn.v", "attn.o")


def run(model, data, needs, **options):
    return st.collect(model, tiny_tokenizer(), data, needs=needs, progress=False, **options)


def without_each(model, ids, site, layer):
    """The layer's MLP or attention output, `[1 + units, tokens, hidden]`: as is, then without."""
    anatomy = inspect(model)
    point = next(point for point in anatomy.hook_points(site) if point.layer == layer)
    place = "mlp.neuron" if site == "mlp.neuron" else "attn.o"
    output = next(point for point in anatomy.hook_points(place) if point.layer == layer).module
    columns = torch.arange(point.tensor_width)
    if point.columns is not None:
        columns = columns[point.columns]
    seen = []

    def forward(unit):
        def change(_m, args, *rest):
            value = (rest[0] if rest else args[0]).clone()
            value[..., columns[unit]] = 0
            return value if rest else (value,)

        handles = [output.register_forward_hook(lambda _m, _a, out: seen.append(out))]
        if unit is not None:
            hook = point.module.register_forward_hook
            if point.side == "input":
                hook = point.module.register_forward_pre_hook
            # Before the reading hook, which may be on the same module.
            handles.append(hook(change, prepend=True))
        with torch.no_grad():
            model.get_decoder()(input_ids=torch.tensor([ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        return seen.pop().reshape(len(ids), -1)

    return torch.stack([forward(unit) for unit in (None, *range(point.width))])


def importance(model, text, site, layer, tokens=None):
    tok = tiny_tokenizer()
    ids = tok(text)["input_ids"]
    outputs = without_each(model, ids, site, layer)
    counted = [i for i, token in enumerate(ids) if token != tok.bos_token_id]
    scale = 1.0
    if tokens is not None:
        scale = (len(counted) / len(tokens)) ** 0.5
        counted = [counted[i] for i in tokens]
    return (outputs[1:, counted] - outputs[0, counted]).flatten(1).norm(dim=1) * scale


# One family of each kind: rotated halves and neighbours, part of a head, norms of heads, fused
# projections, shared keys, no rotation, scaled queries, a soft cap.
FAMILIES = ["llama", "gpt2", "phi3", "opt"]
TURNED = ["qwen3", "gpt_neox", "cohere", "glm4", "gemma2", "gemma3_text", "stablelm", "phi"]
CASES = [(family, site) for family in FAMILIES for site in SITES]
CASES += [(family, site) for family in TURNED for site in ("attn.q", "attn.k")]


@pytest.mark.parametrize(("family", "site"), CASES)
def test_equals_switching_units_off(family, site):
    model = tiny_model(family, layers=1 if family != "gemma3_text" else 2)
    data = {"a": ["one two", "ñ x"], "b": ["an order"]}
    stats = run(model, data, [f"importance_min@{site}", f"importance_rank@{site}"])
    for label, name in enumerate(data):
        want = torch.stack([importance(model, text, site, 0) for text in data[name]])
        least = stats.get("importance_min", site)[label, 0]
        assert torch.allclose(least, want.amin(0), rtol=2e-3, atol=1e-4 * float(want.max()))
    # Of one document the ranks are known: an order by importance, up to rounding.
    rank = stats.get("importance_rank", site)[1, 0]
    assert sorted(rank.tolist()) == list(range(want.shape[1]))
    assert (want[0][rank.argsort()].diff() <= 1e-3 * want.max()).all()
    assert hooks(model) == 0
    assert model.config._attn_implementation != "neuronsteer_observed"
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("site", ["attn.q", "attn.k"])
def test_of_a_long_document_queries_are_taken_evenly(site):
    model, text = tiny_model("llama", layers=1), "a b c d e f g h i j k l m n o p q r s"
    tokens = len(tiny_tokenizer()(text)["input_ids"]) - 1
    assert tokens > 24
    chosen = [(2 * i + 1) * tokens // 24 for i in range(12)]
    want = importance(model, text, site, 0, chosen)
    got = run(model, {"a": [text]}, [f"importance_min@{site}"]).get("importance_min", site)
    assert torch.allclose(got[0, 0], want, rtol=2e-3, atol=1e-4 * float(want.max()))
    everything = importance(model, text, site, 0)
    # A sample, but one that says about the same.
    assert 0.5 < float(got[0, 0].norm() / everything.norm()) < 2


@pytest.mark.parametrize("site", SITES)
def test_documents_do_not_depend_on_their_company(site):
    model, data = tiny_model("llama"), corpus("a", "b", count=9, longest=30)
    needs = [f"{name}@{site}" for name in ("importance_min", "importance_rank")]
    together = run(model, data, needs)
    for size in (1, 4):
        other = run(model, data, needs, batch_size=size)
        for need, array in together.arrays.items():
            if need.reducer == "importance_min":
                assert torch.allclose(array, other.arrays[need], rtol=1e-3, atol=1e-6)
            else:
                # Units of nearly equal importance may change places.
                assert (array - other.arrays[need]).abs().float().mean() < 1


def test_other_statistics_are_the_same_beside_it():
    model, data = tiny_model("llama"), corpus("a", count=8)
    needs = ["count@mlp.act", "max@mlp.neuron", "responses@attn.q"]
    plain = run(model, data, needs)
    beside = run(model, data, [*needs, "importance_min@attn.q", "relevance_moments@mlp.neuron"])
    assert torch.equal(plain.get("count", "mlp.act"), beside.get("count", "mlp.act"))
    assert torch.allclose(
        plain.responses("attn.q")["a"], beside.responses("attn.q")["a"], atol=1e-4
    )


def test_texts_without_counted_tokens_say_nothing():
    model = tiny_model("llama")
    texts = ["one two three four", "x", "five six seven eight"]
    needs = ["importance_min@mlp.neuron", "importance_rank@mlp.neuron"]
    with_it = run(model, {"a": texts}, needs, skip_first=2)
    without = run(model, {"a": [texts[0], texts[2]]}, needs, skip_first=2)
    for need, array in with_it.arrays.items():
        assert torch.allclose(array.float(), without.arrays[need].float(), rtol=1e-4)


class Stop(Exception):
    pass


@pytest.mark.parametrize("need", ["importance_min@attn.v", "relevance_moments@mlp.neuron"])
def test_a_stopped_run_resumes_to_the_same_numbers(tmp_path, need):
    model, data = tiny_model("llama"), corpus("a", "b", count=12)
    options = {"batch_size": 2, "checkpoint": tmp_path / "c", "checkpoint_every": 0}
    whole = run(model, data, [need], batch_size=2)
    with pytest.raises(Stop):
        st.collect(
            model,
            tiny_tokenizer(),
            data,
            needs=[need],
            progress=stop_after(8, Stop),
            **options,
        )
    resumed = run(model, data, [need], resume=True, **options)
    for found, array in whole.arrays.items():
        assert torch.equal(array, resumed.arrays[found])
    assert hooks(model) == 0
    assert all(p.requires_grad for p in model.parameters())


def test_statistics_of_two_halves_merge_and_save(tmp_path):
    model, data = tiny_model("llama"), corpus("a", count=10)["a"]
    needs = [f"{name}@mlp.neuron" for name, r in REDUCERS.items() if r.document_measure]
    whole = run(model, {"a": data}, needs)
    parts = [run(model, {"a": half}, needs) for half in (data[:5], data[5:])]
    merged = parts[0].merge(parts[1])
    loaded = st.Stats.load(merged.save(tmp_path))
    for need, array in whole.arrays.items():
        assert torch.allclose(array.double(), loaded.arrays[need].double(), rtol=1e-3, atol=1e-9)


def test_what_cannot_be_measured_is_refused():
    data = corpus("a", count=2)
    for family, site, error in (
        ("bloom", "attn.q", HookError),
        ("olmo2", "attn.k", LayoutError),
        ("mixtral", "mlp.neuron", LayoutError),
        ("llama", "resid", LayoutError),
        ("llama", "mlp.act", LayoutError),
    ):
        model = tiny_model(family)
        with pytest.raises(error):
            run(model, data, [f"importance_min@{site}"])
        assert hooks(model) == 0
        assert model.config._attn_implementation != "neuronsteer_observed"
    with pytest.raises(LayoutError, match="gated"):
        run(tiny_model("gpt2"), data, ["released_min@mlp.neuron"])
    with pytest.raises(ParameterError, match="block_size"):
        run(tiny_model("llama"), data, ["importance_min@mlp.neuron"], block_size=8)
    with pytest.raises(StatsError, match="importance_min"):
        run(tiny_model("llama"), data, ["count@mlp.act"]).get("importance_min", "mlp.neuron")


def test_document_measures_are_described():
    for name, measure in DOCUMENT_MEASURES.items():
        assert measure.name == name and measure.__doc__
    assert {r.document_measure for _, r in REDUCERS.items()} - {""} == set(
        DOCUMENT_MEASURES.names()
    )
