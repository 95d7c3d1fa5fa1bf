"""Sums of labels: `"fr - en"` as text, as operations and as sets."""

from __future__ import annotations

import pytest
import torch

import neuronsteer as ns
from neuronsteer.errors import LabelError, ParameterError, ScheduleError
from neuronsteer.neuron_set import NeuronSet
from neuronsteer.operations import operation
from neuronsteer.steering.compile import Compiler, State
from neuronsteer.steering.label_sums import Arithmetic, arith, escape, progressive
from neuronsteer.steering.schedule import Point, Schedule
from neuronsteer.steering.steerer import attach
from tests.steering.sets import greedy, toy_set
from tests.tiny_models import tiny_model

WIDTH = 8


def table(rows, site="mlp.neuron", **header):
    """Return a set of `(label, neuron, mean)` rows in one layer."""
    labels = tuple(dict.fromkeys(name for name, _, _ in rows))
    return NeuronSet.from_rows(
        labels,
        [labels.index(name) for name, _, _ in rows],
        [0] * len(rows),
        [neuron for _, neuron, _ in rows],
        values={f"{site}.mean": [float(mean) for _, _, mean in rows]},
        site=site,
        num_layers=1,
        width=WIDTH,
        **{"operation": {"name": "add", "value": "mean"}, **header},
    )


# Neuron 0 is French only, 1 English only, 2 shared by both, 3 by French and German.
ROWS = [("fr", 0, 5), ("fr", 2, 7), ("fr", 3, 1), ("en", 1, 2), ("en", 2, 3), ("de", 3, 10)]


def affine(neurons, label, **state):
    """Return `{neuron: (scale, shift)}` of the one layer."""
    site = neurons.site
    compiled = Compiler([neurons], False, {(site, 0): WIDTH}).compile(State(label, **state))
    row = compiled[(site, 0)]
    pairs = zip(row.columns.tolist(), row.scale.tolist(), row.shift.tolist(), strict=True)
    return {
        n: (round(scale, 5), round(shift, 5))
        for n, scale, shift in pairs
        if (scale, shift) != (1, 0)
    }


class TestText:
    def test_terms_and_factors(self):
        found = arith(" fr*0.5 + de - en*2 ")
        assert found.text == "fr*0.5 + de - en*2"
        assert found.on == ((0.5, "fr"), (1.0, "de"))
        assert found.off == ((2.0, "en"),)
        assert found.labels == ("fr", "de", "en")
        assert arith(found) is found and str(found) == found.text

    @pytest.mark.parametrize(
        ("text", "terms"),
        [
            ("fr", ((1.0, "fr"),)),
            ("- en", ((-1.0, "en"),)),
            ("+ fr - en", ((1.0, "fr"), (-1.0, "en"))),
            ("zh-Hant - pt-BR", ((1.0, "zh-Hant"), (-1.0, "pt-BR"))),
            ("de:C-L  -  de:L-C", ((1.0, "de:C-L"), (-1.0, "de:L-C"))),
            ("old French - en", ((1.0, "old French"), (-1.0, "en"))),
            ("C%2B%2B - c%2Asharp", ((1.0, "C++"), (-1.0, "c*sharp"))),
        ],
    )
    def test_operators_need_space_because_labels_contain_them(self, text, terms):
        assert arith(text).terms == terms

    @pytest.mark.parametrize("text", ["", " - ", "fr -", "fr - - en", "fr*x - en", "fr*0", "fr*-1"])
    def test_what_cannot_be_read_is_refused(self, text):
        with pytest.raises(ScheduleError):
            arith(text)

    def test_a_label_has_one_term(self):
        with pytest.raises(ParameterError, match="'fr' twice"):
            arith("fr + fr - en")

    def test_escaped_labels_come_back(self):
        for label in ("a - b", "c*2", "50%", "x + y", "plain"):
            assert arith(f"{escape(label)} - en").labels == (label, "en")

    def test_is_public_and_no_module_of_that_name_takes_its_place(self):
        import neuronsteer.steering.label_sums  # noqa: F401 (importing it must not shadow the function)

        assert ns.arith is arith and isinstance(ns.arith("fr - en"), Arithmetic)


class TestOperations:
    """Against tables worked out by hand."""

    def test_source_first_target_last(self):
        # The shared neuron 2 is zeroed and then gets the target's value.
        expected = {0: (1, 5), 1: (0, 0), 2: (0, 7), 3: (1, 1)}
        assert affine(table(ROWS), "fr - en") == expected
        # The order in which it is written does not matter for what is taken away.
        assert affine(table(ROWS), "- en + fr") == expected
        assert affine(table(ROWS), "fr", away_from=("en",)) == expected

    def test_a_constant_stays_under_what_is_added(self):
        away = operation("set", value=-1.0)
        expected = {0: (1, 5), 1: (0, -1), 2: (0, 6), 3: (1, 1)}
        assert affine(table(ROWS), "fr - en", away=away) == expected

    def test_two_targets_add_up(self):
        assert affine(table(ROWS), "fr + de") == {0: (1, 5), 2: (1, 7), 3: (1, 11)}

    def test_two_targets_that_are_set_leave_the_right_one(self):
        held = operation("set", value="mean")
        found = affine(table(ROWS), "fr + de", operation=held)
        assert found == {0: (0, 5), 2: (0, 7), 3: (0, 10)}
        assert affine(table(ROWS), "de + fr", operation=held)[3] == (0, 1)

    def test_factors_are_strengths(self):
        found = affine(table(ROWS), "fr*0.5 - en*0.25", strength=2.0)
        assert found == {0: (1, 5), 1: (0.5, 0), 2: (0.5, 7), 3: (1, 1)}

    def test_nothing_is_more_than_switched_off(self):
        assert affine(table(ROWS), "fr - en", strength=3.0)[1] == (0, 0)

    def test_only_taking_away(self):
        assert affine(table(ROWS), "- en - de") == {1: (0, 0), 2: (0, 0), 3: (0, 0)}

    def test_directions_are_subtracted_not_emptied(self):
        rows = [(label, i, 10 * k + i) for k, label in enumerate(("fr", "en")) for i in range(3)]
        neurons = table(rows, site="resid", operation={"name": "add", "value": "mean", "factor": 2})
        expected = {0: (1, -20), 1: (1, -20), 2: (1, -20)}
        assert affine(neurons, "fr - en") == expected
        assert affine(neurons, "fr", away_from=("en",)) == expected
        assert affine(neurons, "fr - en", away=operation("zero"))[1] == (0, 2)

    def test_a_label_of_that_name_comes_first(self):
        neurons = table([("fr - en", 4, 9), *ROWS])
        assert affine(neurons, "fr - en") == {4: (1, 9)}

    def test_unknown_labels_are_named(self):
        with pytest.raises(LabelError, match="'ja'"):
            affine(table(ROWS), "fr - ja")


class TestSteering:
    @pytest.fixture(scope="class")
    def model(self):
        return tiny_model("llama")

    def test_everywhere_a_label_may_stand(self, model):
        neurons = toy_set(model)
        ids = torch.tensor([[3, 5, 7, 9]])
        with attach(model, neurons) as steer:
            steer.to("fr", away_from="en")
            expected = greedy(model, ids)
            for target in ("fr - en", arith("fr - en"), ["fr - en"], Schedule("fr - en")):
                steer.to(target)
                assert torch.equal(greedy(model, ids), expected), target
            assert steer.spans() == [(0, 12, "fr - en")]

    def test_in_a_schedule(self, model):
        neurons = toy_set(model)
        ids = torch.tensor([[3, 5, 7, 9]])
        with attach(model, neurons) as steer:
            steer.to("en,4:fr - en*0.5,8:-")
            greedy(model, ids)
            assert steer.spans() == [(0, 4, "en"), (4, 8, "fr - en*0.5"), (8, 12, None)]
            # Every position of a teacher-forced pass is like the pass under its label alone.
            steer.to("en,2:fr - en*0.5,prompt=yes", prompt_length=2)
            mixed = model(ids).logits
            steer.to("en")
            torch.testing.assert_close(mixed[:, :2], model(ids).logits[:, :2])
            steer.to("fr*0.5")
            assert not torch.allclose(mixed[:, 3], model(ids).logits[:, 3])

    def test_schedules_with_sums_are_written_and_read_back(self):
        schedule = Schedule.parse("en,24:fr*0.5 - en, 30-40:de - fr")
        assert schedule.labels == ("en", "fr*0.5 - en", "de - fr")
        assert Schedule.parse(str(schedule)) == schedule
        assert Schedule.from_dict(schedule.to_dict()) == schedule
        strong = Schedule.parse("(fr - en*0.5)*0.25")
        assert strong.points[0] == Point(0, "fr - en*0.5", 0.25)
        assert str(strong) == "(fr - en%2A0.5)*0.25" and Schedule.parse(str(strong)) == strong
        odd = Schedule(f"{escape('a,b*c')} - en")
        assert Schedule.parse(str(odd)) == odd and arith(odd.labels[0]).labels == ("a,b*c", "en")

    def test_labels_with_colons_are_no_schedule(self, model):
        neurons = toy_set(model, labels=("de:C-L", "de:L-C"))
        with attach(model, neurons) as steer:
            steer.to("de:C-L - de:L-C")
            assert steer.schedule == Schedule("de:C-L - de:L-C")

    def test_unknown_labels_are_refused_before_generating(self, model):
        with (
            attach(model, toy_set(model)) as steer,
            pytest.raises(LabelError, match=r"'xx'.*has en"),
        ):
            steer.to("fr - xx")
        with attach(model, toy_set(model)) as steer, pytest.raises(ScheduleError, match="Cannot"):
            steer.to("en,24:fr - ")

    def test_progressive_deactivation(self, model):
        neurons = toy_set(model)
        ids = torch.tensor([[3, 5, 7, 9]])
        steps = progressive(["en", "fr"])
        assert [step.text for step in steps] == ["- en", "- en - fr"]
        with attach(model, neurons) as steer:
            for step, labels in zip(steps, (["en"], ["en", "fr"]), strict=True):
                steer.to(None, away_from=labels)
                expected = greedy(model, ids)
                steer.to(step)
                assert torch.equal(greedy(model, ids), expected)
        with pytest.raises(ParameterError):
            progressive([])


class TestSets:
    def test_neurons_of_the_one_without_those_of_the_other(self):
        found = arith("fr - en").select(table(ROWS))
        assert found.labels == ("fr - en",)
        assert found.index.tolist() == [0, 3]
        assert found.values["mlp.neuron.mean"].tolist() == [5, 1]

    def test_shared_neurons_have_the_values_of_the_first(self):
        found = arith("de + fr").select(table(ROWS))
        assert found.index.tolist() == [0, 2, 3]
        assert found.values["mlp.neuron.mean"].tolist() == [5, 7, 10]

    def test_is_the_difference_of_sets(self):
        neurons = table(ROWS)
        expected = neurons.only("fr") - neurons.only("en").relabel({"en": "fr"})
        assert arith("fr - en").select(neurons).index.tolist() == expected.index.tolist()

    def test_steers_as_a_label_of_its_own(self, tmp_path):
        arith("fr - en").select(table(ROWS)).save_pretrained(tmp_path)
        loaded = NeuronSet.from_pretrained(tmp_path)
        assert affine(loaded, "fr - en") == {0: (1, 5), 3: (1, 1)}

    def test_needs_something_to_take_from(self):
        with pytest.raises(ParameterError, match="only takes away"):
            arith("- en").select(table(ROWS))
        with pytest.raises(LabelError, match="'xx'"):
            arith("fr - xx").select(table(ROWS))
