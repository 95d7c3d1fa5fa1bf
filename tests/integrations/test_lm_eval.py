"""lm-evaluation-harness on a steered model, from a shell and from Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from neuronsteer.errors import MissingExtraError, NeuronSteerError
from neuronsteer.evaluation.readers import EvaluationData
from neuronsteer.integrations import lm_eval as bridge

from ..steering.sets import toy_set
from ..tiny_models import tiny_model, tiny_tokenizer

needs_harness = pytest.mark.skipif(
    find_spec("lm_eval") is None,
    reason="lm-eval is not installed; it is in the extra 'eval' and pulls in a lot",
)

# Which ending is likelier, the one in the prompt's language or the one in German?
CHOICE = """\
task: endings
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/endings.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{prompt}}}}"
doc_to_choice: "{{{{[base, target]}}}}"
doc_to_target: 1
target_delimiter: ""
metric_list:
  - metric: acc
metadata:
  version: 1
"""


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task file of our own, with English prompts and German endings."""
    folder = tmp_path_factory.mktemp("task")
    found = EvaluationData(None, ["en", "de"]).get("facts").items[""]
    rows = [
        {"prompt": fact.prompt, "base": fact.base_object, "target": fact.target_object}
        for fact in found
        if fact.base == "en"
    ]
    (folder / "endings.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    (folder / "endings.yaml").write_text(CHOICE.format(folder=folder), "utf-8")
    return folder


@needs_harness
@pytest.mark.slow
def test_from_a_shell(task: Path, tmp_path: Path):
    found: dict[str, float] = {}
    for to, command in (
        ("none", ["neuronsteer.cli", "lm-eval"]),
        ("de", ["neuronsteer.cli", "lm-eval"]),
    ):
        done = subprocess.run(
            [
                sys.executable, "-m", *command, "run", "--model", "neuronsteer", "--model_args",
                f"pretrained=demo,neurons=demo,to={to},dtype=float32", "--tasks", "endings",
                "--include_path", str(task), "--device", "cpu", "--batch_size", "8",
                "--output_path", str(tmp_path / to),
            ],
            capture_output=True, text=True, timeout=280, check=False,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        (file,) = (tmp_path / to).rglob("results*.json")
        results = json.loads(file.read_text("utf-8"))
        found[to] = results["results"]["endings"]["acc,none"]
        assert results["config"]["neuronsteer_schedule"] == ("de" if to == "de" else "-")
        assert len(results["config"]["neuronsteer_set"]) == 64
    # English prompts: unsteered, English endings are likelier; steered, German ones.
    assert found["none"] < 0.5 < found["de"]


@needs_harness
def test_a_model_of_the_harness_is_steered():
    kind = bridge.register()
    assert bridge.register() is kind
    from lm_eval.api.instance import Instance
    from lm_eval.api.registry import get_model

    assert get_model("neuronsteer") is kind
    model, tokenizer = tiny_model(), tiny_tokenizer()
    neurons = toy_set(model)
    pairs = [("the cat", " sat"), ("the dog", " ran away")]
    requests = [
        Instance("loglikelihood", {}, pair, k, metadata=("t", k, 1)) for k, pair in enumerate(pairs)
    ]

    def scores(**arguments):
        wrapped = kind(
            pretrained=model, neurons=neurons, tokenizer=tokenizer, device="cpu", batch_size=2,
            **arguments,
        )  # fmt: skip
        try:
            return [value for value, _ in wrapped.loglikelihood(requests, disable_tqdm=True)]
        finally:
            wrapped.neuronsteer.detach()

    plain = scores()
    assert plain == scores(to="none")
    assert scores(to="fr") != plain
    assert scores(to="fr", operation="zero") != scores(to="fr")
    assert scores(away_from="fr+ja") != plain
    with pytest.raises(NeuronSteerError, match="to=LABEL"):
        scores(operation="zero")
    with pytest.raises(NeuronSteerError, match="Unknown label"):
        scores(to="xx")


def test_without_the_harness_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingExtraError, match=r"neuronsteer\[eval\]"):
        bridge.main(["ls", "tasks"])
