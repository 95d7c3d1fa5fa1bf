"""Loading another model: every mistake is a message, and nothing crashes."""

from __future__ import annotations

import shutil

import pytest
import torch
from huggingface_hub import HfApi

import neuronsteer as ns
from neuronsteer.demo import model_folder
from neuronsteer.errors import HubError, MismatchError, NeuronSteerError, ParameterError
from neuronsteer.space import loading
from neuronsteer.space.request import GenerationRequest
from neuronsteer.space.service import Service
from neuronsteer.space.settings import SpaceSettings

from ..tiny_models import tiny_model, tiny_tokenizer
from .conftest import last

pytest_plugins = ("tests.hub_server.fixtures",)


def tiny_set(model, labels=("aa", "bb")) -> ns.NeuronSet:
    config = model.config
    return ns.NeuronSet.from_rows(
        labels,
        label=[0, 0, 1, 1],
        layer=[0, 1, 0, 1],
        index=[1, 2, 3, 4],
        site="mlp.neuron",
        num_layers=config.num_hidden_layers,
        width=config.intermediate_size,
        model_type=config.model_type,
        operation={"name": "scale", "factor": 4.0},
    )


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A tiny llama with a set for it, and a set for another model, in folders."""
    root = tmp_path_factory.mktemp("models")
    llama, gpt2 = tiny_model("llama"), tiny_model("gpt2")
    llama.save_pretrained(root / "llama")
    tiny_tokenizer().save_pretrained(root / "llama")
    tiny_set(llama).save_pretrained(root / "set")
    config = gpt2.config
    ns.NeuronSet.from_rows(
        ["aa"],
        label=[0],
        layer=[0],
        index=[0],
        site="mlp.neuron",
        num_layers=config.n_layer,
        width=config.n_inner,
        model_type="gpt2",
    ).save_pretrained(root / "other-set")
    return root


def load(model, neurons, settings=SpaceSettings()) -> list[dict]:  # noqa: B008 - frozen
    return list(Service(settings).load(str(model), str(neurons)))


def test_progress_ends_with_the_name(disk):
    steps = load(disk / "llama", disk / "set")
    shares = [step["done"] for step in steps]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert [step["name"] is None for step in steps] == [True] * (len(steps) - 1) + [False]
    assert all(step["doing"] for step in steps)


def test_a_loaded_model_can_be_used(disk):
    service = Service(SpaceSettings())
    name = last(service.load(str(disk / "llama"), str(disk / "set")))["name"]
    request = GenerationRequest(prompt="abc", schedule="aa,4:bb", max_new_tokens=8)
    end = last(service.generate(request, model=name))
    assert [span["label"] for span in end["outputs"][0]["spans"]] == ["aa", "bb"]
    assert end["outputs"][0]["passages"][0]["detected"] is None  # no languages
    assert service.neurons(name)["identifier"] is False


@pytest.mark.parametrize(
    ("model", "neurons", "kind", "said"),
    [
        ("", "set", ParameterError, "Name a model"),
        ("llama", "", ParameterError, "Name a model"),
        ("llama", "nothing-here", NeuronSteerError, "nothing-here"),
        ("nothing-here", "set", HubError, "No folder"),
        ("set", "set", HubError, "It is a neuron set"),
        ("llama", "other-set", MismatchError, "made for another model"),
    ],
)
def test_wrong_folders_are_refused(disk, model, neurons, kind, said):
    with pytest.raises(kind, match=said):
        load(disk / model if model else "", disk / neurons if neurons else "")


def test_a_set_of_another_width_is_refused(disk, tmp_path):
    wrong = tiny_set(tiny_model("llama")).replace(width=999)
    wrong.save_pretrained(tmp_path / "wide")
    with pytest.raises(MismatchError):
        load(disk / "llama", tmp_path / "wide")


def test_a_set_for_another_model_costs_no_download(disk, monkeypatch):
    def never(*_args):
        raise AssertionError("weights were loaded for a set that does not fit")

    monkeypatch.setattr(loading, "_weights", never)
    with pytest.raises(MismatchError):
        load(disk / "llama", disk / "other-set")


def test_too_large_a_model_is_refused_before_it_is_loaded(disk, monkeypatch):
    monkeypatch.setattr(loading, "_free_memory", lambda _device: 1000)
    with pytest.raises(ParameterError, match="too large"):
        load(disk / "llama", disk / "set")
    loading.check_memory(700, torch.device("cpu"), "small")


def test_broken_weights_are_refused(disk, tmp_path):
    shutil.copytree(disk / "llama", tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(HubError, match="cannot be loaded"):
        load(tmp_path / "broken", disk / "set")


def test_public_pages_load_only_what_is_allowed(disk):
    settings = SpaceSettings(public=True, allow=(str(disk / "set"),))
    with pytest.raises(ParameterError, match="public"):
        load(disk / "llama", disk / "set", settings)


def test_a_first_model_that_cannot_be_loaded_does_not_stop_the_server(disk):
    service = Service(SpaceSettings(model=str(disk / "llama"), neurons=str(disk / "other-set")))
    service.models.start()
    with pytest.raises(MismatchError):
        service.neurons()
    with pytest.raises(MismatchError):
        last(service.generate(GenerationRequest(prompt="x")))
    assert service.welcome()["models"] == []


def test_models_that_nobody_uses_are_dropped(disk, tmp_path):
    service = Service(SpaceSettings(kept=1))
    service.models.start()
    service.models.wait()
    first = service.welcome()["models"]
    names = []
    for copy in ("one", "two"):
        shutil.copytree(disk / "set", tmp_path / copy)
        names.append(last(service.load(str(disk / "llama"), str(tmp_path / copy)))["name"])
    assert service.welcome()["models"] == [*first, names[1]]
    # One that is being used stays, and other visitors have to wait.
    with service.models.using(names[1]), pytest.raises(ParameterError, match="Try again"):
        last(service.load(str(disk / "llama"), str(disk / "set")))
    assert last(service.load(str(disk / "llama"), str(disk / "set")))["name"]


# --- from the Hub ------------------------------------------------------------------------------


@pytest.fixture
def published(hub, disk):
    """The tiny model and its set on the test Hub."""
    api = HfApi()
    for name in ("llama", "set"):
        api.create_repo(f"ann/{name}")
        api.upload_folder(repo_id=f"ann/{name}", folder_path=disk / name)
    hub.fresh_cache()
    return hub


def test_a_model_from_the_hub(published):
    steps = load("ann/llama", "ann/set")
    assert steps[-1]["name"] == "ann/llama + ann/set"
    shares = [step["done"] for step in steps]
    assert shares == sorted(shares)
    assert any("Downloading ann/llama" in step["doing"] for step in steps)


def test_code_in_a_repository_is_not_even_downloaded(published):
    api = HfApi()
    for name in ("modeling_evil.py", "pytorch_model.bin"):
        api.upload_file(path_or_fileobj=b"import os", path_in_repo=name, repo_id="ann/llama")
    load("ann/llama", "ann/set")
    there = {file.name for file in published.cache.rglob("*")}
    assert "model.safetensors" in there and not {"modeling_evil.py", "pytorch_model.bin"} & there


@pytest.mark.parametrize(
    ("model", "neurons", "said"),
    [
        ("ann/typo", "ann/set", "ann/typo"),
        ("ann/llama", "ann/typo", "ann/typo"),
        ("ann/set", "ann/set", "ann/set"),
        ("ann/llama", "ann/llama", "ann/llama"),
        ("no such name", "ann/set", "no such name"),
    ],
)
def test_wrong_names_are_refused(published, model, neurons, said):
    with pytest.raises(NeuronSteerError, match=said) as told:
        load(model, neurons)
    assert published.token not in str(told.value)


def test_gated_models_are_refused(published):
    published.repo("ann/llama").gated = "manual"
    published.login(published.add_token("bob"))
    with pytest.raises(HubError, match="gated"):
        load("ann/llama", "ann/set")


def test_a_hub_that_is_down_is_reported(published):
    with published.down(), pytest.raises(HubError, match=r"reached|network"):
        load("ann/llama", "ann/set")


def test_pickled_weights_are_not_loaded(published, disk):
    api = HfApi()
    api.create_repo("ann/pickled")
    for file in (disk / "llama").iterdir():
        if file.suffix != ".safetensors":
            api.upload_file(path_or_fileobj=file, path_in_repo=file.name, repo_id="ann/pickled")
    api.upload_file(
        path_or_fileobj=b"\x80", path_in_repo="pytorch_model.bin", repo_id="ann/pickled"
    )
    with pytest.raises(HubError, match="safetensors"):
        load("ann/pickled", "ann/set")


def test_the_embedded_model_is_where_it_should_be():
    assert (model_folder() / "config.json").exists()
