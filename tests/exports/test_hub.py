"""Exports for a model on the Hub download what they need and no more."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModelForCausalLM

from neuronsteer.errors import HubError
from neuronsteer.exports import bake, export
from tests.steering.sets import toy_set
from tests.tiny_models import tiny_ids, tiny_model, tiny_tokenizer

pytest_plugins = ("tests.hub_server.fixtures",)


@pytest.fixture
def published(hub, tmp_path):
    """A sharded model on the test Hub, and a set that touches one of its layers."""
    model = tiny_model("llama", layers=3)
    model.save_pretrained(tmp_path / "base", max_shard_size="30KB")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    api = HfApi()
    api.create_repo("ann/model")
    api.upload_folder(repo_id="ann/model", folder_path=tmp_path / "base")
    neurons = toy_set(model)
    one = neurons.take(neurons.layer == 1, neurons.labels).replace(base_model="ann/model")
    return model, one


def cached(hub, ending):
    return sorted(p.name for p in hub.cache.rglob(f"snapshots/*/*{ending}"))


def test_each_export_downloads_what_it_needs(hub, published, tmp_path):
    model, neurons = published
    done = export(None, neurons, tmp_path / "ia3", "fr", "zero", format="ia3")
    assert cached(hub, "") == ["config.json"]
    assert "base_model: ann/model" in (done.path / "README.md").read_text()
    export(None, neurons, tmp_path / "lora", "fr", "set", format="lora")
    assert len(cached(hub, ".safetensors")) == 1
    done = bake("ann/model", neurons, tmp_path / "baked", "fr", "zero")
    assert "tokenizer.json" in done.files
    baked = AutoModelForCausalLM.from_pretrained(done.path).eval()
    with torch.no_grad():
        rows = neurons.rows("fr").index.long()
        model.model.layers[1].mlp.down_proj.weight[:, rows] = 0
        torch.testing.assert_close(baked(tiny_ids()).logits, model(tiny_ids()).logits)


def test_a_model_that_is_not_there_is_explained(hub, published, tmp_path):
    with pytest.raises(HubError, match="ann/modle"):
        bake("ann/modle", published[1], tmp_path / "x", "fr", "zero")
    with pytest.raises(HubError, match="v9"):
        export(None, published[1], tmp_path / "x", "fr", "zero", format="lora", revision="v9")
    assert not (tmp_path / "x").exists()
