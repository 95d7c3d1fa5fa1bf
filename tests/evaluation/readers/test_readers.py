"""Data in the formats in which it is published, and what is told when it is not there."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import pytest

from neuronsteer.errors import NeuronSteerError, ParameterError, TextError
from neuronsteer.evaluation.readers import (
    KINDS,
    EvaluationData,
    beginning,
    facts,
    languages,
    thinned,
)
from neuronsteer.evaluation.readers.files import per_label, read_rows
from neuronsteer.evaluation.readers.hub import Address
from neuronsteer.languages import same, scripts

LABELS = ["en", "de", "zh"]


def jsonl(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    return path


# What is built in


def test_built_in_sentences_are_parallel_and_in_their_language():
    lingua = pytest.importorskip("lingua", reason="the language identifier is not installed")
    data = EvaluationData(None, languages())
    texts = data.get("texts").items
    assert len({len(rows) for rows in texts.values()}) == 1
    known = {each.iso_code_639_1.name.lower(): each for each in lingua.Language.all()}
    detector = lingua.LanguageDetectorBuilder.from_languages(
        *(known[label] for label in texts)
    ).build()
    for label, rows in texts.items():
        found = [detector.detect_language_of(row) for row in rows]
        assert found == [known[label]] * len(rows), label
        assert len(set(rows)) == len(rows)


def test_prompts_are_beginnings_and_facts_are_halves():
    data = EvaluationData(None, LABELS)
    texts, prompts = data.get("texts").items, data.get("prompts").items
    for label in LABELS:
        for text, prompt in zip(texts[label], prompts[label], strict=True):
            assert text.startswith(prompt) and 0 < len(prompt) < len(text)
            assert ("LATIN" in scripts(label)) == (" " in text)
    found = data.get("facts").items[""]
    pairs = {(fact.base, fact.target) for fact in found}
    assert pairs == {(a, b) for a in LABELS for b in LABELS if a != b}
    fact = next(each for each in found if (each.base, each.target) == ("de", "zh"))
    assert fact.prompt + fact.base_object in texts["de"]
    assert fact.target_object in "".join(texts["zh"]) and not fact.target_object.startswith(" ")


def test_labels_may_be_spelled_in_other_ways():
    found = EvaluationData(None, ["fra_Latn", "pt-BR"]).get("texts")
    assert found.labels == ["fra_Latn", "pt-BR"]
    assert not EvaluationData(None, ["fra_Latn"]).has("facts")
    assert not EvaluationData(None, ["culture-x"]).has("texts")


# Public formats


def test_xcopa(tmp_path: Path):
    row = {"premise": "A.", "choice1": "B.", "choice2": "C.", "question": "cause", "label": 1}
    jsonl(tmp_path / "test.zh.jsonl", [row])
    jsonl(tmp_path / "val.zh.jsonl", [row, row])
    jsonl(tmp_path / "test.sw.jsonl", [row])
    found = EvaluationData({"xcopa": tmp_path}, LABELS).get("xcopa")
    # The test split, and only languages that were asked for.
    assert found.items == {"zh": [row]}
    assert found.source == tmp_path.name


def test_mgsm(tmp_path: Path):
    (tmp_path / "mgsm_de.tsv").write_text('Was ist "1 + 1"?\t2\nUnd 2 + 2?\t4\n', "utf-8")
    (tmp_path / "mgsm_en.tsv").write_text("What is 1 + 1?\t2\r\n", "utf-8")
    found = EvaluationData({"mgsm": tmp_path}, LABELS).get("mgsm").items
    assert found["de"][0] == {"question": 'Was ist "1 + 1"?', "answer": "2"}
    assert [len(found[label]) for label in ("en", "de")] == [1, 2]


def test_xquad_as_published(tmp_path: Path):
    data = {
        "data": [
            {
                "paragraphs": [
                    {
                        "context": "Eins. Zwei.",
                        "qas": [{"question": "Was?", "answers": [{"text": "Eins"}], "id": "1"}],
                    }
                ]
            }
        ]
    }
    (tmp_path / "xquad.de.json").write_text(json.dumps(data), "utf-8")
    found = EvaluationData({"xquad": tmp_path}, LABELS).get("xquad").items
    assert found == {"de": [{"context": "Eins. Zwei.", "question": "Was?", "answers": ["Eins"]}]}


@pytest.mark.parametrize("name", ["fra_Latn.devtest", "fr.txt", "fr/test.txt", "corpus.fr.txt"])
def test_a_file_belongs_to_the_label_in_its_name(tmp_path: Path, name: str):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("Bonjour.\n", "utf-8")
    (tmp_path / "multiway_en.txt").write_text("Hello.\n", "utf-8")
    assert per_label(tmp_path, ["fr", "it"]) == {"fr": tmp_path / name}


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_compressed_files(tmp_path: Path, pack):
    suffix = {gzip.compress: ".gz", lzma.compress: ".xz"}[pack]
    (tmp_path / f"en.txt{suffix}").write_bytes(pack(b"One.\n\nTwo.\n"))
    assert EvaluationData({"texts": tmp_path}, ["en"]).get("texts").items == {
        "en": ["One.", "Two."]
    }


def test_evaluation_and_calibration_read_different_ends(tmp_path: Path):
    (tmp_path / "en.txt").write_text("\n".join(f"line {i}" for i in range(200)), "utf-8")
    data = EvaluationData({"texts": tmp_path}, ["en"])
    calibration = data.calibration()
    assert calibration is not None
    assert not set(calibration["en"]) & set(data.get("texts").items["en"])
    assert len(calibration["en"]) + len(data.get("texts").items["en"]) == 200
    assert EvaluationData(None, ["en"]).calibration() is None


def test_mlama(tmp_path: Path):
    templates = [
        {"relation": "P36", "template": "The capital of [X] is [Y] ."},
        {"relation": "P1", "template": "[Y] is where [X] lies ."},
    ]
    rows = [{"sub_uri": "Q1", "obj_uri": "Q2", "sub_label": "France", "obj_label": "Paris"}]
    german = [{"sub_uri": "Q1", "obj_uri": "Q2", "sub_label": "Frankreich", "obj_label": "Parisd"}]
    for label, relation in (("en", rows), ("de", german)):
        jsonl(tmp_path / label / "templates.jsonl", templates)
        jsonl(tmp_path / label / "P36.jsonl", relation)
        jsonl(tmp_path / label / "P1.jsonl", relation)
    found = EvaluationData({"facts": tmp_path}, LABELS).get("facts").items[""]
    assert {(fact.base, fact.target) for fact in found} == {("en", "de"), ("de", "en")}
    # What cannot be said from left to right is left out.
    assert len(found) == 2
    fact = next(each for each in found if each.base == "en")
    assert fact == facts.Fact("The capital of France is", "en", "de", " Paris", " Parisd")


def test_parallel_sentences(tmp_path: Path):
    rows = [{"en": "One two three four.", "de": "Eins zwei drei vier."}, {"en": "alone here"}]
    jsonl(tmp_path / "multiway_x.jsonl", rows)
    found = EvaluationData({"pairs": tmp_path}, ["en", "de"]).get("facts").items[""]
    assert found[0].prompt == "One two" and found[0].base_object == " three four."
    assert found[0].target_object == " drei vier." and len(found) == 2
    (tmp_path / "flores").mkdir()
    for name, text in (
        ("eng_Latn.dev", "A b c d\nE f g h\n"),
        ("deu_Latn.dev", "I j k l\nM n o p"),
    ):
        (tmp_path / "flores" / name).write_text(text, "utf-8")
    found = EvaluationData({"facts": tmp_path / "flores"}, ["en", "de"]).get("facts").items[""]
    assert len(found) == 4 and found[1].prompt == "E f"
    (tmp_path / "flores" / "deu_Latn.dev").write_text("I j k l\n", "utf-8")
    with pytest.raises(TextError, match="not aligned"):
        EvaluationData({"facts": tmp_path / "flores"}, ["en", "de"]).get("facts")


def test_a_folder_of_folders(tmp_path: Path):
    (tmp_path / "eval" / "xcopa").mkdir(parents=True)
    jsonl(tmp_path / "eval" / "xcopa" / "test.zh.jsonl", [{"a": 1}])
    (tmp_path / "heldout").mkdir()
    (tmp_path / "heldout" / "en.txt").write_text("x\n", "utf-8")
    data = EvaluationData(tmp_path, LABELS)
    assert [kind for kind in KINDS if data.has(kind)] == ["texts", "prompts", "facts", "xcopa"]


def test_prompts_are_cut_from_given_texts():
    texts = {"en": ["one two three four five six seven eight nine ten", "too short"]}
    found = EvaluationData({"texts": texts}, ["en"]).get("prompts")
    assert found.items == {"en": ["one two three four five six seven eight"]}
    assert found.source == "beginnings of own data"
    assert beginning("あ" * 30, "ja") == "あ" * 12 and beginning("あ" * 3, "ja") is None


# The Hub


def test_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    asked = []

    def load(repo, config, split):
        asked.append((repo, config, split))
        if config == "xquad.de":
            raise ValueError("no such config")
        return [{"question": "Q", "context": "C", "answers": {"text": ["A"], "answer_start": [0]}}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = EvaluationData({"xquad": "hf://google/xquad/xquad.{label}:validation"}, ["en", "de"])
    found = data.get("xquad")
    assert found.items == {"en": [{"question": "Q", "context": "C", "answers": ["A"]}]}
    assert asked[0] == ("google/xquad", "xquad.en", "validation")
    assert found.source == "hf://google/xquad/xquad.{label}:validation"


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch):
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")

    def load(*_args, **_kwargs):
        raise ConnectionError("no route\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(TextError, match="no route$"):
        Address("hf://a/b/{label}").rows(["en"])


@pytest.mark.parametrize("text", ["hf://a/b", "hf://a/{label}x", "hf:///{label}"])
def test_a_bad_address(text: str):
    if text == "hf://a/{label}x":
        assert str(Address(text)) == text
    else:
        with pytest.raises(ParameterError, match="expected"):
            Address(text)


# Mistakes


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("en.jsonl", b"{", "line 1 is not JSON"),
        ("en.jsonl", b"[1]", "not a JSON object"),
        ("en.json", b'"x"', "not hold a list of objects"),
        ("en.txt", b"\xff\xfe\xff", "not UTF-8"),
        ("en.txt.gz", b"nothing", "cannot be read"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, said: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TextError, match=said):
        read_rows(tmp_path / name)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"text": {}}, "Did you mean 'texts'"),
        ({"texts": "/nowhere/at/all"}, "no folder"),
        ({"texts": {"fr": ["x"]}}, "nothing for the labels"),
    ],
)
def test_mistakes_are_told(data, said: str):
    with pytest.raises(NeuronSteerError, match=said):
        EvaluationData(data, LABELS).get("texts")
    with pytest.raises(TextError, match="subfolder"):
        EvaluationData(Path(__file__).parent, LABELS)


def test_items_are_thinned_evenly():
    assert thinned(list(range(10)), 3) == [0, 3, 6]
    assert thinned([1, 2], 5) == [1, 2]
    assert same("deu_Latn", "de")


def test_the_hash_is_of_the_items():
    def digest(texts):
        return EvaluationData({"texts": {"en": texts}}, ["en"]).get("texts").sha256

    assert digest(["a", "b"]) == digest(["a", "b"]) != digest(["b", "a"])
