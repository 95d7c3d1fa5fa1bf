"""Cards: valid for the Hub, true for the set, and with code that runs exactly as printed."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import sys
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard

from neuronsteer.neuron_set import NeuronSet, card
from tests.hub_server.cards import validate
from tests.sharing import make_set
from tests.tiny_models import tiny_model, tiny_tokenizer

pytest_plugins = ("tests.hub_server.fixtures",)

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = sorted((ROOT / "model_cards").glob("*/facts.json"))
PNG = b"\x89PNG\r\n\x1a\n"
EVALUATION = {
    "results": [
        {
            "task": "language_forcing",
            "label": "fr",
            "metric": "fluent_success",
            "value": 0.912345,
            "interval": [0.88, 0.94],
            "dataset": {"name": "flores", "type": "facebook/flores"},
            "controls": {"no steering": 0.02, "random neurons": 0.03},
        },
        {"task": "perplexity", "metric": "ratio", "value": 1.5},
    ]
}


def front(text):
    return ModelCard(text).data.to_dict()


def code(text):
    """Every Python block of a card."""
    return re.findall(r"```python\n(.*?)```", text, re.S)


@pytest.fixture
def renderer():
    spec = importlib.util.spec_from_file_location("renderer", ROOT / "tools/render_model_cards.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["renderer"] = module
    spec.loader.exec_module(module)
    return module


# -- code --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [{}, {"subfolder": "lape", "revision": "v2"}])
def test_the_usage_block_runs_exactly_as_printed(hub, tmp_path, where):
    """From a card on the Hub, with a tiny model behind the base model's id."""
    model, tokenizer = tiny_model("llama", layers=4, intermediate_size=32), tiny_tokenizer()
    for each in (model, tokenizer):
        each.save_pretrained(tmp_path)
    HfApi().create_repo("ann/base")
    HfApi().upload_folder(repo_id="ann/base", folder_path=tmp_path)
    make_set(base_model="ann/base").push_to_hub("ann/set", peft=False, **where)
    hub.fresh_cache()
    hub.login(None)
    files = hub.repo("ann/set").files(where.get("revision", "main"))
    prefix = f"{where['subfolder']}/" if where else ""
    blocks = code(files[f"{prefix}README.md"].decode())
    assert len(blocks) == 1
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(blocks[0], "README.md", "exec"), {"__name__": "__main__"})
    assert "Hello" in out.getvalue() and len(out.getvalue()) > len("Hello\n")


# -- front matter ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"base_model": None, "model_type": None, "calibration": {"fr": {"corpus": "x: y | z"}}},
        {"evaluation": EVALUATION},
        {"evaluation": {"anything": [1, 2]}},
        {"method": {"name": "odd: method #1", "parameters": {"a": [1, "|"]}}, "orphans": 3},
    ],
)
@pytest.mark.parametrize("names", [{}, {"en": "no", "fr": "C++: a|b", "ja": "on"}])
def test_the_hub_accepts_every_card(hub, header, names):
    neurons = make_set(**header).relabel(names)
    text = card.render(neurons.summary(), "ann/set", picture=True)
    assert validate(text) == ([], [])
    ModelCard(text).validate()
    index = card.render_index(["a", "b c"], neurons.summary(), repo_id="ann/set")
    assert validate(index) == ([], [])
    ModelCard(index).validate()


def test_front_matter_as_the_design_says():
    data = front(card.render(make_set(evaluation=EVALUATION).summary(), "ann/set"))
    assert data["library_name"] == "neuronsteer" and data["pipeline_tag"] == "text-generation"
    assert data["base_model"] == "org/base" and data["base_model_relation"] == "adapter"
    assert data["language"] == ["en", "fr", "ja"] and "license" not in data
    assert {"neuronsteer", "method:lape", "base_model:adapter:org/base"} <= set(data["tags"])
    (index,) = data["model-index"]
    assert index["name"] == "set"
    metrics = {
        metric["name"]: metric["value"]
        for result in index["results"]
        for metric in result["metrics"]
    }
    assert metrics == {
        "fluent_success (fr)": 0.912345,
        "fluent_success (fr), control: no steering": 0.02,
        "fluent_success (fr), control: random neurons": 0.03,
        "ratio": 1.5,
    }
    assert "model-index" not in front(card.render(make_set().summary()))


# -- text --------------------------------------------------------------------------------------


def test_results_stand_beside_their_controls():
    text = card.render(make_set(evaluation=EVALUATION).summary())
    assert "| task | label | data | metric | value | no steering | random neurons |" in text
    line = "| language_forcing | fr | flores | fluent_success | 0.9123 (0.88–0.94) | 0.02 | 0.03 |"
    assert line in text
    assert "| perplexity | – | own data | ratio | 1.5 | – | – |" in text
    bare = {"results": [{"task": "a", "metric": "b", "value": 1}]}
    assert "come without controls" in card.render(make_set(evaluation=bare).summary())
    assert "has not been measured" in card.render(make_set().summary())
    odd = card.render(make_set(evaluation={"seen": 3}).summary())
    assert '"seen": 3' in odd and "has not been measured" not in odd


@pytest.mark.parametrize("results", ["text", {"a": 1}, [1], [{"task": "a"}], [{"value": "x"}]])
def test_results_of_another_shape_are_shown_as_they_are(results):
    text = card.render(make_set(evaluation={"results": results}).summary())
    assert validate(text) == ([], []) and '"results"' in text and "model-index" not in text


def test_every_card_tells_limits_and_ethics():
    text = card.render(make_set().summary())
    headings = re.findall(r"^## (.*)$", text, re.M)
    assert headings == [
        "Counts",
        "Layer profile",
        "How it was made",
        "Calibration",
        "Evaluation",
        "Limits",
        "Ethical notes",
    ]
    assert "not translation" in text
    assert "not translation" not in card.render(make_set().relabel({"fr": "C++"}).summary())


def test_tables_have_no_holes():
    """Every row of a table has as many cells as its heading, whatever is in them."""
    neurons = make_set(evaluation=EVALUATION).relabel({"fr": "a|b\nc"})
    for text in (
        card.render(neurons.summary(), picture=True),
        card.render_index(["x", "y|z"], neurons.summary(), repo_id="a/b"),
    ):
        table = []
        for line in [*text.splitlines(), ""]:
            if line.startswith("|"):
                table.append(len(re.findall(r"(?<!\\)\|", line)))
                continue
            assert len(set(table)) <= 1 and len(table) != 1, line
            table = []


# -- picture -----------------------------------------------------------------------------------


def test_the_picture():
    layers = {"en": [0, 3, 9, 1], "日本語": [1, 0, 0, 0], "$x^": [0, 0, 0, 0]}
    drawn = card.draw_layers(layers)
    assert drawn.startswith(PNG) and drawn == card.draw_layers(layers)
    assert drawn != card.draw_layers({**layers, "en": [1, 3, 9, 1]})
    assert card.draw_layers({"a": [0]}).startswith(PNG)
    assert len(card.draw_layers({str(i): [i] * 80 for i in range(60)})) < 300_000


def test_a_push_carries_the_picture_if_it_can_be_drawn(hub, monkeypatch):
    make_set().push_to_hub("ann/set", peft=False)
    files = hub.repo("ann/set").files()
    assert files["layer_profile.png"].startswith(PNG)
    assert b"](layer_profile.png)" in files["README.md"]
    find = importlib.util.find_spec
    gone = lambda name, *rest: None if name == "matplotlib" else find(name, *rest)  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", gone)
    make_set().push_to_hub("ann/set", peft=False)
    files = hub.repo("ann/set").files()
    assert "layer_profile.png" not in files and b"layer_profile" not in files["README.md"]
    assert b"```text" in files["README.md"]


# -- published cards ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.name)
def test_published_cards_are_what_their_facts_give(renderer, path):
    facts = json.loads(path.read_text("utf-8"))
    text = path.with_name("README.md").read_text("utf-8")
    assert text == renderer.render(facts), "run: python tools/render_model_cards.py"
    # A dense set has no neurons of its own in any layer, and its card no picture.
    if "layer_profile.png" in path.read_text(encoding="utf-8"):
        assert path.with_name("layer_profile.png").read_bytes().startswith(PNG)
    assert validate(text) == ([], [])
    assert f'from_pretrained("{facts["repo_id"]}"' in code(text)[0]


def test_there_are_published_cards():
    assert PUBLISHED


def test_a_card_from_facts_is_the_card_of_the_push(hub, renderer, tmp_path):
    neurons = make_set(evaluation=EVALUATION, base_model="/home/ann/base")
    neurons.push_to_hub("ann/set", peft=False)
    neurons.save_pretrained(tmp_path)
    facts = renderer.facts_of(str(tmp_path), "ann/set", None, None)
    pushed = hub.repo("ann/set").files()["README.md"].decode()
    assert renderer.render(json.loads(json.dumps(facts))) == pushed
    assert NeuronSet.from_pretrained("ann/set").fingerprint == neurons.fingerprint
