"""Files from outside: how large they may be, what they may name, and what is said otherwise."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from neuronsteer import hub
from neuronsteer.errors import ArtifactError, HubError, NeuronSteerError, ParameterError
from neuronsteer.exports import bake
from neuronsteer.exports._safetensors_rewrite import INDEX, Checkpoint
from neuronsteer.hub.reading import JSON_BYTES, JSON_DEPTH, JSON_VALUES
from neuronsteer.neuron_set import NeuronSet
from neuronsteer.operations import operation

from ..steering.sets import toy_set
from ..tiny_models import tiny_model


def small_set(**header) -> NeuronSet:
    fields = {"site": "mlp.act", "num_layers": 4, "width": 32, **header}
    return NeuronSet.from_rows(["en", "fr"], [0, 1], [0, 1], [3, 4], **fields)


def crafted(folder: Path, **block) -> Path:
    """A saved set with other fields, as another program might write it."""
    small_set().save_pretrained(folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text("utf-8"))
    del config["neuronsteer"]["fingerprint"]
    config["neuronsteer"].update(block)
    path.write_text(json.dumps(config), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"num_layers": 10**9}, "'num_layers' is 1000000000; expected a whole number from 1 to"),
        ({"num_layers": 10**8}, "'num_layers'"),
        ({"width": 2**63}, "'width'"),
        ({"orphans": 10**30}, "'orphans'"),
        ({"widths": [32] * 5}, "'widths' has 5 entries"),
        ({"labels": ["en", "fr", *map(str, range(20_000))]}, "'labels' has 20,002 names"),
        ({"labels": ["en", "f\ud800"]}, "not readable JSON"),
        ({"source": ["en"]}, "'source'"),
        ({"operation": {"name": "scale", "factor": "x"}}, "'operation'.*factor='x'.*finite number"),
        ({"operation": {"name": "set", "value": ["max"]}}, "'operation'.*value"),
        ({"operation": {"name": "zero", "site": [1]}}, "'operation' has site"),
        ({"operation": {"name": "pull", "share": "half"}}, "'operation'.*share"),
    ],
)
def test_fields_beyond_their_limits_are_named(tmp_path, block, message):
    with pytest.raises(ArtifactError, match=message):
        NeuronSet.from_pretrained(crafted(tmp_path / "set", **block))


def test_what_is_set_in_python_has_the_same_limits_as_files():
    with pytest.raises(ArtifactError, match="'num_layers'"):
        small_set(num_layers=10**6)
    with pytest.raises(ArtifactError, match="'labels'"):
        small_set().relabel({"en": "\ud800"})
    with pytest.raises(ParameterError, match="factor='2'"):
        operation("scale", factor="2")


def test_an_operation_of_a_plugin_that_is_not_here_still_loads(tmp_path):
    folder = crafted(tmp_path / "set", operation={"name": "of_a_plugin", "x": [1]})
    assert NeuronSet.from_pretrained(folder).operation["name"] == "of_a_plugin"


def test_means_of_few_neurons_cannot_fill_the_memory(tmp_path):
    """Each row has a mean per label, and many rows may share one neuron of the file."""
    labels = [f"l{i}" for i in range(9_000)]
    NeuronSet.from_rows(
        labels, range(9_000), [0] * 9_000, [0] * 9_000, site="mlp.act", num_layers=1, width=1
    ).save_pretrained(tmp_path)
    file = tmp_path / "neurons.safetensors"
    tensors = safetensors.torch.load_file(file)
    tensors["mlp.neuron.neuron_means"] = torch.zeros(1, 40_000, dtype=torch.float16)
    safetensors.torch.save_file(tensors, file)
    with pytest.raises(ArtifactError, match="9,000 rows with their means"):
        NeuronSet.from_pretrained(tmp_path)


def test_owners_of_a_small_file_cannot_fill_the_memory(tmp_path):
    """Each bit is a row: 0.2 MB of them would be 1.6 million."""
    labels = [f"l{i}" for i in range(8_000)]
    NeuronSet.from_rows(
        labels, [0], [0], [0], site="mlp.act", num_layers=1, width=200, means_of=labels[:160]
    ).save_pretrained(tmp_path)
    neurons = torch.arange(200)
    tensors = {
        "layer": torch.zeros_like(neurons),
        "index": neurons,
        "score": torch.zeros(1),
        "owners": torch.full((200, 1_000), 255, dtype=torch.uint8),
        "mlp.neuron.neuron_means": torch.zeros(200, 160, dtype=torch.float16),
    }
    safetensors.torch.save_file(tensors, tmp_path / "neurons.safetensors")
    with pytest.raises(ArtifactError, match="'owners' makes 1,600,000 rows"):
        NeuronSet.from_pretrained(tmp_path)


@pytest.mark.parametrize("labels", [20, 100])
def test_neurons_that_every_label_owns_are_within_the_limits(tmp_path, labels):
    """As many as it takes for the size of the file to count."""
    count, neurons = labels, 40_000 // labels
    place = torch.arange(neurons).repeat(count)
    made = NeuronSet.from_rows(
        [f"l{i}" for i in range(count)], torch.arange(count).repeat_interleave(neurons),
        torch.zeros_like(place), place, site="resid", num_layers=1, width=4096,
        values={"resid.means": torch.randn(neurons, count).half().float()[place]},
        means_of=[f"l{i}" for i in range(count)],
    )  # fmt: skip
    made.save_pretrained(tmp_path)
    assert "owners" in safetensors.torch.load_file(tmp_path / "neurons.safetensors")
    assert NeuronSet.from_pretrained(tmp_path) == made


def test_what_would_be_too_small_a_file_is_not_packed(tmp_path, monkeypatch):
    place = torch.arange(50).repeat(8)
    made = NeuronSet.from_rows(
        list("abcdefgh"), torch.arange(8).repeat_interleave(50), torch.zeros_like(place), place,
        site="resid", num_layers=1, width=50, values={"resid.means": torch.rand(50, 8)[place]},
        means_of=list("abcdefgh"),
    )  # fmt: skip
    monkeypatch.setattr("neuronsteer.neuron_set.packed_columns.FREE", 0)
    monkeypatch.setattr("neuronsteer.neuron_set.packed_columns.PER_BYTE", 1)
    made.save_pretrained(tmp_path)
    assert "owners" not in safetensors.torch.load_file(tmp_path / "neurons.safetensors")
    assert NeuronSet.from_pretrained(tmp_path) == made


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"x":' + b"[" * JSON_DEPTH + b"]" * JSON_DEPTH + b"}", "deeper than 64"),
        (b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "deeper than 64"),
        (b'{"x":[' + b"0," * JSON_VALUES + b"0]}", "at most 500,000"),
        (b'{"x":"' + b"y" * JSON_BYTES + b'"}', "at most 33,554,432"),
        (b'{"x":NaN}', "NaN is not a JSON number"),
        (b'{"x":' + b"9" * 5_000 + b"}", "not readable JSON"),
        (b'{"x":"\\ud800"}', "not readable JSON"),
        (b'{"x":"\xff"}', "not readable JSON"),
        (b"[]", "holds a list"),
    ],
    ids=["deep", "deeper", "many", "long", "nan", "digits", "surrogate", "bytes", "list"],
)
def test_json_has_limits(tmp_path, content, message):
    file = tmp_path / "file.json"
    file.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        hub.read_json(file, ArtifactError)


def test_honest_json_is_within_the_limits(tmp_path):
    deep = {"x": "[,{" * 1_000}
    for _ in range(JSON_DEPTH - 1):
        deep = {"x": deep}
    file = tmp_path / "file.json"
    file.write_text(json.dumps({**deep, "emoji": "🧭", "index": {str(i): i for i in range(10**5)}}))
    assert hub.read_json(file, ArtifactError)["emoji"] == "🧭"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (hub.read_json, hub.read_tensors):
        with pytest.raises(ArtifactError, match="is not a file"):
            read(tmp_path / "pipe", ArtifactError)
        with pytest.raises(ArtifactError, match="is missing"):
            read(tmp_path / "nothing", ArtifactError)


def test_types_of_quantised_weights_are_refused_by_name(tmp_path):
    file = tmp_path / "file.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2).to(torch.float8_e4m3fn)}, file)
    with pytest.raises(ArtifactError, match="'a' has type F8_E4M3"):
        hub.read_tensors(file, ArtifactError)


# -- names of files ----------------------------------------------------------------------------

OUTSIDE = [
    "../evil/payload.safetensors",
    "a/../../payload.safetensors",
    "/etc/payload.safetensors",
    "C:\\payload.safetensors",
    "C:payload.safetensors",
    "..\\payload.safetensors",
    "./model.safetensors",
    "a//model.safetensors",
    ".git/model.safetensors",
    "x\0.safetensors",
    "payload.txt",
    "config.json",
    "",
    ["a.safetensors"],
    None,
    7,
]


@pytest.mark.parametrize("name", OUTSIDE, ids=repr)
def test_an_index_names_only_shards_of_its_own_folder(tmp_path, name):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(HubError, match=r"names the file .*own folder"):
        Checkpoint.of(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "'weight_map'"),
        ({"weight_map": []}, "'weight_map'"),
        ({"weight_map": {}}, "'weight_map'"),
        ({"weight_map": {"a": "a.safetensors"}, "metadata": [1]}, "'metadata'"),
    ],
)
def test_an_index_that_is_none_says_which_field(tmp_path, index, message):
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(HubError, match=message):
        Checkpoint.of(tmp_path)


def split(folder: Path, names: dict[str, str]) -> dict[str, str]:
    """A tiny model in several shards, one of them below a folder; returns the index's map."""
    model = tiny_model("llama", layers=2)
    model.save_pretrained(folder)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {key: names["layers.1" if "layers.1." in key else ""] for key in tensors}
    for file in set(where.values()):
        (folder / file).parent.mkdir(exist_ok=True)
        mine = {key: tensors[key] for key in tensors if where[key] == file}
        safetensors.torch.save_file(mine, folder / file, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return where


def test_baking_writes_nothing_outside_its_folder(tmp_path):
    folder, home = tmp_path / "evil", tmp_path / "home" / "out"
    where = split(folder, {"": "a.safetensors", "layers.1": "b.safetensors"})
    (folder / "payload.safetensors").write_bytes(b"anything")
    where["x.y"] = "../evil/payload.safetensors"
    (folder / INDEX).write_text(json.dumps({"weight_map": where}))
    neurons = toy_set(tiny_model("llama", layers=2), operation={"name": "zero"})
    with pytest.raises(HubError, match="Nothing was read or written there"):
        bake(str(folder), neurons, home, "fr")
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_shards_of_one_name_in_different_folders_do_not_mix(tmp_path):
    folder = tmp_path / "model"
    where = split(folder, {"": "one/w.safetensors", "layers.1": "two/w.safetensors"})
    first, second = (next(k for k, f in where.items() if f.startswith(n)) for n in ("one", "two"))
    checkpoint = Checkpoint.of(folder)
    checkpoint.rewrite(tmp_path, {key: [lambda t: t.zero_()] for key in (first, second)}, {})
    again = Checkpoint.of(tmp_path)
    assert not again.read(first).any() and not again.read(second).any()
    other = next(k for k, f in where.items() if f.startswith("two") and k != second)
    assert torch.equal(again.read(other), checkpoint.read(other))


def test_a_shard_that_lacks_what_the_index_says_is_named(tmp_path):
    where = split(tmp_path, {"": "a.safetensors", "layers.1": "b.safetensors"})
    where["model.layers.9.x"] = "b.safetensors"
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": where}))
    with pytest.raises(HubError, match=r"'b.safetensors' .*lacks 1 of the tensors.*layers\.9"):
        Checkpoint.of(tmp_path).read("model.layers.9.x")


# -- names of models ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        ("gpt2", "gpt2"),
        ("/home/ann/models/llama", "./llama"),
        ("/home/ann/models/llama/", "./llama"),
        ("~/models/llama", "./llama"),
        ("../llama", "./llama"),
        ("runs/new/llama", "./runs/new/llama"),
        ("./llama", "./llama"),
        ("C:\\Users\\ann\\llama", "./llama"),
        (f"/c/hub/models--org--base/snapshots/{'0a' * 20}", "org/base"),
        (f"/c/hub/models--gpt2/snapshots/{'0a' * 20}/", "gpt2"),
        ("/", None),
        (".", None),
        ("", None),
        (None, None),
    ],
)
def test_artifacts_name_models_without_the_path_of_this_machine(name, public):
    assert hub.public_name(name) == public
    assert hub.public_name(public) == public


def test_a_folder_is_not_taken_for_a_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ann" / "base").mkdir(parents=True)
    assert hub.public_name("ann/base") == "./ann/base"
    assert hub.public_name("ann/other") == "ann/other"


def test_a_recorded_folder_that_is_not_here_is_like_no_base_model(tmp_path):
    neurons = toy_set(tiny_model("llama", layers=2), operation={"name": "zero"})
    neurons = neurons.replace(base_model="./somewhere", model_type="unheard_of")
    with pytest.raises(NeuronSteerError, match=r"is \./somewhere, which cannot be found"):
        bake(None, neurons, tmp_path / "out", "fr")
