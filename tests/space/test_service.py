"""Generations as visitors make them: switched, stopped, left alone, several at a time."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import io
import threading
from types import SimpleNamespace

import pytest

import neuronsteer as ns
from neuronsteer.cli.models import load_model
from neuronsteer.demo import model_folder
from neuronsteer.demo.sentences import texts
from neuronsteer.errors import ParameterError
from neuronsteer.space import SpaceSettings, generation_job
from neuronsteer.space.service import Service
from neuronsteer.steering.schedule import Schedule

from .conftest import changed, last, wait_until


def text_of(snapshot, output=0):
    return snapshot["outputs"][output]["text"]


def run(code: str) -> str:
    """Run a snippet and return what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})
    return out.getvalue()


def test_a_generation_is_seen_growing(service, short):
    seen = list(service.generate(short))
    tokens = [each["tokens"] for each in seen]
    assert tokens == sorted(tokens) and tokens[-1] == short.max_new_tokens
    assert [each["state"] for each in seen[:-1]] == ["running"] * (len(seen) - 1)
    assert seen[-1]["state"] == "done" and seen[-1]["schedule"] == "fr"
    assert all(text_of(b).startswith(text_of(a)[:-2]) for a, b in zip(seen, seen[1:], strict=False))
    assert service.sessions == []


def test_outputs_differ_by_steering_only(service, short):
    """Unsteered equals a generation that asks for nothing; random neurons are another text."""
    three = last(service.generate(changed(short, controls=True)))
    assert [each["name"] for each in three["outputs"]] == ["steered", "unsteered", "random"]
    nothing = last(service.generate(changed(short, controls=True, schedule="-")))
    texts = {text_of(nothing, i) for i in range(3)}
    assert texts == {text_of(three, 1)}
    assert text_of(three, 0) != text_of(three, 1)


class SwitchAfter:
    """Control messages with a switch after exactly so many tokens."""

    def __init__(self, after: int, label: str) -> None:
        self._after, self._label, self._calls = after, label, 0

    def receive(self) -> list[dict]:
        self._calls += 1  # once between every two tokens
        return [{"switch": self._label}] if self._calls == self._after else []


@pytest.mark.parametrize("after", [1, 7, 15])
def test_the_very_next_token_follows(service, short, after):
    """After `after` tokens, token number `after` is the first one of the new language."""
    asked = changed(short, schedule="en", controls=True)
    with service.models.using("") as loaded:
        checked = asked.checked(service.settings, loaded.neurons)
        end = last(
            generation_job.GenerationJob(loaded, checked, SwitchAfter(after, "ja")).snapshots()
        )
        planned = changed(checked, schedule=f"en,{after}:ja")
        want = last(generation_job.GenerationJob(loaded, planned, SwitchAfter(0, "")).snapshots())
    assert end["switches"] == [{"token": after, "label": "ja"}]
    assert [text_of(end, i) for i in range(3)] == [text_of(want, i) for i in range(3)]
    assert end["outputs"][0]["spans"] == want["outputs"][0]["spans"]


def test_a_switch_reaches_a_running_generation(service, short, pause):
    """The text up to the switch is that of the first language, and then it is not."""
    asked = changed(short, schedule="en", max_new_tokens=24)
    alone = last(service.generate(asked))
    pause.at(8)
    switched, end = False, None
    for end in service.generate(asked, session="switching"):
        if not switched and end["tokens"] == 8:
            switched = True
            assert service.switch("ja", "switching") == {"switched": True, "label": "ja"}
            pause.resume()
    assert end["state"] == "done" and end["switches"] == [{"token": 8, "label": "ja"}]
    spans = end["outputs"][0]["spans"]
    assert [(span["label"], span["token_start"]) for span in spans] == [("en", 0), ("ja", 8)]
    before = spans[0]["end"]
    assert text_of(end)[:before] == text_of(alone)[:before]
    assert text_of(end) != text_of(alone)
    # And the timeline that is reported gives the same text again, by itself.
    again = last(service.generate(changed(asked, schedule=end["schedule"])))
    assert text_of(again) == text_of(end)


def test_switching_back_and_off(service, short, pause):
    asked = changed(short, schedule="fr", max_new_tokens=40)
    labels, end = {8: "de", 16: None}, None
    pause.at(8)
    for end in service.generate(asked, session="back-and-off"):
        if end["tokens"] in labels:
            service.switch(labels.pop(end["tokens"]), "back-and-off")
            pause.at(16 if labels else 0)
    assert [span["label"] for span in end["outputs"][0]["spans"]] == ["fr", "de", None]


def test_stop_ends_a_generation_at_once(service, short, pause):
    pause.at(3)
    end = None
    for end in service.generate(changed(short, max_new_tokens=200), session="stopping"):
        if end["tokens"] == 3 and end["state"] == "running":
            assert service.stop("stopping") == {"stopped": True}
    assert end["state"] == "stopped" and end["tokens"] == 3
    assert service.sessions == [] and service.stop("stopping") == {"stopped": False}
    # The snippet of what was stopped asks for what is there.
    assert "max_new_tokens=3" in end["code"]


def generating() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "neuronsteer-space"]


def test_who_leaves_takes_the_generation_along(service, short, pause):
    pause.at(5)
    seen = service.generate(changed(short, max_new_tokens=200), session="leaving")
    next(seen)
    assert service.sessions == ["leaving"] and generating()
    seen.close()
    assert service.sessions == [] and not generating()


def test_a_generation_that_nobody_reads_ends(service, short, pause, monkeypatch):
    pause.at(5)
    seen = service.generate(changed(short, max_new_tokens=200), session="forgotten")
    next(seen)
    # The consumer hangs from here on: a dead connection that nobody noticed.
    monkeypatch.setattr(generation_job, "_ABANDONED_AFTER", 0.2)
    wait_until(lambda: not generating(), "the end of a generation that nobody reads")
    monkeypatch.undo()
    end = last(seen)
    assert end["state"] == "stopped" and end["tokens"] <= 5


def test_a_generation_ends_after_the_time_that_its_tokens_take(service, short, pause, monkeypatch):
    monkeypatch.setattr(generation_job, "_STARTING", 1.0)
    monkeypatch.setattr(generation_job, "_PER_TOKEN", 0.0)
    pause.at(3)
    with pytest.raises(ParameterError, match=r"ended after 2 seconds, with \d+ of 16 tokens"):
        list(service.generate(changed(short, pace=16)))
    assert service.sessions == []


def test_nothing_to_switch_is_an_answer(service):
    assert service.switch("fr", "nobody-here")["switched"] is False


def test_a_wrong_label_is_refused_while_the_text_goes_on(service, short):
    from neuronsteer.errors import LabelError

    seen = service.generate(short, session="wrong-label")
    next(seen)
    with pytest.raises(LabelError, match="Unknown label"):
        service.switch("klingon", "wrong-label")
    end = last(seen)
    assert end["state"] == "done" and not end["switches"]


def test_switches_that_come_too_late_are_said(service, short):
    late = f"en,{short.max_new_tokens}:fr"
    end = last(service.generate(changed(short, schedule=late)))
    assert f"switch at token {short.max_new_tokens} (fr) is never reached" in end["note"]
    assert last(service.generate(short))["note"] == ""


def test_visitors_do_not_change_each_others_language(service, short):
    """Four at once, each equal to what it is alone; one of them switches by itself."""
    requests = [
        changed(short, schedule=schedule, seed=i, max_new_tokens=20)
        for i, schedule in enumerate(["fr", "ja", "en,6:ru", "-"])
    ]

    def text(request) -> str:
        return text_of(last(service.generate(request)))

    alone = [text(each) for each in requests]
    with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
        assert list(pool.map(text, requests)) == alone
    assert len(set(alone)) == len(alone)


def test_a_text_is_kept_in_a_language_against_its_own_steering(service, short):
    """Steered to Japanese, kept in French: other tokens are refused, and the text shows where."""
    wanted = changed(short, schedule="ja", max_new_tokens=24)
    free, kept = (last(service.generate(changed(wanted, keep=keep))) for keep in ("", "fr"))
    assert free["interventions"] == []
    # Where nothing else could have been chosen, Japanese stays.
    foreign = [sum(ord(c) > 0x2E00 for c in text_of(each)) for each in (free, kept)]
    assert foreign[1] < foreign[0]
    assert {each["kind"] for each in kept["interventions"]} == {"refused"}
    for each in kept["interventions"]:
        # A part of a letter, which has no text, is refused, too.
        assert 0 < each["probability"] <= 1
        assert each["text"] == "" or not each["text"].isascii()
        assert not any(c.isalpha() and ord(c) > 0x2E00 for c in each["instead"])
        assert 0 <= each["token"] < 24 and each["tokens"] == 1
        assert len(short.prompt) <= each["start"] < each["end"] <= len(text_of(kept))


def test_only_the_steered_text_is_kept(service, short):
    wanted = changed(short, schedule="ja", controls=True)
    free, kept = (last(service.generate(changed(wanted, keep=keep))) for keep in ("", "fr"))
    assert text_of(free, 0) != text_of(kept, 0)
    assert [text_of(free, i) for i in (1, 2)] == [text_of(kept, i) for i in (1, 2)]


@pytest.fixture(scope="module")
def watching(tmp_path_factory) -> Service:
    """A service whose neuron set carries means, which that of the demo does not."""
    model, tokenizer = load_model("demo")
    written = {label: texts(label, 20, 3, seed=1) for label in ("de", "en", "fr")}
    folder = tmp_path_factory.mktemp("sets") / "diffmean"
    collected = ns.collect(model, tokenizer, written, progress=False)
    ns.detect(collected, "diffmean").save_pretrained(folder)
    service = Service(SpaceSettings(model=str(model_folder()), neurons=str(folder)))
    service.models.start()
    service.models.wait()
    return service


def test_without_a_schedule_the_neurons_pull_the_text_back(watching, short):
    """The English prompt goes on in English, which is not what it is kept in."""
    wanted = changed(short, schedule="-", keep="fr", max_new_tokens=24)
    found = last(watching.generate(wanted))
    pulled = [each for each in found["interventions"] if each["kind"] == "pulled back"]
    assert pulled and pulled[0]["left"] == "en" and pulled[0]["token"] <= 4
    assert all(each["tokens"] >= 1 and each["text"] is None for each in pulled)
    assert text_of(found) != text_of(last(watching.generate(changed(wanted, keep=""))))
    assert found["schedule"] == "-"
    assert run(found["code"]) == text_of(found) + "\n"


def test_what_is_steered_along_a_schedule_is_not_pulled_back(watching, short):
    found = last(watching.generate(changed(short, schedule="en", keep="fr")))
    assert all(each["kind"] == "refused" for each in found["interventions"])


def test_a_set_that_reads_the_prompt_has_controls(watching, short):
    wanted = changed(short, schedule="fr,8:de", controls=True)
    steered, unsteered, random = (
        each["text"] for each in last(watching.generate(wanted))["outputs"]
    )
    assert len({steered, unsteered, random}) == 3
    assert steered == text_of(last(watching.generate(changed(wanted, controls=False))))


def test_a_watched_text_is_not_switched_by_hand(watching, short, pause):
    pause.at(3)
    running = watching.generate(changed(short, schedule="-", keep="fr"), session="kept-1")
    next(running)
    answer = watching.switch("de", "kept-1")
    assert answer["switched"] is False and "kept in 'fr'" in answer["why"]
    pause.resume()
    assert last(running)["switches"] == []
    pause.at(3)
    running = watching.generate(changed(short, schedule="en", keep="fr"), session="steered-1")
    next(running)
    assert watching.switch("de", "steered-1")["switched"] is True
    pause.resume()
    list(running)


@pytest.mark.parametrize("keep", ["korean", "xx"])
def test_what_is_no_language_is_refused(service, short, keep):
    with pytest.raises(ParameterError, match=f"'{keep}'"):
        next(service.generate(changed(short, keep=keep)))


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "en,6:fr", "controls": True},
        {"schedule": "fr", "temperature": 0.0},
        {"schedule": "fr", "operation": "zero", "seed": 3},
        {"schedule": "de", "strength": 0.5, "full_length": False},
        {"schedule": "en,sentence@4:es"},
        {"schedule": "ja", "keep": "fr"},
        {"schedule": "ja", "keep": "fr", "controls": True, "temperature": 0.0},
        {"schedule": "ja", "prompt": 'He said: "It\'s <b>\\n</b>" 日本'},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_the_snippet_prints_what_is_on_the_screen(service, short, changes):
    end = last(service.generate(changed(short, **changes)))
    printed = run(end["code"])
    # A text that breaks off inside a character ends with a substitute in both.
    assert printed == "".join(each["text"] + "\n" for each in end["outputs"])


def test_a_prompt_too_long_for_the_model_is_refused(service, short):
    with pytest.raises(ParameterError, match="takes at most"):
        last(service.generate(changed(short, prompt="🦊" * 900)))


def test_models_that_are_not_loaded_are_refused(service, short):
    with pytest.raises(ParameterError, match="not loaded here"):
        last(service.generate(short, model="a/b + c/d"))
    with pytest.raises(ParameterError, match="not loaded here"):
        service.neurons("a/b + c/d")


def test_facts_about_the_neurons(service):
    facts = service.neurons()
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


@pytest.mark.parametrize(
    ("model_id", "template", "kind"),
    [
        ("demo", None, "demo"),
        ("google/gemma-3-270m", None, "base model"),
        ("Qwen/Qwen3-0.6B", "{{ messages }}", "chat model"),
        ("Qwen/Qwen3-0.6B-Base", "{{ messages }}", "base model"),
        ("/models/base/some-chat", "{{ messages }}", "chat model"),
    ],
)
def test_visitors_are_told_what_kind_of_model_it_is(service, model_id, template, kind):
    tokenizer = SimpleNamespace(chat_template=template)
    loaded = dataclasses.replace(service.models.wait(), model_id=model_id, tokenizer=tokenizer)
    assert loaded.kind == kind


def test_only_what_may_be_loaded_is_offered(monkeypatch, tmp_path):
    monkeypatch.setenv("NEURONSTEER_MODELS", str(tmp_path))

    def offered(**settings) -> list[str]:
        found = Service(SpaceSettings(**settings)).welcome()["choices"]
        return [each["model"] for each in found]

    assert offered() == ["demo"]
    (tmp_path / "gemma").mkdir()
    (tmp_path / "gemma" / "config.json").write_text("{}")
    assert offered() == ["demo", "gemma"]
    assert offered(model="a/model", neurons="a/set") == ["a/model", "demo", "gemma"]
    assert offered(public=True) == ["demo"]
    assert offered(public=True, allow=("gemma",)) == ["demo", "gemma"]


def test_a_page_from_before_finds_the_first_model_of_a_server_that_starts(short):
    again = Service(SpaceSettings())
    again.models.start()  # not waited for
    end = last(again.generate(short, "demo + demo"))
    assert end["state"] == "done"
