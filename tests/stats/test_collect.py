"""`collect` against counting one text at a time; what it must not depend on; what it leaves."""

import logging

import pytest
import torch

import neuronsteer.stats as st
from neuronsteer.errors import HookError, LayoutError, ParameterError, StatsError, TextError
from neuronsteer.models import inspect
from neuronsteer.stats.weight_norms import WEIGHT_MEASURES
from tests.tiny_models import tiny_model, tiny_tokenizer

from .material import corpus, hooks, one_by_one, texts

FAMILIES = ["llama", "gpt2", "phi3", "bloom", "opt", "gemma2", "apertus", "lfm2"]
LABELS = ("a", "b")


def run(model, data, **options):
    tok = options.pop("tokenizer", None) or tiny_tokenizer()
    return st.collect(model, tok, data, progress=False, **options)


def same_counts(left, right) -> bool:
    return left.tokens == right.tokens and torch.equal(
        left.get("count", "mlp.act"), right.get("count", "mlp.act")
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_counting_one_text_at_a_time(family):
    model, tok, data = tiny_model(family), tiny_tokenizer(), corpus(*LABELS, count=12)
    stats = run(model, data)
    for k, label in enumerate(stats.labels):
        rows = []
        for ids in tok(data[label])["input_ids"]:
            rows.append((ids, [token != tok.bos_token_id for token in ids]))
        want = one_by_one(model, rows)
        g, a = want["mlp.act"], want["mlp.neuron"]
        assert stats.tokens[label] == len(g)
        assert stats.texts[label] == 12
        assert torch.equal(stats.get("count", "mlp.act")[k], (g > 0).sum(0))
        for site, values in (("mlp.act", g), ("mlp.neuron", a)):
            scale = values.abs().double().sum(0).max()
            assert (stats.get("sum", site)[k] - values.double().sum(0)).abs().max() < 1e-6 * scale
            square = values.double().pow(2).sum(0)
            assert (stats.get("sumsq", site)[k] - square).abs().max() < 1e-6 * square.max()
            assert torch.allclose(stats.max(site)[k], values.amax(0), atol=1e-5, rtol=1e-5)
            mean, std = values.double().mean(0).float(), values.double().std(0, correction=0)
            assert torch.allclose(stats.mean(site)[k], mean, atol=1e-5, rtol=1e-4)
            assert torch.allclose(stats.std(site)[k], std.float(), atol=1e-4, rtol=1e-3)
        share = (g > 0).double().mean(0)
        assert torch.allclose(stats.probabilities()[k], share, atol=1e-12)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "gemma2", "lfm2"])
def test_counts_do_not_depend_on_batch_size(family):
    model, data = tiny_model(family), corpus(*LABELS, count=40)
    first = run(model, data)
    for size in (1, 2, 5, 64):
        other = run(model, data, batch_size=size)
        assert same_counts(first, other)
        # The largest values agree to the last bit: not even the activations differ.
        assert torch.equal(first.get("max", "mlp.neuron"), other.get("max", "mlp.neuron"))
        for site in ("mlp.act", "mlp.neuron"):
            scale = first.get("sumsq", site).sqrt().max()
            off = (first.get("sum", site) - other.get("sum", site)).abs().max()
            assert off < 1e-6 * scale * max(first.tokens.values()) ** 0.5


def test_counts_do_not_depend_on_padding_side_or_the_order_of_texts():
    model, data = tiny_model("llama"), corpus(*LABELS, count=40)
    first = run(model, data)
    left = tiny_tokenizer(padding_side="left")
    assert same_counts(first, run(model, data, tokenizer=left))
    backwards = {label: part[::-1] for label, part in data.items()}
    assert same_counts(first, run(model, backwards))


def test_counts_do_not_depend_on_two_threads():
    model, data = tiny_model("llama"), corpus("a", count=5)
    first = run(model, data)
    torch.set_num_threads(2)
    try:
        assert same_counts(first, run(model, data))
    finally:
        torch.set_num_threads(1)


def test_packed_counts_do_not_depend_on_batch_size():
    model, data = tiny_model("llama"), corpus(*LABELS, count=40)
    first = run(model, data, block_size=50)
    for size in (1, 3, 64):
        assert same_counts(first, run(model, data, block_size=50, batch_size=size))


def test_packing_equals_one_block_at_a_time():
    model, tok = tiny_model("llama"), tiny_tokenizer(bos=False)
    data = corpus("a", count=20)
    stats = run(model, data, tokenizer=tok, block_size=32)
    stream = [token for ids in tok(data["a"])["input_ids"] for token in ids]
    blocks = [stream[i : i + 32] for i in range(0, len(stream), 32)]
    want = one_by_one(model, [(block, [True] * len(block)) for block in blocks])["mlp.act"]
    assert torch.equal(stats.get("count", "mlp.act")[0], (want > 0).sum(0))
    assert stats.tokens["a"] == len(stream)


def test_a_texts_neighbours_in_a_batch_do_not_matter():
    """No attention leak: a text counts the same alone and among others of any length."""
    model, data = tiny_model("llama"), texts("a", 15)
    together = run(model, {"x": data})
    alone = [run(model, {"x": [text]}) for text in data]
    total = sum(stats.get("count", "mlp.act") for stats in alone)
    assert torch.equal(together.get("count", "mlp.act"), total)


def test_response_only_counts_what_follows_the_prompt():
    model, tok = tiny_model("llama"), tiny_tokenizer()
    pairs = [("ab cd: ", "ef gh"), ("a", "bcd"), ("question? ", "an")]
    stats = run(model, {"x": pairs}, response_only=True)
    rows = []
    for prompt, response in pairs:
        ids = tok(prompt + response)["input_ids"]
        spans = tok(prompt + response, return_offsets_mapping=True)["offset_mapping"]
        rows.append((ids, [start >= len(prompt) and end > start for start, end in spans]))
    want = one_by_one(model, rows)["mlp.act"]
    assert stats.tokens["x"] == len(want) > 0
    assert torch.equal(stats.get("count", "mlp.act")[0], (want > 0).sum(0))
    everything = run(model, {"x": pairs})
    assert everything.tokens["x"] > stats.tokens["x"]


def test_responses_are_means_per_text_in_the_order_of_the_texts():
    model, tok, data = tiny_model("llama"), tiny_tokenizer(), corpus(*LABELS, count=9)
    needs = ["responses@mlp.act", "responses@mlp.neuron"]
    stats = run(model, data, needs=needs, batch_size=2)
    for label in LABELS:
        for i, ids in enumerate(tok(data[label])["input_ids"]):
            counts = [token != tok.bos_token_id for token in ids]
            want = one_by_one(model, [(ids, counts)])
            for site, values in want.items():
                got = stats.responses(site)[label][i]
                assert torch.allclose(got, values.mean(0), atol=1e-5)
    assert stats.responses("mlp.act")["a"].shape == (9, 2, 80)


@pytest.mark.parametrize("more", [(), ("texts@mlp.neuron", "texts@mlp.act")])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_last_tokens_add_up_over_texts_of_any_length(family, more):
    model, tok, data = tiny_model(family), tiny_tokenizer(), corpus(*LABELS, count=11)
    data["a"].insert(3, "")  # no token that counts: not a text
    needs = ["last@mlp.act", "last@mlp.neuron", "sum@mlp.neuron", *more]
    for size in (1, 4, "auto"):
        stats = run(model, data, needs=needs, batch_size=size)
        for k, label in enumerate(LABELS):
            want = {"mlp.act": 0.0, "mlp.neuron": 0.0}
            for ids in tok([text for text in data[label] if text])["input_ids"]:
                found = one_by_one(model, [(ids, [True] * len(ids))])
                want = {site: total + found[site][-1].double() for site, total in want.items()}
            assert stats.texts[label] == 11
            for site, total in want.items():
                assert torch.allclose(stats.get("last", site)[k], total, atol=1e-4)
    halves = [{label: part[i::2] for label, part in data.items()} for i in (0, 1)]
    first, second = (run(model, half, needs=needs) for half in halves)
    both = first.merge(second)
    assert both.texts == stats.texts
    assert torch.allclose(both.get("last", "mlp.act"), stats.get("last", "mlp.act"), atol=1e-4)


def test_the_last_token_is_the_last_that_counts():
    model, tok = tiny_model("llama"), tiny_tokenizer()
    pairs = [("ab ", "cde"), ("f", "gh abc"), ("abc", " d")]
    needs = ["last@mlp.neuron"]
    stats = run(model, {"a": pairs}, needs=needs, response_only=True, max_length=5)
    want = 0.0
    for first, second in pairs:
        ids = tok(first + second)["input_ids"][:5]
        want = want + one_by_one(model, [(ids, [True] * len(ids))])["mlp.neuron"][-1].double()
    assert torch.allclose(stats.get("last", "mlp.neuron")[0], want, atol=1e-5)
    with pytest.raises(ParameterError, match="last@mlp.neuron is kept per text"):
        run(model, {"a": ["abc"]}, needs=needs, block_size=4)


def test_quantiles_are_within_the_stated_error():
    model, tok, data = tiny_model("llama"), tiny_tokenizer(), corpus("a", count=25)
    stats = run(model, data, needs=["quantile@mlp.neuron"])
    rows = [(ids, [t != tok.bos_token_id for t in ids]) for ids in tok(data["a"])["input_ids"]]
    values = one_by_one(model, rows)["mlp.neuron"]
    for q in (0.1, 0.5, 0.9):
        want = values.double().quantile(q, dim=0, interpolation="lower").float()
        got = stats.quantile(q, "mlp.neuron")[0]
        assert ((got - want).abs() <= 0.091 * want.abs() + 2**-10).all()
    assert torch.equal(stats.median("mlp.neuron"), stats.quantile(0.5, "mlp.neuron"))


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon"])
def test_every_site_can_be_collected(family):
    model, data = tiny_model(family), corpus("a", count=6)
    anatomy = inspect(model)
    stats = run(model, data, sites=anatomy.sites())
    for site in anatomy.sites():
        widths = [point.width for point in anatomy.hook_points(site)]
        assert stats.get("sum", site).shape == (1, 2, max(widths))
        assert stats.site_widths[site] == tuple(widths)
        share = stats.probabilities(site)
        assert share.min() >= 0
        assert share.max() <= 1
        assert 0.1 < share.mean() < 0.9
    assert stats.widths == anatomy.widths


def test_half_precision_counts_are_exact_too():
    model, data = tiny_model("llama", dtype=torch.bfloat16), corpus("a", count=30)
    first = run(model, data)
    assert same_counts(first, run(model, data, batch_size=3))
    assert first.get("count", "mlp.act").max() > 256  # where bfloat16 stops counting
    assert first.header["dtype"] == "bfloat16"


def test_the_model_is_left_as_it_was():
    model, data = tiny_model("llama"), corpus("a", count=4)
    model.train()
    model.model.layers[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    run(model, data)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert hooks(model) == 0
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_dropout_is_off_while_collecting():
    model, data = tiny_model("gpt2", resid_pdrop=0.5), corpus("a", count=6)
    model.train()
    assert same_counts(run(model, data), run(model, data))


def test_hooks_are_removed_after_an_error(monkeypatch):
    model, data = tiny_model("llama"), corpus("a", count=4)

    def fail(*args, **kwargs):
        raise RuntimeError("broken layer")

    monkeypatch.setattr(model.model.layers[1].mlp.act_fn, "forward", fail)
    with pytest.raises(RuntimeError, match="broken layer"):
        run(model, data)
    assert hooks(model) == 0
    assert not model.training


def test_a_module_that_is_skipped_is_an_error(monkeypatch):
    model, data = tiny_model("llama"), corpus("a", count=4)
    mlp = model.model.layers[1].mlp
    monkeypatch.setattr(mlp, "forward", lambda x: x)
    with pytest.raises(HookError, match=r"2 of 6 hooks did not fire.*layers\.1\.mlp"):
        run(model, data)
    assert hooks(model) == 0


class Scarce:
    """Runs out of memory above a number of positions, in the middle of a forward pass."""

    def __init__(self, module, limit, error):
        self.run, self.limit, self.error, self.failures = module.forward, limit, error, 0

    def __call__(self, x):
        if x.shape[0] * x.shape[1] > self.limit:
            self.failures += 1
            raise self.error
        return self.run(x)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_out_of_memory_halves_the_batch_and_goes_on(monkeypatch, caplog, error):
    model, data = tiny_model("llama"), corpus(*LABELS, count=40)
    plenty = run(model, data, needs=["count@mlp.act", "sum@mlp.neuron", "responses@mlp.neuron"])
    scarce = Scarce(model.model.layers[1].mlp, 250, error)
    monkeypatch.setattr(model.model.layers[1].mlp, "forward", scarce)
    with caplog.at_level(logging.WARNING):
        stats = run(model, data, needs=["count@mlp.act", "sum@mlp.neuron", "responses@mlp.neuron"])
    assert 0 < scarce.failures <= 6
    assert "Out of memory" in caplog.text
    assert stats.header["execution"]["out_of_memory"] == scarce.failures
    assert same_counts(plenty, stats)
    for label in LABELS:
        left, right = (s.responses("mlp.neuron")[label] for s in (plenty, stats))
        assert torch.allclose(left, right, atol=1e-5)


def test_a_text_that_never_fits_is_an_error(monkeypatch):
    model, data = tiny_model("llama"), corpus("a", count=4)
    scarce = Scarce(model.model.layers[1].mlp, 3, torch.OutOfMemoryError("CUDA out of memory"))
    monkeypatch.setattr(model.model.layers[1].mlp, "forward", scarce)
    with pytest.raises(ParameterError, match="does not fit"):
        run(model, data)
    assert hooks(model) == 0


def test_other_runtime_errors_are_not_taken_for_missing_memory(monkeypatch):
    model, data = tiny_model("llama"), corpus("a", count=4)
    scarce = Scarce(model.model.layers[1].mlp, 3, RuntimeError("shapes do not match"))
    monkeypatch.setattr(model.model.layers[1].mlp, "forward", scarce)
    with pytest.raises(RuntimeError, match="shapes"):
        run(model, data)


def test_budget_and_texts_are_recorded():
    model, data = tiny_model("llama"), corpus(*LABELS, count=20)
    stats = run(model, data, max_tokens=100, max_length=40)
    assert stats.tokens == {"a": 100, "b": 100}
    assert stats.policy["max_tokens"] == 100
    facts = stats.header["calibration"]["a"]
    assert facts["corpus"] == "list"
    assert len(facts["sha256"]) == 64
    assert facts["texts"] == stats.texts["a"] < 20
    packed = run(model, data, block_size=16, max_tokens=100)
    assert packed.tokens == {"a": 100, "b": 100}


def test_mistakes_are_named():
    model, tok = tiny_model("llama"), tiny_tokenizer()
    data = corpus("a", count=3)
    with pytest.raises(TextError, match="none of the tokens"):
        run(model, {"x": ["a"]}, skip_first=1)
    with pytest.raises(ParameterError, match=r"Did you mean 'max_tokens'"):
        run(model, data, max_token=5)
    with pytest.raises(ParameterError, match="Unknown reducer 'cuont'"):
        run(model, data, needs=["cuont@mlp.act"])
    with pytest.raises(ParameterError, match="Unknown site"):
        run(model, data, needs=["count@mlp.acts"])
    with pytest.raises(ParameterError, match="reducer@site"):
        run(model, data, needs=["count"])
    with pytest.raises(ParameterError, match="batch_size=0"):
        run(model, data, batch_size=0)
    with pytest.raises(ParameterError, match="exceeds the model's context of 512"):
        run(model, data, max_length=600)
    with pytest.raises(ParameterError, match="per text"):
        run(model, data, needs=["responses@mlp.act"], block_size=8)
    with pytest.raises(ParameterError, match="is not a tokenizer"):
        st.collect(model, "tokenizer", data)
    with pytest.raises(ParameterError, match="needs checkpoint"):
        run(model, data, resume=True)
    with pytest.raises(LayoutError):
        st.collect(torch.nn.Linear(2, 2), tok, data)


def test_results_that_would_not_fit_are_refused_before_the_start():
    model, data = tiny_model("llama"), corpus("a", count=10)
    with pytest.raises(ParameterError, match="memory_limit"):
        run(model, data, needs=["responses@mlp.neuron"], memory_limit=6000)
    run(model, data, needs=["responses@mlp.neuron"], memory_limit=6400)  # 10 * 2 * 80 * 4
    run(model, data, needs=["responses@mlp.neuron"], memory_limit=None)


def test_overflow_is_an_error(monkeypatch):
    model, data = tiny_model("llama"), corpus("a", count=3)
    up = model.model.layers[1].mlp.up_proj
    monkeypatch.setattr(up, "forward", lambda x: torch.full((*x.shape[:-1], 80), torch.inf))
    with pytest.raises(StatsError, match=r"not finite at layer 1.*bfloat16"):
        run(model, data, needs=["sum@mlp.neuron"])


def test_progress_is_reported():
    model, data = tiny_model("llama"), corpus(*LABELS, count=30)
    events = []
    stats = st.collect(model, tiny_tokenizer(), data, progress=events.append, batch_size=4)
    assert [event.position for event in events] == sorted(event.position for event in events)
    assert events[-1].tokens == sum(stats.tokens.values())
    shares = [event.fraction for event in events]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert events[-1].tokens_per_second > 0


def test_the_bar_goes_to_stderr(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as if it were a terminal
    model, data = tiny_model("llama"), corpus("a", count=3)
    st.collect(model, tiny_tokenizer(), data)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "tokens" in captured.err


class Method:
    needs = (st.Need("count", "mlp.act"), st.Need("norm", "mlp.neuron"))


def test_needs_are_given_by_name_as_objects_or_by_a_method():
    model, data = tiny_model(), corpus("a", count=2)
    count, norm = Method.needs
    for given in (Method(), [Method()], list(Method.needs), ["count@mlp.act", tuple(norm)]):
        assert run(model, data, needs=given).needs == (count, norm)
    assert run(model, data, needs=[Method(), "max@resid"]).has("max", "resid")
    for given in ("count@mlp.act", count):
        assert run(model, data, needs=given).needs == (count,)
    for given in ({"needs": "lape"}, {"needs": ["lape"]}, {"method": "lape"}):
        with pytest.raises(ParameterError, match=r"detectors\.detector\('lape'\)"):
            run(model, data, **given)


def test_weights_are_measured_once(monkeypatch):
    calls = []
    measure = WEIGHT_MEASURES["norm"]
    monkeypatch.setitem(WEIGHT_MEASURES, "norm", lambda *args: calls.append(1) or measure(*args))
    run(tiny_model(), corpus("a", count=2), needs=["count@mlp.act", "norm@mlp.neuron"])
    assert len(calls) == 1
