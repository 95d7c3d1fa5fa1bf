"""Mail, sampling and lanes: the parts of a generation."""

from __future__ import annotations

import multiprocessing
import os

import pytest
import torch

from neuronsteer.errors import ParameterError
from neuronsteer.space import Seeded
from neuronsteer.space.control_messages import Mailboxes
from neuronsteer.space.loaded_model import mirrored
from neuronsteer.space.outputs import Lane, scores
from neuronsteer.steering.schedule import Schedule

from ..tiny_models import tiny_tokenizer

# --- mail --------------------------------------------------------------------------------------


def test_letters_arrive_once_and_in_order():
    mail = Mailboxes()
    box = mail.open("session-1")
    assert box.letters() == []
    assert mail.post("session-1", {"switch": "fr"}) and mail.post("session-1", {"switch": None})
    assert box.letters() == [{"switch": "fr"}, {"switch": None}]
    assert box.letters() == []
    assert mail.post("session-1", {"stop": True})
    assert box.letters() == [{"stop": True}]


def test_nobody_gets_mail_for_somebody_else():
    mail = Mailboxes()
    one, other = mail.open("session-1"), mail.open("session-2")
    mail.post("session-2", {"stop": True})
    assert one.letters() == [] and other.letters() == [{"stop": True}]
    other.close()
    assert not mail.post("session-2", {"stop": True})
    assert other.letters() == []


@pytest.mark.parametrize(
    "name", ["", "a", "../../etc/passwd", "a/b/c/d/e", "x" * 65, "sess ion", "."]
)
def test_session_names_are_no_paths(name):
    mail = Mailboxes()
    with pytest.raises(ParameterError, match="session"):
        mail.open(name)
    with pytest.raises(ParameterError, match="session"):
        mail.post(name, {})


def test_a_session_is_opened_once():
    mail = Mailboxes()
    mail.open("session-1")
    with pytest.raises(ParameterError, match="generating already"):
        mail.open("session-1")


def _reads(box, asked, told):
    asked.recv()
    told.send((os.getpid(), box.letters()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="as on ZeroGPU, which forks")
def test_mail_reaches_another_process():
    mail = Mailboxes()
    box = mail.open("session-1")
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    told, tell = context.Pipe(duplex=False)
    process = context.Process(target=_reads, args=(box, there, tell))
    process.start()
    mail.post("session-1", {"switch": "ja"})
    here.send("now")
    pid, letters = told.recv()
    process.join(20)
    assert pid != os.getpid() and letters == [{"switch": "ja"}]


# --- sampling ----------------------------------------------------------------------------------


def test_samples_follow_the_softmax():
    scores = torch.tensor([[0.0, 1.0, 2.0]])
    sampling = Seeded(3, temperature=1.0)
    drawn = torch.stack([sampling(None, scores).argmax(-1) for _ in range(4000)])
    shares = torch.bincount(drawn.flatten(), minlength=3) / len(drawn)
    assert torch.allclose(shares, scores[0].softmax(-1), atol=0.03)


def test_temperature_zero_is_greedy_and_top_p_drops_the_tail():
    scores = torch.tensor([[0.0, 1.0, 2.0, -3.0]])
    assert torch.equal(Seeded(0, temperature=0)(None, scores), scores)
    kept = Seeded(0, top_p=0.5)(None, scores)
    assert torch.isfinite(kept).sum() == 1 and kept.argmax() == 2


def test_same_seed_same_noise_for_every_row_and_whatever_else_happens():
    scores = torch.randn(3, 50)
    first = Seeded(5)(None, scores)
    torch.manual_seed(99)
    torch.rand(7)
    assert torch.equal(Seeded(5)(None, scores), first)
    assert torch.allclose(first - scores, (first - scores)[:1].expand(3, -1), atol=1e-5)
    assert not torch.equal(Seeded(6)(None, scores), first)


def test_forbidden_tokens_stay_forbidden():
    scores = torch.tensor([[-torch.inf, 0.0]])
    assert all(Seeded(seed)(None, scores).argmax() == 1 for seed in range(50))


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}]
)
def test_sampling_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ParameterError):
        Seeded(1, **wrong)


# --- lanes -------------------------------------------------------------------------------------


def lane(judge=None, ends=()):
    tokenizer = tiny_tokenizer()
    prompt = tokenizer("abc").input_ids
    return tokenizer, Lane("steered", "abc", tokenizer, prompt, judge, frozenset(ends))


def test_spans_cover_the_text_and_cells_respect_switches():
    def judge(text):
        return "up" if text.isupper() else "low"

    tokenizer, one = lane(judge)
    for token in tokenizer("hello worlds and so on ABCDEFGH IJKLMNOP").input_ids:
        one.push(token)
    size = len(one.pieces)
    cut = size // 2
    seen = one.snapshot([(0, cut, "low"), (cut, 10**6, "up")], own=True)
    assert seen["tokens"] == size
    assert "".join(seen["text"][s["start"] : s["end"]] for s in seen["spans"]) == seen["text"][3:]
    assert [s["token_end"] for s in seen["spans"]] == [cut, size]
    assert [c["start"] for c in seen["cells"]] == [0, *(c["end"] for c in seen["cells"])][:-1]
    assert cut in {c["start"] for c in seen["cells"]}
    assert all(c["asked"] == ("low" if c["start"] < cut else "up") for c in seen["cells"])
    assert scores([seen])["steered"]["of"] <= len(seen["cells"])


def test_what_follows_the_end_is_padding():
    tokenizer, one = lane(ends=[7])
    one.push(tokenizer("x").input_ids[-1])
    one.push(7)
    one.push(tokenizer("y").input_ids[-1])
    assert one.ended and len(one.pieces) == 1


def test_too_little_text_is_not_judged():
    tokenizer, one = lane(judge=lambda _text: "fr")
    for token in tokenizer("a!?").input_ids:
        one.push(token)
    seen = one.snapshot([(0, 10**6, "fr")], own=True)
    assert all(span["heard"] is None for span in seen["spans"])
    assert scores([seen])["steered"] == {"right": 0, "of": 0}


def test_a_control_has_one_span_of_its_own():
    tokenizer, one = lane()
    for token in tokenizer("hello world").input_ids:
        one.push(token)
    seen = one.snapshot([(0, 2, "en"), (2, 10**6, "fr")], own=False)
    assert [span["label"] for span in seen["spans"]] == [None]
    assert {cell["asked"] for cell in seen["cells"]} == {"en", "fr"}


def test_the_random_lane_follows_the_same_timeline():
    schedule = Schedule.parse("en,4:-,9:fr*0.5,12~20:de,prompt=yes")
    mirror = mirrored(schedule)
    assert [p.at for p in mirror.points] == [p.at for p in schedule.points]
    assert mirror.labels == ("random-en", "random-fr", "random-de")
    assert mirror.prompt == schedule.prompt
    assert Schedule.parse(str(mirror)) == mirror
