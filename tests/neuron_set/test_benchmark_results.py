"""Scores on benchmarks of the Hub: the client reads them, and nothing else gets on leaderboards."""

from __future__ import annotations

import huggingface_hub
import pytest
import yaml

from neuronsteer.neuron_set import NeuronSet, card
from neuronsteer.neuron_set.benchmark_results import FILE, entries
from tests.sharing import make_set

pytest_plugins = ("tests.hub_server.fixtures",)

GPQA = {"name": "GPQA", "type": "Idavidrein/gpqa", "task_id": "gpqa_diamond", "revision": "0f" * 20}
SCORE = {
    "task": "gpqa",
    "label": "fr",
    "metric": "accuracy",
    "value": 0.412,
    "dataset": GPQA,
    "controls": {"no steering": 0.39, "random neurons": 0.4},
}
OTHER = {
    **SCORE,
    "metric": "fluent_success",
    "dataset": {"name": "flores", "type": "facebook/flores"},
}
CREATED = "2026-11-30T10:30:00+00:00"


@pytest.fixture(autouse=True)
def _no_drawing(monkeypatch):
    monkeypatch.setattr(card, "draw_layers", lambda _layers: b"\x89PNG\0")


def evaluated(*results, **more):
    return make_set(evaluation={"results": list(results), "created": CREATED, **more})


def test_the_client_reads_what_is_written(tmp_path):
    folder = evaluated(SCORE, OTHER).save_pretrained(tmp_path)
    written = yaml.safe_load((folder / FILE).read_text("utf-8"))
    # Older clients, which pyproject.toml allows, have no reader yet.
    parse = getattr(huggingface_hub, "parse_eval_result_entries", None)
    if parse is None:
        pytest.skip("this huggingface_hub does not read evaluation results")
    (entry,) = parse(written)
    assert (entry.dataset_id, entry.task_id) == ("Idavidrein/gpqa", "gpqa_diamond")
    assert entry.value == 0.412 and entry.dataset_revision == "0f" * 20 and entry.date == CREATED
    assert entry.notes == (
        "steered to fr by neuronsteer, accuracy; controls: no steering 0.39, random neurons 0.4"
    )
    assert huggingface_hub.eval_result_entries_to_yaml([entry]) == written
    # A control is not a score of the set, and every result stays in the card.
    text = (folder / "README.md").read_text("utf-8")
    assert "accuracy (fr), control: no steering" in text and "fluent_success (fr)" in text


def test_the_file_goes_with_the_score_and_other_files_stay(tmp_path):
    folder = evaluated(SCORE).save_pretrained(tmp_path)
    assert NeuronSet.from_pretrained(folder).save_pretrained(folder) == folder
    assert (folder / FILE).exists()
    (folder / ".eval_results" / "theirs.yaml").write_text("[]")
    evaluated(OTHER).save_pretrained(folder)
    assert [path.name for path in (folder / ".eval_results").iterdir()] == ["theirs.yaml"]
    (folder / ".eval_results" / "theirs.yaml").unlink()
    make_set().save_pretrained(folder)
    assert not (folder / ".eval_results").exists()


@pytest.mark.parametrize(
    "dataset",
    [
        None,
        "Idavidrein/gpqa",
        {"name": "GPQA", "type": "Idavidrein/gpqa"},
        {"name": "own", "type": "own data", "task_id": "x"},
        {"name": "own", "type": "a/b/c", "task_id": "x"},
    ],
)
def test_what_is_not_named_as_a_benchmark_is_left_out(dataset):
    found = card.evaluation_results({"results": [{**SCORE, "dataset": dataset}]})
    assert len(found) == 1 and entries(found) == []


@pytest.mark.parametrize("created", [None, 5, "yesterday", "2026-11-30\nvalue: 1"])
def test_a_date_that_is_none_is_left_out(created):
    found = entries(card.evaluation_results({"results": [SCORE]}), created)
    assert "date" not in found[0] and found[0]["value"] == 0.412


def test_text_of_others_stays_text(tmp_path):
    odd = {**SCORE, "label": "fr\n- value: 1", "dataset": {**GPQA, "task_id": "a: b\n# c"}}
    folder = evaluated(odd).save_pretrained(tmp_path)
    (entry,) = yaml.safe_load((folder / FILE).read_text("utf-8"))
    assert entry["dataset"]["task_id"] == "a: b # c" and entry["value"] == 0.412
    assert entry["notes"].startswith("steered to fr - value: 1 by neuronsteer")


def test_a_push_carries_it_at_the_top_of_a_repository_only(hub):
    evaluated(SCORE).push_to_hub("ann/set", peft=False)
    assert FILE in hub.repo("ann/set").files()
    make_set().push_to_hub("ann/set", peft=False)
    assert FILE not in hub.repo("ann/set").files()
    evaluated(SCORE).push_to_hub("ann/more", subfolder="one", peft=False)
    assert not [path for path in hub.repo("ann/more").files() if ".eval_results" in path]
