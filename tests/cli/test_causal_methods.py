"""Methods that measure while collecting, from the command line: PLND at two sites, and CRANE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from neuronsteer.neuron_set import NeuronSet
from neuronsteer.stats import Stats

from .conftest import Disk, Result

Call = Callable[..., Result]


@pytest.mark.parametrize(
    ("method", "site", "needs"),
    [
        ("plnd", "mlp.neuron", ["importance_min@mlp.neuron", "importance_rank@mlp.neuron"]),
        ("plnd", "attn.v", ["importance_min@attn.v", "importance_rank@attn.v"]),
        ("crane", "mlp.neuron", ["relevance_moments@mlp.neuron"]),
    ],
)
def test_collect_and_detect(
    call: Call, disk: Disk, tmp_path: Path, method: str, site: str, needs: list[str]
):
    stats, found = str(tmp_path / "stats"), str(tmp_path / "set")
    given = ["--method", method, "--set", f"site={site}"]
    done = call("collect", disk.model, "--texts", disk.texts, "-o", stats, "-q", *given, "--resume")
    assert done.code == 0, done.err
    assert [str(need) for need in Stats.load(stats).needs] == needs
    done = call("detect", stats, "-o", found, "-q", *given)
    assert done.code == 0, done.err
    neurons = NeuronSet.from_pretrained(found)
    assert neurons.site == site and neurons.method["name"] == method


def test_parameters_need_a_method(call: Call, disk: Disk, tmp_path: Path):
    out = str(tmp_path / "stats")
    done = call("collect", disk.model, "--texts", disk.texts, "-o", out, "--set", "site=attn.q")
    assert done.code == 2 and "--method" in done.err
    given = ["--method", "plnd", "--set", "sight=attn.q"]
    done = call("collect", disk.model, "--texts", disk.texts, "-o", out, *given)
    assert done.code == 2 and "site" in done.err
