"""Pieces of text for tokens, and how they are painted."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from neuronsteer.cli.steered_text import (
    PULLED_BACK,
    REFUSED,
    LabelPrinter,
    LabelStreamer,
    marks_of,
)
from neuronsteer.steering.keeping.language_sensor import PullBack
from neuronsteer.steering.keeping.vocabulary_gate import Refusal
from neuronsteer.steering.token_text import locate, pieces

from ..tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer(bos=False)


def _ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


@settings(deadline=None, max_examples=200)
@given(prompt=st.text(min_size=1, max_size=12), text=st.text(min_size=1, max_size=20))
def test_pieces_join_to_the_text(prompt: str, text: str):
    found = pieces(TOKENIZER, _ids(prompt), _ids(text))
    assert len(found) == len(_ids(text))
    assert "".join(found) == text


def test_a_letter_of_several_tokens_belongs_to_its_last():
    ids = _ids("猫")
    assert len(ids) == 3
    assert pieces(TOKENIZER, _ids("a"), ids) == ["", "", "猫"]


def test_an_unfinished_letter_is_shown_at_the_end():
    found = pieces(TOKENIZER, _ids("a"), _ids("b猫")[:-1])
    assert found == ["b", "", "\ufffd"]


def test_special_tokens_are_not_shown():
    end = TOKENIZER.eos_token_id
    assert pieces(TOKENIZER, _ids("a"), [*_ids("b"), end]) == ["b", ""]
    assert pieces(TOKENIZER, _ids("a"), []) == []


def test_spans_count_characters_and_tokens():
    spans = locate([(0, 2, "fr"), (2, 3, None)], ["é", "t", "é!"], offset=10)
    assert spans == [
        {"label": "fr", "start": 10, "end": 12, "token_start": 0, "token_end": 2},
        {"label": None, "start": 12, "end": 14, "token_start": 2, "token_end": 3},
    ]


def _paint(monkeypatch: pytest.MonkeyPatch, *, terminal: bool, no_color: bool = False) -> str:
    monkeypatch.delenv("NO_COLOR", raising=False)
    file = io.StringIO()
    console = Console(
        file=file,
        force_terminal=terminal,
        color_system="standard" if terminal else None,
        no_color=no_color,
        width=20,
    )
    printer = LabelPrinter(console, ["fr", "ja"])
    printer.prompt("[bold]prompt")
    printer.piece(" un", "fr")
    printer.piece(" deux", "fr")
    printer.piece(" 猫", "ja")
    printer.piece(" plain", None)
    printer.end()
    return file.getvalue()


def test_without_colours_labels_are_written_out(monkeypatch: pytest.MonkeyPatch):
    # Text is never wrapped, and never read as markup.
    expected = "[bold]prompt⟦fr⟧ un deux⟦ja⟧ 猫⟦-⟧ plain\n"
    assert _paint(monkeypatch, terminal=False) == expected
    assert "⟦ja⟧" in _paint(monkeypatch, terminal=True, no_color=True)


def test_with_colours_labels_are_colours(monkeypatch: pytest.MonkeyPatch):
    text = _paint(monkeypatch, terminal=True)
    assert "⟦" not in text
    assert "\x1b[36m un\x1b[0m\x1b[36m deux\x1b[0m\x1b[35m 猫\x1b[0m" in text


def _mark(*, terminal: bool) -> str:
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=terminal, color_system="standard" if terminal else None
    )
    printer = LabelPrinter(console, ["fr"])
    printer.piece(" un", "fr")
    printer.piece("", "fr", REFUSED)
    printer.piece(" deux", "fr")
    printer.piece(" trois", "fr", REFUSED)
    printer.piece(" quatre", "fr", PULLED_BACK)
    printer.piece(" cinq", "fr", PULLED_BACK)
    printer.piece(" six", "fr")
    printer.piece(" sept", "fr", PULLED_BACK)
    printer.end()
    return file.getvalue()


def test_what_kept_the_language_is_marked_without_colours(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    expected = "⟦fr⟧ un⟦×⟧ deux⟦×⟧ trois⟦↩⟧ quatre cinq six⟦↩⟧ sept\n"
    assert _mark(terminal=False) == expected


def test_what_kept_the_language_is_underlined(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    text = _mark(terminal=True)
    assert "⟦" not in text
    # 4 is underlined, 3 is italic, and the colour of the label stays.
    assert "\x1b[36m un\x1b[0m\x1b[4;36m deux\x1b[0m\x1b[4;36m trois\x1b[0m" in text
    assert "\x1b[3;4;36m quatre\x1b[0m\x1b[3;4;36m cinq\x1b[0m\x1b[36m six\x1b[0m" in text


def test_a_refusal_is_told_rather_than_the_part_it_is_in():
    kept = [PullBack(0, 3, 3, "fr", "en"), Refusal(0, 4, "猫", 0.5, " chat")]
    assert marks_of(kept) == {3: PULLED_BACK, 4: REFUSED, 5: PULLED_BACK}


def test_streamer_marks_tokens_as_they_come():
    file = io.StringIO()
    printer = LabelPrinter(Console(file=file), [])
    done: dict[int, str] = {}
    streamer = LabelStreamer(printer, TOKENIZER, list, lambda: done)
    streamer.put(torch.tensor([_ids("a")]))
    for i, token in enumerate(_ids("b猫c")):
        # The second of the three tokens of a letter: the mark waits for the letter.
        done |= {i: REFUSED} if i in (0, 2) else {}
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert file.getvalue() == "⟦×⟧b⟦×⟧猫c\n"


def test_streamer_asks_for_the_label_of_every_token():
    file = io.StringIO()
    printer = LabelPrinter(Console(file=file), ["fr", "ja"])
    streamer = LabelStreamer(printer, TOKENIZER, lambda: [(0, 1, "fr"), (1, 4, "ja")])
    streamer.put(torch.tensor([_ids("a")]))
    for token in _ids("b猫"):
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert file.getvalue() == "⟦fr⟧b⟦ja⟧猫\n"
