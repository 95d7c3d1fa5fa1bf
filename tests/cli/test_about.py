"""Commands that tell what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.metadata import version

import pytest

import neuronsteer as ns

from .conftest import Disk, Result

Call = Callable[..., Result]


def test_help_teaches_every_command(call: Call):
    done = call("-h")
    assert done.code == 0
    names = re.findall(r"│ (\w+) {2,}\w", done.out)
    assert {"demo", "collect", "detect", "show", "generate", "convert", "doctor"} <= set(names)
    for name in names:
        done = call(name, "--help")
        assert done.code == 0
        assert f"neuronsteer {name}" in done.out.split("Examples")[1], f"{name} has no example"


def test_no_arguments_show_the_help(call: Call):
    assert "demo" in call().out


def test_version(call: Call):
    assert call("version").out.strip() == call("--version").out.strip() == ns.__version__
    if ns.__version__ != "0+unknown":  # a source tree that was never installed has none
        assert ns.__version__ == version("neuronsteer")


def test_doctor_reports_sites_and_hooks(call: Call, disk: Disk):
    done = call("doctor", disk.model)
    assert done.code == 0, done.err
    assert re.search(r"mlp\.neuron +2 +80 +yes", done.out)
    report = json.loads(call("doctor", disk.model, "--json").out)
    assert report["steerable"]
    assert report["sites"]["mlp.neuron"]["fired"]


def test_doctor_explains_in_json_too(call: Call, disk: Disk, monkeypatch: pytest.MonkeyPatch):
    problem = {"model_type": "x", "steerable": False, "problems": ["hooks never fire"], "sites": {}}
    monkeypatch.setattr("neuronsteer.models.diagnose", lambda _model: problem)
    done = call("doctor", disk.model, "--json")
    assert done.code == 2
    assert json.loads(done.out) == problem
    assert "hooks never fire" in done.err


def test_methods_lists_every_registry(call: Call):
    found = json.loads(call("methods", "--json").out)
    assert "lape" in found["detectors"]
    assert found["detectors"]["lape"]["parameters"]["rate"] == 0.01
    assert {"zero", "scale", "set", "add"} <= set(found["operations"])
    assert "llama" in found["layouts"]
    text = call("methods", "detectors").out
    assert "lape" in text
    assert "layouts" not in text
