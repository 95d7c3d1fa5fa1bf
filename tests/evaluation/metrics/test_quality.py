"""Translation, answers and choices against sacrebleu, scikit-learn and cases by hand."""

import math
import sys

import pytest
import sacrebleu
from sklearn.metrics import accuracy_score, fbeta_score

from neuronsteer.errors import MissingExtraError, ParameterError
from neuronsteer.evaluation.bootstrap import interval, wilson
from neuronsteer.evaluation.metrics import metric
from neuronsteer.evaluation.metrics.answers import f1, numbers, tokens
from neuronsteer.evaluation.metrics.choices import FORMATS, question

from ...tiny_models import tiny_model, tiny_tokenizer
from . import texts
from .texts import CHINESE, FRENCH, GERMAN, JAPANESE, KOREAN, by_script

# Translation


def test_translation_is_sacrebleu():
    predictions = [FRENCH, "Le chat dort sur le vieux pont."]
    references = [[FRENCH.replace("vieux", "ancien"), FRENCH], ["Le chat dort sous le pont."]]
    score = metric("translation", target="fr").compute(predictions, references)
    streams = [[references[0][0], references[1][0]], [FRENCH, None]]
    assert score["bleu"] == pytest.approx(sacrebleu.corpus_bleu(predictions, streams).score)
    assert score["chrf"] == pytest.approx(sacrebleu.corpus_chrf(predictions, streams).score)
    assert "tok:13a" in score.settings["signatures"]["bleu"]
    low, high = score.intervals["bleu"]
    assert low <= score["bleu"] <= high
    plus = metric("translation", target="fr", chrf_word_order=2).compute(predictions, references)
    expected = sacrebleu.corpus_chrf(predictions, streams, word_order=2).score
    assert plus["chrf"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("target", "tokenizer", "module"),
    [
        ("zh-Hans", "zh", None),
        ("jpn_Jpan", "ja-mecab", "MeCab"),
        ("ko", "ko-mecab", "mecab_ko"),
        ("th", "char", None),
        ("de", "13a", None),
    ],
)
def test_the_tokenizer_follows_the_language(target, tokenizer, module):
    if module:
        pytest.importorskip(module)
    text = {"zh-Hans": CHINESE, "jpn_Jpan": JAPANESE, "ko": KOREAN, "th": "สวัสดีครับ"}.get(
        target, GERMAN
    )
    changed = text[:3] + text[4:]
    score = metric("translation", target=target, samples=0).compute([changed, text], [text, text])
    assert score.settings["tokenizer"] == tokenizer
    assert f"tok:{tokenizer}" in score.settings["signatures"]["bleu"]
    expected = sacrebleu.corpus_bleu([changed, text], [[text, text]], tokenize=tokenizer).score
    assert score["bleu"] == pytest.approx(expected)
    assert score.intervals == {}


def test_the_english_tokenizer_on_chinese_is_the_trap():
    other = CHINESE.replace("旧桥", "老桥")
    right = metric("translation", target="zh", samples=0).compute([other], [CHINESE])
    wrong = metric("translation", tokenize="13a", samples=0).compute([other], [CHINESE])
    assert wrong["bleu"] < right["bleu"] / 2


def test_what_translation_lacks_is_named(monkeypatch):
    with pytest.raises(ParameterError, match="needs target="):
        metric("translation").compute(["a"], ["b"])
    with pytest.raises(ParameterError, match="at least one reference"):
        metric("translation", target="fr").compute(["a"], [[]])
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ko_mecab.MeCab", None)
    with pytest.raises(MissingExtraError, match=r"sacrebleu\[ko\]"):
        metric("translation", target="ko").compute(["a"], ["b"])
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(MissingExtraError, match=r"neuronsteer\[eval\]"):
        metric("translation", target="fr").compute(["a"], ["b"])


# Exact match


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("The answer is 70,000.", "en", [70000]),
        ("Die Antwort ist 70.000.", "de", [70000]),
        ("Il gagne 80 000 $ puis 1 234,5 €", "fr", [80000, 1234.5]),
        ("1,5 kg", "de", [1.5]),
        ("1.5 kg", "en", [1.5]),
        ("1,234.5 and 1.234,5", None, [1234.5, 1234.5]),
        ("1,234,567", None, [1234567]),
        ("70.000", None, [70000]),
        ("70.000", "en", [70]),
        ("0.125", None, [0.125]),
        ("উত্তর ১৮", "bn", [18]),
        ("الجواب ١٬٢٣٤٫٥", "ar", [1234.5]),
        ("答案是１８。", "zh", [18]),
        ("คำตอบคือ ๔๒", "th", [42]),
        ("minus -5 but 2-3", "en", [-5, 2, 3]),
        ("4 5 6", "en", [4, 5, 6]),
        ("none", "en", []),
    ],
)
def test_numbers_as_languages_write_them(text, language, expected):
    assert numbers(text, language) == expected


def test_mgsm_by_hand():
    replies = [
        "Elle gagne 9 * 2 = 18 dollars.",
        "Il a réalisé un bénéfice de 70 000 $.",
        "She makes 18 dollars.",
        "Je ne sais pas, même à peu près.",
    ]
    chosen = metric("exact_match", kind="number", identifier=by_script)
    score = chosen.compute(replies, ["18", "70000", "18", "3"], ["fr"] * 4)
    assert score["exact_match"] == 0.75
    assert score["in_language"] == 0.5  # "dollars." has no accent: the toy identifier says English
    assert score["exact_match_in_language"] == 0.25
    assert score.details["right"] == [True, True, True, False]
    assert score.settings["identified_by"] == "by_script"


def test_an_ambiguous_separator_is_read_kindly():
    # References of MGSM are written the English way in every language.
    score = metric("exact_match", kind="number").compute(
        ["5,600", "5.600", "5,6", "56"], ["5,600"] * 4, ["de"] * 4
    )
    assert score.details["right"] == [True, True, False, False]


def test_the_right_number_in_the_wrong_language_is_half_an_answer():
    chosen = metric("exact_match", kind="number", identifier=by_script)
    score = chosen.compute(["The answer is 18."], ["18"], ["ja"])
    assert score["exact_match"] == 1
    assert score["exact_match_in_language"] == 0


def test_xquad_f1_is_squads():
    # As in the SQuAD script: without articles and punctuation, multiset overlap.
    score = metric("exact_match").compute(
        ["the Denver Broncos!", "308 points, a record"],
        [["Denver Broncos"], ["308", "308 points"]],
        ["en"] * 2,
    )
    assert score["exact_match"] == 0.5
    assert score["f1"] == pytest.approx((1 + 2 * (2 / 3 * 1) / (2 / 3 + 1)) / 2)


def test_words_of_each_language():
    assert tokens("L'eau de la mer", "fr") == ["eau", "de", "mer"]
    assert tokens("Der Hund", "de") == ["hund"]
    assert tokens("der Hund", "en") == ["der", "hund"]
    assert tokens("卡万·肖特11分", "zh") == ["卡", "万", "肖", "特", "11", "分"]
    assert tokens("الجسر", "ar") == ["جسر"]
    # MLQA's pattern also cuts these letters out of the middle of words; ours does not.
    assert tokens("خيال", "ar") == ["خيال"]
    assert 0 < f1(tokens("黑豹队", "zh"), tokens("黑豹", "zh")) < 1
    assert f1([], []) == 1 and f1(["a"], []) == 0


def test_mistakes_of_exact_match():
    with pytest.raises(ParameterError, match="kind must be one of"):
        metric("exact_match", kind="regex")
    with pytest.raises(ParameterError, match="not one number"):
        metric("exact_match", kind="number").compute(["1"], ["one"])
    with pytest.raises(ParameterError, match="needs languages"):
        metric("exact_match", identifier=by_script).compute(["1"], ["1"])


# Choices


def test_accuracy_is_scikit_learns():
    options = [[-1.0, -2.0], [-3.0, -1.0], [-0.5, -4.0], [-9.0, -8.0]]
    right = [0, 0, 0, 1]
    chosen = [max(range(2), key=row.__getitem__) for row in options]
    score = metric("choice_accuracy").compute(options, right)
    assert score.value == accuracy_score(right, chosen) == 0.75
    assert score["accuracy_norm"] is None
    assert score.details["chosen"] == chosen


def test_length_normalisation_and_ties():
    score = metric("choice_accuracy").compute([[-4.0, -3.0]], [0], [[8.0, 3.0]])
    assert score["accuracy"] == 0
    assert score["accuracy_norm"] == 1
    tied = metric("choice_accuracy").compute([[-1.0] * 4, [-1.0] * 4], [0, 0])
    assert tied.value == tied["chance"] == 0.25


CUP = "The cup did not fit in the bag because"
SUM = "2 + 2\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:"
BRIDGE = (
    "P: A bridge was built in 1900.\nQ: When was it built?\n"
    "A: 1800\nB: 1900\nC: 2000\nD: never\nAnswer:"
)


def same_prompt(prompt, *options):
    return tuple((prompt, option) for option in options)


@pytest.mark.parametrize(
    ("format", "row", "language", "pairs", "answer"),
    [
        (
            "xcopa",
            texts.XCOPA,
            "zh",
            same_prompt("女人退休了 所以", " 她领了退休金。", " 她还清了抵押贷款。"),
            0,
        ),
        (
            "xcopa",
            texts.XCOPA_ITALIAN,
            "it",
            same_prompt("Il vaso cadde perché", " il gatto lo spinse.", " era lunedì."),
            0,
        ),
        (
            "xwinograd",
            texts.XWINOGRAD,
            "en",
            ((f"{CUP} the cup", " was too small."), (f"{CUP} the bag", " was too small.")),
            1,
        ),
        (
            "xnli",
            texts.XNLI,
            "fr",
            same_prompt(
                "",
                *(f"Il pleut, correct? {word}, il fait beau" for word in ("Oui", "Aussi", "Non")),
            ),
            2,
        ),
        ("include", texts.INCLUDE, "en", same_prompt(SUM, " A", " B", " C", " D"), 1),
        ("belebele", texts.BELEBELE, "en", same_prompt(BRIDGE, " A", " B", " C", " D"), 1),
    ],
)
def test_public_formats(format, row, language, pairs, answer):
    found = question(row, format, language)
    assert found.pairs == pairs
    assert found.answer == answer


def test_every_format_names_what_a_row_lacks():
    for name in FORMATS:
        with pytest.raises(ParameterError, match=f"row of {name} lacks"):
            question({"id": 3}, name, "en")
    with pytest.raises(ParameterError, match="not known in 'xx'"):
        question(texts.XCOPA, "xcopa", "xx")
    with pytest.raises(ParameterError, match="no option number 5"):
        question({**texts.XNLI, "label": 5}, "xnli", "fr")


@pytest.mark.parametrize("padding", ["left", "right"])
def test_choices_of_a_model_do_not_depend_on_batches_or_padding(padding):
    model, tokenizer = tiny_model(), tiny_tokenizer(padding_side="left")
    asked = [
        question(texts.XCOPA, "xcopa", "zh"),
        question(texts.XCOPA_ITALIAN, "xcopa", "it"),
        question(texts.XWINOGRAD, "xwinograd", "en"),
        question(texts.XNLI, "xnli", "fr"),
        question(texts.BELEBELE, "belebele", "en"),
    ]
    runs = [
        metric("choice_accuracy").measure(
            model, tokenizer, asked, batch_size=batch_size, padding=padding
        )
        for batch_size in (1, 8)
    ]
    reference = metric("choice_accuracy").measure(model, tokenizer, asked)
    for run in runs:
        assert run.details == reference.details
        assert run.values == reference.values
    assert reference["chance"] == pytest.approx((3 * 1 / 2 + 1 / 3 + 1 / 4) / 5)


def test_choices_refuse_nonsense():
    with pytest.raises(ParameterError, match="positions count from 0"):
        metric("choice_accuracy").compute([[0.0, 1.0]], [2])
    with pytest.raises(ParameterError, match="NaN"):
        metric("choice_accuracy").compute([[math.nan, 1.0]], [0])
    with pytest.raises(ParameterError, match="one positive length"):
        metric("choice_accuracy").compute([[0.0, 1.0]], [0], [[1.0, 0.0]])


# LangSpec-F: the numbers that the method's own logs hold.

BASE = {"en": 0.458, "zh": 0.347, "vi": 0.372}
MASKED = {
    "en": {"en": 0.348, "zh": 0.280, "vi": 0.281},
    "vi": {"en": 0.352, "zh": 0.282, "vi": 0.223},
    "zh": {"en": 0.437, "zh": 0.331, "vi": 0.334},
}


def columns(masked):
    cells = [(off, on, value) for off, row in masked.items() for on, value in row.items()]
    off, on, after = (list(column) for column in zip(*cells, strict=True))
    return off, on, after, [BASE[each] for each in on]


def test_lang_spec_f_gives_the_published_numbers():
    score = metric("lang_spec_f").compute(*columns(MASKED))
    by = {label: cell["f"] for label, cell in score.details["by_label"].items()}
    assert by == pytest.approx({"en": 0.339, "vi": 0.491, "zh": 0.080}, abs=2e-3)
    assert score.value == pytest.approx(0.303, abs=2e-3)


def test_lang_spec_f_is_an_f_score():
    # One drop of 3 in the language and 1 elsewhere, out of 4: 3 hits, 1 false alarm, 1 miss.
    truth, said = [1, 1, 1, 1, 0], [1, 1, 1, 0, 1]
    for beta in (1.0, 2.5):
        score = metric("lang_spec_f", beta=beta).compute(["a", "a"], ["a", "b"], [1, 3], [4, 4])
        assert score.value == pytest.approx(fbeta_score(truth, said, beta=beta))


def test_the_definition_is_stated_and_matters():
    found = {
        others: metric("lang_spec_f", others=others).compute(*columns(MASKED))
        for others in ("mean", "max", "sum")
    }
    assert found["mean"].value > found["max"].value > found["sum"].value
    assert "max" in found["max"].settings["definition"]


def test_improvement_is_no_drop_and_mistakes_are_named():
    score = metric("lang_spec_f").compute(["a", "a"], ["a", "b"], [0.6, 0.9], [0.5, 0.9])
    assert score.value == 0
    with pytest.raises(ParameterError, match="two scores"):
        metric("lang_spec_f").compute(["a", "a"], ["a", "a"], [0.1, 0.1], [0.5, 0.5])
    with pytest.raises(ParameterError, match="needs its own score"):
        metric("lang_spec_f").compute(["a"], ["b"], [0.1], [0.5])
    with pytest.raises(ParameterError, match="same model"):
        metric("lang_spec_f").compute(
            ["a", "a", "b", "b"], ["a", "b", "a", "b"], [0, 0, 0, 0], [1, 1, 0.5, 1]
        )
    with pytest.raises(ParameterError, match="others must be one of"):
        metric("lang_spec_f", others="median")


# Bootstrap


def test_intervals_cover_and_are_seeded():
    import numpy as np

    values = np.random.default_rng(1).normal(size=400)
    low, high = interval(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.015)
    assert interval(values) == (low, high) != interval(values, seed=1)
    assert interval([1.0]) is None
    by_function = interval(values, lambda rows: float(values[rows].mean()))
    assert by_function == pytest.approx((low, high))
    assert interval([2.0, 4.0, 6.0], weights=[1, 2, 3]) == (2.0, 2.0)
    with pytest.raises(ParameterError, match="level"):
        interval(values, level=95)


def test_the_interval_of_a_share_has_a_width_where_all_agree():
    low, high = wilson(1.0, 8)
    assert (round(low, 3), high) == (0.676, 1.0)
    assert wilson(0.0, 8) == pytest.approx((0.0, 1 - low))
    low, high = wilson(0.5, 100)
    assert (round(low, 3), round(high, 3)) == (0.404, 0.596)
    wider = wilson(0.5, 100, level=0.99)
    assert wider[0] < low and wider[1] > high
    for wrong in ((1.2, 3), (0.5, 0)):
        with pytest.raises(ParameterError, match="a share, from 0 to 1"):
            wilson(*wrong)
