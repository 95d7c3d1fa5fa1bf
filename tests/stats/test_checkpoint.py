"""A killed run resumes to the same bits; a checkpoint of another run is refused."""

import functools
import json
import random
import time
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

import neuronsteer.stats as st
from neuronsteer.errors import ParameterError, StatsError
from neuronsteer.stats.checkpoint import CollectionCheckpoint, Position
from tests.tiny_models import tiny_model, tiny_tokenizer

from .material import corpus, stop_after, texts
from .processes import kill_after

NEEDS = [
    "count@mlp.act",
    "sum@mlp.act",
    "max@mlp.neuron",
    "responses@mlp.neuron",
    "last@mlp.neuron",
]
DATA = corpus("a", "b", "c", count=40)


def run(folder, data=None, model=None, **options):
    options = {"needs": NEEDS, "progress": False, "batch_size": 2, "checkpoint_every": 0} | options
    return st.collect(
        model or tiny_model("llama"), tiny_tokenizer(), data or DATA, checkpoint=folder, **options
    )


def identical(left, right) -> bool:
    return (
        left.tokens == right.tokens
        and left.header == right.header
        and all(torch.equal(left.arrays[need], right.arrays[need]) for need in left.arrays)
        and all(
            torch.equal(rows[label], right.rows[need][label])
            for need, rows in left.rows.items()
            for label in left.labels
        )
    )


class Stop(Exception):
    pass


def interrupted(folder, batches, **options):
    with pytest.raises(Stop):
        run(folder, progress=stop_after(batches, Stop), **options)


@functools.cache
def batch_labels():
    """Return the label of every batch of a run."""
    events = []
    run(None, progress=events.append)
    return [event.label for event in events]


@pytest.fixture(scope="module")
def whole():
    return run(None)


def test_killed_at_any_moment_resumes_to_the_same_bits(tmp_path, whole):
    draw = random.Random(0)
    folder, out = tmp_path / "state", tmp_path / "stats"
    began = time.monotonic()
    run(tmp_path / "other")
    duration = time.monotonic() - began
    kills = 0
    while not (out / "stats.json").exists():
        # Early at first, then anywhere, and at last not at all.
        longest = 0.1 if kills < 3 else 0.5
        share = draw.uniform(0.01, longest) if kills < 25 else 99
        kills += kill_after(lambda: run(folder, resume=True, out=out), share * duration)
    assert kills >= 2
    assert identical(whole, st.Stats.load(out))
    # Killed between saving and cleaning up, there is nothing left to do but to clean up.
    assert identical(whole, run(folder, resume=True))
    assert not folder.exists()


@pytest.mark.parametrize("batches", [1, 2, 7, 19, 20, 21, 41])
def test_interrupted_after_any_batch(tmp_path, whole, batches):
    folder = tmp_path / "state"
    interrupted(folder, batches)
    events = []
    assert identical(whole, run(folder, resume=True, progress=events.append))
    # What was done is not done again. The event comes before the checkpoint.
    assert len(events) == len(batch_labels()) - (batches - 1)
    assert not folder.exists()


def test_packed_runs_with_a_budget_resume_too(tmp_path):
    options = {"block_size": 24, "max_tokens": 700, "needs": ["count@mlp.act", "sumsq@mlp.neuron"]}
    interrupted(tmp_path / "s", 9, **options)
    assert identical(run(None, **options), run(tmp_path / "s", resume=True, **options))


def test_generators_resume(tmp_path, whole):
    def data():
        return {label: (text for text in part) for label, part in DATA.items()}

    interrupted(tmp_path / "s", 30, data=data())
    again = run(tmp_path / "s", resume=True, data=data())
    assert torch.equal(again.get("count", "mlp.act"), whole.get("count", "mlp.act"))


def test_out_of_memory_is_remembered(tmp_path, monkeypatch):
    def scarce(module, limit=300):
        forward = module.forward

        def check(x):
            if x.shape[0] * x.shape[1] > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(x)

        monkeypatch.setattr(module, "forward", check)

    models = [tiny_model("llama"), tiny_model("llama")]
    for model in models:
        scarce(model.model.layers[1].mlp)
    want = run(None, model=models[0], batch_size=64)
    interrupted(tmp_path / "s", 3, model=models[0], batch_size=64)
    got = run(tmp_path / "s", resume=True, model=models[1], batch_size=64)
    assert torch.equal(want.get("sum", "mlp.act"), got.get("sum", "mlp.act"))


def test_an_interrupt_by_the_keyboard_keeps_the_work(tmp_path, whole):
    progress = stop_after(5, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "s", progress=progress, checkpoint_every=9999)
    events = []
    assert identical(whole, run(tmp_path / "s", resume=True, progress=events.append))
    assert len(events) == len(batch_labels()) - 5


def test_checkpoints_are_as_rare_as_asked(tmp_path):
    first = batch_labels().count("a")
    interrupted(tmp_path / "s", first, checkpoint_every=9999)
    assert not (tmp_path / "s").exists()
    interrupted(tmp_path / "s", first + 5, checkpoint_every=9999)  # one label is finished
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert names == ["rank0-of-1-label0.safetensors", "rank0-of-1.safetensors"]


def test_without_resume_a_run_starts_over(tmp_path, whole):
    interrupted(tmp_path / "s", 30)
    assert identical(whole, run(tmp_path / "s"))
    assert identical(whole, run(tmp_path / "s", resume=True))  # nothing to resume


OTHER = {**DATA, "a": [*DATA["a"][:-1], "another text"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": lambda: tiny_model("llama", seed=1)}, "weights was"),
        ({"model": lambda: tiny_model("llama", layers=3)}, "config was"),
        ({"model": lambda: tiny_model("mistral")}, "model was"),
        ({"max_length": 30}, "policy was"),
        ({"needs": ["count@mlp.act"]}, "needs was"),
        ({"batch_size": 3}, "batches was"),
        ({"data": {**DATA, "d": ["x"]}}, "texts was"),
        ({"data": {**DATA, "a": texts("a", 41)}}, "texts was"),
        ({"data": OTHER}, r"texts of label 'a' are not those"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, options, message):
    interrupted(tmp_path / "s", 5)
    if "model" in options:
        options = options | {"model": options["model"]()}
    with pytest.raises(StatsError, match=message):
        run(tmp_path / "s", resume=True, **options)
    assert list((tmp_path / "s").iterdir())  # and kept


def test_damaged_checkpoints_and_other_numbers_of_processes(tmp_path):
    folder = tmp_path / "s"
    interrupted(folder, 5)
    path = folder / "rank0-of-1.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(StatsError, match="damaged"):
        run(folder, resume=True)
    path.rename(folder / "rank0-of-2.safetensors")
    with pytest.raises(StatsError, match="another number of processes"):
        run(folder, resume=True)
    with pytest.raises(ParameterError, match="checkpoint_every"):
        run(folder, checkpoint_every=-1)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "its 'state' is None"),
        ("[" * 100_000, "its 'state' is"),
        ("[1]", r"its 'state' is '\[1\]'"),
        ({}, "was .* and is now"),
        ({"position": None}, "its 'position' is None"),
        ({"position": {"label": 0}}, "its 'position' is {'label': 0}"),
        ({"position": {**asdict(Position()), "label": "x"}}, "has label='x'"),
        ({"position": {**asdict(Position()), "window": -1}}, "has window=-1"),
    ],
    ids=["none", "deep", "list", "other", "no-position", "fields", "type", "range"],
)
def test_a_state_made_by_hand_is_named(tmp_path, state, message):
    made = CollectionCheckpoint(tmp_path, {"policy": 1}, 0, 1, 0)
    if isinstance(state, dict):
        fingerprint = {"fingerprint": {"policy": 1}} if state else {}
        state = json.dumps({**fingerprint, **state})
    metadata = {} if state is None else {"state": state}
    for name in ("rank0-of-1.safetensors", "rank0-of-1-label0.safetensors"):
        save_file({"x": torch.zeros(1)}, tmp_path / name, metadata)
    with pytest.raises(StatsError, match=message):
        made.read()
    if state is None:
        with pytest.raises(StatsError, match=message):
            made.read_finished(0)


def test_killed_while_cleaning_up(tmp_path, whole):
    first = batch_labels().count("a")
    interrupted(tmp_path / "s", first + 5)
    (tmp_path / "s" / "rank0-of-1.safetensors").unlink()
    assert identical(whole, run(tmp_path / "s", resume=True))
    assert not (tmp_path / "s").exists()


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_the_files_hold_no_half_written_state(tmp_path):
    interrupted(tmp_path / "s", 7)
    names = [path.name for path in (tmp_path / "s").iterdir()]
    assert not [name for name in names if name.startswith(".")]
    json.dumps(names)


def test_work_is_kept_when_saving_fails(tmp_path, whole):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StatsError, match="is a file"):
        run(tmp_path / "s", out=tmp_path / "taken")
    events = []
    run(tmp_path / "s", resume=True, out=tmp_path / "free", progress=events.append)
    assert not events
    assert identical(whole, st.Stats.load(tmp_path / "free"))
