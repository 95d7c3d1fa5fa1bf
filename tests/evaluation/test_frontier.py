"""Budgets, controls and statistics for comparisons of methods."""

from __future__ import annotations

import pytest

from neuronsteer.codecs.plain import PlainCodec
from neuronsteer.detectors import DETECTORS, detect
from neuronsteer.errors import ParameterError, UnknownNameError
from neuronsteer.evaluation.collect_many import collect_for, widened
from neuronsteer.evaluation.frontier import RANDOM, frontier
from tests.codecs.test_codecs import autoencoder
from tests.tiny_models import tiny_model, tiny_tokenizer

TEXTS = {
    "a": ["abc abc", "a cab and a bac", "abacus abc cab"],
    "b": ["xyz xyz zyx", "zzy xxy", "x y z zyx xyz"],
}
PROMPTS = {"a": ["abc", "cab a"], "b": ["xyz", "zy"]}
SHARES = (0.02, 0.2)


@pytest.fixture(scope="module")
def found():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    stats = collect_for(model, tokenizer, TEXTS, ["effect", "diffmean"], progress=False)["effect"]
    sets = {
        "effect": detect(stats, widened("effect", sum(stats.widths), 0.2)),
        "diffmean": detect(stats, "diffmean"),
    }
    curves = frontier(
        model,
        sets,
        tokenizer,
        PROMPTS,
        TEXTS,
        shares=SHARES,
        stats=stats,
        tokens=6,
        identifier=lambda text: "a" if len(text) % 2 else "b",
    )
    return stats, sets, curves


def test_every_set_gets_every_budget_and_directions_have_none(found):
    stats, _, curves = found
    assert list(curves.steps) == ["effect", "diffmean", RANDOM] and curves.pairs == 4
    units = sum(stats.widths)
    for name in ("effect", RANDOM):
        assert [step.share for step in curves.steps[name]] == list(SHARES)
        assert [step.neurons for step in curves.steps[name]] == [round(s * units) for s in SHARES]
    (whole,) = curves.steps["diffmean"]
    assert whole.share == 1
    for step in (*curves.steps["effect"], whole):
        assert step.success in (0, 0.25, 0.5, 0.75, 1) and step.damage != 0


def test_what_is_shown_is_what_was_measured(found):
    from rich.console import Console

    curves = found[2]
    console = Console(width=160, record=True)
    console.print(curves.table({"site": {"effect": "mlp.neuron"}}))
    said = console.export_text()
    assert "2.0%" in said and "20.0%" in said and "mlp.neuron" in said
    step = curves.to_dict()["sets"]["effect"][1]
    assert f"{step['success']:.0%} / {step['damage']:+.2f}" in said


def test_nothing_to_compare_is_said(found):
    with pytest.raises(ParameterError, match="at least one set"):
        frontier(None, {}, None, PROMPTS, TEXTS)
    with pytest.raises(ParameterError, match="Budgets"):
        frontier(None, found[1], None, PROMPTS, TEXTS, shares=(0,))


def test_methods_share_a_pass_unless_they_measure_by_themselves():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    names = ["lape", "effect", "average_precision", "specialization", "sae_lape"]
    codec = PlainCodec({0: autoencoder()})
    stats = collect_for(model, tokenizer, TEXTS, names, codec=codec, progress=False)
    assert list(stats) == names
    assert len({id(each) for each in stats.values()}) == 2
    assert stats["lape"] is stats["specialization"] and stats["sae_lape"].has("texts", "sae.resid")
    for name in names:
        detect(stats[name], name)
    assert "sae_lape" not in collect_for(model, tokenizer, TEXTS, names, progress=False)
    with pytest.raises(ParameterError, match="no method is left"):
        collect_for(model, tokenizer, TEXTS, ["sae_lape"])


@pytest.mark.parametrize("name", DETECTORS.names())
def test_every_method_can_be_widened(name):
    assert widened(name, 1000, 0.1).name == name


def test_unknown_methods_are_named():
    with pytest.raises(UnknownNameError, match="lapel"):
        widened("lapel", 10, 0.1)
