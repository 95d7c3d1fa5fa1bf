"""Schedules: time, notation, JSON, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuronsteer.errors import ScheduleError
from neuronsteer.steering.schedule import Condition, Point, Schedule
from neuronsteer.steering.tables import Beginning, Row
from neuronsteer.steering.timeline import RowText, RowTimeline, TextConditions
from tests.tiny_models import tiny_tokenizer


def labels_of(schedule, tokens):
    return [schedule.at(n)[0] for n in range(tokens)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("en", "en en en en en en"),
        ("en,2:fr,4:ja", "en en fr fr ja ja"),
        ("en,fr@2,ja@4", "en en fr fr ja ja"),
        ("fr@3", "- - - fr fr fr"),
        ("en,2-4:fr", "en en fr fr en en"),
        ("2-4:fr", "- - fr fr - -"),
        ("en,1:fr,repeat=2", "en fr en fr en fr"),
        ("-,1:zh-Hans,3:-", "- zh-Hans zh-Hans - - -"),
        ("a%2Cb,1:c%3Ad", "a,b c:d c:d c:d c:d c:d"),
        ("%2D,1:-", "- - - - - -"),
        (" en , 2:fr ", "en en fr fr fr fr"),
    ],
)
def test_notation(text, expected):
    schedule = Schedule.parse(text)
    wanted = [None if label == "-" else label for label in expected.split()]
    if text.startswith("%2D"):
        wanted[0] = "-"  # the escaped dash is a label of that name
    assert labels_of(schedule, 6) == wanted
    assert Schedule.parse(str(schedule)) == schedule


def test_ramps_grow_evenly_and_stay():
    schedule = Schedule.parse("en,2~6:fr*0.8")
    assert [round(schedule.at(n)[1], 3) for n in range(2, 8)] == [0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    assert schedule.at(1) == ("en", 1.0)


def test_the_prompt_is_steered_by_one_label_and_not_by_a_schedule():
    assert Schedule("fr").at(-1) == ("fr", 1.0)
    assert Schedule("fr", prompt=False).at(-1) == (None, 1.0)
    assert Schedule("en", (3, "fr")).at(-1) == (None, 1.0)
    assert Schedule("en", (3, "fr"), prompt=True).at(-5) == ("en", 1.0)


def test_spans_cover_everything_once():
    assert Schedule.cycle(["a", None], every=3).spans(8) == [(0, 3, "a"), (3, 6, None), (6, 8, "a")]
    assert Schedule.window("x", 0, 2, base="y").spans(3) == [(0, 2, "x"), (2, 3, "y")]


# What the notation is made of, beside any text at all.
names = st.one_of(
    st.text(min_size=1, max_size=6),
    st.lists(
        st.sampled_from([*",:@*%=~-+() \n\u3000", "fr", "sentence", "text", "repeat", "24", " - "]),
        min_size=1,
        max_size=6,
    ).map("".join),
)
tokens = st.integers(0, 99) | st.integers(0, 10**17)
strengths = st.sampled_from([1.0, 0.5, 2.0]) | st.floats(0, allow_nan=False, allow_infinity=False)
ramps = st.just(0) | st.integers(1, 10**6)
waiting = st.builds(Condition.sentence_end, tokens) | st.builds(Condition.after_text, names, tokens)


@st.composite
def schedules(draw):
    """Any schedule that can be made: everything that the notation has to be able to write."""
    times = sorted(draw(st.sets(tokens, min_size=1, max_size=4)))
    points = [Point(at, draw(st.none() | names), draw(strengths), draw(ramps)) for at in times]
    repeat = draw(st.none() | st.integers(times[-1] + 1, 10**17 + 1))
    if repeat is None:
        for at in draw(st.lists(waiting, max_size=3)):
            place = draw(st.integers(1, len(points)))
            points.insert(place, Point(at, draw(st.none() | names), draw(strengths), draw(ramps)))
    return Schedule(*points, repeat=repeat, prompt=draw(st.none() | st.booleans()))


@settings(max_examples=250, deadline=None)
@given(schedules())
def test_printing_and_reading_back_changes_nothing(schedule):
    assert Schedule.parse(str(schedule)) == schedule
    assert str(Schedule.parse(str(schedule))) == str(schedule)
    assert Schedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule
    assert hash(Schedule.parse(str(schedule))) == hash(schedule)


@settings(max_examples=250, deadline=None)
@given(st.lists(names, min_size=1, max_size=8).map("".join) | st.text(max_size=30))
def test_any_text_is_a_schedule_or_says_why_not(text):
    try:
        schedule = Schedule.parse(text)
    except ScheduleError:
        return
    assert Schedule.parse(str(schedule)) == schedule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("en,,fr", "empty part"),
        ("en,fr", "only the first part may be a bare label"),
        ("en,5:fr,3:ja", "increasing order"),
        ("en,x:fr", "Cannot read 'x'"),
        ("en,9-4:fr", "ends before it starts"),
        ("en,4:", "label is missing"),
        ("en*strong", "not a number"),
        ("en,8:fr,repeat=8", "never reaches"),
        ("en,8:fr,repeat=x", "positive number"),
        ("en,prompt=maybe", "'yes' or 'no'"),
        ("sentence:fr,repeat=9", "cannot wait for text"),
    ],
)
def test_malformed_notation_says_what_is_expected(text, message):
    with pytest.raises(ScheduleError, match=message):
        Schedule.parse(text)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Schedule(),
        lambda: Schedule("en", "fr"),
        lambda: Schedule("en", (-1, "fr")),
        lambda: Schedule("en", Point(3, "fr", ramp=-1)),
        lambda: Schedule("en", Point(3, "fr", strength=float("nan"))),
        lambda: Schedule("en", ("3", "fr")),
        lambda: Condition("paragraph"),
        lambda: Condition.after_text(""),
        lambda: Schedule.from_dict({"points": [{"label": "x"}]}),
        lambda: Schedule.from_dict({}),
    ],
)
def test_malformed_schedules_are_refused(make):
    with pytest.raises(ScheduleError):
        make()


ROWS = {label: Row(label, i + 1, ()) for i, label in enumerate(("en", "fr", "ja"))}


def timeline(schedule, conditions=None):
    return RowTimeline(schedule, lambda label, _strength, _left: ROWS.get(label), conditions)


def labels_in(spans):
    return [(start, end, row and row.label) for start, end, row, _ in spans]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["en", "fr", "ja", None]), min_size=1, max_size=5), st.data())
def test_timelines_say_what_their_schedule_says(labels, data):
    cuts = sorted(data.draw(st.sets(st.integers(1, 15), min_size=len(labels) - 1, max_size=9)))
    points = [(0, labels[0]), *zip(cuts, labels[1:], strict=False)]
    period = data.draw(st.none() | st.integers(16, 20))
    schedule = Schedule(*points, repeat=period)
    first, length = data.draw(st.integers(-6, 40)), data.draw(st.integers(1, 30))
    spans = labels_in(timeline(schedule).spans(first, first + length))
    spread = [label for start, end, label in spans for _ in range(start, end)]
    assert spread == [schedule.at(n)[0] for n in range(first, first + length)]
    assert spans[0][0] == first and spans[-1][1] == first + length


STRONG = {label: Row(label, i + 4, (), Beginning(1.5, 3)) for i, label in enumerate(ROWS)}


def factors_in(spans):
    return [(start, end, row and row.label, factor) for start, end, row, factor in spans]


def beginning(text, conditions=None):
    def row_of(label, strength, _left):
        return (STRONG if strength == 1 else ROWS).get(label)

    return RowTimeline(Schedule.parse(text), row_of, conditions)


def test_switches_begin_as_their_rows_say():
    assert factors_in(beginning("en,4:fr").spans(-2, 9)) == [
        (-2, 0, None, 1.0),
        (0, 4, "en", 1.0),  # not the first label: nothing has been written before
        (4, 7, "fr", 1.5),
        (7, 9, "fr", 1.0),
    ]
    # Cut short by the next switch; after a pause; the same label again is no switch.
    assert factors_in(beginning("4:fr,6:ja,12:-,13:ja,14:ja").spans(3, 18)) == [
        (3, 4, None, 1.0),
        (4, 6, "fr", 1.5),
        (6, 9, "ja", 1.5),
        (9, 12, "ja", 1.0),
        (12, 13, None, 1.0),
        (13, 16, "ja", 1.5),
        (16, 18, "ja", 1.0),
    ]
    # A strength, or a ramp, that is stated is what happens.
    assert factors_in(beginning("en,2:fr*0.5").spans(0, 4)) == [(0, 2, "en", 1), (2, 4, "fr", 1)]
    ramp = factors_in(beginning("en,2~4:fr").spans(0, 9))
    assert [each[3] for each in ramp] == [1.0, 0.5, 1.0]
    # When it repeats, the first label follows the last.
    assert factors_in(beginning("en,5:fr,repeat=10").spans(8, 14)) == [
        (8, 10, "fr", 1.0),
        (10, 13, "en", 1.5),
        (13, 14, "en", 1.0),
    ]


def test_switches_begin_strongly_whoever_switches():
    live = beginning("en").switched(4, beginning("fr")).switched(5, beginning("fr"))
    assert not live.is_constant
    found = [(0, 4, "en", 1.0), (4, 7, "fr", 1.5), (7, 9, "fr", 1.0)]
    assert factors_in(live.spans(0, 9)) == found
    tokenizer = tiny_tokenizer()
    waits = beginning("en,sentence:fr", TextConditions(tokenizer))
    text = RowText(tokenizer("One. And then two", add_special_tokens=False).input_ids)
    spans = factors_in(waits.spans(0, len(text.tokens), text))
    assert [each[2:] for each in spans] == [("en", 1.0), ("fr", 1.5), ("fr", 1.0)]
    assert spans[1][1] - spans[1][0] == 3


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_is_asked_for_at_once_or_token_by_token_is_the_same(data):
    size = data.draw(st.integers(1, 6))
    labels = [data.draw(st.sampled_from(["en", "fr", "ja", "-", "ja*0.5"])) for _ in range(size)]
    cuts = sorted(data.draw(st.sets(st.integers(1, 15), min_size=size - 1, max_size=size - 1)))
    made = beginning(
        ",".join([labels[0], *(f"{at}:{x}" for at, x in zip(cuts, labels[1:], strict=True))])
    )
    for at in sorted(data.draw(st.sets(st.integers(1, 20), max_size=2))):
        made = made.switched(at, beginning(data.draw(st.sampled_from(["en", "fr,18:ja", "-"]))))

    def spread(spans):
        return [(row, factor) for start, end, row, factor in spans for _ in range(start, end)]

    whole = spread(made.spans(0, 30))
    assert len(whole) == 30
    assert whole == [pair for at in range(30) for pair in spread(made.spans(at, at + 1))]


def test_a_timeline_remembers_what_was_switched():
    made = timeline(Schedule("en", prompt=False))
    made = made.switched(4, timeline(Schedule("fr", (9, "ja"))))
    made = made.switched(6, timeline(Schedule("ja")))
    assert labels_in(made.spans(-2, 12)) == [
        (-2, 0, None),
        (0, 4, "en"),
        (4, 6, "fr"),
        (6, 12, "ja"),
    ]
    # A change before the first token replaces everything; at the same token the last one wins.
    made = timeline(Schedule("en")).switched(0, timeline(Schedule("fr")))
    assert labels_in(made.spans(0, 2)) == [(0, 2, "fr")]
    assert made.is_constant and made.constant_row is ROWS["fr"]


def test_sentence_ends_and_stop_strings_fire_at_their_token():
    tokenizer = tiny_tokenizer()
    conditions = TextConditions(tokenizer)

    def fired(schedule, text):
        ids = torch.tensor(tokenizer(text, add_special_tokens=False).input_ids)
        whole, steps = RowText(), RowText()
        whole.follow(ids)
        token = conditions.fired(schedule, whole)
        for count in (*range(len(ids) + 1), len(ids) // 2, len(ids)):  # and back once
            steps.follow(ids[:count])
            again = conditions.fired(schedule, steps)
        assert token == again, "the same tokens give the same answer, at once or step by step"
        return {i: tokenizer.decode(ids[:at]) for i, at in token.items()}

    once = Schedule("en", (Condition.sentence_end(), "fr"))
    assert fired(once, "He cost 3.14 euros. She left.") == {1: "He cost 3.14 euros."}
    assert fired(once, "彼は行った。彼女は") == {1: "彼は行った。"}
    assert fired(once, "no end yet") == {}
    late = Schedule("en", (Condition.sentence_end(after=8), "fr"))
    assert fired(late, "One. Two. Three.") == {1: "One. Two."}
    stop = Schedule(
        "en", (Condition.after_text("</think>"), "fr"), (Condition.sentence_end(), "ja")
    )
    assert fired(stop, "Hm. Ok.</think>Oui. Non.") == {
        1: "Hm. Ok.</think>",
        2: "Hm. Ok.</think>Oui.",
    }
    counted = Schedule("en", (Condition.sentence_end(), "fr"), (4, "ja"))
    assert fired(counted, "No end here. Late.") == {}, "a counted point overtakes the condition"


def test_what_a_text_ends_before_is_said():
    schedule = Schedule.parse("en,24:fr,64:ja")
    assert schedule.last_switch == 64 and Schedule("en").last_switch == 0
    assert schedule.unreached(65) == "" and Schedule("en").unreached(1) == ""
    assert schedule.unreached(64).startswith("The schedule's switch at token 64 (ja) is never")
    both = "tokens 24 (fr), 64 (ja) are never reached: there are at most 10"
    assert both in schedule.unreached(10)
    waiting = Schedule.parse("en,sentence@40:-")
    assert waiting.last_switch == 40 and waiting.unreached(41) == ""
    assert "40 (-)" in waiting.unreached(40)
    # A text that never ends a sentence is not foreseen.
    assert Schedule.parse("en,sentence:fr").unreached(1) == ""
    assert Schedule.parse("en,16:fr,repeat=32").unreached(20) == ""
