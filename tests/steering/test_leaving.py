"""Switches that also take away the language before: `away_from="previous"`."""

from __future__ import annotations

import pytest
import torch

from neuronsteer.operations import operation
from neuronsteer.steering.compile import Compiler
from neuronsteer.steering.schedule import Condition, Schedule
from neuronsteer.steering.steerer import attach
from tests.steering.sets import toy_set
from tests.tiny_models import tiny_ids, tiny_model


@pytest.mark.parametrize(
    ("before", "given", "expected"),
    [
        (None, "de,24:fr,48:ja", "de,24:fr - de,48:ja - fr"),
        ("en", "de,24:fr", "de - en,24:fr - de"),
        (None, "en,24:-,48:fr", "en,24:-,48:fr - en"),
        (None, "en,24:en*0.5,48:fr", "en,24:en*0.5,48:fr - en"),
        (None, "en,24:fr - ja,48:de", "en,24:fr - ja,48:de - fr"),
        ("fr - en", "de", "de - fr"),
        (None, "en,16:fr,repeat=32", "en,16:fr - en,repeat=32"),
        ("de", "de", "de"),
    ],
)
def test_every_switch_takes_away_the_label_before(before, given, expected):
    assert str(Schedule.parse(given).subtract_previous(before)) == expected


def test_conditions_and_strengths_stay():
    made = Schedule("en", (Condition.sentence_end(4), "fr"), prompt=True).subtract_previous()
    assert made.points[1].at == Condition.sentence_end(4) and made.prompt
    assert made.points[1].label == "fr - en"


def generate(model, steer, tokens=12, live=None):
    """Greedy generation; `live` maps a generated token to what is switched to there."""
    seen = []

    class Switch:
        def put(self, value):
            seen.append(value)
            # The first call brings the prompt; after it, call n brings generated token n - 1.
            if live and len(seen) - 1 in live:
                steer.to(live[len(seen) - 1], away_from="previous")

        def end(self):
            pass

    return model.generate(
        tiny_ids(1),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        streamer=Switch(),
    )


def test_previous_is_the_schedule_written_out():
    model = tiny_model("llama")
    with attach(model, toy_set(model)) as steer:
        steer.to("en,4:fr,8:ja", away_from="previous")
        found = generate(model, steer)
        assert [label for _, _, label in steer.spans()] == ["en", "fr - en", "ja - fr"]
        steer.to("en,4:fr - en,8:ja - fr")
        assert torch.equal(found, generate(model, steer))
        steer.to("en,4:fr,8:ja")
        assert [label for _, _, label in steer.spans()] == ["en", "fr - en", "ja - fr"]


def test_a_live_switch_takes_away_what_was_in_force_and_can_be_replayed():
    model = tiny_model("llama")
    with attach(model, toy_set(model)) as steer:
        steer.to("en")
        found = generate(model, steer, live={4: "fr", 8: "ja"})
        assert [label for _, _, label in steer.spans()] == ["en", "fr - en", "ja - fr"]
        steer.to(steer.timeline)
        assert torch.equal(found, generate(model, steer))
        # Nothing runs, so there is nothing to leave.
        steer.to("ja", away_from=["previous"])
        assert str(steer.schedule) == "ja"


def test_rows_of_a_batch_each_leave_their_own():
    model = tiny_model("llama")
    with attach(model, toy_set(model)) as steer:
        steer.to(["en,4:fr", "fr,4:ja"], away_from="previous")
        model.generate(tiny_ids(2), max_new_tokens=6, min_new_tokens=6, do_sample=False)
        assert [label for _, _, label in steer.spans(0)] == ["en", "fr - en"]
        assert [label for _, _, label in steer.spans(1)] == ["fr", "ja - fr"]


def test_what_is_pulled_is_pulled_back():
    model = tiny_model("llama")
    neurons = toy_set(model).replace(operation={"name": "pull", "share": 0.5, "factor": 2.0})
    compiler = Compiler([neurons], True, {("mlp.neuron", layer): 64 for layer in range(9)})
    back = operation("pull", value="other_mean", share=0.5, factor=-2.0)
    assert compiler.opposite(neurons) == back
    rows = neurons.rows("fr")
    scale, shift = back.affine(rows, "mlp.neuron")
    away = rows.value("other_mean", "mlp.neuron")
    difference = rows.value("mean", "mlp.neuron") - away
    torch.testing.assert_close(scale, torch.full_like(away, 0.5))
    torch.testing.assert_close(shift, 0.5 * away - 2 * difference)
