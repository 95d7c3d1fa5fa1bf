"""Several processes give the counts of one, and fail together."""

import os
import subprocess
import sys

import pytest
import torch

import neuronsteer.stats as st
from tests.tiny_models import tiny_model, tiny_tokenizer

from .material import corpus, stop_after
from .processes import together

NEEDS = [*st.DEFAULT_NEEDS, "responses@mlp.act", "quantile@mlp.neuron", "last@mlp.neuron"]
DATA = corpus("a", "b", count=50)


def run(**options):
    options = {"needs": NEEDS, "progress": False, "data": DATA, "family": "llama"} | options
    data, family = options.pop("data"), options.pop("family")
    return st.collect(tiny_model(family), tiny_tokenizer(), data, **options)


def assert_equal(left, right):
    assert left.tokens == right.tokens
    assert left.texts == right.texts
    for need, array in left.arrays.items():
        if array.dtype == torch.float64:
            assert torch.allclose(array, right.arrays[need], rtol=1e-12, atol=1e-9)
        else:
            assert torch.equal(array, right.arrays[need]), need
    for need, rows in left.rows.items():
        for label in left.labels:
            assert torch.equal(rows[label], right.rows[need][label])
    for site, routed in left.routed.items():
        assert torch.equal(routed, right.routed[site])


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    "options", [{"batch_size": 4}, {"block_size": 32, "needs": ["count@mlp.act"], "batch_size": 2}]
)
def test_processes_give_the_counts_of_one(tmp_path, size, options):
    def task():
        run(**options).save(tmp_path / os.environ["RANK"])

    assert together(size, task) == [0] * size
    alone = run(**options)
    for rank in range(size):
        stats = st.Stats.load(tmp_path / str(rank))
        assert stats.header["execution"]["processes"] == size
        assert_equal(alone, stats)


def test_experts_are_reduced_too(tmp_path):
    options = {"family": "mixtral", "needs": ["count@mlp.act"], "batch_size": 4}
    assert together(2, lambda: run(**options).save(tmp_path / os.environ["RANK"])) == [0, 0]
    assert_equal(run(**options), st.Stats.load(tmp_path / "1"))


def test_more_processes_than_batches(tmp_path):
    data = {"x": ["one text"]}
    options = {"data": data}
    assert together(3, lambda: run(**options).save(tmp_path / os.environ["RANK"])) == [0] * 3
    assert_equal(run(data=data), st.Stats.load(tmp_path / "2"))


def test_one_failing_process_stops_all(tmp_path, capfd):
    def task():
        def stream():
            yield from DATA["b"]
            if os.environ["RANK"] == "1":
                raise OSError("the disk is gone")

        run(data={**DATA, "b": stream()})

    assert together(2, task) == [1, 1]
    errors = capfd.readouterr().err
    assert "Process 1 of 2 failed: OSError: the disk is gone" in errors


def test_processes_with_other_texts_are_an_error(capfd):
    def task():
        rank = int(os.environ["RANK"])
        run(data={**DATA, "b": [f"text of {rank}"]})

    assert together(2, task) == [1, 1]
    assert "differ in texts" in capfd.readouterr().err


def test_processes_resume(tmp_path):
    options = {"batch_size": 2, "checkpoint": tmp_path / "s", "checkpoint_every": 0}

    stop = stop_after(6, RuntimeError)
    assert together(2, lambda: run(**options, progress=stop)) == [1, 1]
    assert len(list((tmp_path / "s").iterdir())) >= 2

    # As if the second process had been killed before its first checkpoint.
    for path in (tmp_path / "s").glob("rank1-*"):
        path.unlink()

    def again():
        run(**options, resume=True).save(tmp_path / os.environ["RANK"])

    assert together(2, again) == [0, 0]
    assert_equal(run(batch_size=2), st.Stats.load(tmp_path / "0"))
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_under_torchrun_and_accelerate(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, torch\n"
        "torch.set_num_threads(1)\n"
        "from tests.stats.test_distributed import run\n"
        "run(batch_size=4).save(sys.argv[1] + os.environ['RANK'])\n"
    )
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    alone = run(batch_size=4)
    launchers = {
        "torchrun": ["-m", "torch.distributed.run", "--nproc_per_node", "2"],
        "accelerate": [
            *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
            *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        ],
    }
    for name, launcher in launchers.items():
        out = str(tmp_path / name)
        command = [sys.executable, *launcher, str(script), out]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-3000:]
        assert_equal(alone, st.Stats.load(out + "1"))
