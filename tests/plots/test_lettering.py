"""Labels in any script: drawn if a font has them, by code if none has, and never as boxes."""

import unicodedata
import warnings

import pytest

from neuronsteer import plots
from neuronsteer.plots import fonts
from neuronsteer.plots.arabic import displayed, shaped

pytest.importorskip("matplotlib")

OWN = {
    "ja": "日本語", "zh": "中文", "ko": "한국어", "hi": "हिन्दी", "th": "ไทย", "ar": "العربية",
    "he": "עברית", "ru": "русский", "ka": "ქართული", "el": "Ελληνικά", "vi": "tiếng Việt",
}  # fmt: skip


@pytest.fixture
def bare(monkeypatch):
    """Only the font that comes with matplotlib, whatever this machine has."""
    fonts.clear_caches()
    monkeypatch.setattr(fonts, "_candidates", lambda: (fonts.DEFAULT,))
    yield
    fonts._font_of.cache_clear()


def drawn(figure):
    from matplotlib.text import Text

    with warnings.catch_warnings():
        # What a missing letter would say.
        warnings.simplefilter("error")
        plots.png(figure)
        plots.svg(figure)
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_with_the_fonts_of_this_machine_no_letter_is_missing():
    said = drawn(plots.bars(dict.fromkeys(OWN.values(), 1.0), title=" ".join(OWN.values())))
    assert "русский" in said and "tiếng Việt" in said


@pytest.mark.usefixtures("bare")
def test_without_a_font_a_language_is_shown_by_its_code(caplog):
    said = drawn(plots.bars(dict.fromkeys(OWN.values(), 1.0), title="日本語 and русский"))
    for code in ("ja", "zh", "ko", "hi", "th"):
        assert code in said
    # The default font has these.
    assert {"русский", "ქართული", "Ελληνικά", "tiếng Việt"} <= set(said)
    assert "ja and русский" in said
    assert any("Codes stand for labels" in text for text in said)
    assert "'日本語'; it is shown as 'ja'" in caplog.text


@pytest.mark.usefixtures("bare")
def test_other_letters_are_written_out():
    assert fonts.shown("さくら") == "sakura"
    assert fonts.shown("한국") == "hangug"
    assert fonts.shown("京都") == "U+4EAC-U+90FD"
    assert fonts.shown("code-python $x$") == "code-python $x$"


@pytest.mark.usefixtures("bare")
def test_labels_that_need_no_code_get_no_footnote():
    said = drawn(plots.bars({"en": 1.0, "العربية": 2.0}))
    assert not any("Codes stand" in text for text in said)


def forms(text):
    return [unicodedata.name(letter).rpartition("LETTER ")[2] for letter in text]


def test_arabic_letters_are_joined_as_their_neighbours_ask():
    assert forms(shaped("العربية")) == [
        "ALEF ISOLATED FORM", "LAM INITIAL FORM", "AIN MEDIAL FORM", "REH FINAL FORM",
        "BEH INITIAL FORM", "YEH MEDIAL FORM", "TEH MARBUTA FINAL FORM",
    ]  # fmt: skip
    # Lam with alef is one letter; a vowel sign between two letters does not part them.
    assert [unicodedata.name(c) for c in shaped("لا")] == [
        "ARABIC LIGATURE LAM WITH ALEF ISOLATED FORM"
    ]
    assert forms(shaped("ب\u064eب"))[0] == "BEH INITIAL FORM"
    assert forms(shaped("ب\u064eب"))[2] == "BEH FINAL FORM"
    assert shaped("فارسی")[-1] == "\ufbfd" or forms(shaped("فارسی"))[-1].endswith("FORM")


def test_display_order_keeps_foreign_words_and_brackets():
    assert displayed("abc (1)") == "abc (1)"
    assert displayed("עברית") == "תירבע"
    assert displayed("שלום New York") == "New York םולש"
    assert displayed("שלום (ar) 12") == "12 (ar) םולש"
    assert displayed("Labels: שלום עולם, ok") == "Labels: םלוע םולש, ok"


def test_an_old_matplotlib_is_given_joined_letters_and_codes_for_what_it_cannot_shape(monkeypatch):
    fonts.clear_caches()
    monkeypatch.setattr(fonts, "shapes_text", lambda: False)
    assert fonts.shown("العربية") == displayed("العربية") != "العربية"
    assert fonts.shown("हिन्दी") == "hi"
    assert fonts.same_letters("العربية", fonts.shown("العربية"))
    fonts.clear_caches()
