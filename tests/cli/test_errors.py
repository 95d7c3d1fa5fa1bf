"""What a user can get wrong is one message on stderr, exit code 2, and no traceback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer

from neuronsteer.cli import commands

from ..tiny_models import tiny_model
from .conftest import Disk, Result

Call = Callable[..., Result]

# Words that start with @ are replaced: @model, @set, @stats, @texts, @tmp.
CASES = {
    "model path": ("doctor ./nowhere", "No folder './nowhere'"),
    "misspelt model path": ("doctor @root/modle", "Did you mean 'model'"),
    "model not on the hub": ("doctor someone/something", "not in the download cache"),
    "model without owner": ("doctor nothing-of-this-name", "not in the download cache"),
    "misspelt model beside it": ("doctor modle", "Did you mean 'model'"),
    "misspelt set": ("show ste", "No folder 'ste'.*Did you mean 'set'"),
    "misspelt set to steer with": ("generate @model ste --to fr -p x", "Did you mean 'set'"),
    "misspelt statistics": ("detect stast -o @tmp/n", "No folder 'stast'.*Did you mean 'stats'"),
    "misspelt sources": ("analyze stast", "Did you mean 'stats'"),
    "misspelt model to bake": ("bake modle @set --to fr -o @tmp/n", "Did you mean 'model'"),
    "model is a file": ("doctor @texts/en.txt", "is a file"),
    "model is a set": ("generate @set @model --to fr -p x", "holds a full model"),
    "model without config": ("doctor @texts", "config.json is missing"),
    "no such device": ("doctor @model --device gpu7", "Cannot use the device 'gpu7'"),
    "no such dtype": ("doctor @model --dtype float23", "Did you mean 'float32'"),
    "set path": ("show ./nowhere", "No folder './nowhere'"),
    "set is a model": ("show @model", "holds a full model"),
    "set is statistics": ("show @stats", "holds statistics"),
    "label": ("generate @model @set --to rf -p x", "Unknown label 'rf'.*Did you mean 'fr'"),
    "label in schedule": ("generate @model @set --schedule en,3:xx -p x", "Unknown label 'xx'"),
    "label to leave": ("generate @model @set --to fr --away-from e -p x", "Unknown label 'e'"),
    "schedule": ("generate @model @set --schedule en,x -p x", "schedule 'en,x'"),
    "to and schedule": ("generate @model @set --to fr --schedule fr -p x", "exclude each other"),
    "nothing to do": ("generate @model @set -p x", "Say what to steer to.*en, fr, ja"),
    "no set": ("generate @model --to fr -p x", "neuron set is missing.*--keep LANGUAGE"),
    "no language": ("generate @model --keep korean -p x", "'korean' is not the code"),
    "no prompt": ("generate @model @set --to fr", "prompt is missing"),
    "empty prompt": ("generate @model @set --to fr -p ''", "prompt is empty"),
    "json and stream": ("generate @model @set --to fr -p x --json --stream", "choose"),
    "operation": ("generate @model @set --to fr -p x --operation sett", "Did you mean 'set'"),
    "value": ("generate @model @set --to fr -p x --operation set --value men", "--value 'men'"),
    "scale by a word": (
        "generate @model @set --to fr -p x --operation scale --value max",
        "number",
    ),
    "strength": ("generate @model @set --to fr -p x --operation zero --strength 2", "Strength 2"),
    "no texts": ("collect @model -o @tmp/s", "--texts, or --answers"),
    "texts and answers": (
        "collect @model --texts @texts --answers @texts -o @tmp/s",
        "--texts, or --answers",
    ),
    "texts path": ("collect @model --texts ./nowhere -o @tmp/s", "does not exist"),
    "texts without label": ("collect @model --texts a=x.txt --texts y.txt -o @tmp/s", "LABEL=FILE"),
    "texts twice": ("collect @model --texts a=x --texts a=y -o @tmp/s", "'a' twice"),
    "hub address": ("collect @model --texts a=hf://x -o @tmp/s", "hf://owner/dataset"),
    "text encoding": ("collect @model --texts @tmp/latin -o @tmp/s -q", "line 1 is not UTF-8"),
    "empty corpus": ("collect @model --texts @tmp/empty -o @tmp/s -q", "'fr'.*holds no text"),
    "label without tokens": (
        "collect @model --texts @texts --max-length 1 -o @tmp/s -q",
        "none of the tokens .* counts",
    ),
    "collect method": (
        "collect @model --texts @texts --method lap -o @tmp/s",
        "Did you mean 'lape'",
    ),
    "statistics path": ("detect ./nowhere -o @tmp/n", "nowhere"),
    "statistics are a set": ("detect @set -o @tmp/n", "statistics"),
    "method": ("detect @stats --method lap -o @tmp/n", "Did you mean 'lape'"),
    "rate": ("detect @stats --method lape --rate 7 -o @tmp/n", "--rate 7"),
    "rate of nothing": ("detect @stats --rate 0.1 -o @tmp/n", "selects no .* --method effect"),
    "parameter": (
        "detect @stats --method lape --set fliter=0.5 -o @tmp/n", "Did you mean 'filter'"
    ),
    "parameter without value": ("detect @stats --set filter -o @tmp/n", "NAME=VALUE"),
    "label to detect": ("detect @stats --labels en,jp -o @tmp/n", "jp"),
    "one label": ("detect @stats --labels en -o @tmp/n", "'diffmean' compares labels"),
    "output is a file": ("detect @stats -o @texts/en.txt", "en.txt' is a file"),
    "set over statistics": ("detect @stats -o @stats", "holds statistics; expected .* set"),
    "set over statistics, insisting": ("detect @stats -o @stats --overwrite", "holds statistics"),
    "set over a set": ("detect @stats -o @set", "neuron set already.* --overwrite replaces"),
    "set over texts": ("detect @stats -o @texts", "holds en.txt, fr.txt, ja.txt; expected"),
    "tuned set over a set": ("tune @model @set -o @set", "--resume goes|--overwrite"),
    "converted set over a set": (
        "convert @tmp/mask.pth --labels a,b --width 80 -o @set", "--overwrite replaces"
    ),
    "pulled set over a model": ("pull ann/set -o @model", "holds a model; expected .* set"),
    "statistics again": ("collect @model --texts @texts -o @stats", "already.*--overwrite"),
    "statistics over a set": ("collect @model --texts @texts -o @set --resume", "holds a neuron"),
    "unfinished statistics": (
        "collect @model --texts @texts -o @tmp/half", "run. --resume goes on with it; --over"
    ),
    "report over a set": ("evaluate @model @set -o @set", "holds a neuron set; expected"),
    "analyses over a set": ("analyze @set --what layers -o @set", "holds a neuron set; expected"),
    "plot over a file": ("tune @model @set --plot @texts/en.txt", "en.txt' is a file already"),
    "no width": ("convert @tmp/mask.pth --labels a,b -o @tmp/n", "with --width, or --base to"),
    "no config": (
        "convert @tmp/mask.pth --labels a,b --base ./no -o @tmp/n", "--width and --model-type"
    ),
    "misspelt base": ("convert @tmp/mask.pth --labels a,b --base modle -o @tmp/n", "'model'"),
    "mask path": ("convert ./no.pth --labels a --width 80 -o @tmp/n", "no.pth"),
    "mask is no mask": ("convert @texts/en.txt --labels a --width 80 -o @tmp/n", "cannot be read"),
    "fewer masks than labels": (
        "convert @tmp/mask.pth --labels a,b,c --width 80 -o @tmp/n",
        "2 labels.*3 were named",
    ),
    "empty label name": ("convert @tmp/mask.pth --labels a, --width 80 -o @tmp/n", "empty name"),
    "kind of plugin": ("methods detectosr", "Did you mean 'detectors'"),
    "demo set of another model": ("demo --model @model", "needs --set"),
    "unknown option": ("show @set --jsn", "No such option"),
    "unknown command": ("shwo @set", "No such command"),
    "missing argument": ("generate", "Missing argument"),
}  # fmt: skip


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Files that are wrong in one way each."""
    (tmp_path / "latin").mkdir()
    (tmp_path / "latin" / "fr.txt").write_bytes("été\n".encode("latin-1"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "fr.txt").write_text("\n\n")
    mask = [[torch.tensor([1]), torch.tensor([2])]] * 2
    torch.save(mask, tmp_path / "mask.pth")
    (tmp_path / "half.partial").mkdir()
    return tmp_path


@pytest.mark.parametrize("case", CASES)
def test_mistakes_are_explained(
    call: Call, disk: Disk, scratch: Path, case: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(disk.root)
    line, message = CASES[case]
    for mark, path in (
        ("@model", disk.model), ("@set", disk.set), ("@stats", disk.stats),
        ("@texts", disk.texts), ("@tmp", str(scratch)), ("@root", str(disk.root)),
    ):  # fmt: skip
        line = line.replace(mark, path)
    done = call(*["" if word == "''" else word for word in line.split()])
    told = " ".join(done.err.replace("│", " ").split())
    assert done.code == 2, (done.code, done.out, done.err)
    assert not done.out.strip()
    assert "Traceback" not in told
    import re

    assert re.search(message, told), told


def test_a_model_that_cannot_be_steered(call: Call, disk: Disk, tmp_path: Path):
    from transformers import AutoTokenizer, MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=320, hidden_size=16, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    AutoTokenizer.from_pretrained(disk.model).save_pretrained(tmp_path / "mamba")
    done = call("doctor", str(tmp_path / "mamba"))
    assert done.code == 2
    assert "cannot be steered" in done.err


@pytest.mark.parametrize("command", ["doctor @model", "bake @model @set --to fr -o @tmp/out"])
def test_code_of_a_checkpoint_runs_only_when_it_is_asked_for(
    call: Call, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
):
    """A model of a kind that only the checkpoint's own code knows."""
    # The copy that transformers makes of such code stays in this test's folder.
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    folder = tmp_path / "model"
    shutil.copytree(disk.model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own_code.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    mark = tmp_path / "was run"
    code = f"open({str(mark)!r}, 'w').close()\nraise RuntimeError('own code')\n"
    (folder / "own_code.py").write_text(code)
    places = {"@model": str(folder), "@set": disk.set, "@tmp": str(tmp_path)}
    words = command.split()
    for there, here in places.items():
        words = [word.replace(there, here) for word in words]
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "y")
    done = call(*words)
    assert not asked  # at a terminal, whether code of a name in a file may run
    assert done.code == 2 and "Traceback" not in done.err
    assert not mark.exists()
    if command.startswith("doctor"):
        assert call(*words, "--trust-remote-code").code == 2
        assert mark.exists()  # so that this test would notice


def test_a_set_of_another_model(call: Call, disk: Disk, tmp_path: Path):
    from transformers import AutoTokenizer

    tiny_model("llama", layers=3).save_pretrained(tmp_path / "deeper")
    AutoTokenizer.from_pretrained(disk.model).save_pretrained(tmp_path / "deeper")
    done = call("generate", str(tmp_path / "deeper"), disk.set, "--to", "fr", "-p", "x")
    assert done.code == 2
    assert "num_layers" in done.err


def test_debug_shows_the_traceback(call: Call, disk: Disk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NEURONSTEER_DEBUG", "0")  # restored at the end, whatever --debug sets
    from neuronsteer.errors import HubError

    with pytest.raises(HubError):
        call("--debug", "show", "./nowhere")


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(ZeroDivisionError), commands.errors_reported():
        _ = 1 / 0


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.txt"), "No such file .*: a.txt"),
        (PermissionError(13, "Permission denied", "a.txt"), "Permission denied: a.txt"),
        (UnicodeDecodeError("utf-8", b"\xe9t", 0, 1, "invalid"), "Save the file as UTF-8"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "ran out of memory.*--device cpu"),
    ],
)
def test_errors_of_the_system_are_explained(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(typer.Exit) as done, commands.errors_reported():
        raise error
    assert done.value.exit_code == 2
    import re

    assert re.search(message, capsys.readouterr().err)


def test_a_reader_that_goes_away_is_not_told(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(BrokenPipeError), commands.errors_reported():
        raise BrokenPipeError(32, "Broken pipe")
    assert capsys.readouterr().err == ""


def test_interruption_says_how_to_go_on(
    call: Call, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("neuronsteer.stats.collect", interrupted)
    done = call("collect", disk.model, "--texts", disk.texts, "-o", str(tmp_path / "s"), "-q")
    assert done.code == 130
    assert "--resume" in done.err


@pytest.mark.slow
def test_interrupted_collection_resumes_to_the_same_result(call: Call, disk: Disk, tmp_path: Path):
    import neuronsteer as ns

    # Much text, so that there is time to interrupt.
    texts = tmp_path / "texts"
    texts.mkdir()
    for file in Path(disk.texts).iterdir():
        (texts / file.name).write_text(file.read_text(encoding="utf-8") * 300, encoding="utf-8")
    out = tmp_path / "s"
    line = ["collect", disk.model, "--texts", str(texts), "-o", str(out), "-q"]
    process = subprocess.Popen(
        [sys.executable, "-m", "neuronsteer.cli", *line],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # What is started in the background inherits a SIGINT that is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    partial = tmp_path / "s.partial"
    deadline = time.monotonic() + 120
    while not partial.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "--resume" in err
    assert "Traceback" not in err
    assert call(*line, "--resume").code == 0
    whole = ns.collect(*_load(disk), texts, progress=False)
    ours = ns.Stats.from_pretrained(out)
    assert torch.equal(ours.get("count", "mlp.act"), whole.get("count", "mlp.act"))


def _load(disk: Disk):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return (
        AutoModelForCausalLM.from_pretrained(disk.model),
        AutoTokenizer.from_pretrained(disk.model),
    )


def test_exit_codes_of_the_real_process(disk: Disk):
    def code(*args: str) -> int:
        line = [sys.executable, "-m", "neuronsteer.cli", *args]
        return subprocess.run(line, capture_output=True, check=False).returncode

    assert code("version") == 0
    assert code("show", disk.set) == 0
    assert code("show", "./nowhere") == 2
    assert code("show") == 2
