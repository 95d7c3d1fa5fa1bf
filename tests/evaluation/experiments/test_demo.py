"""On the embedded model: the set does what no steering and random neurons do not."""

from __future__ import annotations

import pytest

import neuronsteer as ns
from neuronsteer.cli.models import load_model, load_set


@pytest.fixture(scope="module")
def report():
    pytest.importorskip("lingua", reason="the language identifier is not installed")
    model, tokenizer = load_model("demo")
    neurons = load_set("demo")
    labels = [label for label, count in neurons.counts.items() if count][:3]
    return ns.evaluate(
        model, neurons, tokenizer=tokenizer, labels=labels, languages=labels, limit=2,
        tasks=[{"name": "forcing", "tokens": 20}, "lss", {"name": "switch", "after": 24}],
        controls="none,random:1",
    )  # fmt: skip


def test_the_set_forces_languages_and_the_controls_do_not(report):
    ours = report.value("forcing")
    assert ours > 0.25
    assert report.value("forcing", treatment="none") < ours / 2
    assert report.value("forcing", treatment="random") < ours / 2


def test_the_set_shifts_facts_and_random_neurons_do_not(report):
    assert report.value("lss") > 0.7
    assert report.value("lss", treatment="random") < report.value("lss")


def test_the_set_switches_and_random_neurons_do_not(report):
    assert report.value("switch") > report.value("switch", treatment="random")
    assert report.value("switch", "mean_delay") < 24
