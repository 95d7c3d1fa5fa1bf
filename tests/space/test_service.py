"""Generations as visitors make them: switched, stopped, left alone, several at a time."""

from __future__ import annotations

import contextlib
import io
import threading
import time

import pytest

from neuronsteer.errors import ParameterError
from neuronsteer.space import generation_job as running
from neuronsteer.steering.schedule import Schedule

from .conftest import changed, last


def text_of(snapshot, lane=0):
    return snapshot["lanes"][lane]["text"]


def run(code: str) -> str:
    """Run a snippet and return what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})
    return out.getvalue()


def test_a_generation_is_seen_growing(desk, order):
    seen = list(desk.generate(order))
    tokens = [each["tokens"] for each in seen]
    assert tokens == sorted(tokens) and tokens[-1] == order.max_new_tokens
    assert [each["state"] for each in seen[:-1]] == ["running"] * (len(seen) - 1)
    assert seen[-1]["state"] == "done" and seen[-1]["schedule"] == "fr"
    assert all(text_of(b).startswith(text_of(a)[:-2]) for a, b in zip(seen, seen[1:], strict=False))
    assert desk.running == 0


def test_lanes_differ_by_steering_only(desk, order):
    """Unsteered equals a generation that asks for nothing; random neurons are another text."""
    three = last(desk.generate(changed(order, controls=True)))
    assert [lane["name"] for lane in three["lanes"]] == ["steered", "unsteered", "random"]
    nothing = last(desk.generate(changed(order, controls=True, schedule="-")))
    texts = {text_of(nothing, lane) for lane in range(3)}
    assert texts == {text_of(three, 1)}
    assert text_of(three, 0) != text_of(three, 1)


class Postman:
    """A mailbox that holds a switch after exactly so many tokens."""

    def __init__(self, after: int, label: str) -> None:
        self._after, self._label, self._calls = after, label, 0

    def letters(self) -> list[dict]:
        self._calls += 1  # once between every two tokens
        return [{"switch": self._label}] if self._calls == self._after else []


@pytest.mark.parametrize("after", [1, 7, 15])
def test_the_very_next_token_follows(desk, order, after):
    """After `after` tokens, token number `after` is the first one of the new language."""
    asked = changed(order, schedule="en", controls=True)
    with desk.shelf.borrow("") as pair:
        checked = asked.checked(desk.settings, pair.neurons)
        end = last(running.Running(pair, checked, Postman(after, "ja")).snapshots())
        planned = changed(checked, schedule=f"en,{after}:ja")
        want = last(running.Running(pair, planned, Postman(0, "")).snapshots())
    assert end["switches"] == [{"token": after, "label": "ja"}]
    assert [text_of(end, lane) for lane in range(3)] == [text_of(want, lane) for lane in range(3)]
    assert end["lanes"][0]["spans"] == want["lanes"][0]["spans"]


def test_a_switch_reaches_a_running_generation(desk, order):
    """The text up to the switch is that of the first language, and then it is not."""
    asked = changed(order, schedule="en", max_new_tokens=24, pace=12)
    alone = last(desk.generate(changed(asked, pace=0)))
    switched, end = None, None
    for end in desk.generate(asked, session="switching"):
        if switched is None and end["tokens"] >= 8:
            switched = end["tokens"]
            assert desk.switch("ja", "switching") == {"switched": True, "label": "ja"}
    assert end["state"] == "done" and [each["label"] for each in end["switches"]] == ["ja"]
    at = end["switches"][0]["token"]
    assert switched <= at < order.max_new_tokens + 8
    spans = end["lanes"][0]["spans"]
    assert [(span["label"], span["token_start"]) for span in spans] == [("en", 0), ("ja", at)]
    before = spans[0]["end"]
    assert text_of(end)[:before] == text_of(alone)[:before]
    assert text_of(end) != text_of(alone)
    # And the timeline that is reported gives the same text again, by itself.
    again = last(desk.generate(changed(asked, pace=0, schedule=end["schedule"])))
    assert text_of(again) == text_of(end)


def test_switching_back_and_off(desk, order):
    asked = changed(order, schedule="fr", max_new_tokens=40, pace=12)
    labels, end = ["de", None], None
    for end in desk.generate(asked, session="back-and-off"):
        if labels and end["tokens"] >= 8 * (3 - len(labels)):
            desk.switch(labels.pop(0), "back-and-off")
    assert [span["label"] for span in end["lanes"][0]["spans"]] == ["fr", "de", None]


def test_stop_ends_a_generation_at_once(desk, order):
    asked = changed(order, max_new_tokens=200, pace=20)
    end = None
    for end in desk.generate(asked, session="stopping"):
        if end["tokens"] >= 3:
            assert desk.stop("stopping") == {"stopped": True}
    assert end["state"] == "stopped" and 3 <= end["tokens"] < 200
    assert desk.running == 0 and desk.stop("stopping") == {"stopped": False}
    # The snippet of what was stopped asks for what is there.
    assert f"max_new_tokens={end['tokens']}" in end["code"]


def test_who_leaves_takes_the_generation_along(desk, order):
    before = threading.active_count()
    seen = desk.generate(changed(order, max_new_tokens=200, pace=20), session="leaving")
    next(seen)
    assert desk.running == 1
    seen.close()
    assert desk.running == 0 and threading.active_count() <= before


def test_a_generation_that_nobody_looks_at_ends(desk, order, monkeypatch):
    monkeypatch.setattr(running, "_LEASE", 0.5)
    seen = desk.generate(changed(order, max_new_tokens=200, pace=10), session="forgotten")
    next(seen)
    time.sleep(1.5)  # the consumer hangs: a dead connection that nobody noticed
    end = last(seen)
    assert end["state"] == "stopped" and end["tokens"] < 100


def test_nothing_to_switch_is_an_answer(desk):
    assert desk.switch("fr", "nobody-here")["switched"] is False


def test_a_wrong_label_is_refused_while_the_text_goes_on(desk, order):
    from neuronsteer.errors import LabelError

    seen = desk.generate(changed(order, pace=20), session="wrong-label")
    next(seen)
    with pytest.raises(LabelError, match="Unknown label"):
        desk.switch("klingon", "wrong-label")
    end = last(seen)
    assert end["state"] == "done" and not end["switches"]


def test_visitors_do_not_change_each_others_language(desk, order):
    """Four at once, each equal to what it is alone; one of them switches by itself."""
    wishes = ["fr", "ja", "en,6:ru", "-"]
    orders = [
        changed(order, schedule=wish, seed=i, max_new_tokens=20) for i, wish in enumerate(wishes)
    ]
    alone = [text_of(last(desk.generate(each))) for each in orders]
    together: dict[int, str] = {}

    def visit(i: int) -> None:
        together[i] = text_of(last(desk.generate(orders[i], session=f"visitor-{i}")))

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(len(orders))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [together[i] for i in range(len(orders))] == alone
    assert len(set(alone)) == len(alone)


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "en,6:fr", "controls": True},
        {"schedule": "fr", "temperature": 0.0},
        {"schedule": "fr", "operation": "zero", "seed": 3},
        {"schedule": "de", "strength": 0.5, "full_length": False},
        {"schedule": "en,sentence@4:es"},
        {"schedule": "ja", "prompt": 'He said: "It\'s <b>\\n</b>" 日本'},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_the_snippet_prints_what_is_on_the_screen(desk, order, changes):
    end = last(desk.generate(changed(order, **changes)))
    printed = run(end["code"])
    # A text that breaks off inside a character ends with a substitute in both.
    assert printed == "".join(lane["text"] + "\n" for lane in end["lanes"])


def test_a_prompt_too_long_for_the_model_is_told(desk, order):
    with pytest.raises(ParameterError, match="reads"):
        last(desk.generate(changed(order, prompt="🦊" * 900)))


def test_pairs_that_are_not_loaded_are_told(desk, order):
    with pytest.raises(ParameterError, match="not loaded here"):
        last(desk.generate(order, pair="a/b + c/d"))
    with pytest.raises(ParameterError, match="not loaded here"):
        desk.neurons("a/b + c/d")


def test_facts_about_the_neurons(desk):
    facts = desk.neurons()
    assert set(facts["labels"]) == set(facts["counts"]) == set(facts["best"])
    assert all(sum(facts["layers"][label]) == facts["counts"][label] for label in facts["labels"])
    assert sum(facts["sharing"].values()) == facts["neurons"]
    assert next(iter(facts["operations"])) == facts["operation"]["name"]
    assert {"zero", "scale"} <= set(facts["operations"])
    tour = Schedule.parse(facts["schedule"])
    assert 2 <= len(tour.labels) <= 3 and set(tour.labels) <= set(facts["labels"])
    for label, best in facts["best"].items():
        found = [each["score"] for each in best]
        assert found == sorted(found, reverse=True), label
