"""Answers of the model itself as calibration text: kept where the language is right, once."""

from __future__ import annotations

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import neuronsteer as ns
from neuronsteer.demo import model_folder
from neuronsteer.demo.sentences import texts
from neuronsteer.errors import ParameterError, TextError
from neuronsteer.evaluation.own_answers import own_answers

PROMPTS = {
    label: [" ".join(text.split()[:8]) for text in texts(label, 6, 2, seed=3)]
    for label in ("de", "fr")
}


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(model_folder()).eval()


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(model_folder())


def first_word_of(text):
    """An identifier that needs no package: German and French as the demo writes them."""
    german = sum(text.lower().count(word) for word in ("der", "die", "das", "und", "ein"))
    french = sum(text.lower().count(word) for word in ("le ", "la ", "les", "et ", "un"))
    return "de" if german > french else "fr"


def test_answers_in_the_language_are_kept_and_counted(model, tokenizer, tmp_path):
    found = own_answers(
        model, tokenizer, PROMPTS, max_new_tokens=24, identifier=first_word_of, out=tmp_path
    )
    assert list(found) == ["de", "fr"]
    for label, pairs in found.items():
        assert pairs and all(first_word_of(answer) == label for _, answer in pairs)
        assert all(prompt.strip() in PROMPTS[label] for prompt, _ in pairs)
    stats = ns.collect(model, tokenizer, found, response_only=True, progress=False)
    for label, pairs in found.items():
        assert stats.texts[label] == len(pairs)
        assert 0 < stats.tokens[label] <= 24 * len(pairs)


def test_what_was_answered_is_not_asked_again(model, tokenizer, tmp_path, monkeypatch):
    options = {"max_new_tokens": 12, "identifier": first_word_of, "out": tmp_path}
    first = own_answers(model, tokenizer, {"de": PROMPTS["de"]}, **options)
    asked = []
    monkeypatch.setattr(
        "neuronsteer.evaluation.own_answers.continue_rows",
        lambda *_args, **_options: asked.append(1) or [[5, 6, 7, 8]] * len(PROMPTS["fr"]),
    )
    again = own_answers(model, tokenizer, {"de": PROMPTS["de"]}, **options)
    assert again == first and not asked
    # Only the files that are there count: an answer in no right language is an error, and no file.
    with pytest.raises(TextError, match="'fr' is in that language"):
        own_answers(model, tokenizer, PROMPTS, **{**options, "identifier": lambda _text: "de"})
    assert [file.name for file in tmp_path.iterdir()] == ["de.jsonl"]


def test_chat_models_see_their_template(model, tokenizer):
    tokenizer.chat_template = "{% for m in messages %}[{{ m.content }}]{% endfor %}: "
    seen = []

    def identify(text):
        seen.append(text)
        return "de"

    (pairs,) = own_answers(
        model, tokenizer, {"de": PROMPTS["de"]}, max_new_tokens=8, identifier=identify
    ).values()
    assert [prompt for prompt, _ in pairs] == [f"[{each}]: " for each in PROMPTS["de"]][
        : len(pairs)
    ]
    assert len(seen) == len(PROMPTS["de"])


def test_mistakes(model, tokenizer):
    with pytest.raises(ParameterError, match="max_new_tokens=1"):
        own_answers(model, tokenizer, PROMPTS, max_new_tokens=1)
    with pytest.raises(ParameterError, match="cannot be the name of a file"):
        own_answers(model, tokenizer, {"a/b": ["x"]}, identifier=first_word_of, out="somewhere")
