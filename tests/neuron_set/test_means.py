"""The means of every label: taken along, kept once per neuron; what is left is read off them."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

import neuronsteer as ns
from neuronsteer.errors import ArtifactError, LabelError
from neuronsteer.neuron_set import NeuronSet

MEANS = torch.tensor([[1.0, 2.0, 4.0], [0.5, 0.25, 8.0], [1.0, 2.0, 4.0], [-1.0, 3.0, 0.0]])


def example(means=MEANS, **header):
    # Neuron (0, 1) is owned by both labels.
    return NeuronSet.from_rows(
        ["a", "b"],
        [0, 0, 1, 1],
        [0, 1, 0, 1],
        [1, 2, 1, 5],
        values={"mlp.neuron.means": means},
        means_of=("a", "b", "c"),
        site="mlp.neuron",
        num_layers=2,
        width=8,
        **{"operation": {"name": "add", "value": "diffmean"}, "source": "prompt", **header},
    )


def test_every_label_can_be_left():
    neurons = example()
    assert neurons.value("mean", "mlp.neuron").tolist() == [1.0, 0.5, 2.0, 3.0]
    assert neurons.value("other_mean", "mlp.neuron").tolist() == [3.0, 4.125, 2.5, -0.5]
    difference = neurons.leaving("c").value("diffmean", "mlp.neuron")
    assert difference.tolist() == [-3.0, -7.5, -2.0, 3.0]
    assert neurons.leaving("a", "c").value("other_mean", "mlp.neuron").tolist()[2:] == [2.5, -0.5]
    # Also one that has no neurons here, or was taken away.
    assert neurons.only("b").leaving("a").value("diffmean", "mlp.neuron").tolist() == [1.0, 4.0]
    with pytest.raises(LabelError, match="'x'"):
        neurons.leaving("x").value("diffmean", "mlp.neuron")


def test_a_neuron_is_written_once(tmp_path):
    example().save_pretrained(tmp_path)
    columns = safetensors.torch.load_file(tmp_path / "neurons.safetensors")
    packed = columns["mlp.neuron.neuron_means"]
    assert packed.dtype == torch.float16 and packed.shape == (3, 3)
    assert NeuronSet.from_pretrained(tmp_path) == example()
    # Sixteen bits only where nothing is lost, once only where the rows agree.
    for change in (MEANS + 1e-6, MEANS + torch.arange(4.0)[:, None]):
        example(change).save_pretrained(tmp_path)
        assert NeuronSet.from_pretrained(tmp_path) == example(change)
    assert "mlp.neuron.means" in safetensors.torch.load_file(tmp_path / "neurons.safetensors")


def test_damaged_means_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"shape \[4, 2\].*3 labels"):
        example(MEANS[:, :2])
    with pytest.raises(ArtifactError, match="'source' is 'x'"):
        example(source="x")
    with pytest.raises(ArtifactError, match="repeats"):
        example().replace(means_of=("a", "b", "a"))
    example().save_pretrained(tmp_path)
    file = tmp_path / "neurons.safetensors"
    columns = safetensors.torch.load_file(file)
    columns["mlp.neuron.neuron_means"] = columns["mlp.neuron.neuron_means"][:2]
    safetensors.torch.save_file(columns, file)
    with pytest.raises(ArtifactError, match=r"shape \[2, 3\].*3 different neurons"):
        NeuronSet.from_pretrained(tmp_path)


def test_renaming_and_joining():
    renamed = example(source="c").relabel({"a": "aa"})
    assert renamed.means_of == ("aa", "b", "c") and renamed.source == "c"
    assert renamed.leaving("aa").value("diffmean", "mlp.neuron").tolist()[2:] == [1.0, 4.0]
    other = example(MEANS[:, [2, 1, 0]]).replace(means_of=("c", "b", "d"), labels=("x", "b"))
    joined = example() | other.only("x")
    assert joined.means_of == ("b", "c")
    assert joined.leaving("c").value("other_mean", "mlp.neuron").tolist() == [4, 8, 4, 0, 4, 8]


def test_older_sets_still_load_and_steer_as_they_did():
    demo = NeuronSet.from_pretrained("demo")
    assert demo.means_of == () and demo.source is None
    difference = demo.value("mean", "mlp.neuron") - demo.values["mlp.neuron.other_mean"]
    assert torch.equal(demo.value("diffmean", "mlp.neuron"), difference)
    with pytest.raises(ArtifactError, match="means of every label"):
        demo.leaving("en").value("diffmean", "mlp.neuron")


def test_counts_alone_have_none():
    counts = {"a": torch.ones(1, 4), "b": torch.ones(1, 4)}
    stats = ns.Stats.from_counts(counts, {"a": 2, "b": 2})
    assert ns.detect(stats, "lape", rate=1.0).means_of == ()


def many_owners(score=1.0):
    """Twenty labels that own most of a layer's neurons."""
    owned = torch.rand(20, 50, generator=torch.Generator().manual_seed(0)) < 0.9
    label, index = owned.nonzero(as_tuple=True)
    return NeuronSet.from_rows(
        [f"l{i}" for i in range(20)],
        label,
        torch.zeros_like(label),
        index,
        site="mlp.neuron",
        num_layers=1,
        width=50,
        score=torch.full((len(label),), 1.0) * score,
    )


def test_neurons_of_many_labels_are_written_once(tmp_path):
    file = tmp_path / "neurons.safetensors"
    sizes = []
    for score in (1.0, torch.arange(901.0)[: len(many_owners().label)], 1 / 3 + torch.rand(1)):
        neurons = many_owners(score)
        neurons.save_pretrained(tmp_path)
        assert NeuronSet.from_pretrained(tmp_path) == neurons
        sizes.append(file.stat().st_size)
    columns = safetensors.torch.load_file(file)
    assert "label" not in columns and columns["owners"].shape == (50, 3)
    # One score for all, or sixteen bits each.
    assert sizes[0] < 1_000 and sizes[1] - sizes[0] < 2_000
    assert (
        many_owners().fingerprint
        == NeuronSet.from_pretrained(tmp_path)
        .replace(score=torch.ones(len(neurons.label)))
        .fingerprint
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("owners"), "owners missing|label missing"),
        (lambda c: c.update(owners=c["owners"][:-1]), r"shape \[49, 3\]"),
        (lambda c: c.update(owners=c["owners"].int()), "torch.int32"),
        (lambda c: c.update(owners=torch.tensor(1, dtype=torch.uint8)), r"shape \[\]"),
        (lambda c: c.update(owners=c["owners"] | 255), "20 labels"),
        (lambda c: c.update(label=c["layer"].clone()), "no column 'label'"),
        (lambda c: c.update(score=torch.zeros(2)), "'score' has 2 rows"),
        (lambda c: c.update(owners=torch.full((50, 50_000), 255).byte()), "20,000,000 rows"),
    ],
    ids=["missing", "rows", "type", "number", "labels", "both", "score", "many"],
)
def test_damaged_owners_are_refused(tmp_path, change, message):
    many_owners().save_pretrained(tmp_path)
    file = tmp_path / "neurons.safetensors"
    columns = safetensors.torch.load_file(file)
    change(columns)
    safetensors.torch.save_file(columns, file)
    with pytest.raises(ArtifactError, match=message):
        NeuronSet.from_pretrained(tmp_path)
