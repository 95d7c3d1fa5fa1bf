"""Stopped at any point, a run resumes to the statistics of one that was never stopped."""

import errno
import os
import shutil

import pytest
import torch
import torch.distributed as dist

import neuronsteer.stats as st
from tests.tiny_models import tiny_model, tiny_tokenizer

from .interruptions import stopped_everywhere
from .processes import together
from .test_checkpoint import identical

NEEDS = ["count@mlp.act", "sum@mlp.neuron", "responses@mlp.neuron"]
# All rows are of one length, in batches of two. The x is what fills the memory: at the end of the
# second batch, so that it happens once more after a piece of the batch has been counted.
DATA = {
    "a": [f"word {letter} of one length" for letter in "bcdxe"],
    "b": [f"line {letter} of one length" for letter in "bcde"],
}
STOPS = {
    "killed": None,
    "exception": OSError(errno.ENOSPC, "No space left on device"),
    "interrupted": KeyboardInterrupt(),
}


class Memory:
    """Makes a model run out of memory in its second layer, unless rows with an x come alone."""

    def __init__(self, model):
        self.forward, self.ids = model.model.layers[1].mlp.forward, torch.empty(0)
        self.mark = tiny_tokenizer()("x", add_special_tokens=False)["input_ids"][-1]
        model.model.register_forward_pre_hook(self.look, with_kwargs=True)
        model.model.layers[1].mlp.forward = self.run_in_memory

    def look(self, _module, _args, kwargs):
        self.ids = kwargs["input_ids"]

    def run_in_memory(self, x):
        if len(self.ids) > 1 and bool((self.ids == self.mark).any()):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.forward(x)


def run(**options):
    model = tiny_model("llama")
    Memory(model)
    options = {"needs": NEEDS, "batch_size": 2, "progress": False} | options
    return st.collect(model, tiny_tokenizer(), DATA, **options)


def resumable(every=0):
    return run(checkpoint="state", resume=True, out="stats", checkpoint_every=every)


@pytest.fixture(scope="module")
def whole():
    return run()


def test_pieces_of_a_batch_count_as_the_batch(whole):
    plenty = st.collect(tiny_model("llama"), tiny_tokenizer(), DATA, needs=NEEDS, progress=False)
    # Two rows, then one that is filled up with copies of itself.
    assert whole.header["execution"]["out_of_memory"] == 2
    assert whole.tokens == plenty.tokens
    assert torch.equal(whole.get("count", "mlp.act"), plenty.get("count", "mlp.act"))
    for label in DATA:
        left, right = (s.responses("mlp.neuron")[label] for s in (whole, plenty))
        assert torch.allclose(left, right, atol=1e-5)


# A copy of the process for every line takes minutes, so `make test` leaves these out.
FORKS = [("exception", 0), ("interrupted", 0), ("interrupted", 9999)]


@pytest.mark.parametrize(
    ("stop", "every"),
    [("killed", 0), *(pytest.param(*each, marks=pytest.mark.exhaustive) for each in FORKS)],
)
def test_stopped_at_every_line(tmp_path, monkeypatch, record_property, whole, stop, every):
    here = tmp_path / "run"
    here.mkdir()
    monkeypatch.chdir(here)
    points = stopped_everywhere(lambda: resumable(every), STOPS[stop], tmp_path / "left")
    assert identical(whole, st.Stats.load("stats"))
    left = sorted((tmp_path / "left").iterdir())
    record_property("points", points)
    record_property("states", len(left))
    assert points > 300 and len(left) > 5
    for folder in left:
        monkeypatch.chdir(folder)
        assert identical(whole, resumable()), folder.name
        assert identical(whole, st.Stats.load("stats"))
        assert not (folder / "state").exists()


@pytest.mark.exhaustive
@pytest.mark.parametrize("stop", ["killed", "interrupted"])
@pytest.mark.parametrize("size", [2, 3])
def test_processes_stopped_at_every_line(tmp_path, monkeypatch, whole, size, stop):
    """Every state of every process is resumed from, beside some state of each other one.

    What a process leaves depends on itself alone, as it waits for the others only at the end, so
    that not every combination is needed. Exceptions leave what being killed there leaves.
    """
    here = tmp_path / "run"
    here.mkdir()
    monkeypatch.chdir(here)

    def stopped():
        # Not begun by collect, which would end it in every copy, for all of them.
        dist.init_process_group("gloo")
        rank = os.environ["RANK"]
        left = tmp_path / f"left{rank}"
        stopped_everywhere(resumable, STOPS[stop], left, files=f"rank{rank}-of-{size}")
        dist.destroy_process_group()

    assert together(size, stopped) == [0] * size
    want = st.Stats.load("stats")
    assert torch.equal(want.get("count", "mlp.act"), whole.get("count", "mlp.act"))
    left = [sorted((tmp_path / f"left{rank}").iterdir()) for rank in range(size)]
    assert all(len(states) > 3 for states in left)
    for number in range(max(map(len, left))):
        folder = tmp_path / f"resumed{number}"
        for rank, states in enumerate(left):
            # Far from each other, to begin with.
            state = states[(number + rank * len(states) // size) % len(states)]
            shutil.copytree(state, folder, dirs_exist_ok=True)
        monkeypatch.chdir(folder)
        assert together(size, resumable) == [0] * size, number
        assert identical(want, st.Stats.load("stats")), number
        assert not (folder / "state").exists()
