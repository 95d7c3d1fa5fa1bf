"""Only the neurons' weights move; what they learned is saved, loaded and merged."""

import json

import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from neuronsteer.enhancement import Enhanced, enhance
from neuronsteer.errors import (
    ArtifactError,
    HookError,
    LayoutError,
    MismatchError,
    NeuronSteerError,
    ParameterError,
)
from neuronsteer.models import inspect
from neuronsteer.neuron_set import NeuronSet
from neuronsteer.steering.steerer import attach

from ..tiny_models import tiny_ids, tiny_model


def neurons_of(model, site="mlp.neuron", rows=((0, 0, 3), (0, 1, 7), (1, 0, 3), (1, 1, 2))):
    anatomy = inspect(model)
    width = max(point.width for point in anatomy.hook_points(site))
    label, layer, index = zip(*rows, strict=True)
    return NeuronSet.from_rows(
        ["a", "b"],
        label,
        layer,
        index,
        score=[float(10 - i) for i in range(len(rows))],
        site=site,
        num_layers=anatomy.num_layers,
        width=width,
        model_type=anatomy.model_type,
    )


class Texts(Dataset):
    def __init__(self, count=12):
        self.ids = tiny_ids(count, 9)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return {"input_ids": self.ids[i], "labels": self.ids[i], "not_an_argument": 1}


def train(tuned, folder, steps=4, resume=None, **more):
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=3,
        learning_rate=1e-2,
        weight_decay=0.1,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
        **{"save_strategy": "no", **more},
    )
    trainer = Trainer(tuned, arguments, train_dataset=Texts())
    trainer.train(resume_from_checkpoint=resume)
    tuned.eval()


def loss(model):
    ids = Texts().ids
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids).loss)


def logits(model):
    with torch.no_grad():
        return model(input_ids=tiny_ids()).logits


def copies(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# Separate, fused and transposed projections; the neurons' rows in each weight of layer 0.
CASES = {
    "llama": {
        "gate_proj": ("rows", [3, 7]),
        "up_proj": ("rows", [3, 7]),
        "down_proj": ("columns", [3, 7]),
    },
    "phi3": {"gate_up_proj": ("rows", [3, 83]), "down_proj": ("columns", [3])},
    "gpt2": {"c_fc": ("columns", [3]), "mlp.c_proj": ("rows", [3])},
    "opt": {"fc1": ("rows", [3]), "fc2": ("columns", [3])},
}


@pytest.mark.parametrize("family", CASES)
def test_only_the_neurons_weights_move(family, tmp_path):
    model = tiny_model(family)
    before, first = copies(model), logits(model)
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    rows = ((0, 0, 3), (1, 0, 3)) if family != "llama" else ((0, 0, 3), (1, 0, 7), (1, 1, 5))
    tuned = enhance(model, neurons_of(model, rows=rows))
    assert torch.equal(logits(tuned), first)
    worse = loss(tuned)
    train(tuned, tmp_path, steps=12)
    assert loss(tuned) < worse
    changed = logits(tuned)
    assert not torch.allclose(changed, first)
    merged = tuned.merge()
    assert merged is model and not any("base_layer" in name for name, _ in model.named_modules())
    assert torch.allclose(logits(model), changed, atol=1e-4)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trained
    seen = set()
    for name, parameter in model.named_parameters():
        part = next((p for p in CASES[family] if p in name and name.endswith("weight")), None)
        if part is None or parameter.dim() < 2:
            assert torch.equal(parameter, before[name]), name
            continue
        if not any(f".{layer}." in name for layer in (0,)):
            continue
        kind, index = CASES[family][part]
        moved = (parameter != before[name]).any(1 if kind == "rows" else 0).nonzero().flatten()
        assert moved.tolist() == index, name
        seen.add(part)
    assert seen == set(CASES[family])


@pytest.mark.parametrize("site", ["attn.q", "attn.k", "attn.v", "attn.o"])
@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])
def test_attention_units_have_rows(family, site):
    model = tiny_model(family)
    neurons = neurons_of(model, site)
    tuned = enhance(model, neurons, "a")
    points = {point.layer: point for point in inspect(model).hook_points(site)}
    seen = {}
    handles = [
        points[layer].module.register_forward_hook(
            lambda _m, _a, out, layer=layer: seen.update({layer: points[layer].read(out).clone()})
        )
        for layer in points
    ]
    logits(tuned)
    plain = dict(seen)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    logits(tuned)
    moved = (seen[0] != plain[0]).flatten(0, -2).any(0).nonzero().flatten()
    assert moved.tolist() == neurons.only("a").index[neurons.only("a").layer == 0].tolist()
    for handle in handles:
        handle.remove()


def test_a_saved_enhancement_is_the_same_on_another_copy(tmp_path):
    model = tiny_model()
    tuned = enhance(model, neurons_of(model), "a")
    train(tuned, tmp_path / "t")
    folder = tuned.save_pretrained(tmp_path / "saved")
    assert sorted(path.name for path in folder.iterdir()) == [
        "enhancement.safetensors",
        "enhancement_config.json",
    ]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10_000
    loaded = Enhanced.from_pretrained(tiny_model(), folder)
    assert torch.equal(logits(loaded), logits(tuned))
    assert not any(p.requires_grad for p in loaded.parameters())
    again = Enhanced.from_pretrained(tiny_model(), folder, trainable=True)
    assert sum(p.numel() for p in again.parameters() if p.requires_grad) == again.trainable
    assert torch.allclose(logits(loaded.merge()), logits(tuned), atol=1e-4)
    plain = tiny_model()
    assert torch.equal(logits(tuned.unload()), logits(plain))


def test_training_resumes_from_the_trainers_checkpoint(tmp_path):
    def fresh():
        model = tiny_model()
        return enhance(model, neurons_of(model))

    whole = fresh()
    train(whole, tmp_path / "a", steps=6)
    first = fresh()
    train(first, tmp_path / "b", steps=6, save_strategy="steps", save_steps=3)
    checkpoint = tmp_path / "b" / "checkpoint-3"
    assert (checkpoint / "model.safetensors").stat().st_size < 50_000
    resumed = fresh()
    train(resumed, tmp_path / "b", steps=6, resume=str(checkpoint))
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, resumed.state_dict()[name], atol=1e-6), name
    with pytest.raises(MismatchError, match="not made for these neurons"):
        model = tiny_model()
        enhance(model, neurons_of(model), "a", parts=["up"]).load_state_dict(whole.state_dict())


def test_parts_labels_and_the_best_of_a_layer():
    model = tiny_model()
    neurons = neurons_of(model)
    tuned = enhance(model, neurons, "b", parts=["up"], per_layer=1)
    names = sorted(tuned.state_dict())
    assert names == [f"model.model.layers.{layer}.mlp.up_proj.delta" for layer in range(2)]
    assert all(len(delta) == 1 for delta in tuned.state_dict().values())
    assert tuned.trainable == 2 * 32
    tuned.unload()
    both = enhance(model, [neurons, neurons_of(model, "attn.v")])
    assert {name.split(".")[-2] for name in both.state_dict()} == {
        "gate_proj",
        "up_proj",
        "down_proj",
        "v_proj",
    }


def test_it_can_be_steered_and_generates():
    model = tiny_model()
    neurons = neurons_of(model)
    tuned = enhance(model, neurons)
    text = tuned.generate(tiny_ids(), max_new_tokens=3, do_sample=False)
    assert torch.equal(text, tuned.unload().generate(tiny_ids(), max_new_tokens=3, do_sample=False))
    tuned = enhance(model, neurons)
    assert tuned.config is model.config
    with attach(tuned, neurons) as steer:
        steer.to("a")
        assert not torch.equal(logits(tuned), logits(tiny_model()))


def test_half_precision_trains_in_float32(tmp_path):
    model = tiny_model(dtype=torch.bfloat16)
    before = copies(model)
    tuned = enhance(model, neurons_of(model))
    train(tuned, tmp_path)
    assert all(value.dtype == torch.float32 for value in tuned.state_dict().values())
    tuned.merge()
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all(".mlp." in name for name in moved)


def test_quantised_weights_are_used_but_not_merged():
    model = tiny_model()
    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    tuned = enhance(quantised, neurons_of(model))
    before = logits(tuned)
    for parameter in tuned.parameters():
        torch.nn.init.normal_(parameter)
    assert not torch.equal(logits(tuned), before)
    before = logits(tuned)
    with pytest.raises(ParameterError, match="quantised"):
        tuned.merge()
    assert torch.equal(logits(tuned), before)  # nothing was taken away


def test_mistakes(tmp_path):
    model = tiny_model()
    neurons = neurons_of(model)
    with pytest.raises(ParameterError, match="parts="):
        enhance(model, neurons, parts=["norm"])
    with pytest.raises(ParameterError, match="per_layer=0"):
        enhance(model, neurons, per_layer=0)
    with pytest.raises(ParameterError, match="nothing to train"):
        enhance(model, neurons.take(neurons.score > 99, neurons.labels))
    with pytest.raises(LayoutError, match="no weights of their own"):
        enhance(model, neurons_of(model, "resid"))
    with pytest.raises(LayoutError, match="experts"):
        mixture = tiny_model("mixtral")
        enhance(mixture, neurons_of(mixture))
    with pytest.raises(MismatchError):
        enhance(tiny_model("qwen2"), neurons)
    tied = tiny_model()
    tied.model.layers[1].mlp.up_proj.weight = tied.model.layers[0].mlp.up_proj.weight
    with pytest.raises(ParameterError, match="tied"):
        enhance(tied, neurons)
    assert all(p.requires_grad for p in tied.parameters())
    tuned = enhance(model, neurons)
    with pytest.raises(ParameterError, match="already"):
        enhance(model, neurons)
    folder = tuned.save_pretrained(tmp_path / "saved")
    tuned.merge()
    with pytest.raises(HookError, match="already"):
        tuned.merge()
    for other in (tiny_model("qwen2"), tiny_model(layers=3), tiny_model(intermediate_size=64)):
        with pytest.raises(MismatchError):
            Enhanced.from_pretrained(other, folder)


def test_files_of_two_saves_are_not_one_enhancement(tmp_path):
    """Whoever was interrupted while saving has files of the same shapes, and other changes."""
    model = tiny_model()
    tuned = enhance(model, neurons_of(model))
    first = tuned.save_pretrained(tmp_path / "first")
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    second = tuned.save_pretrained(tmp_path / "second")
    (second / "enhancement_config.json").write_bytes(
        (first / "enhancement_config.json").read_bytes()
    )
    with pytest.raises(ArtifactError, match="different saves"):
        Enhanced.from_pretrained(tiny_model(), second)
    Enhanced.from_pretrained(tiny_model(), first).save_pretrained(tmp_path / "again")
    for path in first.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_damaged_files_are_named(tmp_path):
    model = tiny_model()
    folder = enhance(model, neurons_of(model)).save_pretrained(tmp_path / "saved")
    config, tensors = folder / "enhancement_config.json", folder / "enhancement.safetensors"
    good = config.read_text()

    def refused(message):
        with pytest.raises(ArtifactError, match=message):
            Enhanced.from_pretrained(tiny_model(), folder)

    config.write_text(good.replace('"format": 1', '"format": 9'))
    refused("'format' is 9")
    found = json.loads(good)
    found["modules"][0]["size"] = 5
    config.write_text(json.dumps(found))
    refused("different saves")
    config.write_text("{")
    refused("JSON")
    config.write_text(good)
    tensors.write_bytes(tensors.read_bytes()[:50])
    refused("damaged")
    with pytest.raises(NeuronSteerError):
        Enhanced.from_pretrained(tiny_model(), tmp_path)
