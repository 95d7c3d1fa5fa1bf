"""Importing masks that papers published."""

import json
import pickle
import zipfile

import pytest
import torch

from neuronsteer.errors import ArtifactError, LabelError, ParameterError
from neuronsteer.neuron_set import NeuronSet
from neuronsteer.neuron_set.paper_masks import load_mask

INDICES = [
    [torch.tensor([1, 5]), torch.tensor([], dtype=torch.int64), torch.tensor([0])],
    [torch.tensor([5]), torch.tensor([2, 3]), torch.tensor([], dtype=torch.int64)],
]
ROWS = {("en", 0, 1), ("en", 0, 5), ("en", 2, 0), ("zh", 0, 5), ("zh", 1, 2), ("zh", 1, 3)}


def rows_of(neurons):
    names = [neurons.labels[k] for k in neurons.label.tolist()]
    return set(zip(names, neurons.layer.tolist(), neurons.index.tolist(), strict=True))


def booleans(indices, width=8):
    return [
        [torch.zeros(width, dtype=torch.bool).index_fill(0, i, True) for i in m] for m in indices
    ]


@pytest.fixture
def save(tmp_path):
    def write(content):
        torch.save(content, tmp_path / "mask.pth")
        return tmp_path / "mask.pth"

    return write


@pytest.mark.parametrize(
    "content",
    [
        INDICES,
        tuple(tuple(mask) for mask in INDICES),
        [[i.int() for i in mask] for mask in INDICES],
        [[i.tolist() for i in mask] for mask in INDICES],
        [[i.float() if not len(i) else i for i in mask] for mask in INDICES],
        booleans(INDICES),
        torch.stack([torch.stack(mask) for mask in booleans(INDICES)]),
        [torch.stack(mask) for mask in booleans(INDICES)],
        {"zh": INDICES[1], "en": INDICES[0], "xx": INDICES[0]},
        {"en": dict(enumerate(INDICES[0])), "zh": {str(k): t for k, t in enumerate(INDICES[1])}},
    ],
)
def test_every_layout(save, content):
    neurons = load_mask(save(content), ["en", "zh"], width=8, model_type="llama", base_model="o/b")
    assert rows_of(neurons) == ROWS
    assert neurons.labels == ("en", "zh")
    assert (neurons.num_layers, neurons.width, neurons.site) == (3, 8, "mlp.act")
    assert (neurons.model_type, neurons.base_model) == ("llama", "o/b")
    assert neurons.operation == {"name": "zero"}
    assert neurons.method == {"name": "imported", "parameters": {"file": "mask.pth"}}


@pytest.mark.parametrize(
    "content", [INDICES[0], booleans(INDICES)[0], torch.stack(booleans(INDICES)[0])]
)
def test_one_label_saved_without_the_outer_list(save, content):
    assert rows_of(load_mask(save(content), ["en"], width=8)) == {r for r in ROWS if r[0] == "en"}


def test_saved_set_round_trips(save, tmp_path):
    neurons = load_mask(save(INDICES), ["en", "zh"], width=8)
    neurons.save_pretrained(tmp_path / "set")
    assert NeuronSet.from_pretrained(tmp_path / "set") == neurons


def test_fewer_or_more_masks_than_labels(save):
    path = save(INDICES)
    with pytest.raises(LabelError, match=r"masks of 2 labels, but 3 were named \(en, zh, fr\)"):
        load_mask(path, ["en", "zh", "fr"], width=8)
    with pytest.raises(LabelError, match="masks of 2 labels, but 1 was named"):
        load_mask(path, ["en"], width=8)
    with pytest.raises(LabelError, match="names its masks en, and none is 'fr'"):
        load_mask(save({"en": INDICES[0]}), ["fr"], width=8)
    with pytest.raises(ParameterError, match="expected a list of names"):
        load_mask(path, "en,zh", width=8)


def test_width_must_come_from_somewhere(save, tmp_path):
    path = save(INDICES)
    with pytest.raises(ParameterError, match="width=.*base_model="):
        load_mask(path, ["en", "zh"])
    assert load_mask(save(booleans(INDICES)), ["en", "zh"]).width == 8
    model = tmp_path / "model"
    model.mkdir()
    config = {"model_type": "llama", "intermediate_size": 24, "num_hidden_layers": 3}
    (model / "config.json").write_text(json.dumps(config))
    neurons = load_mask(save(INDICES), ["en", "zh"], base_model=str(model))
    assert (neurons.width, neurons.model_type) == (24, "llama")
    (model / "config.json").write_text(json.dumps({"model_type": "bloom", "hidden_size": 16}))
    assert load_mask(path, ["en", "zh"], base_model=str(model)).width == 64
    (model / "config.json").unlink()
    with pytest.raises(ArtifactError, match=r"config.json|cannot be read"):
        load_mask(path, ["en", "zh"], base_model=str(model))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([INDICES[0], INDICES[1][:2]], "2, 3 layers"),
        ([[torch.tensor([9])], [torch.tensor([0])]], "mask.pth: Field 'index'.*neuron 9"),
        ([[torch.tensor([1, 1])], [torch.tensor([0])]], "mask.pth: Duplicate"),
        ([[torch.tensor([0.5])], [torch.tensor([0])]], "'en', layer 0: dtype torch.float32"),
        ([[torch.zeros(2, 2).long()], [torch.tensor([0])]], r"layer 0: found \[2, 2\]"),
        ([["x"], ["y"]], "layer 0: found str"),
        ([7, 8], "'en': found int"),
        ([[], []], "found list"),
        (torch.zeros(2, 3, 8), "torch.float32 tensor"),
        (torch.zeros(2, 3, 4, 8).bool(), r"shape \[3, 4, 8\]"),
        ("text", "holds a str"),
        ({"en": {"q": INDICES[0][0]}, "zh": INDICES[1]}, "keys are not layer numbers"),
        ({"en": {1: INDICES[0][0]}, "zh": INDICES[1]}, r"layers \[1\] only"),
        (booleans(INDICES, width=9), "width 9, but width=8"),
    ],
)
def test_what_is_no_mask(save, content, message):
    with pytest.raises(ArtifactError, match=message):
        load_mask(save(content), ["en", "zh"], width=8)


def test_layer_count_is_checked(save):
    with pytest.raises(ArtifactError, match="3 layers; expected 32"):
        load_mask(save(INDICES), ["en", "zh"], width=8, num_layers=32)


def test_files_that_are_no_torch_files(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        load_mask(tmp_path / "none.pth", ["en"], width=8)
    with pytest.raises(ArtifactError, match="is a folder"):
        load_mask(tmp_path, ["en"], width=8)
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ArtifactError, match="cannot be read as tensors"):
        load_mask(tmp_path / "text.pth", ["en"], width=8)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the file ran code')",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_file_is_never_run(save, tmp_path):
    with pytest.raises(ArtifactError, match="never unpickled"):
        load_mask(save([Evil()]), ["en"], width=8)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(ArtifactError, match="never unpickled"):
        load_mask(tmp_path / "evil.pth", ["en"], width=8)


def shared(times):
    """Nested lists that are small only as long as what they share is kept once."""
    found = [torch.zeros(1_000, dtype=torch.bool)]
    for _ in range(times):
        found = [found, found]
    return found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(1, dtype=torch.bool).expand(2, 32, 10**9), "repeats its data"),
        (torch.zeros(10**12, 0, dtype=torch.bool), "repeat lists or tensors"),
        ([[torch.zeros(1_000, dtype=torch.bool)] * 1_000] * 2, "repeat lists or tensors"),
        (shared(30), "deeper than 8 levels"),
        ([[torch.tensor([1]).to_sparse()]] * 2, "not a plain tensor"),
        ([[torch.empty(3, device="meta")]] * 2, "not a plain tensor"),
        ([[[10**30]]] * 2, "more than 64 bits"),
        (bytearray(100), "not a plain tensor"),
    ],
    ids=["strides", "rows", "shared", "nested", "sparse", "meta", "huge", "bytes"],
)
def test_small_files_cannot_ask_for_much(save, content, message):
    path = save(content)
    assert path.stat().st_size < 10_000
    with pytest.raises(ArtifactError, match=f"mask.pth cannot be read as tensors: .*{message}"):
        load_mask(path, ["en", "zh"], width=8)


def repacked(path, change, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", method) as new:
        for name, content in entries.items():
            new.writestr(name, change(name, content))
    return path


def test_archives_are_read_as_torch_writes_them(save):
    path = repacked(save(INDICES), lambda _, content: content)
    assert rows_of(load_mask(path, ["en", "zh"], width=8)) == ROWS
    with pytest.raises(ArtifactError, match="is compressed, which torch.save never does"):
        load_mask(repacked(path, lambda _, c: c, zipfile.ZIP_DEFLATED), ["en", "zh"], width=8)

    def shorter(name, content):
        return content[:-1] if "/data/" in name else content

    # torch itself reads beyond the end of such data.
    with pytest.raises(ArtifactError, match="the data of a tensor are 1 elements"):
        load_mask(repacked(save(INDICES), shorter), ["en", "zh"], width=8)


def test_views_are_read_with_their_strides(save):
    flags = torch.stack([torch.stack(mask) for mask in booleans(INDICES)])
    turned = flags.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    parts = [list(mask.unbind()) for mask in turned]
    assert not parts[0][0].is_contiguous()
    for content in (turned, parts, flags[:, :, :]):
        assert rows_of(load_mask(save(content), ["en", "zh"])) == ROWS
