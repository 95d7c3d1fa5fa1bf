"""`serve` checks what it can before vLLM starts, and says what it would run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Disk, Result

Call = Callable[..., Result]


def command(text: str) -> tuple[dict, list[str]]:
    """Return the environment and arguments of a shell line."""
    words = shlex.split(text)
    env = dict(w.split("=", 1) for w in words[: words.index("python")])
    return env, words[words.index("python") :]


def config(arguments: list[str]) -> dict:
    return json.loads(arguments[arguments.index("--additional-config") + 1])["neuronsteer"]


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)


def test_show_prints_the_command(disk: Disk, call: Call):
    done = call("serve", disk.model, f"a={disk.set}", "--default", "fr", "--show", "--port", "81")
    assert (done.code, done.err) == (0, "")
    env, arguments = command(done.out)
    assert env == {}
    assert arguments[:5] == [
        "python", "-m", "vllm.entrypoints.openai.api_server", "--model", disk.model,
    ]  # fmt: skip
    assert config(arguments) == {
        "sets": {"a": {"source": disk.set}},
        "capacity": 64,
        "default": "fr",
    }
    assert arguments[-2:] == ["--port", "81"]


def test_the_source_is_passed_on_where_it_means_something(disk: Disk, call: Call, tmp_path: Path):
    import neuronsteer as ns

    found = ns.NeuronSet.from_pretrained(disk.set)
    found.replace(operation={"name": "add", "value": "diffmean"}).save_pretrained(tmp_path / "add")
    label, other = found.labels[:2]
    options = ["--default", label, "--show", "--source", other]
    done = call("serve", disk.model, str(tmp_path / "add"), *options)
    assert (done.code, done.err) == (0, "")
    assert config(command(done.out)[1])["source"] == other
    done = call("serve", disk.model, str(tmp_path / "add"), *options, "--source", label)
    assert config(command(done.out)[1])["source"] == [other, label]
    for given, message in (("xx", "Unknown label 'xx'"), ("prompt", "which a server cannot read")):
        done = call("serve", disk.model, str(tmp_path / "add"), "--show", "--source", given)
        assert done.code == 2 and message in done.err
    done = call("serve", disk.model, disk.set, "--show", "--source", other)
    assert done.code == 2 and "makes no difference" in done.err


def test_capacity_follows_the_sets_or_the_user(disk: Disk, call: Call):
    done = call("serve", disk.model, disk.set, "--show", "--capacity", "5")
    assert config(command(done.out)[1])["capacity"] == 5
    done = call("serve", disk.model, disk.set, "--show", "--capacity", "1")
    assert (done.code, done.out) == (2, "")
    assert "tables hold 1" in done.err


def test_a_language_can_be_kept_with_and_without_sets(disk: Disk, call: Call):
    done = call("serve", disk.model, "--keep", "en,24:ko", "--show", "--port", "81")
    assert (done.code, done.err) == (0, "")
    _, arguments = command(done.out)
    found = config(arguments)
    assert (found["sets"], found["keep"]) == ({}, {"language": "en,24:ko"})
    assert arguments[-2:] == ["--port", "81"]
    keep = ["--keep", "ko", "--thinking", "en"]
    found = config(command(call("serve", disk.model, f"a={disk.set}", *keep, "--show").out)[1])
    assert found["keep"] == {"language": "ko", "thinking": "en"}
    assert list(found["sets"]) == ["a"]


def test_routes_are_opt_in_and_keep_other_plugins(
    disk: Disk, call: Call, monkeypatch: pytest.MonkeyPatch
):
    env, _ = command(call("serve", disk.model, disk.set, "--show", "--manage").out)
    assert {"neuronsteer", "neuronsteer-sets"} <= set(env["VLLM_PLUGINS"].split(","))
    monkeypatch.setenv("VLLM_PLUGINS", "mine")
    env, _ = command(call("serve", disk.model, disk.set, "--show").out)
    assert env["VLLM_PLUGINS"] == "mine,neuronsteer"


def test_the_embedded_model_is_called_demo(call: Call):
    done = call("serve", "demo", "demo", "--show")
    _, arguments = command(done.out)
    assert arguments[-2:] == ["--served-model-name", "demo"]
    assert list(config(arguments)["sets"]) == ["demo"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "--port", "81"], "Name at least one neuron set"),
        (["{model}", "--keep", "korean"], "'korean' is not the code of a language"),
        (["{model}", "--keep", "en,sentence:ko"], "waits for text"),
        (["{model}", "--keep", "ko", "--thinking", "none"], "'none' is not the code"),
        (["{model}", "{set}", "--thinking", "en"], "beside --keep"),
        (["{model}", "--keep", "ko", "--manage"], "none is named"),
        (["{model}", "--keep", "ko", "--default", "fr"], "none is named"),
        (["{model}", "{set}", "--default", "xx"], "Unknown label 'xx'"),
        (["{model}", "/nowhere/set"], "/nowhere/set"),
        (["{model}", "{set}", "{set}"], "Two neuron sets are called 'set'"),
        (["{model}", "{set}", "--additional-config", "{{}}"], "cannot be given as well"),
    ],
)
def test_mistakes_are_told_before_vllm_starts(disk: Disk, call: Call, arguments, message):
    done = call("serve", *(each.format(model=disk.model, set=disk.set) for each in arguments))
    assert (done.code, done.out) == (2, "")
    assert message in done.err and "Traceback" not in done.err


def test_without_vllm_the_extra_is_named(disk: Disk, call: Call, monkeypatch: pytest.MonkeyPatch):
    import sys

    monkeypatch.setitem(sys.modules, "vllm", None)
    done = call("serve", disk.model, disk.set)
    assert done.code == 2
    assert "pip install 'neuronsteer[vllm]'" in done.err
