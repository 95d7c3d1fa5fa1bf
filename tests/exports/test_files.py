"""What exports write, what they refuse, and that a failure leaves nothing behind."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple

import pytest
import torch
from accelerate import disk_offload
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.torch import load_file

from neuronsteer.errors import HubError, LabelError, MismatchError, ParameterError, UnknownNameError
from neuronsteer.exports import EXPORTS, bake, export
from neuronsteer.exports._safetensors_rewrite import Checkpoint
from tests.exports.vanilla import read_gguf
from tests.steering.sets import toy_set
from tests.tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    model = tiny_model("llama", layers=3)
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder, max_shard_size="30KB")
    tiny_tokenizer().save_pretrained(folder)
    return model, folder, toy_set(model)


def refuse(tmp_path, *args, match, **options):
    with pytest.raises(ParameterError, match=match):
        export(*args, to="fr", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("format", "operation", "match"),
    [
        ("ia3", "set", "no bias"),
        ("ia3", "add", "format='lora'"),
        ("lora-nobias", "set", "baked checkpoint"),
        ("lora", {"name": "add", "site": "mlp.act"}, "or steer with hooks"),
        ("baked", {"name": "add", "site": "mlp.act"}, "or steer with hooks"),
        ("gguf", "zero", "only multiply"),
        ("gguf", "set", "part='scale'"),
        ("gguf", "add", "direction.0"),
        ("gguf", {"name": "set", "site": "mlp.act"}, "mlp.neuron"),
    ],
)
def test_what_cannot_be_exact_is_refused_with_the_alternative(
    tmp_path, llama, format, operation, match
):
    args = (llama[1], llama[2], tmp_path / "x")
    refuse(tmp_path, *args, format=format, match=match, operation=operation)


@pytest.mark.parametrize(
    ("family", "format", "config", "match"),
    [
        ("gemma2", "gguf", {}, "a norm follows"),
        ("mixtral", "gguf", {}, "router"),
        ("mixtral", "lora", {}, "Bake a checkpoint"),
        ("mixtral", "ia3", {}, "slices of one parameter"),
        ("mixtral", "baked", {}, "experts .* no bias"),
        ("qwen3", "baked", {}, "no MLP bias"),
        ("mistral", "baked", {"sliding_window": 64}, "sliding window of 64"),
        ("qwen2", "baked", {"use_sliding_window": True, "max_window_layers": 0}, "sliding window"),
    ],
)
def test_families_that_cannot_are_refused(tmp_path, family, format, config, match):
    model = tiny_model(family, **config)
    args = (model, toy_set(model), tmp_path / "x")
    refuse(tmp_path, *args, format=format, match=match, operation="set")


def test_gemma_is_not_sent_to_a_control_vector_that_cannot_work(tmp_path):
    model = tiny_model("gemma2")
    with pytest.raises(ParameterError) as caught:
        bake(model, toy_set(model), tmp_path / "x", "fr", "set")
    assert "lora" in str(caught.value)
    assert "gguf" not in str(caught.value)


def test_wrong_arguments_are_explained(tmp_path, llama):
    model, folder, neurons = llama
    out = tmp_path / "x"
    with pytest.raises(UnknownNameError, match="Did you mean 'lora'"):
        export(model, neurons, out, "fr", format="lorra")
    with pytest.raises(LabelError, match="Did you mean 'fr'"):
        export(model, neurons, out, "fx", "zero", format="ia3")
    with pytest.raises(ParameterError, match="no parameter 'rank'"):
        export(model, neurons, out, "fr", "zero", format="lora", rank=3)
    with pytest.raises(ParameterError, match="Pass the model"):
        export(None, neurons, out, "fr", "zero", format="lora")
    with pytest.raises(ParameterError, match="no label"):
        export(model, neurons, out, format="ia3")
    with pytest.raises(ParameterError, match="Strength 0"):
        export(model, neurons, out, "fr", "zero", format="ia3", strength=0)
    with pytest.raises(ParameterError, match="part='half'"):
        export(model, neurons, out, "fr", "zero", format="ia3", part="half")
    with pytest.raises(ParameterError, match="constant part"):
        export(model, neurons, out, "fr", "zero", format="ia3", part="constant")
    with pytest.raises(MismatchError, match="num_layers"):
        export(tiny_model("llama"), neurons, out, "fr", "zero", format="ia3")
    with pytest.raises(ParameterError, match=r"attn\.q"):
        export(model, toy_set(model, "attn.q"), out, "fr", "zero", format="ia3")
    with pytest.raises(ParameterError, match="is the model itself"):
        bake(folder, neurons, folder, "fr", "zero", overwrite=True)
    with pytest.raises(HubError, match=r"config\.json is missing"):
        bake(tmp_path, neurons, out, "fr", "zero")
    assert not list(tmp_path.iterdir())


def test_weights_that_cannot_be_edited_are_refused(tmp_path, llama):
    model, folder, neurons = llama
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    quantised = {**config, "quantization_config": {"quant_method": "bitsandbytes"}}
    (copy / "config.json").write_text(json.dumps(quantised))
    for format in ("lora", "baked"):
        with pytest.raises(ParameterError, match="quantised"):
            export(copy, neurons, tmp_path / "x", "fr", "zero", format=format)
    export(copy, neurons, tmp_path / "ia3", "fr", "zero", format="ia3")
    (copy / "config.json").write_text(json.dumps(config))
    for shard in copy.glob("*.safetensors*"):
        shard.unlink()
    with pytest.raises(HubError, match="pass the model instead"):
        bake(copy, neurons, tmp_path / "x", "fr", "zero")
    assert not (tmp_path / "x").exists()


def test_a_model_that_cannot_be_saved_is_refused_before_writing(tmp_path, llama):
    model = tiny_model("llama", layers=3)
    disk_offload(model, tmp_path / "offload", execution_device=torch.device("cpu"))
    with pytest.raises(ParameterError, match="path of its checkpoint"):
        bake(model, llama[2], tmp_path / "x", "fr", "zero")
    assert not (tmp_path / "x").exists()


def test_an_adapter_on_the_model_is_not_silently_left_out(tmp_path, llama):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["down_proj"])
    model = peft.get_peft_model(tiny_model("llama", layers=3), config)
    with pytest.raises(ParameterError, match="Merge it"):
        bake(model, llama[2], tmp_path / "x", "fr", "zero")


def test_a_bake_changes_nothing_else(tmp_path, llama):
    model, folder, neurons = llama
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = bake(folder, neurons, tmp_path / "out", "fr", "zero")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    source, baked = Checkpoint.of(folder), Checkpoint.of(done.path)
    assert baked.where == source.where
    changed = set()
    for key in source.where:
        assert baked.entry(key).dtype == source.entry(key).dtype
        if not torch.equal(source.read(key), baked.read(key)):
            changed.add(key)
    assert changed == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in range(3)}
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert json.loads((done.path / name).read_text()) == json.loads(before[name])
    for file in baked.files:
        with safe_open(str(done.path / file), framework="pt") as shard:
            assert shard.metadata() == {"format": "pt"}


def test_only_touched_shards_are_rewritten_and_memory_stays_small(tmp_path, llama, monkeypatch):
    model, folder, neurons = llama
    read = []
    original = Checkpoint._edited
    monkeypatch.setattr(
        Checkpoint, "_edited", lambda self, *args: read.append(args[1]) or original(self, *args)
    )
    one = neurons.take(neurons.layer == 1, neurons.labels)
    done = bake(folder, one, tmp_path / "out", "fr", "zero")
    assert read == ["model.layers.1.mlp.down_proj.weight"]
    touched = Checkpoint.of(folder).where[read[0]]
    same = [
        path.name
        for path in folder.glob("*.safetensors")
        if path.read_bytes() == (done.path / path.name).read_bytes()
    ]
    assert sorted([*same, touched]) == Checkpoint.of(folder).files


def test_new_biases_are_in_the_index(tmp_path, llama):
    done = bake(llama[1], llama[2], tmp_path / "out", "fr", "set")
    baked = Checkpoint.of(done.path)
    biases = {key for key in baked.where if key.endswith("bias")}
    assert len(biases) == 9
    assert all(key in load_file(done.path / baked.where[key]) for key in biases)
    assert sum(bool(baked.read(key).any()) for key in biases) == 3
    assert json.loads((done.path / "config.json").read_text())["mlp_bias"] is True
    assert "mlp_bias" in done.notes[0]
    total = sum(load_file(done.path / file)[key].nbytes for key, file in baked.where.items())
    assert baked.index["metadata"]["total_size"] == total


def test_a_full_disk_is_noticed_before_writing(tmp_path, llama, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 4096, 4096))
    with pytest.raises(HubError, match=r"Not enough disk space.*4.1 kB are free"):
        bake(llama[1], llama[2], tmp_path / "out", "fr", "zero")
    assert not list(tmp_path.iterdir())


def test_what_the_checkpoints_type_cannot_hold_is_refused(tmp_path):
    model = tiny_model("llama", dtype=torch.float16)
    with pytest.raises(ParameterError, match="float16 cannot hold"):
        bake(model, toy_set(model), tmp_path / "x", "fr", {"name": "set", "value": 1e5})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_halfway_leaves_nothing(tmp_path, llama, monkeypatch, error):
    calls = []

    def fail(self, *args):
        calls.append(args)
        if len(calls) == 2:
            raise error
        return original(self, *args)

    original = Checkpoint._stream
    monkeypatch.setattr(Checkpoint, "_stream", fail)
    expected = HubError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        bake(llama[1], llama[2], tmp_path / "out", "fr", "zero")
    assert len(calls) == 2
    assert not list(tmp_path.iterdir())


def test_replacing_is_only_for_earlier_exports(tmp_path, llama):
    model, folder, neurons = llama
    out = tmp_path / "out"
    out.mkdir()
    export(model, neurons, out, "fr", "zero", format="ia3")
    with pytest.raises(ParameterError, match="overwrite=True"):
        export(model, neurons, out, "en", "zero", format="ia3")
    (out / "stale").touch()
    export(model, neurons, out, "en", "zero", format="ia3", overwrite=True)
    assert not (out / "stale").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(ParameterError, match="expected a place for an export"):
        export(model, neurons, precious, "fr", "zero", format="ia3", overwrite=True)
    assert (precious / "thesis.txt").exists()


def test_adapter_files_are_small_and_name_full_paths(tmp_path, llama):
    done = export(llama[0], llama[2], tmp_path / "ia3", "fr", "zero", format="ia3")
    assert done.files["adapter_model.safetensors"] < 3000
    config = json.loads((done.path / "adapter_config.json").read_text())
    assert config["feedforward_modules"] == [f"model.layers.{i}.mlp.down_proj" for i in range(3)]
    done = export(llama[0], llama[2], tmp_path / "lora", "fr", "zero", format="lora-nobias")
    config = json.loads((done.path / "adapter_config.json").read_text())
    assert not config["lora_bias"]
    assert set(config["rank_pattern"].values()) == {6}
    assert "--max-lora-rank" in done.notes[0]


def test_cards_are_valid_and_name_the_base_only_if_it_is_on_the_hub(tmp_path, llama):
    model, folder, neurons = llama
    known = neurons.replace(base_model="someone/llama")
    for format, relation in (("ia3", "adapter"), ("baked", "finetune")):
        done = export(folder, known, tmp_path / format, "fr", "zero", format=format)
        card = ModelCard.load(done.path / "README.md")
        assert card.data.base_model == "someone/llama"
        assert card.data.to_dict()["base_model_relation"] == relation
        assert card.data.language == ["fr"]
    done = bake(folder, neurons.replace(base_model=str(folder)), tmp_path / "local", "fr", "zero")
    for path in done.path.iterdir():
        assert str(folder).encode() not in path.read_bytes(), "a path of this machine leaked"


def test_control_vector_without_the_first_layer_says_so(tmp_path, llama):
    done = export(llama[0], llama[2], tmp_path / "cv", "fr", "add", format="gguf", skip_first=True)
    directions = read_gguf(done.path / "control_vector.gguf")
    assert sorted(directions) == ["direction.1", "direction.2"]
    weight = llama[0].model.layers[1].mlp.down_proj.weight
    rows = llama[2].rows("fr")
    here = rows.layer == 1
    want = weight[:, rows.index[here].long()] @ rows.value("diffmean", "mlp.neuron")[here]
    torch.testing.assert_close(directions["direction.1"], want)
    assert any("NOT the same" in note for note in done.notes)


def test_every_export_is_documented():
    for name, kind in EXPORTS.items():
        assert kind.name == name
        assert kind.summary


def test_a_set_without_a_base_model_exports_what_needs_no_weights(tmp_path):
    import neuronsteer as ns

    generator = torch.Generator().manual_seed(0)
    counts = {name: torch.randint(0, 100, (2, 80), generator=generator) for name in "abc"}
    stats = ns.Stats.from_counts(counts, dict.fromkeys(counts, 100), model_type="llama")
    neurons = ns.detect(stats, "lape", rate=0.2, filter=0.8, bar=0.8)
    done = ns.export(None, neurons, tmp_path / "ia3", format="ia3", to="a", operation="zero")
    config = json.loads((done.path / "adapter_config.json").read_text("utf-8"))
    assert set(config["target_modules"]) <= {f"model.layers.{i}.mlp.down_proj" for i in range(2)}
    with pytest.raises(ParameterError, match="needs the model's weights"):
        ns.export(None, neurons, tmp_path / "lora", format="lora", to="a", operation="zero")
    assert not (tmp_path / "lora").exists()
    with pytest.raises(ParameterError, match="names of the modules are unknown"):
        ns.export(None, neurons.replace(model_type=None), tmp_path / "x", to="a", operation="zero")
