"""The gate on its own: what it holds back, and that it touches nothing else."""

from __future__ import annotations

import pytest
import torch

from neuronsteer.errors import ParameterError
from neuronsteer.steering.keeping.token_choice import Candidates
from neuronsteer.steering.keeping.vocabulary_gate import VocabularyGate

from .vocabularies import byte_level, sentence_piece


class Text:
    """A text that grows, and scores for what comes next."""

    def __init__(self, make, language, *, prompt="the weather", **options):
        self.tokenizer = make()
        self.gate = VocabularyGate(self.tokenizer, language, **options)
        self.ids = self.encode(prompt)

    def encode(self, text):
        return self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]

    def add(self, text):
        for token in self.encode(text)[0]:
            scores = torch.full((1, len(self.tokenizer) + 3), -20.0)
            scores[0, token] = 0
            self.gate(self.ids, scores)  # a generation asks for every token
            self.ids = torch.cat([self.ids, token.view(1, 1)], 1)

    def scores(self, **likely):
        scores = torch.full((1, len(self.tokenizer) + 3), -20.0)
        for word, score in likely.items():
            scores[0, self.token(word)] = score
        return scores, self.gate(self.ids, scores)

    def token(self, word):
        return int(self.encode(word)[0, -1])

    def next(self, **likely):
        scores, found = self.scores(**likely)
        best = int(found.argmax())
        return next((word for word in likely if self.token(word) == best), best), found is scores


both = pytest.mark.parametrize("make", [byte_level, sentence_piece])


@both
def test_foreign_token_gives_way_to_a_choice(make):
    text = Text(make, "en")
    assert text.next(天气=2.0, weather=1.0) == ("weather", False)
    assert [(each.row, each.token, each.text.strip()) for each in text.gate.refused] == [
        (0, 0, "天气")
    ]
    assert 0.5 < text.gate.refused[0].probability < 0.8
    assert text.gate.refused[0].instead.strip() == "weather"


@both
@pytest.mark.parametrize("language", ["en", "fr", "ru", "ko", None])
def test_right_text_is_left_bit_by_bit(make, language):
    own = {"ru": "погода", "ko": "날씨"}.get(language, "weather")
    text = Text(make, language, prompt=own)
    assert text.next(**{own: 2.0, "天气": 1.9}) == (own, True)


@both
def test_without_a_choice_nothing_is_touched(make):
    assert Text(make, "en").next(天气=2.0) == ("天气", True)
    assert Text(make, "en").next(天气=6.0, weather=1.0) == ("天气", True)  # less than a hundredth


@both
@pytest.mark.parametrize("word", ["42", "...", "。", "π", "Python", "été"])
def test_always_allowed(make, word):
    assert Text(make, "ko").next(**{word: 2.0, "날씨": 1.5}) == (word, True)


@both
def test_latin_names_end_in_another_script(make):
    text = Text(make, "ko", names=2)
    text.add("Python")
    assert text.next(weather=2.0, 날씨=1.0) == ("weather", True)
    text.add("Python")
    assert text.next(weather=2.0, 날씨=1.0) == ("날씨", False)
    # A full stop is no way out, so the name goes on where nothing else can follow.
    assert text.next(**{"weather": 2.0, "...": 1.9}) == ("weather", True)
    text.add("날씨")
    assert text.next(weather=2.0, 날씨=1.0) == ("weather", True)


def test_nothing_is_held_back_in_code_and_addresses():
    text = Text(byte_level, "ko", names=1)
    text.add("```Python the weather")
    assert text.next(天气=2.0, 날씨=1.5) == ("天气", True)
    text.add("``")
    assert text.next(天气=2.0, 날씨=1.5) == ("天气", True)
    text.add("` ")
    assert text.next(天气=2.0, 날씨=1.5) == ("날씨", False)
    text.add("https://")
    assert text.next(天气=2.0, 날씨=1.5) == ("天气", True)
    text.add("weather.org ")
    assert text.next(天气=2.0, 날씨=1.5) == ("날씨", False)


def test_an_address_ends_where_another_script_begins():
    text = Text(byte_level, "zh", prompt="天气")
    text.add("www.weather.org很好")
    assert text.next(погода=2.0, 天气=1.5) == ("天气", False)


@both
def test_quoted_words_of_the_prompt(make):
    prompt = "the weather Python weather 天气"
    assert Text(make, "en", prompt=prompt).next(天气=2.0, weather=1.0)[0] == "天气"
    assert Text(make, "en", prompt=prompt).next(很好=2.0, weather=1.0)[0] == "weather"
    assert Text(make, "en", prompt=prompt, allow=()).next(天气=2.0, weather=1.0)[0] == "weather"
    foreign = "天气 很好 天气 the"  # a question in Chinese, to be answered in English
    assert Text(make, "en", prompt=foreign).next(天气=2.0, weather=1.0)[0] == "weather"


@both
@pytest.mark.parametrize("allow", ["天气", ["天气", "날씨"]])
def test_allowed_words(make, allow):
    assert Text(make, "en", allow=allow).next(天气=2.0, weather=1.0)[0] == "天气"
    assert Text(make, "en", allow=allow).next(很好=2.0, weather=1.0)[0] == "weather"


def test_thoughts_are_left_alone():
    text = Text(byte_level, "en", prompt="the weather<think>")
    assert text.next(天气=2.0, weather=1.0)[0] == "天气"
    text.add("</think>")
    assert text.next(天气=2.0, weather=1.0)[0] == "weather"
    text.add("<think>")
    assert text.next(天气=2.0, weather=1.0)[0] == "天气"


def test_thoughts_in_a_language_of_their_own():
    text = Text(byte_level, "ko", thinking="zh", marks=("[[", "]]"), names=1)
    text.add("[[")
    assert text.next(погода=3.0, 날씨=2.0, 天气=1.0)[0] == "天气"
    text.add("]]")
    assert text.next(погода=3.0, 날씨=1.0, 天气=2.0)[0] == "날씨"


def test_rows_of_a_batch_and_beams():
    tokenizer = byte_level()
    gate = VocabularyGate(tokenizer, ["en", None])
    one, chinese = tokenizer(["weather", "天气"], add_special_tokens=False)["input_ids"]
    ids = torch.tensor([one] * 4)
    scores = torch.full((4, len(tokenizer)), -20.0)
    scores[:, chinese[0]], scores[:, one[0]] = 2.0, 1.0
    assert gate(ids, scores).argmax(1).tolist() == [one[0]] * 2 + chinese * 2
    with pytest.raises(ParameterError, match="2 languages were given"):
        gate(ids[:3], scores[:3])


def test_rejected_drafts_are_forgotten():
    text = Text(byte_level, "ko", names=1)
    before = text.ids
    text.add("weather")
    assert text.next(weather=2.0, 날씨=1.0)[0] == "날씨"
    text.ids = before
    text.add("오늘")
    assert text.next(weather=2.0, 날씨=1.0)[0] == "weather"
    assert text.gate.refused == []


@pytest.mark.parametrize(
    ("candidates", "held_back"),
    [
        (Candidates(True, top_k=1), False),
        (Candidates(True, top_k=2), True),
        (Candidates(True, top_p=0.6), False),  # 天气 alone has .73
        (Candidates(True, top_p=0.8), True),
        (Candidates(True, 0.2, top_p=0.8), False),  # 天气 alone has .99
        (Candidates(True, min_p=0.5), False),
        (Candidates(True, min_p=0.3), True),
        (Candidates(True, 0.2, min_p=0.3), False),
    ],
)
def test_choice_is_what_would_be_sampled_from(candidates, held_back):
    found, same = Text(byte_level, "en", candidates=candidates).next(天气=2.0, weather=1.0)
    assert (found, same) == (("weather", False) if held_back else ("天气", True))


def test_foreign_tokens_that_are_not_sampled_from_are_left():
    text = Text(byte_level, "en", candidates=Candidates(True, top_k=1))
    assert text.next(weather=2.0, 天气=1.9)[1]
    text = Text(byte_level, "en", candidates=Candidates(True, top_k=2))
    assert text.next(weather=2.0, 天气=1.9) == ("weather", False)


@pytest.mark.parametrize("candidates", [Candidates(), Candidates(True), Candidates(True, top_k=2)])
def test_what_is_forbidden_otherwise_is_no_choice(candidates):
    """A grammar may have forbidden every token that would fit."""
    text = Text(byte_level, "en", candidates=candidates)
    scores = torch.full((1, len(text.tokenizer)), -torch.inf)
    scores[0, text.token("天气")], scores[0, text.token("погода")] = 2.0, 1.0
    assert text.gate(text.ids, scores) is scores
    scores[0, text.token("weather")] = 1.5
    assert text.gate(text.ids, scores).isfinite().nonzero().tolist() == [[0, text.token("weather")]]


def test_nothing_less_likely_takes_the_place():
    text = Text(byte_level, "en", candidates=Candidates(True, top_p=0.8))
    _, found = text.scores(天气=2.0, weather=1.0, the=-1.0)
    assert found.isfinite().nonzero()[:, 1].tolist() == [text.token("weather")]


@pytest.mark.parametrize("seed", range(20))
def test_draws_what_would_have_been_drawn_where_that_fits(seed):
    """The same random numbers give the same token, unless it is one that is held back."""
    text = Text(byte_level, "en", candidates=Candidates(True, top_k=4))
    scores, found = text.scores(天气=1.0, weather=1.2, the=1.1, Python=0.9)
    drawn: list[int] = []
    for each in (scores, found):
        torch.manual_seed(seed)
        four = each.topk(4).values[0, -1]
        kept = each.masked_fill(each < four, -torch.inf)
        drawn.append(int(torch.multinomial(kept.softmax(-1)[0], 1)))
    assert drawn[0] == drawn[1] or drawn[0] == text.token("天气")


def test_sampling_settings_are_those_of_generate():
    class Model:
        class generation_config:
            do_sample, temperature, top_k, top_p, min_p, num_beams = True, 0.5, None, 0.9, None, 1

    assert Candidates.of(Model, {}, 0.1) == Candidates(True, 0.5, 50, 0.9, 0.0, 1, 0.1)
    assert Candidates.of(Model, {"top_k": 0, "min_p": 0.2}, 0.1).top_k == 0
    assert not Candidates.of(Model, {"do_sample": False}, 0.1).sampling
    assert Candidates.of(Model, {"do_sample": False, "num_beams": 3}, 0.1).count == 6


@pytest.mark.parametrize(
    ("language", "options", "message"),
    [
        ("english", {}, "'english' is not the code"),
        (["en", "xx"], {}, "'xx' is not the code"),
        ("en", {"thinking": "none"}, "'none' is not the code"),
        ("en", {"names": 0}, "names=0"),
    ],
)
def test_errors(language, options, message):
    with pytest.raises(ParameterError, match=message):
        VocabularyGate(byte_level(), language, **options)
