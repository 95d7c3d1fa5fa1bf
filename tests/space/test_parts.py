"""Control messages, sampling and outputs: the parts of a generation."""

from __future__ import annotations

import multiprocessing
import os

import pytest
import torch

from neuronsteer.errors import ParameterError
from neuronsteer.space.control_messages import ControlFolder
from neuronsteer.space.loaded_model import for_random_neurons
from neuronsteer.space.outputs import Output, scores
from neuronsteer.space.seeded_sampling import SeededSampling
from neuronsteer.steering.schedule import Schedule

from ..tiny_models import tiny_tokenizer
from .conftest import PATIENCE

# --- control messages --------------------------------------------------------------------------


def test_messages_arrive_once_and_in_order():
    control = ControlFolder()
    messages = control.open("session-1")
    assert messages.receive() == []
    assert control.send("session-1", {"switch": "fr"}) and control.send(
        "session-1", {"switch": None}
    )
    assert messages.receive() == [{"switch": "fr"}, {"switch": None}]
    assert messages.receive() == []
    assert control.send("session-1", {"stop": True})
    assert messages.receive() == [{"stop": True}]


def test_messages_reach_their_own_session_only():
    control = ControlFolder()
    one, other = control.open("session-1"), control.open("session-2")
    control.send("session-2", {"stop": True})
    assert one.receive() == [] and other.receive() == [{"stop": True}]
    other.close()
    assert not control.send("session-2", {"stop": True})
    assert other.receive() == []


@pytest.mark.parametrize(
    "name", ["", "a", "../../etc/passwd", "a/b/c/d/e", "x" * 65, "sess ion", "."]
)
def test_session_names_are_no_paths(name):
    control = ControlFolder()
    with pytest.raises(ParameterError, match="session"):
        control.open(name)
    with pytest.raises(ParameterError, match="session"):
        control.send(name, {})


def test_a_session_is_opened_once():
    control = ControlFolder()
    control.open("session-1")
    with pytest.raises(ParameterError, match="generating already"):
        control.open("session-1")


def _reads(messages, signal, answer):
    signal.recv()
    answer.send((os.getpid(), messages.receive()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="as on ZeroGPU, which forks")
def test_messages_reach_another_process():
    control = ControlFolder()
    messages = control.open("session-1")
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    answers, answer = context.Pipe(duplex=False)
    process = context.Process(target=_reads, args=(messages, there, answer))
    process.start()
    control.send("session-1", {"switch": "ja"})
    here.send("now")
    assert answers.poll(PATIENCE), "the other process does not answer"
    pid, received = answers.recv()
    process.join(20)
    assert pid != os.getpid() and received == [{"switch": "ja"}]


# --- sampling ----------------------------------------------------------------------------------


def test_samples_follow_the_softmax():
    scores = torch.tensor([[0.0, 1.0, 2.0]])
    sampling = SeededSampling(3, temperature=1.0)
    drawn = torch.stack([sampling(None, scores).argmax(-1) for _ in range(4000)])
    shares = torch.bincount(drawn.flatten(), minlength=3) / len(drawn)
    assert torch.allclose(shares, scores[0].softmax(-1), atol=0.03)


def test_temperature_zero_is_greedy_and_top_p_drops_the_tail():
    scores = torch.tensor([[0.0, 1.0, 2.0, -3.0]])
    assert torch.equal(SeededSampling(0, temperature=0)(None, scores), scores)
    kept = SeededSampling(0, top_p=0.5)(None, scores)
    assert torch.isfinite(kept).sum() == 1 and kept.argmax() == 2


def test_same_seed_same_noise_for_every_row_and_whatever_else_happens():
    scores = torch.randn(3, 50)
    first = SeededSampling(5)(None, scores)
    torch.manual_seed(99)
    torch.rand(7)
    assert torch.equal(SeededSampling(5)(None, scores), first)
    assert torch.allclose(first - scores, (first - scores)[:1].expand(3, -1), atol=1e-5)
    assert not torch.equal(SeededSampling(6)(None, scores), first)


def test_forbidden_tokens_stay_forbidden():
    scores = torch.tensor([[-torch.inf, 0.0]])
    assert all(SeededSampling(seed)(None, scores).argmax() == 1 for seed in range(50))


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}]
)
def test_sampling_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ParameterError):
        SeededSampling(1, **wrong)


# --- outputs -----------------------------------------------------------------------------------


def output(identifier=None, end_tokens=()):
    tokenizer = tiny_tokenizer()
    prompt = tokenizer("abc").input_ids
    return tokenizer, Output("steered", "abc", tokenizer, prompt, identifier, frozenset(end_tokens))


def test_spans_cover_the_text_and_passages_respect_switches():
    def identify(text):
        return "up" if text.isupper() else "low"

    tokenizer, one = output(identify)
    for token in tokenizer("hello worlds and so on ABCDEFGH IJKLMNOP").input_ids:
        one.push(token)
    size = len(one.pieces)
    cut = size // 2
    seen = one.snapshot([(0, cut, "low"), (cut, 10**6, "up")], own=True)
    assert seen["tokens"] == size
    assert "".join(seen["text"][s["start"] : s["end"]] for s in seen["spans"]) == seen["text"][3:]
    assert [s["token_end"] for s in seen["spans"]] == [cut, size]
    assert [c["start"] for c in seen["passages"]] == [0, *(c["end"] for c in seen["passages"])][:-1]
    assert cut in {c["start"] for c in seen["passages"]}
    assert all(c["requested"] == ("low" if c["start"] < cut else "up") for c in seen["passages"])
    assert scores([seen])["steered"]["of"] <= len(seen["passages"])


def test_what_follows_the_end_is_padding():
    tokenizer, one = output(end_tokens=[7])
    one.push(tokenizer("x").input_ids[-1])
    one.push(7)
    one.push(tokenizer("y").input_ids[-1])
    assert one.ended and len(one.pieces) == 1


def test_too_little_text_has_no_language():
    tokenizer, one = output(identifier=lambda _text: "fr")
    for token in tokenizer("a!?").input_ids:
        one.push(token)
    seen = one.snapshot([(0, 10**6, "fr")], own=True)
    assert all(span["detected"] is None for span in seen["spans"])
    assert scores([seen])["steered"] == {"right": 0, "of": 0}


def test_a_control_has_one_span_of_its_own():
    tokenizer, one = output()
    for token in tokenizer("hello world").input_ids:
        one.push(token)
    seen = one.snapshot([(0, 2, "en"), (2, 10**6, "fr")], own=False)
    assert [span["label"] for span in seen["spans"]] == [None]
    assert {each["requested"] for each in seen["passages"]} == {"en", "fr"}


def test_random_neurons_follow_the_same_timeline():
    schedule = Schedule.parse("en,4:-,9:fr*0.5,12~20:de,prompt=yes")
    mirror = for_random_neurons(schedule)
    assert [p.at for p in mirror.points] == [p.at for p in schedule.points]
    assert mirror.labels == ("random-en", "random-fr", "random-de")
    assert mirror.prompt == schedule.prompt
    assert Schedule.parse(str(mirror)) == mirror
