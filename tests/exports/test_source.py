"""Files and adapters cannot read prompts: what they leave is said when they are made."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import neuronsteer as ns
from neuronsteer.demo import model_folder
from neuronsteer.demo.sentences import texts
from neuronsteer.errors import LabelError, ParameterError


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(model_folder(), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def neurons(model):
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    written = {label: texts(label, 10, 3, seed=2) for label in ("de", "en", "fr")}
    stats = ns.collect(model, tokenizer, written, progress=False)
    return ns.detect(stats, "effect", rate=0.02).replace(strengths={"fr": 0.5})


def logits(model):
    with torch.no_grad():
        return model(torch.arange(20, 40)[None]).logits


def steered(model, neurons, label, source):
    with ns.attach(model, neurons) as steer:
        steer.to(label, source=source)
        return logits(model)


@pytest.mark.parametrize("source", ["en", "de", "others"])
def test_a_checkpoint_leaves_what_it_was_told_to(model, neurons, tmp_path, source):
    ns.bake(model, neurons, tmp_path / "baked", "fr", source=source)
    baked = AutoModelForCausalLM.from_pretrained(tmp_path / "baked", dtype=torch.float32)
    wanted = steered(model, neurons, "fr", source)
    assert torch.allclose(logits(baked), wanted, atol=1e-4)
    assert not torch.allclose(wanted, logits(model), atol=1e-2)


def test_adapters_do_so_too(model, neurons, tmp_path):
    pytest.importorskip("peft")
    from peft import PeftModel

    from neuronsteer.integrations.peft import as_peft_model

    wanted = {label: steered(model, neurons, label, "en") for label in ("fr", "de")}
    wrapped = as_peft_model(copy.deepcopy(model), neurons.only("fr", "de"), source="en")
    for label, expected in wanted.items():
        wrapped.set_adapter(f"lang_{label}")
        assert torch.allclose(logits(wrapped), expected, atol=1e-4)
    neurons.save_pretrained(tmp_path, peft="fr", source="en")
    loaded = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path)
    assert torch.allclose(logits(loaded), wanted["fr"], atol=1e-4)
    # The set itself still reads prompts.
    assert ns.NeuronSet.from_pretrained(tmp_path).source == "prompt"


def test_without_a_source_they_are_refused(model, neurons, tmp_path):
    pytest.importorskip("peft")
    from neuronsteer.integrations.peft import as_peft_model

    for make in (
        lambda: ns.bake(model, neurons, tmp_path / "baked", "fr"),
        lambda: ns.export(model, neurons, tmp_path / "lora", "fr", format="lora", source="prompt"),
        lambda: as_peft_model(model, neurons),
        lambda: neurons.save_pretrained(tmp_path / "set", peft=True),
    ):
        with pytest.raises(ParameterError, match="source='en'"):
            make()
    with pytest.raises(LabelError, match="'ru'"):
        ns.bake(model, neurons, tmp_path / "baked", "fr", source="ru")
    assert not list(tmp_path.iterdir())
    # What is switched off leaves nothing, and a header may say what is left.
    ns.export(model, neurons, tmp_path / "ia3", "fr", "zero")
    ns.bake(model, neurons.replace(source="en"), tmp_path / "baked", "fr")
