"""From autoencoders in a folder to steered text, on the command line; and language arithmetic."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from neuronsteer.cli.models import load_model
from neuronsteer.codecs.training import fit
from neuronsteer.demo.sentences import texts


def test_features_from_a_folder(call: Callable[..., Any], tmp_path: Path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    lines = {name: texts(name, 12, 2, seed=1) for name in ("en", "fr")}
    for name, some in lines.items():
        (corpus / f"{name}.txt").write_text("\n".join(some), encoding="utf-8")
    model, tokenizer = load_model("demo", device="cpu")
    layer = model.config.num_hidden_layers - 2
    mixed = [text for pair in zip(*lines.values(), strict=True) for text in pair]
    codec = fit(model, tokenizer, mixed, [layer], features=64, k=8, steps=40)
    codec.save(tmp_path / "codec")
    stats, neurons = str(tmp_path / "stats"), str(tmp_path / "neurons")
    options = ["--method", "sae_lape", "--codec", str(tmp_path / "codec"), "-o", stats]
    assert call("collect", "demo", "--texts", str(corpus), *options).code == 0
    again = ["--method", "sae_lape", "-o", stats, "--overwrite"]
    missing = call("collect", "demo", "--texts", str(corpus), *again)
    assert missing.code == 2 and "codec" in missing.err
    found = call("detect", stats, "--method", "sae_lape", "--set", "examples=0.5", "-o", neurons)
    assert found.code == 0, found.err
    shown = json.loads(call("show", neurons, "--json").out)
    assert shown["site"] == "sae.resid" and "sae.resid.direction" in shown["values"]
    made = call("generate", "demo", neurons, "--to", "fr - en", "-p", "The", "--json")
    assert made.code == 0, made.err
    assert [span["label"] for span in json.loads(made.out)["spans"]] == ["fr - en"]


def test_arithmetic_takes_the_place_of_a_label(call: Callable[..., Any]):
    options = ["-p", "The weather", "--max-new-tokens", "6", "--json"]
    sums = call("generate", "demo", "demo", "--to", "fr - en", "--operation", "add", *options)
    away = ["--to", "fr", "--away-from", "en", "--operation", "add"]
    apart = call("generate", "demo", "demo", *away, *options)
    assert sums.code == apart.code == 0, sums.err + apart.err
    assert json.loads(sums.out)["text"] == json.loads(apart.out)["text"]
    held = call("generate", "demo", "demo", *away, "--away", "-1.5", *options)
    assert held.code == 0, held.err
    plan = call("generate", "demo", "demo", "--schedule", "en,3:fr - en", *options)
    assert [span["label"] for span in json.loads(plan.out)["spans"]] == ["en", "fr - en"]
    wrong = call("generate", "demo", "demo", "--to", "fr - xx", *options)
    assert wrong.code == 2 and "'xx'" in wrong.err and "Traceback" not in wrong.err
