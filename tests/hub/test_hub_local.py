"""The package `hub` without a Hub: folders, shipped data, offline errors, atomic writing."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from huggingface_hub import errors as hf

from neuronsteer import hub
from neuronsteer.errors import HubError
from neuronsteer.neuron_set import NeuronSet

FILES = ("adapter_config.json",)


def test_local_folders_are_returned_as_they_are(tmp_path):
    assert hub.fetch(tmp_path, filenames=FILES) == tmp_path
    (tmp_path / "sub").mkdir()
    assert hub.fetch(str(tmp_path), filenames=FILES, subfolder="sub") == tmp_path / "sub"


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "set").mkdir()
    assert hub.fetch("~/set", filenames=FILES) == tmp_path / "set"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nothing", "No folder './nothing'"),
        ("/nothing/here", "cannot be a Hub repository id"),
        ("a/b/c", "cannot be a Hub repository id"),
        ("", "empty name"),
        ("owner/name with space", "cannot be a Hub repository id"),
        ("a..b/c", "cannot be a Hub repository id"),
    ],
)
def test_what_is_neither_folder_nor_repository(name, message):
    with pytest.raises(HubError, match=message):
        hub.fetch(name, filenames=FILES)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "mask.pth").write_text("")
    with pytest.raises(HubError, match="is a file"):
        hub.fetch(tmp_path / "mask.pth", filenames=FILES)


@pytest.mark.parametrize("offline", ["flag", "environment"])
def test_offline_and_not_cached(tmp_path, offline):
    """In a process of its own: huggingface_hub reads its environment once."""
    code = (
        "import sys\n"
        "from neuronsteer.hub import fetch\n"
        "from neuronsteer.errors import HubError\n"
        "try: fetch('owner/name', filenames=['a.json'], cache_dir=sys.argv[1],"
        f" local_files_only={offline == 'flag'})\n"
        "except HubError as error: print(error)\n"
        "assert 'torch' not in sys.modules, 'hub.py must stay light'\n"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": str(int(offline == "environment"))}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    assert "'owner/name' is not a local folder and not in the download cache" in done.stdout
    assert "pass the path of a folder" in done.stdout


def test_publish_offline():
    with pytest.raises(HubError, match="'owner/name'"):
        hub.Repository("owner/name")


def response(status):
    return SimpleNamespace(status_code=status, headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (hf.GatedRepoError("x", response=response(403)), "gated.*hf auth login"),
        (hf.RepositoryNotFoundError("x", response=response(404)), "private repository.*token="),
        (hf.RevisionNotFoundError("x", response=response(404)), "no revision 'v9'"),
        (hf.RemoteEntryNotFoundError("a.json", response=response(404)), "no file 'a.json'"),
        (hf.LocalEntryNotFoundError("x"), "not in the download cache"),
        (hf.OfflineModeIsEnabled("x"), "not in the download cache"),
        (hf.HFValidationError("no good name"), "no good name"),
        (hf.HfHubHTTPError("x", response=response(429)), "rate limit"),
        (hf.HfHubHTTPError("x", response=response(401)), r"refuses access .*\(401\)"),
        (hf.HfHubHTTPError("x", response=response(403)), r"refuses access .*\(403\)"),
        (hf.HfHubHTTPError("first\nsecond", response=response(400)), "on the Hub: first$"),
        (hf.HfHubHTTPError("x", response=response(503)), r"has a problem \(503\)"),
        (ConnectionError("cable cut"), "cable cut"),
    ],
)
def test_errors_say_what_to_do(error, message):
    translated = hub.hub_error(error, "owner/name", "v9")
    assert isinstance(translated, HubError) and isinstance(translated, OSError)
    with pytest.raises(HubError, match=message):
        raise translated
    assert "owner/name" in str(translated)


def test_shipped_sets_are_found_by_name(tmp_path, monkeypatch):
    shipped = tmp_path / "package"
    neurons = NeuronSet.from_rows(["a"], [0], [0], [0], site="mlp.act", num_layers=1, width=4)
    neurons.save_pretrained(shipped / "demo" / "lape")
    spec = type("Spec", (), {"submodule_search_locations": [str(shipped)]})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    assert NeuronSet.from_pretrained("demo/lape") == neurons
    assert NeuronSet.from_pretrained("demo", subfolder="lape") == neurons
    assert hub.builtin("demo/none") is None and hub.builtin("demo/../demo") is None
    assert hub.builtin("other") is None
    # A folder that only happens to have that name hides nothing; one with a set does.
    (work / "demo" / "lape").mkdir(parents=True)
    assert NeuronSet.from_pretrained("demo/lape") == neurons
    neurons.relabel({"a": "mine"}).save_pretrained(work / "demo" / "lape")
    assert NeuronSet.from_pretrained("demo/lape").labels == ("mine",)


@pytest.mark.parametrize("name", ["demo", "gemma"])
def test_an_incomplete_installation_says_so(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    with pytest.raises(HubError, match=f"not complete: it has no set '{name}'"):
        hub.fetch(name, filenames=FILES)


@pytest.mark.parametrize("place", ["package/ready_made", "model_cards"])
def test_ready_made_sets_are_in_the_package_or_beside_it(place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    spec = type("Spec", (), {"submodule_search_locations": [str(tmp_path / "package")]})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    (tmp_path / "package").mkdir()
    neurons = NeuronSet.from_rows(["a"], [0], [0], [0], site="mlp.act", num_layers=1, width=4)
    neurons.save_pretrained(tmp_path / place / "gemma-3-270m-languages")
    assert NeuronSet.from_pretrained("gemma") == neurons
    assert hub.builtin("gemma/../gemma") is None


def test_a_model_is_taken_from_where_it_was_laid_out(monkeypatch, tmp_path):
    monkeypatch.setenv("NEURONSTEER_MODELS", str(tmp_path))
    assert hub.shipped_model("gemma") == "google/gemma-3-270m"
    (tmp_path / "gemma").mkdir()
    (tmp_path / "gemma" / "config.json").touch()
    assert hub.shipped_model("gemma") == str(tmp_path / "gemma")
    assert hub.shipped_model("demo") is None and hub.shipped_model("other") is None


def test_the_package_is_searched_without_importing_the_demo():
    before = set(sys.modules)
    hub.builtin("demo/lape")
    assert not {name for name in set(sys.modules) - before if ".demo" in name}


def test_writing(tmp_path):
    folder = hub.write_folder(tmp_path / "a" / "b", {"x": b"1", "y": b"2"})
    assert (folder / "x").read_bytes() == b"1"
    hub.write_folder(folder, {"x": b"3"})
    assert sorted(os.listdir(folder)) == ["x", "y"] and (folder / "x").read_bytes() == b"3"
    plain = tmp_path / "plain"
    plain.write_text("")
    assert (folder / "x").stat().st_mode == plain.stat().st_mode


def test_what_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HubError, match="Cannot write to"):
        hub.write_folder(tmp_path / "file", {"x": b""})
    (tmp_path / "x").mkdir()
    with pytest.raises(HubError, match="Cannot write to"):
        hub.write_folder(tmp_path, {"x": b""})
    assert sorted(os.listdir(tmp_path)) == ["file", "x"]
