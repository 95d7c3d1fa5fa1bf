"""Lengths of down projection columns: measured the same way through every kind of layer."""

import dataclasses

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, get_peft_model
from torch import nn

from neuronsteer.errors import LayoutError, MismatchError, ParameterError, StatsError
from neuronsteer.models import inspect
from neuronsteer.stats import Need, Stats, collect, weight_norms

from ..tiny_models import ALL_FAMILIES, MOE, tiny_model, tiny_tokenizer

TEXTS = {"a": ["one two", "three four five"], "b": ["six seven", "eight"]}


def effects(model, point, neurons):
    """The slow way: what the block puts out for one neuron more, one neuron at a time."""
    module, found = point.module, []
    for i in neurons:
        x = torch.zeros(1, point.width)
        base = module(x)
        x[0, i] = 1
        found.append(float((module(x) - base).norm()))
    return torch.tensor(found)


@pytest.mark.parametrize("family", [name for name in ALL_FAMILIES if name not in MOE])
def test_length_is_what_one_unit_of_a_neuron_does(family):
    model = tiny_model(family)
    anatomy = inspect(model)
    norms = weight_norms.norms(anatomy, "mlp.neuron")
    assert norms.shape == (anatomy.num_layers, anatomy.width) and norms.dtype == torch.float32
    for point in anatomy.hook_points("mlp.neuron"):
        neurons = [0, 1, point.width - 1]
        with torch.no_grad():
            assert torch.allclose(
                norms[point.layer, neurons], effects(model, point, neurons), atol=1e-4
            )


@pytest.mark.parametrize("family", MOE)
def test_experts_are_measured_one_by_one(family):
    model = tiny_model(family)
    point = inspect(model).hook_points("mlp.neuron")[0]
    norms = weight_norms.norms(inspect(model), "mlp.neuron")[0]
    block, expert, i = point.experts, 2, 5
    down = block.module.down_proj[expert].detach()
    column = down[i] if family == "gpt_oss" else down[:, i]
    assert norms[block.flat(expert, i)] == pytest.approx(float(column.norm()), rel=1e-5)
    assert norms.shape[0] == point.width and bool((norms > 0).all())
    if block.shared is not None:
        column = block.shared.module.weight[:, 3].detach()
        assert norms[block.flat(block.num_experts, 3)] == pytest.approx(float(column.norm()))


def test_a_collection_measures_them_once(monkeypatch):
    calls = []

    def counted(*args):
        calls.append(args)
        return weight_norms.norms(*args)

    monkeypatch.setitem(weight_norms.WEIGHT_MEASURES, "norm", counted)
    collect(tiny_model("llama"), tiny_tokenizer(), TEXTS, progress=False)
    assert len(calls) == 1


def test_running_on_unit_vectors_gives_what_reading_gives(monkeypatch):
    for family in ("llama", "gpt2"):
        module = inspect(tiny_model(family)).hook_points("mlp.neuron")[0].module
        width = getattr(module, "in_features", None) or module.nx
        expected = torch.cat(list(weight_norms._images(module, width, torch.float32)))
        for size in (2**24, 7 * width):
            monkeypatch.setattr(weight_norms, "_CHUNK", size)
            with torch.no_grad():
                found = torch.cat(list(weight_norms._outputs(module, width, torch.float32)))
                assert torch.allclose(found, expected)


class Quantised(nn.Module):
    """Like the layers of quantisation libraries: integers, and no `weight` to read."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.scale = linear.weight.detach().abs().amax() / 127
        self.register_buffer("codes", (linear.weight.detach() / self.scale).round().to(torch.int8))
        self.bias = nn.Parameter(torch.randn(linear.out_features))

    def forward(self, x):
        return x @ (self.codes.to(x.dtype) * self.scale.to(x.dtype)).T + self.bias


def test_quantised_layers_are_asked():
    model = tiny_model()
    expected = weight_norms.norms(inspect(model), "mlp.neuron")
    for layer in model.model.layers:
        layer.mlp.down_proj = Quantised(layer.mlp.down_proj)
    assert torch.allclose(weight_norms.norms(inspect(model), "mlp.neuron"), expected, rtol=0.05)


def test_adapters_count_and_dropout_does_not():
    config = LoraConfig(target_modules=["down_proj"], lora_dropout=0.5, init_lora_weights=False)
    model = get_peft_model(tiny_model(), config).train()
    norms = weight_norms.norms(inspect(model), "mlp.neuron")
    assert model.training
    merged = model.merge_and_unload()
    assert torch.allclose(weight_norms.norms(inspect(merged), "mlp.neuron"), norms, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_offloaded_weights_are_fetched(family):
    model = tiny_model(family)
    expected = weight_norms.norms(inspect(model), "mlp.neuron")
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert torch.allclose(weight_norms.norms(inspect(model), "mlp.neuron"), expected)


def test_half_precision():
    model = tiny_model(dtype=torch.bfloat16)
    expected = weight_norms.norms(inspect(tiny_model()), "mlp.neuron")
    assert torch.allclose(weight_norms.norms(inspect(model), "mlp.neuron"), expected, rtol=0.02)


def test_collected_by_default_kept_and_merged(tmp_path):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    stats = collect(model, tokenizer, TEXTS, progress=False)
    assert stats.has("norm", "mlp.neuron") and Need("norm", "mlp.neuron") in stats.needs
    norms = stats.norms()
    assert torch.equal(norms, weight_norms.norms(inspect(model), "mlp.neuron"))
    stats.save(tmp_path)
    assert torch.equal(Stats.load(tmp_path).norms(), norms)
    assert torch.equal(stats.only("b").norms(), norms)
    parts = [
        collect(model, tokenizer, {name: texts}, progress=False) for name, texts in TEXTS.items()
    ]
    assert torch.equal(parts[0].merge(parts[1]).norms(), norms)
    other = dataclasses.replace(parts[1], weight_measures={Need("norm", "mlp.neuron"): norms * 1.1})
    with pytest.raises(MismatchError, match="norm@mlp.neuron"):
        parts[0].merge(other)


def test_only_what_is_asked_for(tmp_path):
    model, tokenizer = tiny_model(), tiny_tokenizer()
    needs = ["count@mlp.act", "norm@mlp.neuron"]
    stats = collect(model, tokenizer, TEXTS, needs=needs, progress=False)
    assert sorted(map(str, stats.needs)) == needs
    stats.save(tmp_path)  # the site has no array of its own
    assert Stats.load(tmp_path).has("norm", "mlp.neuron")
    without = collect(model, tokenizer, TEXTS, needs=["count@mlp.act"], progress=False)
    with pytest.raises(StatsError, match="'norm' at 'mlp.neuron'"):
        without.norms()
    with pytest.raises(ParameterError, match="no text would"):
        collect(model, tokenizer, TEXTS, needs=["norm@mlp.neuron"], progress=False)
    with pytest.raises(ParameterError, match="not at 'resid'"):
        collect(model, tokenizer, TEXTS, needs=["sum@resid", "norm@resid"], progress=False)


def test_what_cannot_be_measured_fails_only_when_asked_for(caplog):
    model, tokenizer = tiny_model(), tiny_tokenizer()

    class Odd(nn.Linear):
        def forward(self, x):
            if x.dim() < 3:
                raise RuntimeError("three dimensions, please")
            return super().forward(x)

    for layer in model.model.layers:
        odd = Odd(layer.mlp.down_proj.in_features, layer.mlp.down_proj.out_features)
        layer.mlp.down_proj = odd
    stats = collect(model, tokenizer, TEXTS, progress=False)
    assert not stats.has("norm", "mlp.neuron")
    assert "three dimensions" in caplog.text
    with pytest.raises(LayoutError, match="down_proj"):
        needs = ["sum@mlp.neuron", "norm@mlp.neuron"]
        collect(model, tokenizer, TEXTS, needs=needs, progress=False)
