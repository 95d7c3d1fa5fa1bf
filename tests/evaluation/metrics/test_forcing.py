"""Language forcing and confusion: what is identified, and why gibberish is no success."""

import sys
import types

import pytest

from neuronsteer.errors import MissingExtraError, ParameterError
from neuronsteer.evaluation.metrics import METRICS, metric
from neuronsteer.evaluation.metrics.fluency import degenerate, distinct_ngrams
from neuronsteer.evaluation.metrics.langid import (
    FastText,
    LanguageGuess,
    identifier,
    identify_languages,
)
from neuronsteer.languages import canonical, same, scripts

from .texts import BY_LANGUAGE, CHINESE, ENGLISH, FRENCH, GERMAN, JAPANESE, RUSSIAN, by_script

LABELS = tuple(BY_LANGUAGE)


def test_lingua_hears_every_language():
    found, name = identify_languages(list(BY_LANGUAGE.values()), "lingua", labels=LABELS)
    assert found == list(LABELS)
    assert name == "lingua[de,en,fr,ja,ru,zh]"


def test_forcing_by_hand():
    texts = [FRENCH, FRENCH, ENGLISH, "le chat est là " * 30]
    score = metric("language_forcing", identifier=by_script).compute(texts, ["fr"] * 4)
    assert score["success"] == 0.75
    assert score["degeneration"] == 0.25
    assert score["fluent_success"] == score.value == 0.5
    assert score["distinct_ngrams"] == pytest.approx(
        sum(map(distinct_ngrams, texts)) / 4, abs=1e-12
    )
    assert score.details["by_target"]["fr"]["identified"] == {"fr": 3, "en": 1}
    low, high = score.interval
    assert 0 <= low < 0.5 < high <= 1


def test_forcing_always_reports_the_guards():
    score = metric("language_forcing", identifier=by_script).compute([FRENCH], ["fr"])
    assert {"distinct_ngrams", "degeneration", "fluent_success", "success"} <= set(score.values)


def test_forcing_uses_lingua_by_default_and_says_so():
    score = metric("language_forcing", languages=LABELS).compute(
        [FRENCH, GERMAN, CHINESE], ["fr", "de", "zh-Hans"]
    )
    assert score.value == 1.0
    assert score.settings["identifier"].startswith("lingua[")


def test_a_confidence_floor_turns_doubt_into_failure():
    def unsure(text):
        return ("fr", 0.4)

    assert metric("language_forcing", identifier=unsure).compute([FRENCH], ["fr"]).value == 1
    strict = metric("language_forcing", identifier=unsure, floor=0.5).compute([FRENCH], ["fr"])
    assert strict.value == 0
    assert strict["unidentified"] == 1
    with pytest.raises(ParameterError, match="floor"):
        metric("language_forcing", floor=1.5)


def test_silence_is_not_success():
    score = metric("language_forcing", languages=LABELS).compute(["", "?! …", "\n"], ["fr"] * 3)
    assert score["success"] == 0
    assert score["degeneration"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "la la la la la la la la la la la la la la la",
        "Le pont est vieux. " * 12,
        FRENCH + " et le pont" * 9,
        "犬が好きです。" * 10,
        "的" * 40,
        "............................................",
        "",
        ENGLISH + " " + RUSSIAN + " the old the old the old the old the old the o",
    ],
)
def test_stuttering_is_flagged(text):
    assert degenerate(text)


@pytest.mark.parametrize("text", [*BY_LANGUAGE.values(), "Oui.", "Ja!", "Wait... what?", "是的。"])
def test_prose_is_not_flagged(text):
    assert not degenerate(text)


def test_long_prose_is_not_flagged_for_its_length():
    # Words repeat more in longer texts; whole-text n-grams would punish that.
    text = " ".join(kind.__doc__ for _, kind in METRICS.items())
    assert len(text) > 5000
    assert not degenerate(text)


def test_distinct_ngrams_by_hand():
    assert distinct_ngrams("abcdef") == 1.0
    assert distinct_ngrams("aaaaaaa") == 0.5
    assert distinct_ngrams("abc") is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("fr", "fra_Latn"),
        ("zh-Hans", "cmn_Hani"),
        ("fr-CA", "FR"),
        ("nb", "no"),
        ("arb_Arab", "ar"),
    ],
)
def test_spellings_of_one_language(one, other):
    assert same(one, other)


def test_other_labels_stay_whole():
    assert canonical("code-python") != canonical("code-rust")
    assert not same("nn", "no")
    assert not same(None, None)
    assert scripts("sr") == {"CYRILLIC"} and scripts("sr-Latn") == {"LATIN"}


def test_identifiers_are_pluggable(tmp_path, monkeypatch):
    assert identifier(by_script).identify([FRENCH]) == [LanguageGuess("fr", 1.0)]
    with pytest.raises(ParameterError, match="No language identifier"):
        identifier("no/such/model.bin")
    with pytest.raises(ParameterError, match="needs two languages"):
        identifier("lingua", ["fr"])
    with pytest.raises(ParameterError, match="does not know qu"):
        identifier("lingua", ["fr", "qu"])
    file = tmp_path / "lid.bin"
    file.touch()
    monkeypatch.setitem(sys.modules, "fasttext", None)
    with pytest.raises(MissingExtraError, match="fasttext"):
        identifier(file)


def test_a_fasttext_model_file(tmp_path, monkeypatch):
    class Model:
        def predict(self, line, k=1):
            assert "\n" not in line, "fastText stops at a line break"
            found = (("__label__oci_Latn", "__label__fra_Latn"), (0.6, 0.3))
            return tuple(each[: k if k > 0 else None] for each in found)

    fake = types.ModuleType("fasttext")
    fake.load_model = lambda path: Model()
    monkeypatch.setitem(sys.modules, "fasttext", fake)
    file = tmp_path / "glotlid.bin"
    file.touch()
    assert identifier(file).identify(["a\nb", " ", "1"])[0] == LanguageGuess("oc", 0.6)
    assert identifier(file).identify([" "]) == [LanguageGuess(None, 0.0)]
    assert FastText(file, ["fr", "en"]).identify(["a b"]) == [LanguageGuess("fr", 0.3)]
    assert identify_languages(["a b"], file, floor=0.7)[0] == [None]


# Language confusion


def confusion(**parameters):
    return metric("language_confusion", identifier=by_script, **parameters)


def test_confusion_by_hand():
    replies = [
        RUSSIAN,  # passes both
        f"{RUSSIAN}\n{ENGLISH}",  # a wrong line
        RUSSIAN.replace("мост", "bridge"),  # a wrong word
        RUSSIAN + " NASA Google",  # names are not confusion
    ]
    score = confusion().compute(replies, ["ru"] * 4)
    assert score["line_pass_rate"] == 0.75
    assert score["word_pass_rate"] == pytest.approx(2 / 3)
    assert score.value == pytest.approx(2 * 0.75 * (2 / 3) / (0.75 + 2 / 3))
    assert score["wrong_lines"] == 1 / 5
    assert score.details["drifted_to"] == {"en": 1}


def test_short_lines_and_silence_are_not_judged():
    score = confusion().compute(["Да\nok then", RUSSIAN + "\nOK"], ["ru", "ru"])
    assert score["unscored"] == 0.5
    assert score["line_pass_rate"] == 1
    assert score["lines"] == 1


def test_scripts_without_spaces_have_lines_and_words_too():
    assert confusion().compute([CHINESE, JAPANESE], ["zh", "ja"]).value == 1
    mixed = CHINESE.replace("旧桥", "bridge")
    assert confusion().foreign(mixed, "zh") == ["bridge"]
    assert confusion().foreign(CHINESE + "ひらがな", "zh") == ["ひらがな"]
    assert confusion().compute([mixed], ["zh"])["word_pass_rate"] == 0


def test_words_of_latin_languages_are_not_defined():
    score = confusion().compute([FRENCH, FRENCH], ["fr", "fr"])
    assert score["word_pass_rate"] is None
    assert score.value == score["line_pass_rate"] == 1


def test_a_dictionary_replaces_the_rule():
    text = RUSSIAN.replace("мост", "rabotat")
    assert confusion().foreign(text, "ru") == ["rabotat"]
    assert confusion(words=frozenset({"bridge"})).foreign(text, "ru") == []
    assert confusion(words=frozenset({"bridge"})).foreign("Bridge мост", "ru") == ["Bridge"]
