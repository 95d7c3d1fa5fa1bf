"""Exports for a model on the Hub download what they need and no more."""

from __future__ import annotations

import shutil

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


def test_all_files_of_a_model_come_from_one_commit(hub, published, tmp_path):
    """The branch moves after the first file, to other weights in the same shards."""
    model, neurons = published
    before = hub.repo("ann/model").branches["main"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    model.save_pretrained(tmp_path / "newer", max_shard_size="30KB")
    HfApi().upload_folder(repo_id="ann/model", folder_path=tmp_path / "newer")
    after, expected = hub.repo("ann/model").branches["main"], {}
    for revision in (before, after):
        export(None, neurons, tmp_path / "at", "fr", "set", format="lora", revision=revision)
        expected[revision] = (tmp_path / "at" / "adapter_model.safetensors").read_bytes()
        shutil.rmtree(tmp_path / "at")
    assert expected[before] != expected[after]
    hub.repo("ann/model").branches["main"] = before
    hub.fresh_cache()

    def moves(entry):
        if entry.method == "GET" and "config.json" in entry.path:
            hub.repo("ann/model").branches["main"] = after
        return False

    hub.faults.add(moves, "drop")
    export(None, neurons, tmp_path / "moved", "fr", "set", format="lora")
    assert (tmp_path / "moved" / "adapter_model.safetensors").read_bytes() == expected[before]


def test_a_model_that_is_not_there_is_explained(hub, published, tmp_path):
    with pytest.raises(HubError, match="ann/modle"):
        bake("ann/modle", published[1], tmp_path / "x", "fr", "zero")
    with pytest.raises(HubError, match="v9"):
        export(None, published[1], tmp_path / "x", "fr", "zero", format="lora", revision="v9")
    assert not (tmp_path / "x").exists()
