"""Everything a PEFT user does with an adapter, compared with the hook path."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

pytest.importorskip("peft")

from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from transformers.pytorch_utils import Conv1D

from neuronsteer.errors import (
    LabelError,
    LayoutError,
    MismatchError,
    NeuronSteerError,
    ParameterError,
)
from neuronsteer.integrations.peft import NeuronSteerConfig, NeuronSteerLayer, as_peft_model
from tests.steering.sets import greedy, toy_set
from tests.tiny_models import DENSE, MOE, tiny_model

from .peft_cases import FAMILIES, IDS, OPERATIONS, by_hooks, by_name, case, changed, fresh, logits

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def llama():
    return case()


@pytest.fixture
def wrapped(llama):
    """The set as adapters lang_en, lang_fr, lang_ja of a model of its own."""
    return as_peft_model(fresh(), llama[1])


def layers_of(model):
    return [each for each in model.modules() if isinstance(each, NeuronSteerLayer)]


@pytest.mark.parametrize("operation", OPERATIONS, ids=by_name)
@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_equal_the_hooks_bit_for_bit(family, operation):
    model, neurons = case(family)
    want = changed(model, neurons, "fr", operation=operation)
    peft_model = as_peft_model(model, neurons, operation=operation)
    peft_model.set_adapter("lang_fr")
    assert torch.equal(logits(peft_model), want)


@pytest.mark.parametrize("family", DENSE)
def test_every_dense_family_is_found_without_target_modules(family):
    model = tiny_model(family)
    neurons = toy_set(model)
    want = by_hooks(model, neurons, "en")
    assert torch.equal(logits(as_peft_model(model, neurons, ["en"])), want)


def test_strength_and_operation_can_be_chosen(llama):
    model, neurons = llama
    half = as_peft_model(fresh(), neurons, ["ja"], operation="zero", strength=0.5)
    want = by_hooks(model, neurons, "ja", operation={"name": "scale", "factor": 0.5})
    assert torch.equal(logits(half), want)


def test_only_layers_and_neurons_of_the_label_get_parameters(wrapped, llama):
    assert len(layers_of(wrapped)) == 2
    numbers = sum(p.numel() for n, p in wrapped.named_parameters() if "neuronsteer_" in n)
    assert numbers == 2 * len(llama[1])


def test_switching_and_disabling(wrapped, llama):
    model, neurons = llama
    plain = logits(model)
    for label in ("ja", "fr", "en"):
        wrapped.set_adapter(f"lang_{label}")
        assert torch.equal(logits(wrapped), by_hooks(model, neurons, label))
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped), plain)
    assert torch.equal(logits(wrapped), by_hooks(model, neurons, "en"))


def test_one_adapter_per_row(wrapped, llama):
    model, neurons = llama
    for names in (["lang_fr", "lang_ja"], ["lang_ja", "__base__"], ["__base__", "__base__"]):
        rows = [None if name == "__base__" else name[5:] for name in names]
        want = by_hooks(model, neurons, rows)
        torch.testing.assert_close(logits(wrapped, adapter_names=names), want)
    # Nothing of it stays behind.
    assert torch.equal(logits(wrapped), by_hooks(model, neurons, "en"))


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}]
)
def test_one_adapter_per_row_in_generate(family, options):
    model, neurons = case(family)
    want = by_hooks(model, neurons, ["fr", None], call=greedy, ids=IDS, **options)
    plain = greedy(model, IDS, **options)
    peft_model = as_peft_model(model, neurons)
    mask = torch.ones_like(IDS)
    found = peft_model.generate(
        input_ids=IDS,
        attention_mask=mask,
        max_new_tokens=12,
        do_sample=False,
        adapter_names=["lang_fr", "__base__"],
        **options,
    )[:, IDS.shape[1] :]
    assert torch.equal(found, want)
    half = len(plain) // 2
    assert not torch.equal(found[:half], plain[:half]) and torch.equal(found[half:], plain[half:])


def test_wrong_adapter_names_are_refused(wrapped):
    with pytest.raises(ParameterError, match="Did you mean 'lang_fr'"):
        logits(wrapped, adapter_names=["lang_fr", "lang_frr"])
    with pytest.raises(ParameterError, match="got 3 and 2"):
        logits(wrapped, adapter_names=["lang_fr"] * 3)
    with pytest.raises(ParameterError, match="got 1 and 2"):
        logits(wrapped, adapter_names=["lang_fr"])
    with pytest.raises(ParameterError, match="training mode"):
        wrapped.train()(IDS, adapter_names=["lang_fr"] * 2)
    assert all(layer.row_adapters is None for layer in layers_of(wrapped))


def test_active_adapters_are_applied_one_after_another(wrapped, llama):
    model, neurons = llama
    with_en = by_hooks(model, neurons, "en")
    wrapped.base_model.set_adapter(["lang_en", "lang_fr"])
    both = logits(wrapped)
    # Operations "set" on shared neurons: the last one counts.
    fr, en = neurons.only("fr"), neurons.only("en")
    union = fr.relabel({"fr": "x"}) | en.relabel({"en": "x"})
    assert torch.equal(both, by_hooks(model, union, "x"))
    assert not torch.equal(both, with_en)


def test_mixing_adapters_is_anchored_at_the_identity(llama):
    model, neurons = llama
    apart = neurons.only("en", "fr")
    apart = (apart - neurons.only("en").relabel({"en": "fr"})) | neurons.only("ja")
    peft_model = as_peft_model(fresh(), apart)
    tuner = peft_model.base_model
    tuner.add_weighted_adapter(["lang_en", "lang_fr"], [1.0, 1.0], "both")
    peft_model.set_adapter("both")
    union = apart.only("fr").relabel({"fr": "x"}) | apart.only("en").relabel({"en": "x"})
    torch.testing.assert_close(logits(peft_model), by_hooks(model, union, "x"))

    tuner.add_weighted_adapter(["lang_fr", "lang_ja"], [0.0, 0.0], "none")
    peft_model.set_adapter("none")
    assert torch.equal(logits(peft_model), logits(model))

    tuner.add_weighted_adapter(["lang_ja"], [0.25], "some")
    peft_model.set_adapter("some")
    with_hooks = as_peft_model(fresh(), apart, ["ja"], strength=0.25)
    torch.testing.assert_close(logits(peft_model), logits(with_hooks))


def test_mixing_follows_its_formula_on_shared_neurons(wrapped):
    tuner = wrapped.base_model
    names, weights = ["lang_en", "lang_fr", "lang_ja"], [0.5, -1.0, 2.0]
    tuner.add_weighted_adapter(names, weights, "mix")
    for layer in layers_of(wrapped):
        tables = [layer.dense([name]) for name in names]
        scale, shift = layer.dense(["mix"])
        weighted = list(zip(weights, tables, strict=True))
        torch.testing.assert_close(scale, 1 + sum(w * (s - 1) for w, (s, _) in weighted))
        torch.testing.assert_close(shift, sum(w * t for w, (_, t) in weighted))
    assert wrapped.active_adapter == "lang_en"


def test_mixing_refuses_nonsense(wrapped):
    mix = wrapped.base_model.add_weighted_adapter
    with pytest.raises(ParameterError, match="already"):
        mix(["lang_en"], [1.0], "lang_fr")
    with pytest.raises(ParameterError, match="2 adapters and 1 weights"):
        mix(["lang_en", "lang_fr"], [1.0], "x")
    with pytest.raises(ParameterError, match="Did you mean 'lang_en'"):
        mix(["lang_e"], [1.0], "x")
    assert "x" not in wrapped.peft_config


def test_deleting_adapters(wrapped, llama):
    with pytest.warns(UserWarning, match="lang_en was active"):
        wrapped.delete_adapter("lang_en")
    assert sorted(wrapped.peft_config) == ["lang_fr", "lang_ja"]
    for layer in layers_of(wrapped):
        assert not layer.has("lang_en") and "lang_en" not in layer.neuronsteer_index
    wrapped.set_adapter("lang_ja")
    assert torch.equal(logits(wrapped), by_hooks(*llama, "ja"))
    with pytest.raises(ValueError, match="not exist"):
        wrapped.delete_adapter("lang_en")


def weights_of(model):
    return {
        name.replace(".base_layer", "").removeprefix("base_model.model."): value
        for name, value in model.state_dict().items()
        if "neuronsteer_" not in name
    }


@pytest.mark.parametrize("operation", OPERATIONS, ids=by_name)
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_merging_and_taking_it_back(family, operation):
    model, neurons = case(family)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    want = by_hooks(model, neurons, "fr", operation=operation)
    peft_model = as_peft_model(model, neurons, operation=operation)
    peft_model.set_adapter("lang_fr")
    peft_model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(logits(peft_model), want, atol=1e-4, rtol=1e-4)
    peft_model.unmerge_adapter()
    found = weights_of(peft_model)
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)
    assert torch.equal(logits(peft_model), want)


def test_merging_several_in_two_steps_and_switching_off(wrapped, llama):
    model, _ = llama
    wrapped.base_model.set_adapter(["lang_fr", "lang_ja"])
    want = logits(wrapped)
    wrapped.merge_adapter(adapter_names=["lang_fr"])
    with pytest.warns(UserWarning, match="additionally merging"):
        wrapped.merge_adapter(adapter_names=["lang_ja"])
    torch.testing.assert_close(logits(wrapped), want, atol=1e-4, rtol=1e-4)
    with pytest.raises(ParameterError, match="merged"):
        logits(wrapped, adapter_names=["lang_fr", "lang_ja"])
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped), logits(model))
    assert torch.equal(logits(wrapped), want)  # unmerged now
    with pytest.warns(UserWarning, match="Already unmerged"):
        wrapped.unmerge_adapter()


def merged_model(family, label="fr", before=False, **kwargs):
    """Return a model with the operation merged, and the logits it should have."""
    model, neurons = case(family)
    want = by_hooks(model, neurons, label, **kwargs)
    peft_model = as_peft_model(model, neurons, [label], **kwargs)
    if before:
        peft_model.merge_adapter()
    return peft_model.merge_and_unload(), want


# One with biases; those of the others exist only if the config says so, under three names.
@pytest.mark.parametrize("family", ["gpt2", "llama", "nemotron", "ernie4_5", "starcoder2"])
@pytest.mark.parametrize("before", [False, True])
def test_merge_and_unload_gives_an_ordinary_model_that_can_be_saved(family, before, tmp_path):
    merged, want = merged_model(family, before=before)
    kind = type(fresh(family))
    assert type(merged) is kind and not layers_of(merged)
    torch.testing.assert_close(logits(merged), want, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert torch.equal(logits(again), logits(merged))


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "gemma3_text"])
def test_a_bias_that_loading_would_drop_is_not_saved(family, before, tmp_path):
    with pytest.warns(UserWarning, match="cannot be saved"):
        merged, want = merged_model(family, before=before)
    torch.testing.assert_close(logits(merged), want, atol=1e-4, rtol=1e-4)
    for model in (merged, copy.deepcopy(merged), pickle.loads(pickle.dumps(merged))):
        with pytest.raises(LayoutError, match="neuronsteer bake"):
            model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_merging_without_a_shift_needs_no_bias(tmp_path, recwarn):
    merged, want = merged_model("qwen2", operation={"name": "scale", "factor": 3.0})
    merged.save_pretrained(tmp_path)
    assert not [w for w in recwarn if "bias" in str(w.message)]
    again = type(merged).from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again), want, atol=1e-4, rtol=1e-4)


def test_safe_merging_names_the_broken_adapter_and_changes_nothing(wrapped, llama):
    want = by_hooks(*llama, "fr")
    with torch.no_grad():
        layers_of(wrapped)[0].neuronsteer_shift["lang_ja"][0] = float("nan")
    wrapped.set_adapter("lang_fr")
    for _ in range(2):
        with pytest.raises(ParameterError, match="The adapter lang_ja seems to be broken"):
            wrapped.merge_adapter(safe_merge=True, adapter_names=["lang_ja"])
        torch.testing.assert_close(logits(wrapped), want, atol=1e-4, rtol=1e-4)
        wrapped.merge_adapter()  # what is merged stays, too


def test_unload_gives_the_model_back(wrapped, llama):
    model = wrapped.unload()
    assert not layers_of(model) and torch.equal(logits(model), logits(llama[0]))


def test_merging_into_quantised_weights_is_refused(wrapped):
    base = layers_of(wrapped)[0].get_base_layer()
    base.weight = torch.nn.Parameter(base.weight.data.to(torch.int8), requires_grad=False)
    with pytest.raises(LayoutError, match="quantised"):
        wrapped.merge_adapter()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=by_name)
def test_half_precision_models(family, operation, tmp_path):
    model = fresh(family, dtype=torch.bfloat16)
    neurons = case(family)[1]
    want = by_hooks(model, neurons, "fr", operation=operation)
    peft_model = as_peft_model(model, neurons, ["fr"], operation=operation)
    found = logits(peft_model)
    assert found.dtype == torch.bfloat16 and torch.equal(found, want)
    peft_model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(
        fresh(family, dtype=torch.bfloat16), tmp_path / "lang_fr", adapter_name="lang_fr"
    )
    assert torch.equal(logits(again), want)
    assert layers_of(again)[0].neuronsteer_index["lang_fr"].dtype == torch.int64
    row = logits(again, adapter_names=["lang_fr", "__base__"])
    assert torch.equal(row[0], want[0])


def test_copies_and_pickles(wrapped):
    want = logits(wrapped)
    assert torch.equal(logits(copy.deepcopy(wrapped)), want)
    assert torch.equal(logits(pickle.loads(pickle.dumps(wrapped))), want)
    assert pickle.loads(pickle.dumps(PeftType.NEURONSTEER)) is PeftType.NEURONSTEER


def test_conv1d_is_wrapped_as_it_is():
    model, neurons = case("gpt2")
    peft_model = as_peft_model(model, neurons)
    assert all(isinstance(layer.get_base_layer(), Conv1D) for layer in layers_of(peft_model))


def test_layers_tell_their_sizes():
    for family in ("llama", "gpt2"):
        layer = layers_of(as_peft_model(*case(family)))[0]
        assert (layer.in_features, layer.out_features) == (80, 32)


def test_a_new_adapter_can_start_at_random():
    model = fresh()
    config = NeuronSteerConfig(task_type="CAUSAL_LM", neurons={0: [3, 5]}, init_weights=False)
    peft_model = get_peft_model(model, config)
    assert not torch.allclose(logits(peft_model), logits(fresh()))
    peft_model.add_adapter("other", config)
    layer = layers_of(peft_model)[0]
    assert not torch.equal(layer.neuronsteer_scale["default"], layer.neuronsteer_scale["other"])


def test_status_reports_the_adapters(wrapped):
    status = wrapped.get_model_status()
    assert status.peft_types == {f"lang_{x}": "NEURONSTEER" for x in ("en", "fr", "ja")}
    assert status.active_adapters == ["lang_en"] and status.enabled is True
    assert wrapped.get_layer_status()[0].available_adapters == ["lang_en", "lang_fr", "lang_ja"]


def test_an_adapter_of_all_neurons_can_be_trained():
    model = fresh()
    plain = logits(model)
    config = NeuronSteerConfig(task_type="CAUSAL_LM", layers_to_transform=None)
    peft_model = get_peft_model(model, config)
    assert len(layers_of(peft_model)) == 3
    assert torch.equal(logits(peft_model), plain)  # the identity, until it is trained
    trainable = {name for name, p in peft_model.named_parameters() if p.requires_grad}
    assert trainable and all("neuronsteer_" in name for name in trainable)
    optimizer = torch.optim.SGD([p for p in peft_model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(3):
        loss = peft_model(IDS, labels=IDS).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_chosen_neurons_can_be_trained_too():
    model = fresh()
    config = NeuronSteerConfig(task_type="CAUSAL_LM", neurons={0: [3, 5], 2: [1]})
    peft_model = get_peft_model(model, config)
    assert sum(p.numel() for p in peft_model.parameters() if p.requires_grad) == 6
    peft_model(IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None for p in peft_model.parameters() if p.requires_grad)


def test_adapters_of_all_neurons_mix_with_each_other():
    peft_model = get_peft_model(fresh(), NeuronSteerConfig(task_type="CAUSAL_LM"), "a")
    peft_model.add_adapter("b", NeuronSteerConfig(task_type="CAUSAL_LM"))
    with torch.no_grad():
        for layer in layers_of(peft_model):
            layer.neuronsteer_scale["a"].fill_(0.5)
            layer.neuronsteer_shift["b"].fill_(0.1)
    peft_model.base_model.add_weighted_adapter(["a", "b"], [1.0, 2.0], "mix")
    scale, shift = layers_of(peft_model)[0].dense(["mix"])
    assert torch.all(scale == 0.5) and torch.all(shift == 0.2)


def test_target_modules_work_as_in_other_methods():
    def wrapped_names(**fields):
        peft_model = get_peft_model(fresh(), NeuronSteerConfig(task_type="CAUSAL_LM", **fields))
        return {name for name, _ in peft_model.base_model.steered_layers()}

    down = {f"model.layers.{i}.mlp.down_proj" for i in range(3)}
    assert wrapped_names(target_modules=["down_proj"]) == down
    assert wrapped_names(target_modules=["down_proj"], layers_to_transform=[1]) == {
        "model.layers.1.mlp.down_proj"
    }
    # Also where the modules are found without being named.
    assert wrapped_names(layers_to_transform=[0, 2]) == {
        "model.layers.0.mlp.down_proj",
        "model.layers.2.mlp.down_proj",
    }
    assert wrapped_names(layers_to_transform=1, neurons={0: [3], 1: [4]}) == {
        "model.layers.1.mlp.down_proj"
    }
    assert wrapped_names(layers_to_transform=[]) == down
    first = {"model.layers.0.mlp.down_proj"}
    assert wrapped_names(target_modules=r".*\.0\.mlp\.down_proj") == first
    assert len(wrapped_names(exclude_modules=r".*\.0\..*")) == 2
    # Any linear layer will do, also in a model that is no language model.
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 2))
    peft_model = get_peft_model(model, NeuronSteerConfig(target_modules=["1"], neurons={1: [5]}))
    assert layers_of(peft_model)[0].neuronsteer_scale["default"].shape == (1,)


def test_attach_still_steers_a_model_with_adapters(wrapped, llama):
    model, neurons = llama
    wrapped.set_adapter("lang_en")
    with wrapped.disable_adapter():
        assert torch.equal(by_hooks(wrapped, neurons, "fr"), by_hooks(model, neurons, "fr"))


def test_more_labels_can_be_added_to_a_wrapped_model(llama):
    model, neurons = llama
    peft_model = as_peft_model(fresh(), neurons, ["en"])
    assert as_peft_model(peft_model, neurons, ["fr"]) is peft_model
    peft_model.set_adapter("lang_fr")
    assert torch.equal(logits(peft_model), by_hooks(model, neurons, "fr"))
    with pytest.raises(ParameterError, match="'lang_fr' already"):
        as_peft_model(peft_model, neurons, ["fr"])
    lora = get_peft_model(fresh(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ParameterError, match="LoraModel"):
        as_peft_model(lora, neurons)


def test_what_cannot_be_an_adapter_is_refused(llama):
    _, neurons = llama
    with pytest.raises(ParameterError, match="mlp.act"):
        as_peft_model(fresh(), neurons, operation={"name": "set", "site": "mlp.act"})
    # Without a shift both sites mean the same.
    as_peft_model(fresh(), neurons, operation={"name": "zero", "site": "mlp.act"})
    attention = toy_set(fresh(), site="attn.q")
    with pytest.raises(ParameterError, match="attach"):
        as_peft_model(fresh(), attention)
    with pytest.raises(LabelError, match="Did you mean 'fr'"):
        as_peft_model(fresh(), neurons, ["fra"])
    with pytest.raises(MismatchError, match="model_type"):
        as_peft_model(fresh("gpt2"), neurons)
    twins = neurons.relabel({"en": "a b", "fr": "a_b"})
    with pytest.raises(ParameterError, match="relabel"):
        as_peft_model(fresh(), twins)


@pytest.mark.parametrize("family", MOE)
def test_experts_are_refused_with_what_to_do_instead(family):
    model = tiny_model(family)
    with pytest.raises(LayoutError, match="attach"):
        as_peft_model(model, toy_set(model))


def test_configs_are_checked():
    def inject(**fields):
        get_peft_model(fresh(), NeuronSteerConfig(task_type="CAUSAL_LM", **fields))

    with pytest.raises(MismatchError, match="neuron 99"):
        inject(neurons={0: [1, 99]})
    with pytest.raises(MismatchError, match="layer 7"):
        inject(neurons={7: [1]})
    with pytest.raises(MismatchError, match="'layers_to_transform': there is no layer 3"):
        inject(layers_to_transform=[0, 3])
    with pytest.raises(ParameterError, match="pattern 'down_proj'"):
        inject(layers_to_transform=[0], target_modules="down_proj")
    with pytest.raises(ParameterError, match="give both"):
        inject(layers_pattern="layers")
    with pytest.raises(MismatchError, match="made for gpt2"):
        inject(neurons={0: [1]}, model_type="gpt2")
    with pytest.raises(ParameterError, match="attn.q"):
        inject(site="attn.q")
    with pytest.raises(NeuronSteerError, match="twice"):
        inject(neurons={0: [1, 1]})
    with pytest.raises(NeuronSteerError, match="neuron numbers"):
        inject(neurons={0: "a b"})


def test_switching_works_in_one_compiled_graph(wrapped):
    want = {}
    for label in ("fr", "ja"):
        wrapped.set_adapter(f"lang_{label}")
        want[label] = logits(wrapped)
    compiled = torch.compile(wrapped, backend="eager", fullgraph=True)
    assert torch.equal(logits(compiled), want["ja"])
    wrapped.set_adapter("lang_fr")
    assert torch.equal(logits(compiled), want["fr"])
