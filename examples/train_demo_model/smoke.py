"""Self-test of the whole path on made-up text: no corpus, under a minute on two cores."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

log = logging.getLogger("train_demo_model")

ALPHABETS = {
    "en": "abcdefghijklmnopqrstuvwxyz",
    "ru": "абвгдежзийклмнопрстуфхцчшщыэюя",
    "zh": "一二三四五六七八九十人大小上下左右山水火木金土日月年",
}


def write_corpus(folder: Path, languages: list[str], sentences: int, seed: int) -> None:
    """Writes sentences of made-up words, one file a language."""
    folder.mkdir(parents=True)
    for language in languages:
        rng = np.random.default_rng([seed, *language.encode()])
        letters = list(ALPHABETS[language])
        lexicon_rng = np.random.default_rng([1, *language.encode()])
        lexicon = [
            "".join(lexicon_rng.choice(letters, size=lexicon_rng.integers(1, 8)))
            for _ in range(200)
        ]
        unspaced = language == "zh"
        lines = []
        for _ in range(sentences):
            words = rng.choice(lexicon, size=rng.integers(4, 12))
            lines.append(("" if unspaced else " ").join(words) + ("。" if unspaced else "."))
        (folder / f"{language}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    folder = run / "checkpoints" / f"step-{step:07d}"
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def smoke(folder: Path) -> None:
    """Checks tokenizer, training, interruption, exact resume, decay and export.

    Args:
        folder: An empty scratch folder.

    Raises:
        AssertionError: Something on the path does not work.
    """
    import train

    languages = list(ALPHABETS)
    write_corpus(folder / "data", languages, 600, seed=0)
    write_corpus(folder / "heldout", languages, 200, seed=1)
    corpus = ["--data", str(folder / "data"), "--heldout", str(folder / "heldout")]
    sizes = [
        "--vocab",
        "512",
        "--hidden",
        "32",
        "--layers",
        "2",
        "--mlp-width",
        "64",
        "--heads",
        "2",
    ]
    sizes += ["--kv-heads", "1", "--block", "64", "--batch", "8", "--warmup", "4"]
    common = ["--languages", *languages, *sizes, "--no-compile", "--device", "cpu"]
    common += ["--log-every", "5", "--eval-blocks", "2"]

    def command(run: str, *more: str) -> list[str]:
        return [*corpus, "--run", str(folder / run), *common, *more]

    # One run without a break, one that stops half way: the weights must be the same bits.
    train.main(command("straight", "--max-steps", "20"))
    train.main(command("broken", "--max-steps", "10"))
    train.main(["--run", str(folder / "broken"), *common, "--max-steps", "20"])
    straight, broken = _weights(folder / "straight", 20), _weights(folder / "broken", 20)
    assert all(torch.equal(straight[k], broken[k]) for k in straight), "resume is not exact"

    # SIGTERM leaves a checkpoint of the step it interrupted.
    script = Path(train.__file__)
    process = subprocess.Popen([sys.executable, str(script), *command("killed")])
    log_file = folder / "killed" / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log_file.exists() and log_file.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=30) == 0, "SIGTERM did not end the run cleanly"
    assert train.newest(folder / "killed") is not None, "SIGTERM left no checkpoint"

    # Finish and ship.
    decay = ["--decay-from", str(folder / "straight"), "--decay-steps", "10"]
    train.main(["--run", str(folder / "finished"), *common, *decay])
    train.main(["--run", str(folder / "finished"), "--export", str(folder / "export")])
    lines = (folder / "finished" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    scores = json.loads(lines[-1])["bits_per_byte"]
    assert 0 < scores["mean"] < 8, scores

    tokenizer = AutoTokenizer.from_pretrained(folder / "export")
    model = AutoModelForCausalLM.from_pretrained(folder / "export")
    text = " naïve  日本語\tعربي 🙂\n x "
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text, "text does not round-trip"
    assert model.dtype == torch.bfloat16
    out = model.generate(torch.tensor([ids]), max_new_tokens=4, do_sample=False)
    assert out.shape[1] > len(ids)
    log.info("smoke test passed")
