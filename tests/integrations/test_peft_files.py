"""Neuron sets saved for PEFT load through every door that adapters load through."""

from __future__ import annotations

import json
import logging
import os
import shutil

import pytest
import torch

pytest.importorskip("peft")

from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from neuronsteer import NeuronSet, NeuronSteerConfig
from neuronsteer.errors import HubError, LabelError, LayoutError, MismatchError, ParameterError
from neuronsteer.exports import export
from neuronsteer.integrations.peft import as_peft_model
from neuronsteer.neuron_set.peft_files import adapter_name
from neuronsteer.steering.steerer import attach
from tests.steering.sets import toy_set
from tests.tiny_models import DENSE, tiny_model

from .peft_cases import OPERATIONS, by_hooks, by_name, case, fresh, logits

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

ADAPTER = ["adapter_config.json", "adapter_model.safetensors"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A saved base model."""
    folder = tmp_path_factory.mktemp("base")
    fresh().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def neurons(base):
    return case(base_model=base, empty=("en",))[1]


@pytest.fixture(scope="module")
def saved(neurons, tmp_path_factory):
    return neurons.save_pretrained(tmp_path_factory.mktemp("set"), peft=True)


@pytest.fixture(scope="module")
def want(neurons):
    return {label: by_hooks(fresh(), neurons, label) for label in ("fr", "ja")}


def files(folder):
    return sorted(
        os.path.relpath(os.path.join(where, name), folder)
        for where, _, names in os.walk(folder)
        for name in names
    )


def test_one_folder_per_label_and_one_label_in_the_root(saved):
    own = [*ADAPTER, "README.md", "neurons.safetensors"]
    labels = [f"lang_{label}/{name}" for label in ("fr", "ja") for name in ADAPTER]
    assert files(saved) == sorted(own + labels)
    root = json.loads((saved / ADAPTER[0]).read_text())
    folder = json.loads((saved / "lang_fr" / ADAPTER[0]).read_text())
    assert root["label"] == folder["label"] == "fr" and root["neurons"] == folder["neurons"]
    assert folder["base_model_name_or_path"] == root["base_model_name_or_path"]


def test_it_still_is_the_same_neuron_set(saved, neurons, recwarn):
    assert NeuronSet.from_pretrained(saved) == neurons
    assert not [str(w.message) for w in recwarn if "neuronsteer" in str(w.message)]


def test_the_root_can_be_another_label(neurons, tmp_path, want):
    neurons.save_pretrained(tmp_path, peft="ja")
    assert torch.equal(logits(PeftModel.from_pretrained(fresh(), tmp_path)), want["ja"])
    with pytest.raises(LabelError, match="Did you mean 'ja'"):
        neurons.save_pretrained(tmp_path, peft="jaa")
    with pytest.raises(LabelError, match="no neurons"):
        neurons.save_pretrained(tmp_path, peft="en")


@pytest.mark.parametrize("low", [False, True])
def test_peft_model(saved, want, low, recwarn):
    model = PeftModel.from_pretrained(fresh(), saved, low_cpu_mem_usage=low)
    assert torch.equal(logits(model), want["fr"])
    model.load_adapter(saved, "lang_ja", subfolder="lang_ja", low_cpu_mem_usage=low)
    model.set_adapter("lang_ja")
    assert torch.equal(logits(model), want["ja"])
    named = PeftModel.from_pretrained(
        fresh(), saved, subfolder="lang_ja", adapter_name="lang_ja", low_cpu_mem_usage=low
    )
    assert torch.equal(logits(named), want["ja"])
    complaints = [str(w.message) for w in recwarn if not issubclass(w.category, FutureWarning)]
    assert not complaints


def test_auto_classes(saved, want):
    assert torch.equal(logits(AutoPeftModelForCausalLM.from_pretrained(saved).eval()), want["fr"])
    found = AutoPeftModelForCausalLM.from_pretrained(saved / "lang_ja")
    assert torch.equal(logits(found.eval()), want["ja"])
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(saved).eval()), want["fr"])
    found = AutoModelForCausalLM.from_pretrained(saved, adapter_kwargs={"subfolder": "lang_ja"})
    assert torch.equal(logits(found.eval()), want["ja"])


def test_transformers_alone(saved, want, caplog):
    plain = logits(fresh())
    model = fresh()
    logging.getLogger("transformers").addHandler(caplog.handler)
    try:
        model.load_adapter(str(saved), "lang_fr")
        for label in ("ja", "fr"):
            if label == "ja":
                options = {"adapter_kwargs": {"subfolder": "lang_ja"}}
                model.load_adapter(str(saved), "lang_ja", **options)
            model.set_adapter(f"lang_{label}")
            assert torch.equal(logits(model), want[label])
    finally:
        logging.getLogger("transformers").removeHandler(caplog.handler)
    assert "MISSING" not in caplog.text and "UNEXPECTED" not in caplog.text
    model.set_adapter(["lang_fr", "lang_ja"])
    assert model.active_adapters() == ["lang_fr", "lang_ja"]
    both = as_peft_model(fresh(), NeuronSet.from_pretrained(saved))
    both.base_model.set_adapter(["lang_fr", "lang_ja"])
    assert torch.equal(logits(model), logits(both))
    model.disable_adapters()
    assert torch.equal(logits(model), plain)
    model.enable_adapters()
    model.delete_adapter("lang_ja")
    assert list(model.peft_config) == ["lang_fr"]
    model.set_adapter("lang_fr")
    assert torch.equal(logits(model), want["fr"])


@pytest.mark.parametrize("operation", OPERATIONS, ids=by_name)
@pytest.mark.parametrize("family", ["gpt2", "opt", "qwen2"])
def test_files_equal_the_hooks_for_every_operation(family, operation, tmp_path):
    model, neurons = case(family, operation=operation)
    want = by_hooks(model, neurons, "fr")
    neurons.save_pretrained(tmp_path, peft="fr")
    assert torch.equal(logits(PeftModel.from_pretrained(fresh(family), tmp_path)), want)
    again = fresh(family)
    again.load_adapter(str(tmp_path))
    assert torch.equal(logits(again), want)


@pytest.mark.parametrize("family", DENSE)
def test_parameter_names_fit_every_dense_family(family, tmp_path):
    model = tiny_model(family)
    neurons = toy_set(model, labels=("x",))
    want = by_hooks(model, neurons, "x")
    neurons.save_pretrained(tmp_path, peft=True)
    with torch.no_grad():
        assert torch.equal(logits(PeftModel.from_pretrained(model, tmp_path)), want)


def test_save_and_load_round_trip(neurons, want, tmp_path):
    model = as_peft_model(fresh(), neurons)
    model.save_pretrained(tmp_path)
    adapters = [f"lang_{label}/{name}" for label in ("fr", "ja") for name in ADAPTER]
    assert files(tmp_path) == ["README.md", *adapters]
    config = PeftConfig.from_pretrained(str(tmp_path / "lang_ja"))
    assert isinstance(config, NeuronSteerConfig) and config.label == "ja"
    assert config.neurons == model.peft_config["lang_ja"].neurons
    again = PeftModel.from_pretrained(fresh(), tmp_path / "lang_ja")
    assert torch.equal(logits(again), want["ja"])
    again.save_pretrained(tmp_path / "again")
    twice = fresh()
    twice.load_adapter(str(tmp_path / "again"))
    assert torch.equal(logits(twice), want["ja"])


@pytest.mark.parametrize("low", [False, True])
def test_another_label_is_not_loaded_into_an_adapter(saved, want, low, tmp_path):
    """PEFT keeps the adapter's configuration then, so the values would go to wrong neurons."""
    model = PeftModel.from_pretrained(fresh(), saved / "lang_fr")
    for _ in range(2):
        with pytest.raises(MismatchError, match=r"'default' \(label 'fr'\) .*other neurons"):
            model.load_adapter(saved, "default", subfolder="lang_ja", low_cpu_mem_usage=low)
        assert torch.equal(logits(model), want["fr"])
    # The same neurons may be loaded again, for instance from a later checkpoint.
    model.load_adapter(saved, "default", subfolder="lang_fr", low_cpu_mem_usage=low)
    model.load_adapter(saved, "other", subfolder="lang_ja", low_cpu_mem_usage=low)
    model.set_adapter("other")
    assert torch.equal(logits(model), want["ja"])
    model.delete_adapter("default")
    model.load_adapter(saved, "default", subfolder="lang_ja", low_cpu_mem_usage=low)
    model.set_adapter("default")
    assert torch.equal(logits(model), want["ja"])


@pytest.mark.parametrize("change", ["fewer layers", "more layers", "fewer neurons"])
def test_part_of_an_adapter_is_not_loaded_into_it(change, tmp_path):
    """Also where the neurons that both have are the same."""
    neurons = {"fewer layers": {0: [3, 5]}, "more layers": {0: [3, 5], 1: [7], 2: [1]}}
    neurons = neurons.get(change, {0: [3], 1: [7]})
    model = get_peft_model(fresh(), NeuronSteerConfig(neurons=neurons, init_weights=False))
    model.save_pretrained(tmp_path)
    other = NeuronSteerConfig(neurons={0: [3, 5], 1: [7]}, init_weights=False)
    model = get_peft_model(fresh(), other)
    before = logits(model)
    with pytest.raises(MismatchError, match="other neurons"):
        model.load_adapter(tmp_path, "default")
    assert torch.equal(logits(model), before)


def test_mixtures_are_saved_like_any_adapter(saved, tmp_path):
    model = as_peft_model(fresh(), NeuronSet.from_pretrained(saved))
    model.base_model.add_weighted_adapter(["lang_fr", "lang_ja"], [0.5, 0.5], "mix")
    model.set_adapter("mix")
    model.save_pretrained(tmp_path, selected_adapters=["mix"])
    again = PeftModel.from_pretrained(fresh(), tmp_path / "mix")
    assert torch.equal(logits(again), logits(model))


def test_a_set_saved_without_peft_files_says_what_to_do(neurons, tmp_path, want):
    neurons.save_pretrained(tmp_path)
    for load in (
        lambda: PeftModel.from_pretrained(fresh(), tmp_path),
        lambda: fresh().load_adapter(str(tmp_path)),
        lambda: AutoModelForCausalLM.from_pretrained(tmp_path),
        lambda: AutoPeftModelForCausalLM.from_pretrained(tmp_path),
    ):
        with pytest.raises(HubError, match="peft=True"):
            load()
    model = as_peft_model(fresh(), tmp_path)
    assert torch.equal(logits(model), want["fr"])


def test_saving_again_leaves_no_adapters_of_another_set(neurons, tmp_path):
    neurons.save_pretrained(tmp_path, peft=True)
    (tmp_path / "lang_ja" / "notes.txt").write_text("mine")
    neurons.only("fr").save_pretrained(tmp_path, peft=True)
    assert "lang_ja/notes.txt" in files(tmp_path)
    assert not {f"lang_ja/{name}" for name in ADAPTER} & set(files(tmp_path))
    shutil.rmtree(tmp_path / "lang_ja")
    neurons.save_pretrained(tmp_path)
    assert files(tmp_path) == ["README.md", "adapter_config.json", "neurons.safetensors"]
    assert NeuronSet.from_pretrained(tmp_path) == neurons


def test_another_model_is_refused(saved):
    with pytest.raises(MismatchError, match="model_type"):
        PeftModel.from_pretrained(fresh("qwen2"), saved)
    with pytest.raises(MismatchError, match="layer 2"):
        PeftModel.from_pretrained(tiny_model("llama", layers=2), saved)
    with pytest.raises(MismatchError, match="neuron"):
        PeftModel.from_pretrained(tiny_model("llama", layers=3, intermediate_size=16), saved)


def test_sets_that_cannot_be_adapters_are_refused_before_anything_is_written(tmp_path):
    folder = tmp_path / "set"
    for neurons, error in (
        (toy_set(tiny_model("mixtral")), LayoutError),
        (toy_set(fresh(), site="attn.q"), ParameterError),
        (toy_set(fresh()).replace(model_type="unheard_of"), LayoutError),
        (toy_set(fresh()).replace(model_type=None), LayoutError),
        (NeuronSet.from_rows(["x"], [], [], [], site="mlp.act", num_layers=1, width=1), LabelError),
    ):
        with pytest.raises(error):
            neurons.save_pretrained(folder, peft=True)
        assert not folder.exists()


def test_adapters_are_small(tmp_path):
    """A 7B model has 32 layers of 14336 neurons; the dense form would be 3.7 MB per label."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        (layer, i)
        for layer in range(32)
        for i in torch.randperm(14336, generator=generator)[:20].tolist()
    ]
    neurons = NeuronSet.from_rows(
        ["fr"],
        [0] * len(rows),
        *zip(*rows, strict=True),
        site="mlp.act",
        num_layers=32,
        width=14336,
        model_type="llama",
    )
    neurons.save_pretrained(tmp_path, peft=True)
    sizes = [(tmp_path / "lang_fr" / name).stat().st_size for name in ADAPTER]
    assert sum(sizes) < 35_000


def test_adapter_names():
    assert adapter_name("fr") == "lang_fr"
    assert adapter_name("zh-Hant") == "lang_zh-Hant"
    assert adapter_name("C++ / v1.0") == "lang_C_____v1_0"
    assert adapter_name("日本語") == "lang_日本語"


@pytest.mark.parametrize("label", ["de", "ro", "ne", "model", "mlp", "日本語", "a.b/c", "scale"])
def test_no_label_confuses_the_loaders(label, tmp_path, recwarn):
    neurons = case()[1].only("fr").relabel({"fr": label})
    name = adapter_name(label)
    want = by_hooks(fresh(), neurons, label)
    neurons.save_pretrained(tmp_path, peft=True)
    model = PeftModel.from_pretrained(fresh(), tmp_path, subfolder=name, adapter_name=name)
    assert torch.equal(logits(model), want)
    again = fresh()
    again.load_adapter(str(tmp_path / name), name)
    assert torch.equal(logits(again), want)
    assert not [w for w in recwarn if not issubclass(w.category, FutureWarning)]


@pytest.mark.parametrize("operation", OPERATIONS, ids=by_name)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_export_takes_everything_that_steering_takes(family, operation, tmp_path):
    model, neurons = case(family)
    with attach(model, neurons) as steer:
        steer.to("fr", operation=operation, strength=0.5, away_from="en")
        want = logits(model)
    options = {"operation": operation, "strength": 0.5, "away_from": "en"}
    made = export(model, neurons, tmp_path / "adapter", "fr", format="peft", **options)
    assert torch.equal(logits(PeftModel.from_pretrained(fresh(family), made.path)), want)
    again = fresh(family)
    again.load_adapter(str(made.path))
    assert torch.equal(logits(again), want)
    assert "import neuronsteer" in (made.path / "README.md").read_text()


def test_the_export_refuses_what_it_cannot_say(tmp_path):
    model, neurons = case()
    at_the_gate = {"name": "set", "site": "mlp.act"}
    with pytest.raises(ParameterError, match="up projection"):
        export(model, neurons, tmp_path / "a", "fr", at_the_gate, format="peft")
    experts = tiny_model("mixtral")
    with pytest.raises(ParameterError, match="experts"):
        export(experts, toy_set(experts), tmp_path / "b", "fr", "zero", format="peft")
