"""The card: valid front matter, and a text that is true for the set."""

import ast
import re

import pytest
from huggingface_hub import ModelCard

from neuronsteer.neuron_set import NeuronSet, card


def example(labels=("fr", "ja", "zh"), **header):
    return NeuronSet.from_rows(
        list(labels),
        label=[0, 0, 1, 1, 1],
        layer=[0, 3, 3, 3, 1],
        index=[3, 1, 1, 2, 0],
        site="mlp.act",
        num_layers=4,
        width=8,
        **{
            "model_type": "llama",
            "base_model": "org/base",
            "method": {"name": "lape", "parameters": {"rate": 0.01, "per_label": None}},
            "calibration": {"fr": {"corpus": "a | b", "tokens": 10}},
            **header,
        },
    )


def test_front_matter():
    text = card.render(example().summary())
    data = ModelCard(text).data.to_dict()
    assert data["library_name"] == "neuronsteer"
    assert data["base_model"] == "org/base" and data["base_model_relation"] == "adapter"
    assert data["language"] == ["fr", "ja", "zh"]
    assert data["pipeline_tag"] == "text-generation"
    # What may be done with a set depends on the model and the texts, which are not ours.
    assert "license" not in data
    assert {"neuronsteer", "method:lape", "base_model:adapter:org/base"} <= set(data["tags"])
    assert ModelCard(card.render(example().summary(), license="mit")).data.license == "mit"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["fr", "pt-BR", "pt", "zh_Hans"], ["fr", "pt", "zh"]),
        (["fr", "C++"], []),
        (["go", "php"], []),
        (["specific", "related"], []),
    ],
)
def test_only_languages_are_called_languages(labels, expected):
    assert card.languages(labels) == expected


def test_labels_that_are_no_languages_give_no_language_field():
    text = card.render(example(("C++", "a: b\n|x", "<b>")).summary())
    assert ModelCard(text).data.language is None
    rows = [line for line in text.splitlines() if line.startswith("| a: b")]
    assert rows == [r"| a: b \|x | 3 | 3 |"]
    assert "| &lt;b&gt; | 0 | – |" in text


@pytest.mark.parametrize("base", ["/home/me/model", "./model", "../m", "a/b/c", None, "C:\\m"])
def test_local_paths_are_not_published(base):
    text = card.render(example(base_model=base).summary())
    data = ModelCard(text).data.to_dict()
    assert "base_model" not in data and "base_model_relation" not in data
    assert base is None or base not in text


def test_text_tells_counts_profile_method_and_calibration():
    text = card.render(example(orphans=7).summary())
    assert "| fr | 2 | 0 |" in text and "| ja | 3 | 3 |" in text and "| zh | 0 | – |" in text
    assert "| 1 | 3 |" in text and "| 2 | 1 |" in text
    assert "7 further neurons" in text
    assert "| rate | `0.01` |" in text
    assert '"tokens": 10' in text and '"corpus": "a | b"' in text
    assert re.search(r"^fr +\|█  █\|$", text, re.M)


def test_usage_block_is_python_that_names_a_label_with_neurons():
    neurons = example(('"quoted"', "ja", "zh")).without("ja")
    text = card.render(neurons.summary(), repo_id="me/set")
    block = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    ast.parse(block)
    assert 'ns.NeuronSet.from_pretrained("me/set")' in block
    assert r'steer.to("\"quoted\"")' in block
    empty_first = example().only("zh", "ja")
    assert 'steer.to("ja")' in card.render(empty_first.summary())


def test_the_set_of_an_empty_selection_has_a_card():
    assert "| zh | 0 | – |" in card.render(example().only("zh").summary())


def test_profile():
    assert card.profile([0, 1, 100]) == " ▁█"
    assert card.profile([0, 0]) == "  "
    assert card.profile([]) == ""
    assert card.profile([1, 0, 0, 0, 2, 2], width=3) == "▂ █"
    assert len(card.profile([1] * 81, width=40)) <= 40
