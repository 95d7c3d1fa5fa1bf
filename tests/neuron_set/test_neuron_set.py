"""The neuron set: validation, algebra, control, disk."""

import io
import json
import os
import pickle
import shutil

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from neuronsteer.errors import (
    ArtifactError,
    HubError,
    LabelError,
    MismatchError,
    NeuronSteerError,
    ParameterError,
)
from neuronsteer.neuron_set import NeuronSet

SHAPE = {"site": "mlp.act", "num_layers": 3, "width": 8}
VALUES = ("mlp.neuron.mean", "mlp.neuron.other_mean", "mlp.act.prob")


def example(**header):
    return NeuronSet.from_rows(
        ["fr", "ja", "empty", "C++"],
        label=[3, 0, 0, 1, 1],
        layer=[2, 0, 2, 0, 1],
        index=[7, 3, 1, 3, 0],
        score=[-0.5, -0.1, -0.2, -0.3, -0.4],
        values={name: torch.arange(5.0) + i for i, name in enumerate(VALUES)},
        **{
            **SHAPE,
            "model_type": "llama",
            "base_model": "org/base",
            "base_revision": "abc",
            "method": {"name": "lape", "parameters": {"rate": 0.01}},
            "calibration": {"fr": {"tokens": 10}, "ja": {"tokens": 20}},
            "operation": {"name": "set", "value": "mean"},
            "schedule": "fr,24:ja",
            "evaluation": {"success": 0.5},
            "orphans": 2,
            **header,
        },
    )


def rows_of(neurons):
    names = [neurons.labels[k] for k in neurons.label.tolist()]
    return set(zip(names, neurons.layer.tolist(), neurons.index.tolist(), strict=True))


def number(row):
    return float(100 * ord(row[0]) + 10 * row[1] + row[2])


@st.composite
def sets(draw, labels=("a", "b", "c")):
    rows = draw(st.sets(st.tuples(st.sampled_from(labels), st.integers(0, 2), st.integers(0, 7))))
    order = draw(st.permutations(sorted(rows)))
    return NeuronSet.from_rows(
        labels,
        [labels.index(row[0]) for row in order],
        [row[1] for row in order],
        [row[2] for row in order],
        values={"mlp.neuron.mean": [number(row) for row in order]},
        **SHAPE,
    )


# --- rows -------------------------------------------------------------------------------------


def test_rows_are_sorted_with_their_values():
    neurons = example()
    assert neurons.label.tolist() == [0, 0, 1, 1, 3]
    assert neurons.layer.tolist() == [0, 2, 0, 1, 2]
    assert neurons.index.tolist() == [3, 1, 3, 0, 7]
    assert neurons.value("mean", "mlp.neuron").tolist() == [1, 2, 3, 4, 0]
    assert neurons.score.tolist() == pytest.approx([-0.1, -0.2, -0.3, -0.4, -0.5])


def test_counts_sharing_and_profile():
    neurons = example()
    assert len(neurons) == 5 and neurons.num_neurons == 4
    assert neurons.counts == {"fr": 2, "ja": 2, "empty": 0, "C++": 1}
    assert neurons.sharing() == {1: 3, 2: 1}
    assert neurons.exclusive_counts() == {"fr": 1, "ja": 1, "empty": 0, "C++": 1}
    assert neurons.layer_profile().tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_summary_is_json():
    summary = example().summary()
    assert json.loads(json.dumps(summary))["counts"]["ja"] == 2
    assert summary["labels"] == ["fr", "ja", "empty", "C++"]
    assert summary["sharing"] == {1: 3, 2: 1}
    assert summary["layers"]["fr"] == [1, 0, 1]
    assert summary["orphans"] == 2
    assert summary["method"]["name"] == "lape"
    assert summary["values"] == sorted(VALUES)


def test_repr_and_table_inform():
    text = repr(example())
    for part in ("4 neurons", "mlp.act", "fr 2", "empty 0", "lape", "org/base", "3x8"):
        assert part in text
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(example().relabel({"fr": "[red]x"}).table())
    shown = console.export_text()
    assert "[red]x" in shown and "exclusive" in shown and "orphans: 2" in shown


def test_repr_of_many_labels_is_short():
    labels = [f"label{i}" for i in range(60)]
    neurons = NeuronSet.from_rows(labels, [0], [0], [0], **SHAPE)
    assert "60 labels" in repr(neurons) and len(repr(neurons)) < 300


def test_fields_cannot_be_assigned():
    with pytest.raises(AttributeError):
        example().site = "resid"


def test_value_columns():
    neurons = example()
    difference = neurons.value("mean", "mlp.neuron") - neurons.value("other_mean", "mlp.neuron")
    assert neurons.value("diffmean", "mlp.neuron").equal(difference)
    with pytest.raises(ArtifactError, match=r"mlp\.neuron\.max.*stores mlp\.act\.prob"):
        neurons.value("max", "mlp.neuron")
    with pytest.raises(ArtifactError, match=r"mlp\.act\.mean"):
        neurons.value("diffmean", "mlp.act")


def test_header_is_copied():
    method = {"name": "x", "parameters": {"t": (1, 2)}}
    neurons = example(method=method)
    method["name"] = "changed"
    assert neurons.method == {"name": "x", "parameters": {"t": [1, 2]}}


def test_equality_hash_and_pickle():
    assert example() == example() and hash(example()) == hash(example())
    assert example() != example(evaluation={"success": 1.0})
    assert example() != example().top(1)
    assert example() != "something else"
    assert pickle.loads(pickle.dumps(example())) == example()
    assert example().fingerprint == example(evaluation=None).fingerprint
    assert example().fingerprint != example().relabel({"fr": "FR"}).fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": []}, "'labels' is empty"),
        ({"labels": ["a", "a"]}, "'labels' repeats 'a'"),
        ({"labels": ["a", ""]}, "empty name"),
        ({"labels": ["a", 3]}, "'labels'"),
        ({"labels": "ab"}, "'labels'"),
        ({"label": [0, 2]}, "'label': row 1 has 2, but the set has 2 labels"),
        ({"label": [0, -1]}, "'label': row 1 has -1"),
        ({"layer": [0, 3]}, "'layer': row 1 has 3, but the set has 3 layers"),
        ({"index": [0, 8]}, r"'index': row 1 \(label 'b', layer 0\) names neuron 8"),
        ({"index": [-1, 0]}, "'index': row 0"),
        ({"label": [0, 0], "index": [4, 4]}, "Duplicate rows .*'a', layer 0, index 4"),
        ({"index": [0]}, "'index' has 1 rows, but 'label' has 2"),
        ({"index": [0.0, 1.0]}, "'index' has dtype torch.float32; expected integers"),
        ({"label": torch.tensor([True, False])}, "'label' has dtype torch.bool"),
        ({"index": [[0, 1]]}, r"'index' has shape \[1, 2\]"),
        ({"index": ["x", "y"]}, "'index' is not a column"),
        ({"score": [float("nan"), 0.0]}, "'score': 1 values are not finite"),
        ({"score": torch.tensor([1, 2])}, "'score' has dtype torch.int64"),
        ({"values": {"mlp.act.mean": [0.0, float("inf")]}}, r"'mlp\.act\.mean': 1 values"),
        ({"values": {"mean": [0.0, 1.0]}}, "'mean'.*<site>.<source>"),
        ({"values": {"mlp.act.mean": [0.0]}}, r"'mlp\.act\.mean' has 1 rows"),
        ({"site": ""}, "'site'"),
        ({"num_layers": 0}, "'num_layers'"),
        ({"num_layers": "3"}, "'num_layers'"),
        ({"width": True}, "'width'"),
        ({"orphans": -1}, "'orphans'"),
        ({"model_type": 3}, "'model_type'"),
        ({"widths": [8, 8]}, "'widths' has 2 entries"),
        ({"widths": [4, 4, 4]}, "'widths' has maximum 4"),
        ({"widths": [1, 8, 8]}, "'index': row 1 .* names neuron 1, but that layer has 1"),
        ({"method": "lape"}, "'method'"),
        ({"method": {}}, "'method' has no 'name'"),
        ({"calibration": {"x": object()}}, "'calibration' cannot be written as JSON"),
        ({"evaluation": {"x": float("nan")}}, "'evaluation' cannot be written as JSON"),
        ({"schedule": 3}, "'schedule'"),
        ({"colour": "red"}, "no header field 'colour'"),
    ],
)
def test_bad_fields_are_named(change, message):
    good = {"labels": ["a", "b"], "label": [0, 1], "layer": [0, 0], "index": [0, 1], **SHAPE}
    NeuronSet.from_rows(**good)
    with pytest.raises(ArtifactError, match=message):
        NeuronSet.from_rows(**{**good, **change})


def test_layers_of_different_width():
    neurons = NeuronSet.from_rows(["a"], [0, 0], [0, 2], [1, 7], **{**SHAPE, "widths": [2, 4, 8]})
    assert neurons.width_per_layer == (2, 4, 8)
    assert neurons.random_like(0).index.tolist() != [1, 7]
    assert NeuronSet.from_rows(["a"], [], [], [], **SHAPE, widths=[8, 8, 8]).widths is None


def test_other_sites_use_their_own_width():
    neurons = NeuronSet.from_rows(
        ["a"], [0], [1], [100], site="resid", num_layers=2, width=128, values={"resid.mean": [1.0]}
    )
    assert neurons.value("mean", "resid").tolist() == [1.0]


# --- deriving ---------------------------------------------------------------------------------


def test_only_and_without():
    neurons = example()
    assert neurons.only("ja", "fr").labels == ("ja", "fr")
    assert rows_of(neurons.only("ja", "fr")) == rows_of(neurons.only("fr", "ja"))
    assert rows_of(neurons.only("ja")) == {("ja", 0, 3), ("ja", 1, 0)}
    assert neurons.without("fr", "ja").labels == ("empty", "C++")
    assert neurons.only("ja").calibration == {"ja": {"tokens": 20}}
    assert neurons.only("empty").counts == {"empty": 0}
    assert neurons.rows("fr") == neurons.only("fr")
    assert neurons.only(*neurons.labels) == neurons
    with pytest.raises(LabelError, match="Unknown label 'jp'.*fr, ja.*Did you mean 'ja'"):
        neurons.only("jp")
    with pytest.raises(LabelError, match="Nothing is left"):
        neurons.without(*neurons.labels)


def test_relabel():
    neurons = example().relabel({"fr": "French", "ja": "fr"})
    assert neurons.labels == ("French", "fr", "empty", "C++")
    assert neurons.calibration == {"French": {"tokens": 10}, "fr": {"tokens": 20}}
    with pytest.raises(ArtifactError, match="repeats 'ja'"):
        example().relabel({"fr": "ja"})
    with pytest.raises(LabelError):
        example().relabel({"de": "xx"})


def test_top():
    neurons = example()
    assert rows_of(neurons.top(1)) == {("fr", 0, 3), ("ja", 0, 3), ("C++", 2, 7)}
    assert rows_of(neurons.top(2, per_label=False)) == {("fr", 0, 3), ("fr", 2, 1)}
    assert neurons.top(100).counts == neurons.counts
    assert len(neurons.top(0)) == 0
    tied = NeuronSet.from_rows(["a"], [0, 0, 0], [0, 1, 0], [5, 0, 2], **SHAPE)
    assert rows_of(tied.top(1)) == {("a", 0, 2)}
    with pytest.raises(ParameterError):
        neurons.top(-1)


@settings(max_examples=60, deadline=None)
@given(sets(), sets(("b", "c", "d")), sets())
def test_algebra_is_that_of_sets(x, y, z):
    assert rows_of(x | y) == rows_of(x) | rows_of(y)
    assert rows_of(x & y) == rows_of(x) & rows_of(y)
    assert rows_of(x - y) == rows_of(x) - rows_of(y)
    assert (x | y).labels == ("a", "b", "c", "d")
    assert (x & y).labels == ("b", "c") and (x - y).labels == x.labels
    assert rows_of((x - z) | (x & z)) == rows_of(x)
    assert x | x == x and x & x == x and len(x - x) == 0
    assert rows_of(x & (y | z)) == rows_of((x & y) | (x & z))
    # Values travel with their rows.
    for neurons in (x | y, x & y, x - y):
        if neurons.values:
            for row, value in zip(
                row_list(neurons), neurons.value("mean", "mlp.neuron"), strict=True
            ):
                assert float(value) == number(row)


def row_list(neurons):
    names = [neurons.labels[k] for k in neurons.label.tolist()]
    return list(zip(names, neurons.layer.tolist(), neurons.index.tolist(), strict=True))


def test_culture_without_its_language():
    culture = example().only("fr").relabel({"fr": "France"})
    language = example().only("ja")
    with pytest.raises(LabelError, match="no label in common"):
        _ = culture & language
    both = culture & language.relabel({"ja": "France"})
    assert rows_of(both) == {("France", 0, 3)}


def test_union_keeps_common_columns_and_the_left_header():
    right = NeuronSet.from_rows(
        ["de"], [0], [1], [6], values={"mlp.act.prob": [0.5]}, **{**SHAPE, "site": "mlp.neuron"}
    )
    union = example() | right
    assert list(union.values) == ["mlp.act.prob"]
    assert union.site == "mlp.act" and union.model_type == "llama"
    assert union.counts["de"] == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"num_layers": 4}, "num_layers"),
        ({"width": 9}, "width"),
        ({"site": "attn.q"}, "site"),
        ({"model_type": "gemma2"}, "model_type"),
    ],
)
def test_sets_of_other_shape_are_refused(change, field):
    other = example(**change)
    for combine in (NeuronSet.__and__, NeuronSet.__or__, NeuronSet.__sub__):
        with pytest.raises(MismatchError, match=f"'{field}'"):
            combine(example(), other)


@settings(max_examples=60, deadline=None)
@given(sets(), st.integers(0, 2**31))
def test_random_control_has_the_same_counts_and_other_neurons(neurons, seed):
    control = neurons.random_like(seed)
    assert control.layer_profile().equal(neurons.layer_profile())
    assert control == neurons.random_like(seed)
    # A layer has 8 neurons: with 4 or fewer owned there are enough others.
    profile = neurons.layer_profile()
    for name, layer, index in rows_of(control) & rows_of(neurons):
        assert int(profile[neurons.labels.index(name), layer]) > 4, (name, layer, index)
    for k in range(3):
        for layer in range(3):
            same, drawn = (
                sorted(s.values["mlp.neuron.mean"][(s.label == k) & (s.layer == layer)].tolist())
                for s in (neurons, control)
            )
            assert same == drawn


def test_random_control_differs_by_seed_and_says_what_it_is():
    control = example().random_like(3)
    assert control.method["name"] == "random" and control.method["parameters"] == {"seed": 3}
    assert control.method["like"]["name"] == "lape"
    assert len({example().random_like(seed).fingerprint for seed in range(5)}) > 1


def test_random_control_is_uniform():
    neurons = NeuronSet.from_rows(["a"], [0], [0], [0], site="mlp.act", num_layers=1, width=5)
    drawn = torch.cat([neurons.random_like(seed).index for seed in range(800)])
    counts = torch.bincount(drawn, minlength=5)
    assert counts[0] == 0 and counts[1:].min() > 140


def test_random_control_with_its_own_values():
    class Means:
        labels = ("ja", "C++", "fr", "empty")
        table = torch.arange(4 * 3 * 8.0).view(4, 3, 8)

        def has(self, reducer, site):
            return (reducer, site) == ("sum", "mlp.neuron")

        def mean(self, site):
            return self.table

    control = example().random_like(0, stats=Means())
    assert set(control.values) == {"mlp.neuron.means"} and control.means_of == Means.labels
    for row, value in zip(row_list(control), control.value("mean", "mlp.neuron"), strict=True):
        assert value == Means.table[Means.labels.index(row[0]), row[1], row[2]]
    with pytest.raises(LabelError, match="these statistics"):
        example().relabel({"fr": "xx"}).random_like(0, stats=Means())


def test_check_model():
    neurons = example()
    neurons.check_model("llama", 3, 8)
    neurons.check_model("llama", 3, [8, 8, 8])
    neurons.check_model(None, 3, 8)
    with pytest.raises(MismatchError, match="'model_type'.*llama.*gpt2"):
        neurons.check_model("gpt2", 3, 8)
    with pytest.raises(MismatchError, match="'num_layers'.*3.*4"):
        neurons.check_model("llama", 4, 8)
    with pytest.raises(MismatchError, match="'width'.*8 neurons.*16 in layer 1"):
        neurons.check_model("llama", 3, [8, 16, 8])


# --- disk -------------------------------------------------------------------------------------


def test_round_trip(tmp_path):
    neurons = example()
    assert neurons.save_pretrained(tmp_path / "new" / "set") == tmp_path / "new" / "set"
    loaded = NeuronSet.from_pretrained(tmp_path / "new" / "set")
    assert loaded == neurons and loaded.fingerprint == neurons.fingerprint
    assert sorted(os.listdir(tmp_path / "new" / "set")) == [
        "README.md",
        "adapter_config.json",
        "neurons.safetensors",
    ]


@settings(max_examples=25, deadline=None)
@given(sets())
def test_round_trip_of_anything(tmp_path_factory, neurons):
    folder = tmp_path_factory.mktemp("set")
    neurons.save_pretrained(folder)
    assert NeuronSet.from_pretrained(str(folder)) == neurons


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        example().save_pretrained(tmp_path / name)
    for file in os.listdir(tmp_path / "a"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_format_that_other_programs_rely_on(tmp_path):
    example().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text("utf-8"))
    assert config["peft_type"] == "NEURONSTEER" and config["task_type"] == "CAUSAL_LM"
    assert config["base_model_name_or_path"] == "org/base"
    assert config["base_model_revision"] == "abc"
    assert config["inference_mode"] is True
    assert {"target_modules", "peft_version"} <= set(config)
    block = config["neuronsteer"]
    assert block["format_version"] == "2.1"
    assert block["labels"] == ["fr", "ja", "empty", "C++"]
    assert set(block) >= {
        *("neuronsteer_version", "model_type", "num_layers", "width", "site", "method"),
        *("calibration", "operation", "schedule", "evaluation"),
    }
    columns = safetensors.torch.load_file(tmp_path / "neurons.safetensors")
    for name in ("label", "layer", "index"):
        assert columns[name].dtype == torch.int16
    assert columns["label"].tolist() == [0, 0, 1, 1, 3]
    assert set(columns) == {"label", "layer", "index", "score", *VALUES}


def test_wide_models_need_wider_integers(tmp_path):
    neurons = NeuronSet.from_rows(
        ["a"], [0], [0], [98303], site="mlp.act", num_layers=1, width=98304
    )
    neurons.save_pretrained(tmp_path)
    assert (
        safetensors.torch.load_file(tmp_path / "neurons.safetensors")["index"].dtype == torch.int32
    )
    assert NeuronSet.from_pretrained(tmp_path) == neurons


def test_a_seven_billion_set_fits_in_200_kilobytes(tmp_path):
    counts = torch.tensor([95, 583, 1022, 838, 836, 1068, 582])
    label = torch.repeat_interleave(torch.arange(7), counts)
    generator = torch.Generator().manual_seed(0)
    cells = torch.cat(
        [torch.randperm(32 * 11008, generator=generator)[:n] for n in counts.tolist()]
    )
    statistics = [f"mlp.neuron.{s}" for s in ("mean", "max", "other_mean")]
    statistics += [f"mlp.act.{s}" for s in ("mean", "max", "other_mean", "prob")]
    neurons = NeuronSet.from_rows(
        ["en", "zh", "fr", "es", "vi", "id", "ja"],
        label,
        cells // 11008,
        cells % 11008,
        torch.randn(len(label)),
        {name: torch.randn(len(label)) for name in statistics},
        site="mlp.act",
        num_layers=32,
        width=11008,
        base_model="meta-llama/Llama-2-7b-hf",
    )
    neurons.save_pretrained(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 200_000
    assert NeuronSet.from_pretrained(tmp_path) == neurons


def test_own_readme_is_left_alone(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    example().save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    (tmp_path / "README.md").unlink()
    example().save_pretrained(tmp_path)
    example().only("ja").save_pretrained(tmp_path)
    assert "Neurons of ja" in (tmp_path / "README.md").read_text("utf-8")


@pytest.fixture
def saved(tmp_path):
    example().save_pretrained(tmp_path / "set")
    return tmp_path / "set"


def rewrite_config(folder, change):
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text("utf-8"))
    change(config)
    path.write_text(json.dumps(config), "utf-8")


def rewrite_columns(folder, change):
    path = folder / "neurons.safetensors"
    columns = safetensors.torch.load_file(path)
    change(columns)
    # A copy: the loaded tensors are views of the file that is overwritten.
    safetensors.torch.save_file({name: c.clone() for name, c in columns.items()}, path)


CONFIG_DAMAGE = [
    (lambda c: c["neuronsteer"].update(format_version="3.0"), r"format_version' is '3\.0'.*Update"),
    (lambda c: c["neuronsteer"].update(format_version="0.9"), r"format_version' is '0\.9'"),
    (lambda c: c["neuronsteer"].update(format_version="new"), r"format_version' is 'new'"),
    (lambda c: c["neuronsteer"].pop("labels"), r"'neuronsteer\.labels' is missing"),
    (lambda c: c["neuronsteer"].pop("width"), r"'neuronsteer\.width' is missing"),
    (lambda c: c["neuronsteer"].update(labels=["fr", "ja"]), "'label': row 4 has 3"),
    (lambda c: c["neuronsteer"].update(labels=["fr"] * 4), "'labels' repeats 'fr'"),
    (lambda c: c["neuronsteer"].update(num_layers=2), "'layer': row 1 has 2"),
    (lambda c: c["neuronsteer"].update(width=7), "'index': row 4"),
    (lambda c: c["neuronsteer"].update(model_type=["llama"]), "'model_type'"),
    (lambda c: c["neuronsteer"].update(operation="zero"), "'operation'"),
    (lambda c: c.pop("neuronsteer"), "no block 'neuronsteer'"),
    (lambda c: c.update(neuronsteer=[1]), "no block 'neuronsteer'"),
]


@pytest.mark.parametrize(("damage", "message"), CONFIG_DAMAGE)
def test_damaged_config(saved, damage, message):
    rewrite_config(saved, damage)
    with pytest.raises(ArtifactError, match=message) as caught:
        NeuronSet.from_pretrained(saved)
    assert str(saved) in str(caught.value)


def test_unreadable_config(saved):
    path = saved / "adapter_config.json"
    text = path.read_text("utf-8")
    for content in (text[: len(text) // 2], "", "\xff"):
        path.write_text(content, "latin-1")
        with pytest.raises(ArtifactError, match=r"adapter_config\.json' is not readable JSON"):
            NeuronSet.from_pretrained(saved)
    path.write_text("[1, 2]")
    with pytest.raises(ArtifactError, match=r"holds a list; expected a JSON object"):
        NeuronSet.from_pretrained(saved)


def test_newer_minor_version_warns_and_loads(saved):
    rewrite_config(saved, lambda c: c["neuronsteer"].update(format_version="2.7", mood="good"))
    with pytest.warns(UserWarning, match=r"'mood'.*format 2\.7; update neuronsteer"):
        assert NeuronSet.from_pretrained(saved) == example()


def test_unknown_top_level_keys_belong_to_peft(saved, recwarn):
    rewrite_config(saved, lambda c: c.update(auto_mapping=None, revision=None, qalora=False))
    assert NeuronSet.from_pretrained(saved) == example()
    assert not recwarn.list


COLUMN_DAMAGE = [
    (lambda c: c.pop("layer"), "column layer missing"),
    (lambda c: (c.pop("label"), c.pop("score")), "columns label, score missing"),
    (lambda c: c.update(index=c["index"].float()), "'index' has dtype torch.float32"),
    (lambda c: c.update(score=c["label"]), "'score' has dtype torch.int16"),
    (lambda c: c["index"].__setitem__(1, 8), r"'index': row 1 \(label 'fr', layer 2\)"),
    (lambda c: c["index"].__setitem__(1, -1), "'index': row 1"),
    (lambda c: c["layer"].__setitem__(0, 3), "'layer': row 0"),
    (lambda c: c["label"].__setitem__(0, 4), "'label': row 0"),
    (lambda c: (c["layer"].zero_(), c["index"].zero_()), "Duplicate rows"),
    (lambda c: c["score"].__setitem__(2, float("nan")), "'score': 1 values are not finite"),
    (
        lambda c: c["mlp.act.prob"].__setitem__(2, float("inf")),
        r"'mlp\.act\.prob': 1 values are not finite",
    ),
    (lambda c: c.update(index=c["index"][:-1]), "'index' has 4 rows"),
    (lambda c: c.update(index=c["index"][None]), r"'index' has shape \[1, 5\]"),
    (lambda c: c.update(strange=c["score"]), "Value column 'strange'"),
]


@pytest.mark.parametrize(("damage", "message"), COLUMN_DAMAGE)
def test_damaged_columns(saved, damage, message):
    rewrite_columns(saved, damage)
    with pytest.raises(ArtifactError, match=message) as caught:
        NeuronSet.from_pretrained(saved)
    assert str(saved) in str(caught.value)


def test_unsorted_rows_of_other_writers_are_fine(saved):
    rewrite_columns(saved, lambda c: c.update({k: v.flip(0) for k, v in c.items()}))
    assert NeuronSet.from_pretrained(saved) == example()


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_tensor_file(saved, keep):
    path = saved / "neurons.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=r"neurons\.safetensors' cannot be read"):
        NeuronSet.from_pretrained(saved)


def test_files_of_two_sets_do_not_mix(saved, tmp_path):
    example().top(1).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "neurons.safetensors", saved)
    with pytest.raises(ArtifactError, match="'fingerprint'.*interrupted save"):
        NeuronSet.from_pretrained(saved)


def test_interrupted_save_leaves_the_old_set_or_a_refused_one(saved, monkeypatch):
    """Stop before each of the file operations in turn."""
    new = example().top(1)
    real, steps = os.replace, []

    def counting(*args):
        steps.append(args)
        real(*args)

    monkeypatch.setattr(os, "replace", counting)
    new.save_pretrained(saved)
    example().save_pretrained(saved)
    for stop in range(len(steps) // 2):
        left = [stop]

        def failing(*args, left=left):
            if left[0] == 0:
                raise OSError(28, "No space left on device")
            left[0] -= 1
            real(*args)

        monkeypatch.setattr(os, "replace", failing)
        with pytest.raises(HubError, match="No space left"):
            new.save_pretrained(saved)
        monkeypatch.setattr(os, "replace", real)
        try:
            assert NeuronSet.from_pretrained(saved) in (example(), new)
        except ArtifactError as error:
            assert "interrupted" in str(error)
        assert not [name for name in os.listdir(saved) if name.endswith(".tmp")]
        example().save_pretrained(saved)


def test_what_the_folder_really_is(tmp_path):
    cases = {
        "lora": ({"adapter_config.json": '{"peft_type": "LORA"}'}, "type LORA.*PeftModel"),
        "model": ({"config.json": "{}"}, "full model.*AutoModelForCausalLM"),
        "stats": ({"stats.safetensors": "", "stats.json": "{}"}, r"statistics.*Stats\.load"),
        "mask": ({"llama.pth": ""}, "neuronsteer convert"),
        "other": ({"notes.txt": ""}, "it has notes.txt"),
        "empty": ({}, "it has no files"),
        "half": ({"neurons.safetensors": ""}, "interrupted save or download"),
    }
    for name, (files, message) in cases.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        with pytest.raises(ArtifactError, match=message):
            NeuronSet.from_pretrained(tmp_path / name)


def test_missing_tensor_file(saved):
    (saved / "neurons.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"neurons\.safetensors is missing.*README\.md"):
        NeuronSet.from_pretrained(saved)


def test_subfolder(saved):
    assert NeuronSet.from_pretrained(saved.parent, subfolder="set") == example()
    with pytest.raises(HubError, match="no subfolder 'nope'"):
        NeuronSet.from_pretrained(saved.parent, subfolder="nope")


def test_errors_are_caught_as_builtins_too(saved):
    (saved / "neurons.safetensors").write_bytes(b"")
    with pytest.raises(ValueError):
        NeuronSet.from_pretrained(saved)
    with pytest.raises(OSError):
        NeuronSet.from_pretrained(saved / "nothing" / "here")
    assert issubclass(MismatchError, ArtifactError) and issubclass(ArtifactError, NeuronSteerError)
