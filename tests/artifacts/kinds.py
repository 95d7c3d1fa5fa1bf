"""What is damaged: one sound artifact of every kind, and all that a user does with a loaded one."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neuronsteer.codecs import open_codec
from neuronsteer.codecs.plain import Autoencoder, PlainCodec
from neuronsteer.enhancement import files as enhancement_files
from neuronsteer.enhancement.units import Units
from neuronsteer.evaluation.reports import Report
from neuronsteer.exports._safetensors_rewrite import INDEX, Checkpoint
from neuronsteer.neuron_set import NeuronSet, card
from neuronsteer.neuron_set.paper_masks import load_mask
from neuronsteer.neuron_set.peft_files import affine, remove
from neuronsteer.operations import OPERATIONS
from neuronsteer.stats import Stats
from neuronsteer.stats.needs import Need
from neuronsteer.stats.reducers.quantile import BINS
from neuronsteer.steering.schedule import Schedule

from ..evaluation.reports.test_reports import data as report_data
from ..tiny_models import tiny_model
from .mutations import Files, mutate, mutate_json, mutate_text

EVALUATION = {
    "results": [
        {
            "task": "forcing", "label": "fr", "metric": "success", "value": 0.9,
            "interval": [0.8, 0.95], "dataset": {"name": "own", "type": "x/own"},
            "controls": {"no steering": 0.1},
        }
    ]
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of artifact.

    Attributes:
        name: What it is.
        share: How many of a thousand mutations it gets.
        make: Return what is damaged: files, or a text or JSON value.
        damage: Return it damaged.
        use: Load it, do with it what users do; the second argument is an empty folder.
    """

    name: str
    share: int
    make: Callable[[Path], Any]
    damage: Callable[[Any, random.Random], Any]
    use: Callable[[Any, Path], None]


def read(folder: Path) -> Files:
    """Return the files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lay_out(files: Files, folder: Path) -> Path:
    """Write files into a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


# -- neuron sets -------------------------------------------------------------------------------


def _set() -> NeuronSet:
    torch.manual_seed(0)
    values = {"mlp.neuron.means": torch.randn(6, 2), "mlp.act.max": torch.rand(6)}
    # Two labels may own one neuron, whose means are then the same.
    values["mlp.neuron.means"][3] = values["mlp.neuron.means"][0]
    return NeuronSet.from_rows(
        ["en", "fr"], [0, 0, 0, 1, 1, 1], [0, 1, 3, 0, 2, 3], [3, 4, 5, 3, 0, 31],
        torch.rand(6), values, site="mlp.act", num_layers=4, width=32, widths=(32, 8, 32, 32),
        model_type="llama", base_model="org/base", means_of=("en", "fr"), source="prompt",
        method={"name": "lape", "parameters": {"rate": 0.01}},
        calibration={"en": {"corpus": "en.txt", "tokens": 10}, "fr": {"tokens": 12}},
        operation={"name": "add", "value": "diffmean", "factor": 2.0}, strengths={"fr": 0.5},
        switch={"strength": 1.5, "tokens": 6},
        schedule="en,24:fr", evaluation=EVALUATION, orphans=3,
    )  # fmt: skip


def _make_set(folder: Path) -> Files:
    _set().save_pretrained(folder)
    files = read(folder)
    del files["README.md"]
    config = json.loads(files["adapter_config.json"])
    # Without it damage is found by what the fields say, and not by a hash at the end.
    del config["neuronsteer"]["fingerprint"]
    return {**files, "adapter_config.json": json.dumps(config).encode()}


def _use_set(files: Files, folder: Path) -> None:
    neurons = NeuronSet.from_pretrained(lay_out(files, folder / "in"))
    summary = neurons.summary()
    assert repr(neurons) and card.render(summary, "me/set") and summary["counts"]
    assert card.render_index(["a"], summary, repo_id="me/set")
    neurons.table()
    neurons.only(neurons.labels[0]).top(1)
    neurons.random_like(0)
    assert (neurons | neurons).counts == neurons.counts
    if neurons.operation["name"] in OPERATIONS:
        affine(neurons, neurons.labels[-1], source="others")
    neurons.save_pretrained(folder / "out")
    assert NeuronSet.from_pretrained(folder / "out") == neurons


# -- statistics --------------------------------------------------------------------------------


def _make_stats(folder: Path) -> Files:
    torch.manual_seed(0)
    arrays = {
        Need("count", "mlp.act"): torch.randint(0, 9, (2, 3, 8)),
        Need("sum", "mlp.act"): torch.randn(2, 3, 8, dtype=torch.float64),
        Need("sumsq", "mlp.act"): torch.rand(2, 3, 8, dtype=torch.float64),
        Need("max", "mlp.act"): torch.rand(2, 3, 8),
        Need("quantile", "mlp.act"): torch.ones(2, 3, 8, BINS, dtype=torch.int64),
    }
    block = {"num_experts": 2, "expert_width": 4}
    Stats(
        labels=("en", "fr"),
        tokens={"en": 10, "fr": 20},
        texts={"en": 1, "fr": 2},
        site_widths={"mlp.act": (8, 8, 8), "mlp.neuron": (8, 8, 8)},
        arrays=arrays,
        rows={Need("responses", "mlp.act"): {"en": torch.rand(1, 3, 8), "fr": torch.rand(2, 3, 8)}},
        routed={"mlp.act": torch.ones(2, 3, 2, dtype=torch.int64)},
        weight_measures={Need("norm", "mlp.neuron"): torch.rand(3, 8)},
        header={
            "model_type": "llama", "base_model": "org/base", "revision": None, "gated": True,
            "widths": [8, 8, 8], "policy": {"window": 5}, "codec": None,
            "calibration": {"en": {"corpus": "en", "tokens": 10}},
            "experts": {"mlp.act": [block, None, block]},
        },
    ).save(folder)  # fmt: skip
    return read(folder)


def _use_stats(files: Files, folder: Path) -> None:
    stats = Stats.load(lay_out(files, folder / "in"))
    assert repr(stats) and stats.summary() and stats.widths and stats.width
    assert isinstance(stats.policy, dict)
    for need in stats.arrays:
        if need.reducer == "count":
            stats.probabilities(need.site)
        elif need.reducer == "sum":
            stats.mean(need.site)
            if stats.has("sumsq", need.site) and Need("sumsq", need.site) in stats.arrays:
                stats.std(need.site)
        elif need.reducer == "max":
            stats.max(need.site)
        elif need.reducer == "quantile":
            stats.median(need.site)
    part = stats.only(stats.labels[0])
    stats.check_same_model(part)
    stats.save(folder / "out")
    assert Stats.load(folder / "out").summary() == stats.summary()


# -- codecs ------------------------------------------------------------------------------------


def _make_codec(folder: Path) -> Files:
    torch.manual_seed(0)

    def layer(activation: str) -> Autoencoder:
        return Autoencoder(
            torch.randn(4, 6), torch.randn(6), torch.randn(6, 4), torch.randn(4), activation,
            k=2 if activation == "topk" else None,
            threshold=torch.rand(6) if activation == "jumprelu" else None,
        )  # fmt: skip

    PlainCodec({0: layer("topk"), 2: layer("jumprelu"), 3: layer("relu")}).save(folder)
    return read(folder)


def _use_codec(files: Files, folder: Path) -> None:
    codec = open_codec(lay_out(files, folder / "in"))
    for layer in codec.layers:
        width = codec.width(layer)
        directions = codec.directions(layer, torch.tensor([0, width - 1]) % max(width, 1))
        rows = directions.new_ones(3, directions.shape[1])
        features = codec.encode(layer, rows)
        assert features.shape == (3, width)
        assert codec.decode(layer, features).shape == rows.shape


# -- schedules ---------------------------------------------------------------------------------

SCHEDULES = (
    "en,24:fr,64:ja",
    "24~40:fr*0.5,repeat=64",
    "en,24-40:fr,prompt=yes",
    "-,sentence@24:fr,text=%3C/think%3E@3:ja",
    "en,24:(fr - en*0.5)*2,40:-",
    "fr@24,zh_Hans@30",
)


def _damage_schedule(texts: tuple[str, ...], chance: random.Random) -> Any:
    text = chance.choice(texts)
    if chance.random() < 0.3:
        return mutate_json(Schedule.parse(text).to_dict(), chance)
    return mutate_text(text, chance)


def _use_schedule(given: Any, _folder: Path) -> None:
    schedule = Schedule.parse(given) if isinstance(given, str) else Schedule.from_dict(given)
    assert Schedule.parse(str(schedule)) == schedule
    assert Schedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule
    assert hash(schedule) is not None and schedule.labels is not None
    schedule.spans(50)
    schedule.subtract_previous()


# -- reports -----------------------------------------------------------------------------------


def _make_report(_folder: Path) -> Files:
    return {"report.json": json.dumps(report_data()).encode()}


def _use_report(files: Files, folder: Path) -> None:
    report = Report.load(lay_out(files, folder / "in"))
    assert repr(report)
    report.to_markdown()
    report.to_html()
    report.to_card()
    neurons = _set().replace(evaluation=report.to_evaluation())
    card.render(neurons.summary(), "me/set")
    report.compare(report).to_markdown()
    report.save(folder / "out")
    assert Report.load(folder / "out").to_dict() == report.to_dict()


# -- enhancements ------------------------------------------------------------------------------


def _make_enhancement(folder: Path) -> Files:
    parts = [
        (Units("model.layers.0.mlp.down_proj", "columns", torch.tensor([1, 3])), torch.ones(2, 4)),
        (Units("model.layers.0.mlp.up_proj", "rows", torch.tensor([0])), torch.ones(1, 4)),
    ]
    enhancement_files.write(folder, {"model_type": "llama", "labels": ["fr"]}, parts)
    return read(folder)


def _use_enhancement(files: Files, folder: Path) -> None:
    _, parts = enhancement_files.read(lay_out(files, folder / "in"))
    assert all(len(each.index) == len(delta) for each, delta in parts)


# -- PEFT adapters -----------------------------------------------------------------------------

_MODEL: Any = None


def _make_adapter(folder: Path) -> Files:
    """Two files of an adapter of the tiny model, as `save_pretrained(peft=True)` writes them."""
    global _MODEL
    _MODEL = tiny_model("llama", layers=2, intermediate_size=32)
    neurons = NeuronSet.from_rows(
        ["fr"], [0, 0], [0, 1], [3, 4], site="mlp.act", num_layers=2, width=32, model_type="llama"
    )
    neurons.save_pretrained(folder, peft=True)
    files = read(folder)
    return {name: files[f"lang_fr/{name}"] for name in ("adapter_config.json",)}


def _use_adapter(files: Files, folder: Path) -> None:
    from neuronsteer.errors import ArtifactError
    from neuronsteer.hub import read_json
    from neuronsteer.integrations.peft import NeuronSteerConfig, NeuronSteerModel

    lay_out(files, folder)
    remove(folder)
    # PEFT reads this file itself; its own fields, and files that are no JSON, are PEFT's.
    found = read_json(folder / "adapter_config.json", ArtifactError)
    own = ("label", "neurons", "operation", "site", "model_type", "base_model_revision")
    config = NeuronSteerConfig(**{name: found[name] for name in own if name in found})
    json.dumps(config.to_dict(), default=list)
    wrapped = NeuronSteerModel(_MODEL, {"a": config}, "a")
    try:
        wrapped(torch.tensor([[1, 2]]))
    finally:
        wrapped.unload()


# -- checkpoints -------------------------------------------------------------------------------


def _make_checkpoint(folder: Path) -> Files:
    model = tiny_model("llama", layers=2, intermediate_size=32)
    model.save_pretrained(folder, max_shard_size="20KB")
    files = read(folder)
    assert INDEX in files
    return {name: files[name] for name in files if name == INDEX or name.endswith(".safetensors")}


def _use_checkpoint(files: Files, folder: Path) -> None:
    lay_out({"outside.safetensors": b"secret", "in/notes.txt": b"secret"}, folder)
    checkpoint = Checkpoint.of(lay_out(files, folder / "in"))
    assert checkpoint.files
    target = folder / "home" / "out"
    target.mkdir(parents=True)
    key = next(iter(checkpoint.where))
    edits = [] if checkpoint.check_dtype(key) is None else [lambda tensor: tensor.mul_(2)]
    try:
        checkpoint.read(key)
        checkpoint.rewrite(target, {key: edits}, {})
        again = Checkpoint.of(target)
        assert again.where == checkpoint.where
        assert (
            torch.equal(again.read(key), checkpoint.read(key) * 2)
            or checkpoint.read(key).isnan().any()
        )
    finally:
        written = [path for path in (folder / "home").rglob("*") if path.is_file()]
        assert all(target in path.parents for path in written)
        assert all(path.suffix in (".safetensors", ".json", ".part") for path in written)
        assert not any(path.read_bytes() == b"secret" for path in written)


# -- masks and counts of papers ----------------------------------------------------------------


def _make_paper_files(folder: Path) -> Files:
    torch.save([[torch.tensor([1, 5]), torch.tensor([0])], [[2], [3, 4]]], folder / "mask.pth")
    torch.save(list(torch.arange(64).view(2, 4, 8) % 3 == 0), folder / "flags.pth")
    for name, more in (("counts.pth", 5), ("prefix.pth", 0)):
        counts = {"n": 9 + more, "over_zero": torch.arange(6).view(2, 3) + more}
        torch.save(counts, folder / name)
    return read(folder)


def _use_paper_files(files: Files, folder: Path) -> None:
    paths = {name: lay_out(files, folder) / name for name in files}
    for name in ("mask.pth", "flags.pth"):
        if name in paths:
            neurons = load_mask(paths[name], ["en", "fr"], width=8)
            neurons.save_pretrained(folder / "set")
            assert NeuronSet.from_pretrained(folder / "set") == neurons
    if {"counts.pth", "prefix.pth"} <= set(paths):
        whole, off = {"en": paths["counts.pth"]}, {"en": paths["prefix.pth"]}
        stats = Stats.from_count_files(whole, subtract=off, clip=True)
        assert stats.probabilities().max() <= 1
        stats.save(folder / "stats")
        assert Stats.load(folder / "stats").summary() == stats.summary()


KINDS = (
    Kind("neuron sets", 200, _make_set, mutate, _use_set),
    Kind("statistics", 160, _make_stats, mutate, _use_stats),
    Kind("codecs", 120, _make_codec, mutate, _use_codec),
    Kind("schedules", 250, lambda _: SCHEDULES, _damage_schedule, _use_schedule),
    Kind("reports", 80, _make_report, mutate, _use_report),
    Kind("enhancements", 60, _make_enhancement, mutate, _use_enhancement),
    Kind("PEFT adapters", 50, _make_adapter, mutate, _use_adapter),
    Kind("checkpoints", 80, _make_checkpoint, mutate, _use_checkpoint),
    Kind("masks and counts", 60, _make_paper_files, mutate, _use_paper_files),
)


def empty(folder: Path) -> Path:
    """Return the folder without anything in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
