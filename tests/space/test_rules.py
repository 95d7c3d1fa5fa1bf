"""What may be asked, and what may be loaded: checked on the server, whatever the page does."""

from __future__ import annotations

import math

import pytest

import neuronsteer as ns
from neuronsteer.errors import LabelError, NeuronSteerError, ParameterError, ScheduleError
from neuronsteer.space.loaded_model import presets
from neuronsteer.space.request import GenerationRequest, describe_operations
from neuronsteer.space.settings import SpaceSettings

from .conftest import changed

LIMITS = SpaceSettings(prompt_characters=60, max_new_tokens=50)


@pytest.fixture(scope="module")
def neurons():
    return ns.NeuronSet.from_pretrained("demo")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("prompt", "", "empty"),
        ("prompt", "  \n", "empty"),
        ("prompt", None, "empty"),
        ("prompt", 5, r"5 \(int\); expected a text"),
        ("prompt", "x" * 61, "61 characters"),
        ("max_new_tokens", 51, "from 1 to 50"),
        ("max_new_tokens", 0, "from 1 to 50"),
        ("max_new_tokens", 2.5, "whole number"),
        ("max_new_tokens", "many", "expected a number"),
        ("temperature", -1, "temperature"),
        ("temperature", math.nan, "temperature"),
        ("temperature", math.inf, "temperature"),
        ("top_p", 0, "top_p"),
        ("strength", 1e9, "strength"),
        ("seed", -1, "seed"),
        ("seed", 2**40, "seed"),
        ("pace", -3, "pace"),
        ("pace", 0.001, "at least 1, or 0"),
        ("seed", 10**400, "seed"),
        pytest.param("strength", 10**5000, "strength is a number of about 49", id="digits"),
        # Its first 2,000 characters are another schedule, which could be followed instead.
        ("schedule", "en" + ",1:fr,2:en" * 200, "2002 characters; here it may have 2000"),
        ("operation", "explode", "Unknown operation"),
        ("operation", "__class__", "Unknown operation"),
    ],
)
def test_requests_out_of_bounds_are_refused_with_a_message(neurons, field, value, said):
    good = GenerationRequest(prompt="Once", schedule="fr", max_new_tokens=20)
    assert good.checked(LIMITS, neurons).schedule == "fr"
    with pytest.raises(ParameterError, match=said):
        changed(good, **{field: value}).checked(LIMITS, neurons)


def test_labels_and_notation_are_checked(neurons):
    request = GenerationRequest(prompt="Once", max_new_tokens=20)
    with pytest.raises(LabelError, match="Unknown label 'xx'"):
        changed(request, schedule="en,5:xx").checked(LIMITS, neurons)
    with pytest.raises(ScheduleError):
        changed(request, schedule="en,,fr").checked(LIMITS, neurons)
    # Text that looks like something else is only ever a label that does not exist.
    with pytest.raises(NeuronSteerError):
        changed(request, schedule="<script>alert(1)</script>").checked(LIMITS, neurons)


def test_numbers_may_come_as_text(neurons):
    request = GenerationRequest(prompt="Once", seed="7", strength="0.5", max_new_tokens="12")  # type: ignore[arg-type]
    found = request.checked(LIMITS, neurons)
    assert (found.seed, found.strength, found.max_new_tokens) == (7, 0.5, 12)


def test_a_strength_that_an_operation_cannot_have_is_refused(neurons):
    request = GenerationRequest(prompt="Once", schedule="fr", operation="zero", strength=2)
    with pytest.raises(ParameterError, match="zero"):
        request.checked(SpaceSettings(), neurons)
    assert changed(request, strength=1).checked(SpaceSettings(), neurons).operation == "zero"


def test_every_operation_is_explained():
    from neuronsteer.operations import OPERATIONS

    assert set(describe_operations()) == set(OPERATIONS.names())
    assert all(describe_operations().values())


# --- what may be loaded ------------------------------------------------------------------------


def test_at_home_everything_may_be_loaded():
    SpaceSettings().check_allowed("somebody/model", "model")


def test_what_the_package_carries_may_be_loaded_anywhere():
    rules = SpaceSettings(model="a/model", neurons="a/set", public=True)
    rules.check_allowed("demo", "model")
    rules.check_allowed("demo/lape", "neuron set")
    for name, what in (("demo/lape", "model"), ("demo/../hub", "neuron set")):
        with pytest.raises(ParameterError):
            rules.check_allowed(name, what)


@pytest.mark.parametrize("name", ["demo", "team/model", "team/other", "one/exact"])
def test_public_pages_load_what_is_allowed(name):
    rules = SpaceSettings(public=True, allow=("team/*", "one/exact"))
    rules.check_allowed(name, "model")


@pytest.mark.parametrize(
    "name",
    [
        "else/model",
        "team",
        "teams/model",
        "team/model/deep",
        "one/exact2",
        "/etc",
        "..",
        "team/../x",
    ],
)
def test_public_pages_load_nothing_else(name):
    rules = SpaceSettings(public=True, allow=("team/*", "one/exact"))
    with pytest.raises(ParameterError, match="public"):
        rules.check_allowed(name, "model")


def test_allowed_folders_end_where_they_lead(tmp_path):
    inside, outside = tmp_path / "in" / "model", tmp_path / "out"
    inside.mkdir(parents=True)
    outside.mkdir()
    (tmp_path / "in" / "link").symlink_to(outside)
    rules = SpaceSettings(public=True, allow=(str(tmp_path / "in"),))
    rules.check_allowed(str(inside), "model")
    for path in (outside, tmp_path / "in" / ".." / "out", tmp_path / "in" / "link"):
        with pytest.raises(ParameterError):
            rules.check_allowed(str(path), "model")


def test_an_owner_does_not_stand_for_a_folder_of_that_name(tmp_path, monkeypatch):
    (tmp_path / "team" / "secret").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError):
        SpaceSettings(public=True, allow=("team/*",)).check_allowed("team/secret", "model")


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("127.0.0.1", False), ("127.1.2.3", False), ("localhost", False), ("::1", False),
        ("0.0.0.0", True), ("192.168.1.2", True), ("::", True), ("my.machine", True), ("", True),
    ],
)  # fmt: skip
def test_a_page_that_lets_other_machines_in_is_public(host, public, tmp_path):
    settings = SpaceSettings().at(host)
    assert settings.public is public
    if public:
        with pytest.raises(ParameterError, match="public"):
            settings.check_allowed(str(tmp_path), "model")
    for said in (True, False):  # the user's own decision
        assert SpaceSettings(public=said).at(host).public is said


def test_the_environment_says_what_a_space_shows():
    found = SpaceSettings.from_environment(
        {
            "SPACE_ID": "me/space",
            "NEURONSTEER_SPACE_MODEL": "a/model",
            "NEURONSTEER_SPACE_SET": "a/set",
            "NEURONSTEER_SPACE_ALLOW": "b/*, c/d",
            "NEURONSTEER_SPACE_MAX_NEW_TOKENS": "120",
        }
    )
    assert found.public and found.allow == ("b/*", "c/d")
    assert (found.model, found.neurons, found.max_new_tokens) == ("a/model", "a/set", 120)
    assert not SpaceSettings.from_environment({}).public
    assert not SpaceSettings.from_environment(
        {"SPACE_ID": "x", "NEURONSTEER_SPACE_PUBLIC": "0"}
    ).public
    assert not SpaceSettings.from_environment({}).mcp
    assert SpaceSettings.from_environment({}, mcp=True).mcp
    assert SpaceSettings.from_environment({"NEURONSTEER_SPACE_MCP": "1"}).mcp
    assert not SpaceSettings.from_environment({"NEURONSTEER_SPACE_MCP": "0"}, mcp=True).mcp
    found = SpaceSettings.from_environment({}, model="a/model", neurons="a/set")
    assert found.model == "a/model"


@pytest.mark.parametrize(
    "env",
    [
        {"NEURONSTEER_SPACE_MODEL": "a/model"},
        {"NEURONSTEER_SPACE_AT_ONCE": "many"},
        {"NEURONSTEER_SPACE_TYPO": "1"},
    ],
)
def test_wrong_variables_are_refused(env):
    with pytest.raises(ParameterError, match="NEURONSTEER_SPACE_"):
        SpaceSettings.from_environment(env)


def test_a_model_without_its_set_is_refused():
    with pytest.raises(ParameterError, match="belong together"):
        SpaceSettings(model="a/model")


@pytest.mark.parametrize("count", [1, 2, 3, 8, 30])
def test_presets_fit_any_set(count):
    labels = [f"l{i}" for i in range(count)]
    for preset in presets(labels, 90):
        schedule = ns.Schedule.parse(preset["schedule"])
        assert set(schedule.labels) <= set(labels), preset
