"""Pieces of text for tokens, and how they are painted."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from neuronsteer.cli.steered_text import LabelPrinter, LabelStreamer
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


def test_streamer_asks_for_the_label_of_every_token():
    file = io.StringIO()
    printer = LabelPrinter(Console(file=file), ["fr", "ja"])
    streamer = LabelStreamer(printer, TOKENIZER, lambda: [(0, 1, "fr"), (1, 4, "ja")])
    streamer.put(torch.tensor([_ids("a")]))
    for token in _ids("b猫"):
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert file.getvalue() == "⟦fr⟧b⟦ja⟧猫\n"
