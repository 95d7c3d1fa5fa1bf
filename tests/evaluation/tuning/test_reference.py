"""What good text is like: beginnings, likelihoods, distinct n-grams, and similar languages."""

from __future__ import annotations

import pytest

from neuronsteer.errors import TextError
from neuronsteer.evaluation.metrics.scoring import score_rows
from neuronsteer.evaluation.tuning import reference
from neuronsteer.languages import neighbours
from tests.tiny_models import tiny_model, tiny_tokenizer


def test_beginnings_are_spread_and_short_texts_are_halved():
    texts = [f"{i} " + "word " * 20 for i in range(100)]
    found = reference.beginnings("en", texts)
    assert len(found) == reference.REFERENCES and found[0].split() == ["0", *["word"] * 7]
    assert int(found[-1].split()[0]) > 90
    assert reference.beginnings("en", ["ab cd", "ef gh", "ij"]) == ["ab", "ef", "i"]
    assert reference.beginnings(
        "zh", ["一二三四五六七八九十" * 3 + c for c in "甲乙丙"] * 9 + ["一", "二"]
    )
    with pytest.raises(TextError, match="2 different beginnings"):
        reference.beginnings("en", ["same text", "same text", "other"])


def test_loss_is_per_character_and_given_nothing():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    ids = tokenizer("the dog", add_special_tokens=False)["input_ids"]
    row = reference.scored_row(tokenizer, ids)
    assert row is not None and row.ids == (1, *ids) and row.start == 1
    logprob = score_rows(model, [row])[0].logprob
    assert reference.nats_per_character(tokenizer, ids, logprob) == pytest.approx(-logprob / 7)
    assert reference.nats_per_character(tokenizer, [1], -1.0) is None
    assert reference.scored_row(tiny_tokenizer(bos=False), []) is None


def test_a_range_leaves_a_tenth_on_both_sides():
    low, high = reference.middle([float(i) for i in range(11)])
    assert (low, high) == (1.0, 9.0)
    losses = (0.5, 1.0, 5.0, 9.0, 12.0, None)
    assert [reference.outside(x, low, high) for x in losses] == [0.5, 0, 0, 0, 3.0, 9.0]


def test_repetition_is_seen_in_every_script():
    good, loop = "他和主管都回答说在建材企业中部分", "管理人员管理人员主管人员管理人员"
    n = reference.ngram_of("zh")
    assert reference.distinct(good, n) == 1 and reference.distinct(loop, n) < 0.6
    assert reference.ngram_of("fr") == 6 and reference.distinct("ab", 6) == 0


def test_neighbours_are_what_a_text_is_taken_for():
    assert "uk" in neighbours("ru") and "ru" in neighbours("uk_UA")
    assert "ca" in neighbours("es") and "es" not in neighbours("es")
    assert neighbours("en") == () and neighbours("label") == ()
