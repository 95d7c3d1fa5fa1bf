"""`neuronsteer analyze`: what it takes, writes, says and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import neuronsteer as ns
from neuronsteer.analysis import ANALYSES

from .conftest import LABELS, Disk, Result

pytest.importorskip("matplotlib")

Call = Callable[..., Result]


@pytest.fixture(scope="module")
def other(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("sets") / "other"
    stats = ns.Stats.from_pretrained(disk.stats)
    ns.detect(stats, "effect", rate=0.1).save_pretrained(folder)
    stats.save(folder.parent / "stats2")
    return str(folder)


def test_a_set_is_analysed_in_every_way_there_is_material_for(
    call: Call, disk: Disk, tmp_path: Path
):
    done = call("analyze", disk.set, "-o", str(tmp_path / "out"), "--json", "-q")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert list(found) == ["layers", "overlap", "sharing"]
    neurons = ns.NeuronSet.from_pretrained(disk.set)
    assert found["layers"]["records"] == ns.analyze("layers", neurons).records()
    names = {f"{name}.{kind}" for name in found for kind in ("json", "png", "svg")}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    kept = json.loads((tmp_path / "out" / "overlap.json").read_text("utf-8"))
    assert kept == found["overlap"]


def test_tables_are_for_people(call: Call, disk: Disk, tmp_path: Path):
    done = call("analyze", disk.set, "--what", "layers,sharing")
    assert done.code == 0, done.err
    assert "Neurons per layer" in done.out and all(label in done.out for label in LABELS)
    assert "How many labels own a neuron" in done.out and "overlap" not in done.out.lower()
    done = call("analyze", disk.set, "--what", "layers", "-o", str(tmp_path), "--no-plots")
    assert [file.name for file in tmp_path.iterdir()] == ["layers.json"]
    assert str(tmp_path / "layers.json") in done.err.replace("\n", "")
    again = ("analyze", disk.set, "--what", "layers", "-o", str(tmp_path), "--no-plots", "-q")
    assert call(*again).code == 2 and call(*again, "--overwrite").code == 0
    (tmp_path / "notes.txt").touch()
    done = call("analyze", disk.set, "--what", "sharing", "-o", str(tmp_path), "--no-plots", "-q")
    assert done.code == 0 and (tmp_path / "sharing.json").exists()


def test_two_sets_or_two_statistics_are_compared(call: Call, disk: Disk, other: str):
    done = call("analyze", disk.set, other, "--what", "compare", "--json", "-q")
    assert done.code == 0, done.err
    sets = [ns.NeuronSet.from_pretrained(each) for each in (disk.set, other)]
    assert json.loads(done.out)["compare"]["records"] == ns.analyze("compare", *sets).records()

    again = str(Path(other).parent / "stats2")
    done = call("analyze", disk.stats, again, "--set", "rate=0.3", "--json", "-q")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    # Two layers cannot be divided into four parts: nobody asked for that by name.
    assert set(found) == {"compare", "stability"}
    assert {row["kept"] for row in found["compare"]["records"] if row["before"]} == {1.0}


def test_a_model_with_texts_is_read(call: Call, disk: Disk, tmp_path: Path):
    done = call(
        "analyze", "--model", disk.model, "--texts", disk.texts, "--what", "logit_lens", "--set",
        "top=3", "--set", "limit=4", "--set", "by=script", "--device", "cpu", "-o", str(tmp_path),
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "logit_lens.json").read_text("utf-8"))
    assert found["settings"]["parameters"]["top"] == 3
    assert found["facts"]["num_layers"] == 2 and found["facts"]["labels"] == list(LABELS)
    assert str(disk.root) not in json.dumps(found)

    done = call(
        "analyze", disk.set, "--model", disk.model, "--what", "identification", "--set",
        "identifier=null", "--texts", f"en={disk.texts}/en.txt", "--texts",
        f"fr={disk.texts}/fr.txt", "--set", "limit=8", "--json", "-q",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["identification"]["facts"]["labels"] == ["en", "fr"]


def test_what_is_left_out_is_said(call: Call, disk: Disk):
    done = call("analyze", disk.stats)
    assert done.code == 2 and "2 layers cannot be divided" in done.err
    assert "Left out divisions" in done.err


def test_the_list_names_every_analysis(call: Call):
    done = call("analyze", "--list", "--json")
    found = json.loads(done.out)
    assert list(found) == ANALYSES.names()
    assert found["logit_lens"]["needs"] == ["model", "tokenizer", "texts"]
    assert "top" in found["logit_lens"]["parameters"]
    done = call("analyze", "--list")
    assert done.code == 0 and "logit_lens" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to analyse"),
        (["SET", "--what", "layer"], "Did you mean 'layers'"),
        (["SET", "--what", "logit_lens"], "lacks model (a causal language model)"),
        (["SET", "--what", "divisions"], "lacks stats"),
        (["SET", "SET"], "same source was given twice"),
        (["SET", "STATS"], "one kind of them at a time"),
        (["SET", "--model", "MODEL"], "both --model and --texts"),
        (["SET", "--set", "seed"], "NAME=VALUE"),
        (["SET", "--set", "sed=1"], "Did you mean 'seed'"),
        (["SET", "--set", "permutations=0"], "permutations=0"),
        (["SET/nowhere"], "No folder"),
    ],
)
def test_mistakes_are_one_message(call: Call, disk: Disk, arguments: list[str], said: str):
    names = {"SET": disk.set, "STATS": disk.stats, "MODEL": disk.model}
    for name, path in names.items():
        arguments = [each.replace(name, path) for each in arguments]
    done = call("analyze", *arguments)
    assert done.code == 2 and not done.out
    assert said in " ".join(done.err.split()) and "Traceback" not in done.err
