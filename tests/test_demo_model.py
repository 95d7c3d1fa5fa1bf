"""The embedded model and its sets: there, small, and steerable."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import neuronsteer as ns
from neuronsteer.cli.models import load_model

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def demo():
    return load_model("demo")


def test_the_shipped_folder_stays_small():
    folder = ROOT / "neuronsteer" / "demo"
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and f.suffix != ".pyc")
    assert size <= 16_000_000


def test_the_words_demo_and_demo_lape_name_sets_of_the_same_labels():
    steering = ns.NeuronSet.from_pretrained("demo")
    describing = ns.NeuronSet.from_pretrained("demo/lape")
    assert steering.labels == describing.labels == ("en", "de", "fr", "es", "zh", "ja", "ru", "ar")
    assert all(steering.counts.values()) and steering.method["name"] == "effect"
    assert describing.method["name"] == "lape"


def test_the_card_says_what_was_measured():
    pytest.importorskip("lingua")
    path = ROOT / "tools" / "demo_model_card.py"
    spec = importlib.util.spec_from_file_location("demo_model_card", path)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for card in tool.CARDS:
        text = card.read_text(encoding="utf-8")
        assert text == tool.card(), "run: python tools/demo_model_card.py"


def share(text: str, first: str, last: str) -> float:
    letters = [char for char in text if char.isalpha()]
    return sum(first <= char <= last for char in letters) / max(len(letters), 1)


# Scripts tell these languages apart without anybody's language identifier.
@pytest.mark.parametrize(
    ("label", "first", "last"), [("ru", "а", "я"), ("ar", "ء", "ي"), ("ja", "ぁ", "鿿")]
)
def test_english_prompts_are_continued_in_the_language_that_is_forced(demo, label, first, last):
    model, tokenizer = demo
    prompts = ["The old man went to the door and", "She had never seen so many people in"]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    options = {**inputs, "max_new_tokens": 40, "do_sample": True, "temperature": 0.8}

    def continuation() -> str:
        torch.manual_seed(0)
        out = model.generate(**options)[:, inputs.input_ids.shape[1] :]
        return "".join(tokenizer.batch_decode(out, skip_special_tokens=True))

    neurons = ns.NeuronSet.from_pretrained("demo")
    assert share(continuation(), first, last) < 0.05
    with ns.attach(model, neurons) as steer:
        steer.to(label)
        assert share(continuation(), first, last) > 0.7
    with ns.attach(model, neurons.random_like(0)) as steer:
        steer.to(label)
        assert share(continuation(), first, last) < 0.2


# Takes half a minute on a quiet machine; the limits are for one that hangs.
@pytest.mark.timeout(1200)
def test_the_training_script_trains_stops_resumes_and_exports():
    script = ROOT / "examples" / "train_demo_model" / "train.py"
    done = subprocess.run(
        [sys.executable, script, "--smoke"], capture_output=True, text=True, timeout=1100
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
