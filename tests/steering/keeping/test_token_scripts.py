"""Which scripts tokens are written in: bytes, pieces of characters, words, special tokens."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from neuronsteer.languages import check_known, script_of, usual_scripts
from neuronsteer.steering.keeping.token_scripts import TokenScripts

from .vocabularies import WORDS, byte_level, sentence_piece


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
@pytest.mark.parametrize(("word", "scripts"), WORDS.items())
def test_words(make, word, scripts):
    tokenizer = make()
    known = TokenScripts.of(tokenizer)
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    assert len(ids) == 1, "the vocabulary has the word whole"
    assert known.scripts(ids[0]) == frozenset(scripts.split())
    assert known.text(ids[0]).strip() == word.strip()


@pytest.mark.parametrize(
    ("first", "scripts"),
    [
        ("中", "CJK"),
        ("한", "HANGUL"),
        ("я", "CYRILLIC"),
        ("é", "LATIN"),
        ("ا", "ARABIC"),
        ("😀", ""),  # four bytes that may become a picture
        ("—", ""),  # most characters that begin so are punctuation
    ],
)
def test_first_byte_of_a_character(first, scripts):
    byte = first.encode()[0]
    fallback, level = sentence_piece(), byte_level()
    for tokenizer, name in (
        (fallback, f"<0x{byte:02X}>"),
        (level, pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(first)[0][0][0]),
    ):
        found = TokenScripts.of(tokenizer).scripts(tokenizer.convert_tokens_to_ids(name))
        assert found == frozenset(scripts.split())


def test_rest_of_a_character_says_nothing():
    tokenizer = sentence_piece()
    known = TokenScripts.of(tokenizer)
    assert not known.scripts(tokenizer.convert_tokens_to_ids("<0x80>"))


def test_special_tokens_have_no_script_and_added_words_do():
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|конец|>"]})
    tokenizer.add_tokens(["привет"])
    known = TokenScripts.of(tokenizer)
    assert not known.scripts(tokenizer.convert_tokens_to_ids("<|конец|>"))
    assert known.scripts(tokenizer.convert_tokens_to_ids("привет")) == {"CYRILLIC"}


def test_kept_until_tokens_are_added():
    tokenizer = byte_level()
    known = TokenScripts.of(tokenizer)
    assert TokenScripts.of(tokenizer) is known
    tokenizer.add_tokens(["新"])
    assert len(TokenScripts.of(tokenizer).texts) == len(tokenizer)


def test_tokens_beyond_the_vocabulary_are_nothing():
    known = TokenScripts.of(byte_level())
    assert not known.scripts(10**6)
    assert known.text(10**6) == ""


def test_gaps_in_the_vocabulary():
    backend = Tokenizer(models.WordLevel({"a": 0, "б": 5, "<unk>": 6}, unk_token="<unk>"))
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    TokenScripts.of(tokenizer)  # ids 1 to 4 are no tokens


def test_korean_is_not_written_in_chinese_characters():
    assert usual_scripts("ko") == {"HANGUL"}
    assert usual_scripts("ja") > {"CJK", "HIRAGANA"}
    assert usual_scripts("pt-BR") == {"LATIN"}


@pytest.mark.parametrize("code", ["ckb", "bho", "iu", "pt-BR", "zh-Hant", "cmn"])
def test_codes_whose_script_is_known(code):
    check_known(code)
    assert usual_scripts("iu") == {"CANADIAN"}


@pytest.mark.parametrize(
    ("character", "script"),
    [("ि", "DEVANAGARI"), ("π", "GREEK"), ("𝐱", None), ("ª", None), ("7", None), ("々", "CJK")],
)
def test_script_of(character, script):
    assert script_of(character) == script
