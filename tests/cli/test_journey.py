"""From texts to steered text, as one types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import neuronsteer as ns

from .conftest import LABELS, Disk, Result

Call = Callable[..., Result]


def test_collect_detect_show_generate(call: Call, disk: Disk, tmp_path: Path):
    stats, neurons = str(tmp_path / "s"), str(tmp_path / "n")
    done = call("collect", disk.model, "--texts", disk.texts, "-o", stats, "-q")
    assert done.code == 0, done.err
    assert not Path(stats + ".partial").exists()

    done = call(
        "detect",
        stats,
        "--method",
        "lape",
        "--rate",
        "0.2",
        "--set",
        "filter=0.5",
        "--set",
        "bar=0.5",
        "-o",
        neurons,
    )
    assert done.code == 0, done.err
    assert "lape" in done.out
    assert neurons in done.err  # what was written, and what comes next

    done = call("show", neurons)
    assert done.code == 0, done.err
    assert all(label in done.out for label in LABELS)

    done = call(
        "generate", disk.model, neurons, "--schedule", "en,4:fr", "--prompt", "the cat",
        "--max-new-tokens", "8", "--stream",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.out.startswith("the cat⟦en⟧")
    assert "⟦fr⟧" in done.out


def test_a_model_writes_its_own_texts(call: Call, tmp_path: Path):
    from neuronsteer.demo.sentences import texts

    pytest.importorskip("lingua")
    (tmp_path / "prompts").mkdir()
    for label in ("de", "fr"):
        lines = [" ".join(each.split()[:9]) for each in texts(label, 4, 2, seed=5)]
        (tmp_path / "prompts" / f"{label}.txt").write_text("\n".join(lines), "utf-8")
    line = f"collect demo --answers {tmp_path}/prompts --answer-tokens 32 -o {tmp_path}/s"
    done = call(*line.split())
    assert done.code == 0, done.err
    assert "answers are in the language" in done.err
    stats = ns.Stats.from_pretrained(tmp_path / "s")
    kept = (tmp_path / "s.answers" / "fr.jsonl").read_text("utf-8").splitlines()
    assert stats.labels == ("de", "fr") and stats.texts["fr"] == len(kept) > 0
    # What was answered is never thrown away, and never used unasked.
    done = call(*line.split())
    assert done.code == 2 and "--overwrite" in done.err
    again = call(*line.split(), "--resume", "--json")
    assert again.code == 0 and "is finished" in again.err and '"texts"' in again.out


def test_commands_equal_the_library(call: Call, disk: Disk, tmp_path: Path):
    out = str(tmp_path / "s")
    assert call("collect", disk.model, "--texts", disk.texts, "-o", out, "-q").code == 0
    ours, theirs = ns.Stats.from_pretrained(out), ns.Stats.from_pretrained(disk.stats)
    assert ours.labels == theirs.labels
    assert torch.equal(ours.get("count", "mlp.act"), theirs.get("count", "mlp.act"))

    out = str(tmp_path / "n")
    assert (
        call("detect", disk.stats, "--method", "lape", "--rate", "0.2", "-o", out, "-q").code == 0
    )
    assert ns.NeuronSet.from_pretrained(out) == ns.detect(
        ns.Stats.from_pretrained(disk.stats), "lape", rate=0.2
    )


def test_collect_reports_json_and_takes_files(call: Call, disk: Disk, tmp_path: Path):
    done = call(
        "collect", disk.model, "-o", str(tmp_path / "s"), "--json", "-q", "--max-texts", "5",
        "--texts", f"a={disk.texts}/en.txt", "--texts", f"b={disk.texts}/fr.txt",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["labels"] == ["a", "b"]
    assert found["texts"] == {"a": 5, "b": 5}


def test_detect_uses_only_some_labels(call: Call, disk: Disk, tmp_path: Path):
    done = call(
        "detect", disk.stats, "--labels", "en,ja", "-o", str(tmp_path / "n"), "--json", "-q"
    )
    assert done.code == 0, done.err
    assert json.loads(done.out)["labels"] == ["en", "ja"]


def test_show_json_is_the_summary(call: Call, disk: Disk):
    done = call("show", disk.set, "--json")
    assert done.code == 0
    summary = json.loads(done.out)
    expected = json.loads(json.dumps(ns.NeuronSet.from_pretrained(disk.set).summary()))
    assert summary == expected


def _generate(call: Call, disk: Disk, *args: str) -> dict:
    done = call(
        "generate", disk.model, disk.set, "--prompt", "猫 the cat", "--max-new-tokens", "10",
        "--json", *args,
    )  # fmt: skip
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_generate_json_locates_every_span(call: Call, disk: Disk):
    found = _generate(call, disk, "--schedule", "en,4:fr,7:-")
    assert found["text"].startswith(found["prompt"] + "")
    assert [span["label"] for span in found["spans"]] == ["en", "fr", None]
    assert [(s["token_start"], s["token_end"]) for s in found["spans"]] == [(0, 4), (4, 7), (7, 10)]
    edges = [(span["start"], span["end"]) for span in found["spans"]]
    assert edges[0][0] == len(found["prompt"])
    assert edges[-1][1] == len(found["text"])
    assert all(end == start for (_, end), (start, _) in zip(edges, edges[1:], strict=False))
    assert found["tokens"] == 10


def test_generate_keeps_a_language_without_a_set(call: Call, disk: Disk):
    arguments = ("generate", disk.model, "--keep", "en", "-p", "the cat", "--max-new-tokens", "40")
    found = json.loads(call(*arguments, "--json").out)
    assert found["text"].startswith("the cat")
    assert found["refused"]
    assert {"row", "token", "text", "probability", "instead"} == set(found["refused"][0])
    shown = call(*arguments)
    assert shown.code == 0, shown.err
    assert f"Held back at {len(found['refused'])} tokens (⟦×⟧)" in shown.err
    assert shown.out.replace("⟦×⟧", "") == found["text"] + "\n"
    streamed = call(*arguments, "--stream")
    assert streamed.out == shown.out and streamed.err == shown.err
    # A token whose text comes with a later one is marked there.
    assert 0 < shown.out.count("⟦×⟧") <= len(found["refused"])


def test_generate_steers_and_keeps(call: Call, disk: Disk):
    found = _generate(call, disk, "--to", "fr", "--keep", "fr")
    assert [span["label"] for span in found["spans"]] == ["fr"]
    assert isinstance(found["refused"], list)
    assert found["report"]["layers"]


def test_generate_equals_the_library(call: Call, disk: Disk):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = _generate(call, disk, "--to", "fr", "--operation", "add", "--value", "mean",
                      "--strength", "3", "--away-from", "en")  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(disk.model)
    tokenizer = AutoTokenizer.from_pretrained(disk.model)
    ids = tokenizer("猫 the cat", return_tensors="pt")
    with ns.attach(model, disk.set) as steer:
        steer.to("fr", ns.operation("add", value="mean"), strength=3, away_from="en")
        out = model.generate(**ids, max_new_tokens=10, do_sample=False)
    text = tokenizer.decode(out[0], skip_special_tokens=True)
    # The command keeps the prompt as it was typed.
    assert found["text"].removeprefix(found["prompt"]) == text.removeprefix("猫 the cat")
    plain = _generate(call, disk, "--to", "-")
    assert plain["text"] != found["text"]


def test_streamed_text_is_the_printed_text(call: Call, disk: Disk):
    args = ("generate", disk.model, disk.set, "--prompt", "the", "--schedule", "en,3:ja,6:-",
            "--max-new-tokens", "9", "-q")  # fmt: skip
    assert call(*args, "--stream").out == call(*args).out


def test_sampling_is_seeded(call: Call, disk: Disk):
    hot = ("--to", "fr", "--temperature", "1.5")
    first, second, other = (
        _generate(call, disk, *hot, "--seed", seed)["text"] for seed in ("1", "1", "2")
    )
    assert first == second != other


def test_prompt_from_stdin(call: Call, disk: Disk, monkeypatch: pytest.MonkeyPatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("the cat\n"))
    done = call(
        "generate", disk.model, disk.set, "--to", "fr", "--prompt", "-", "--json",
        "--max-new-tokens", "2",
    )  # fmt: skip
    assert json.loads(done.out)["prompt"] == "the cat"


def test_schedule_of_the_set_is_the_default(call: Call, disk: Disk, tmp_path: Path):
    neurons = ns.NeuronSet.from_pretrained(disk.set).replace(schedule="en,2:fr")
    neurons.save_pretrained(tmp_path / "n")
    done = call(
        "generate", disk.model, str(tmp_path / "n"), "-p", "the", "--json", "--max-new-tokens", "4"
    )
    assert done.code == 0, done.err
    assert json.loads(done.out)["schedule"] == "en,2:fr"


def test_convert_imports_published_mean_states(call: Call, tmp_path: Path):
    def save(name: str, mean: torch.Tensor) -> str:
        content = {"steering_vectors": mean, "token_counts": torch.tensor([4, 4]), "num_tokens": 4}
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    means = {"en": torch.arange(12.0).reshape(2, 6), "fr": torch.ones(2, 6)}
    files = [save(label, mean) for label, mean in means.items()]
    out = str(tmp_path / "directions")
    done = call("convert", *files, "--labels", "en,fr", "--layers", "2", "-o", out, "--json")
    assert done.code == 0, done.err
    found = ns.NeuronSet.from_pretrained(out)
    assert (found.site, found.num_layers, found.labels) == ("resid", 2, ("en", "fr"))
    own = found.rows("en")
    # Columns of means are those of all labels, in the order of the labels.
    column = own.values["resid.means"]
    assert torch.equal(column[:, 0], means["en"][own.layer, own.index])
    assert torch.equal(column[:, 1], means["fr"][own.layer, own.index])
    for wrong, told in (
        (["--labels", "en"], "2 files of mean states"),
        (["--labels", "en,fr", "--layers", "3"], "the files have 2"),
    ):
        done = call("convert", *files, *wrong, "-o", str(tmp_path / "no"))
        assert done.code != 0
        assert told in done.err
    torch.save({"other": 1}, tmp_path / "other")
    files[1], no = str(tmp_path / "other"), str(tmp_path / "no")
    done = call("convert", *files, "--labels", "en,fr", "-o", no)
    assert "holds no 'steering_vectors'" in done.err


def test_convert_imports_published_masks(call: Call, disk: Disk, tmp_path: Path):
    masks = [
        [torch.tensor([1, 5]), torch.tensor([2])],
        [torch.tensor([7]), torch.tensor([], dtype=torch.int64)],
    ]
    torch.save(masks, tmp_path / "mask.pth")
    out = str(tmp_path / "n")
    done = call(
        "convert", str(tmp_path / "mask.pth"), "--labels", "en,zh", "--base", disk.model, "-o", out,
        "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert json.loads(done.out)["counts"] == {"en": 3, "zh": 1}
    done = call(
        "generate", disk.model, out, "--to", "zh", "--operation", "zero", "-p", "the", "--json",
        "--max-new-tokens", "2",
    )  # fmt: skip
    assert done.code == 0, done.err
