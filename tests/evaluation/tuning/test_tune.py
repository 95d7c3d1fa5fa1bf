"""Tuning a tiny model: what is written, budgets, and going on after an interruption."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import neuronsteer as ns
from neuronsteer.errors import LabelError, ParameterError, TextError
from neuronsteer.evaluation.tuning.sampling import TOP_K, PromptSeededSampling
from tests.tiny_models import tiny_model, tiny_tokenizer

TEXTS = {
    "a": ["abc abc cab bac", "a cab and a bac abacus", "abacus abc cab acab baba caca"],
    "b": ["xyz xyz zyx yxz", "zzy xxy yyx zxz zyx", "x y z zyx xyz yzy zzx"],
}
PROMPTS = ["the dog", "one man", "for me", "the end", "good morning"]
QUICK: dict[str, Any] = {"max_new_tokens": 6, "first": 2, "strengths": (0.5, 1.0), "batch_size": 5}


def identify(text: str) -> str:
    """Tell languages by length, so that all of them occur; prompts are in none of the set's."""
    return "e" if text in PROMPTS else "abe"[len(text) % 3]


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any, ns.NeuronSet]:
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    stats = ns.collect(model, tokenizer, TEXTS, progress=False)
    return model, tokenizer, ns.detect(stats, "effect", rate=0.1)


def tune(tiny: Any, prompts: Any = PROMPTS, texts: Any = TEXTS, **options: Any) -> Any:
    return ns.tune(*tiny, prompts, texts, identifier=identify, **{**QUICK, **options})


@pytest.fixture(scope="module")
def whole(tiny: Any) -> Any:
    return tune(tiny)


def test_the_set_carries_what_was_found(whole: Any, tiny: Any, tmp_path: Path):
    assert whole.finished and list(whole.best) == ["a", "b"]
    for label, cell in whole.best.items():
        assert cell in whole.cells and cell.label == label
        assert whole.neurons.strengths.get(label, 0) == (cell.strength if cell.success else 0)
        assert cell.natural is not None and cell.relevance is not None
    record = whole.neurons.evaluation
    assert record["tuning"]["strengths"] == whole.neurons.strengths
    assert {each["metric"] for each in record["results"]} >= {"success", "natural", "score"}
    assert torch.equal(whole.neurons.index, tiny[2].index) and not tiny[2].strengths
    whole.neurons.save_pretrained(tmp_path / "set")
    again = ns.NeuronSet.from_pretrained(tmp_path / "set")
    assert again.strengths == whole.neurons.strengths


def test_everything_is_written_down(whole: Any, tmp_path: Path):
    from rich.console import Console

    file = whole.save_json(tmp_path / "new" / "tuning.json")
    assert json.loads(file.read_text("utf-8")) == json.loads(json.dumps(whole.to_dict()))
    console = Console(width=120, record=True)
    console.print(whole.table(all_cells=True))
    said = console.export_text()
    assert "relevance" in said and said.count("←") == 2
    assert said.count("\n") == 1 + len(whole.cells)


def test_a_tracker_is_told_every_strength_and_the_best(tiny: Any, whole: Any):
    class Run:
        def __init__(self) -> None:
            self.lines: list[dict[str, Any]] = []

        def log(self, numbers: dict[str, Any]) -> None:
            self.lines.append(numbers)

    run = Run()
    found = tune(tiny, log=run)
    assert found.to_dict()["best"] == whole.to_dict()["best"]
    # Told again whenever more was measured: the last word is what was found.
    last = {
        (each["tune/label"], each["tune/strength"]): each["tune/score"]
        for each in run.lines
        if "tune/label" in each
    }
    assert last == {(cell.label, cell.strength): cell.score for cell in found.cells}
    for label, cell in found.best.items():
        assert {f"tune/best/{label}/strength": cell.strength} in [
            {name: value for name, value in each.items() if name.endswith("/strength")}
            for each in run.lines
        ]


def test_the_frontier_is_drawn(whole: Any):
    pytest.importorskip("matplotlib")
    from neuronsteer import plots

    drawn = plots.svg(whole.plot())
    assert "success (higher is better)" in drawn and "fluency" in drawn


def test_tuning_again_starts_from_the_operation_itself(whole: Any, tiny: Any):
    model, tokenizer, neurons = tiny
    before = neurons.replace(strengths={"a": 0.1, "b": 0.7}, evaluation={"by": "me"})
    again = tune((model, tokenizer, before), labels=["a"])
    assert again.best["a"] == whole.best["a"]
    assert again.neurons.strengths["b"] == 0.7
    assert again.neurons.evaluation["by"] == "me"


def test_the_same_seed_gives_the_same_numbers_in_other_batches(whole: Any, tiny: Any):
    assert tune(tiny, batch_size=64).cells == whole.cells


def test_a_budget_ends_the_search(tiny: Any, whole: Any, tmp_path: Path):
    steps = itertools.count()
    out = tmp_path / "set"
    short = tune(tiny, budget=60, clock=lambda: float(next(steps)), out=out)
    assert not short.finished and next(steps) <= 60
    assert "budget was spent" in short.notes[0] and "resume" in short.notes[0]
    assert short.cells and set(short.best) <= {"a", "b"}
    assert json.loads((out / "tuning.json").read_text("utf-8"))["finished"] is False
    # With more time the same call goes on, to what it would have found at once.
    measured = list((tmp_path / "set.partial" / "texts").iterdir())
    assert measured
    stamps = [file.stat().st_mtime_ns for file in measured]
    more = tune(tiny, out=out, resume=True)
    assert more.finished and more.cells == whole.cells and more.best == whole.best
    assert not (tmp_path / "set.partial").exists() and stamps
    assert ns.NeuronSet.from_pretrained(out).strengths == whole.strengths


def test_no_time_at_all_is_said(tiny: Any):
    times = itertools.count(0, 100)
    nothing = tune(tiny, budget="1s", clock=lambda: float(next(times)))
    assert not nothing.finished and not nothing.cells and not nothing.neurons.strengths


def test_an_interrupted_run_goes_on(tiny: Any, whole: Any, tmp_path: Path):
    calls = itertools.count()

    def interrupt(_what: str, done: float, _detail: str) -> None:
        assert 0 <= done <= 1
        if next(calls) == 12:
            raise KeyboardInterrupt

    out = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        tune(tiny, out=out, progress=interrupt)
    assert not out.exists() and (tmp_path / "set.partial").exists()
    with pytest.raises(ParameterError, match="its settings was"):
        tune(tiny, out=out, resume=True, temperature=0.1)
    assert tune(tiny, out=out, resume=True).cells == whole.cells


def test_the_model_is_as_before(tiny: Any, whole: Any):
    assert whole.finished
    hooks = [h for m in tiny[0].modules() for h in (m._forward_hooks, m._forward_pre_hooks)]
    assert not any(hooks)


def test_prompts_of_the_label_itself_are_left_out(tiny: Any):
    found = tune(tiny, {"a": ["abc", "cab a", "bac"], "e": PROMPTS[:3]}, strengths=(1.0,))
    by = {cell.label: cell for cell in found.cells}
    assert by["a"].texts <= 3 and by["b"].texts <= 6
    assert found.settings["prompts"] == 6


def test_without_natural_texts_it_is_said(tiny: Any):
    found = tune(tiny, texts={"a": TEXTS["a"]}, strengths=(1.0,))
    assert found.best["a"].natural is not None and found.best["b"].natural is None
    assert any("Without natural texts of b" in note for note in found.notes)


def test_shares_are_searched_too(tiny: Any):
    found = tune(tiny, shares=(0.02,), strengths=(1.0,))
    assert {cell.share for cell in found.cells} == {None, 0.02}
    for label, cell in found.best.items():
        expected = tiny[2].counts[label] if cell.share is None else round(0.02 * 160)
        assert found.neurons.counts[label] == expected
    assert found.neurons.labels == tiny[2].labels


def test_sets_are_searched_side_by_side(tiny: Any, tmp_path: Path):
    model, tokenizer, neurons = tiny
    weak = neurons.top(1)
    strong = neurons.replace(operation={**neurons.operation, "factor": 3.0})
    sets = {"whole": neurons, "weak": weak, "strong": strong}
    shown: list[str] = []

    def show(_what: str, _done: float, detail: str) -> None:
        shown.append(detail)

    found = tune((model, tokenizer, sets), progress=show)
    assert [each.name for each in found.candidates] == list(sets)
    assert {cell.candidate for cell in found.cells} == set(sets)
    assert {detail.partition(":")[0] for detail in shown} >= set(sets)
    for label, cell in found.best.items():
        assert cell in found.cells
        expected = sets[cell.candidate].only(label)
        assert torch.equal(found.neurons.only(label).index, expected.index)
    # A set has one operation.
    ways = {cell.candidate == "strong" for cell in found.best.values()}
    assert len(ways) == 1
    used = strong if ways.pop() else neurons
    assert found.neurons.operation == used.operation
    found.neurons.save_pretrained(tmp_path / "set")
    again = ns.NeuronSet.from_pretrained(tmp_path / "set")
    assert len(again.evaluation["tuning"]["candidates"]) == 3


def test_several_sets_are_all_in_the_report(tiny: Any, tmp_path: Path):
    from rich.console import Console

    model, tokenizer, neurons = tiny
    sets = {"whole": neurons, "weak": neurons.top(1)}
    steps = itertools.count()
    out = tmp_path / "set"
    options: dict[str, Any] = {"shares": (0.02,), "strengths": (1.0,), "out": out}
    short = tune((model, tokenizer, sets), budget=30, clock=lambda: float(next(steps)), **options)
    assert not short.finished and any("no time for" in note for note in short.notes)
    with pytest.raises(ParameterError, match="its sets was"):
        tune((model, tokenizer, {**sets, "weak": neurons.top(2)}), resume=True, **options)
    found = tune((model, tokenizer, sets), resume=True, **options)
    record = json.loads((out / "tuning.json").read_text("utf-8"))
    assert [(c["name"], c["share"]) for c in record["candidates"]] == [
        ("whole", None), ("whole", 0.02), ("weak", None), ("weak", 0.02),
    ]  # fmt: skip
    for cell in record["best"].values():
        assert cell["intervals"].keys() == {"success", "natural", "relevance"}
        low, high = cell["intervals"]["success"]
        assert low <= cell["success"] <= high and low < high
    console = Console(width=200, record=True)
    console.print(found.candidate_table())
    console.print(found.table())
    said = console.export_text()
    assert "2.0%" in said and "weak" in said and "taken for" in said and "(" in said


def test_a_chat_model_is_compared_with_its_answers(tiny: Any):
    model, tokenizer, neurons = tiny
    tokenizer.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}: "
    asked = {"a": ["abc", "cab", "bac", "abacus"], "b": ["xyz"], "e": PROMPTS}

    def said(text: str) -> str:
        return "e" if text in PROMPTS else "a"

    try:
        found = ns.tune(
            model,
            tokenizer,
            neurons,
            asked,
            TEXTS,
            identifier=said,
            **{**QUICK, "strengths": (1.0,)},
        )
        own, fallen_back = found.settings["references"]["a"], found.settings["references"]["b"]
        assert own == {"kind": "own answers", "texts": 4, "answers": 4, "in_language": 4}
        assert (fallen_back["kind"], fallen_back["texts"]) == ("continuations", 3)
        assert any(note.startswith("b: of 1 unsteered answers") for note in found.notes)
        assert not any(note.startswith("a: of") for note in found.notes)
        # Given, they are used with any prompts.
        given = ns.tune(
            model, tokenizer, neurons, PROMPTS, identifier=said, labels=["a"],
            reference_prompts={"a": asked["a"]}, **{**QUICK, "strengths": (1.0,)},
        )  # fmt: skip
        assert given.settings["references"]["a"] == own and given.best["a"].natural is not None
    finally:
        tokenizer.chat_template = None


def test_greedy_and_suppressed_tokens(tiny: Any):
    some = [token for token in tiny[1].get_vocab() if "e" in token]
    found = tune(tiny, temperature=0, suppress_tokens=some, strengths=(1.0,), labels=["a"])
    assert not any("e" in text for cell in found.cells for text in cell.examples)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"labels": ["c"]}, LabelError, "Unknown label 'c'"),
        ({"prompts": ["one"]}, ParameterError, "There are 1 prompts"),
        ({"prompts": "one text"}, ParameterError, "one text"),
        ({"prompts": {"a": PROMPTS}, "labels": ["a"]}, ParameterError, "in that language already"),
        ({"strengths": ()}, ParameterError, "above 0"),
        ({"shares": (2,)}, ParameterError, "shares"),
        ({"first": 0}, ParameterError, "first"),
        ({"max_new_tokens": 1}, ParameterError, "at least 4"),
        ({"temperature": -1}, ParameterError, "greedy"),
        ({"suppress_tokens": ["<nope>"]}, ParameterError, "no token"),
        ({"resume": True}, ParameterError, "out=FOLDER"),
        ({"budget": "later"}, ParameterError, "20m"),
        ({"texts": {"a": ["ab"]}}, TextError, "too little natural text"),
        ({"reference_prompts": {"a": ["abc"]}}, ParameterError, "answered in a chat"),
        ({"languages": "many"}, ParameterError, "'auto', 'all'"),
    ],
)
def test_mistakes_are_explained(tiny: Any, options: dict[str, Any], error: type, said: str):
    with pytest.raises(error, match=said):
        tune(tiny, **options)


def test_draws_belong_to_their_row_and_follow_the_model():
    scores = torch.log(torch.tensor([[0.5, 0.3, 0.2, 0.0]]))
    counts = torch.zeros(4)
    for i in range(2000):
        counts[PromptSeededSampling([str(i)], 1, 1.0)(None, scores).argmax()] += 1
    assert torch.allclose(counts / 2000, scores.exp()[0], atol=0.04)
    wide = torch.randn(3, 2 * TOP_K, generator=torch.Generator().manual_seed(0))
    together = PromptSeededSampling(["x", "y", "z"], 1, 0.8)(None, wide)
    alone = PromptSeededSampling(["y"], 1, 0.8)(None, wide[1:2])
    assert torch.equal(together[1:2], alone) and together.isfinite().sum() == 3
