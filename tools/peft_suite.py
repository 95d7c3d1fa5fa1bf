"""Run the cases that PEFT's own tests have for IA3 with NEURONSTEER, too, and compare the two.

A pytest plugin for `tools/test_peft_suite.sh`. PEFT's tests are parametrised over its methods; of
each list only the cases of IA3 stay, and beside each comes the same case for NEURONSTEER. IA3 is
PEFT's nearest method: it scales the input of a projection. It cannot use several adapters in one
batch, so there RoAd is the other method.
"""

from __future__ import annotations

import collections
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from peft import IA3Config, PeftConfig, RoadConfig, __version__

from neuronsteer.integrations.peft import NeuronSteerConfig
from tests.tiny_models import tiny_model

OURS = "NEURONSTEER"
OTHERS = {IA3Config: "IA3", RoadConfig: "ROAD"}

#: The models that PEFT's tests take from the Hub, and the family that stands in for each. A folder
#: of that name in the current directory is found before the Hub is asked.
MODELS = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": "opt",
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": "gpt2",
    "peft-internal-testing/tiny-random-GPTJForCausalLM": "gptj",
    "trl-internal-testing/tiny-random-LlamaForCausalLM": "llama",
    "peft-internal-testing/tiny-dummy-qwen2": "qwen2",
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": "gemma3_text",
}

#: What NEURONSTEER fails although the other method passes: the test, what the error says, and why
#: it may.
KNOWN = (
    (
        "test_merge_layers",
        "layers of this Qwen2ForCausalLM a bias",
        "a shift merges into a bias, which this family's checkpoints cannot hold, so saving is "
        "refused; IA3 has no shift",
    ),
    (
        "test_weighted_combination_of_adapters",
        "There is an adapter 'single_adapter_reweighting' already",
        "PEFT 0.20 asks twice for a mixture of one name, with other weights; IA3 does nothing the "
        "second time, without a word, and later versions of the test do not ask",
    ),
)


class _MetaEither(type):
    """Makes `Either` stand for both configurations, in whatever way a test asks."""

    def __eq__(cls, other: object) -> bool:
        return other in (IA3Config, NeuronSteerConfig)

    def __hash__(cls) -> int:
        return hash(IA3Config)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, (IA3Config, NeuronSteerConfig))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, (IA3Config, NeuronSteerConfig))


class Either(metaclass=_MetaEither):
    """IA3's configuration for PEFT's common tests, which skip what is neither IA3 nor LoRA."""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Make the models."""
    if not hasattr(session.config, "workerinput"):  # the main process, should there be several
        for name, family in MODELS.items():
            if not Path(name).exists():
                tiny_model(family).save_pretrained(name)


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Replace the cases of a test before pytest reads them."""
    sys.modules[f"{metafunc.module.__package__}.testing_common"].IA3Config = Either
    for mark in metafunc.definition.iter_markers("parametrize"):
        values = mark.args[1]
        if isinstance(values, list):  # many tests share one list: the first of them changes it
            values[:] = [new for number, old in enumerate(values) for new in _both(number, old)]
        if mark.args[0] == "model_id":
            unknown = sorted(set(values) - set(MODELS))
            if unknown and _methods(metafunc):
                raise pytest.UsageError(f"MODELS in {__file__} lacks {', '.join(unknown)}.")


def _methods(metafunc: pytest.Metafunc) -> bool:
    marks = metafunc.definition.iter_markers("parametrize")
    return any(str(getattr(v, "id", "")).startswith(OURS) for mark in marks for v in mark.args[1])


def _both(number: int, case: Any) -> list[Any]:
    """Return a case of IA3 or RoAd and the same one for NEURONSTEER; other methods' cases go."""
    if type(case) is type(pytest.param()):
        return [case]  # done already
    parts = case if isinstance(case, tuple) else (case,)
    kinds = [part if isinstance(part, type) else type(part) for part in parts]
    configs = [kind for kind in kinds if issubclass(kind, PeftConfig)]
    if not configs:
        return [case]  # not about methods
    other = next((name for kind, name in OTHERS.items() if kind in configs), None)
    if other is None or not _has_counterpart(parts) or RoadConfig in parts:
        return []
    ours = [_translated(part) for part in parts]
    return [
        pytest.param(*parts, id=f"{other}-{number}"),
        pytest.param(*ours, id=f"{OURS}-{number}"),
    ]


def _has_counterpart(parts: tuple[Any, ...]) -> bool:
    """Return whether the case changes the input of matrices, as NEURONSTEER does.

    IA3 also scales outputs (where `feedforward_modules` leaves a module out) and convolutions.
    """
    for part in parts:
        if isinstance(part, str) and part.startswith(("Conv2d", "Conv3d")):
            return False
        fields = vars(part) if isinstance(part, PeftConfig) else part
        if isinstance(part, RoadConfig) and not part.target_modules:
            return False  # a timing of a real model
        if isinstance(fields, dict) and fields.get("feedforward_modules") is not None:
            forward, target = fields["feedforward_modules"], fields["target_modules"]
            if set(forward) != set(target):
                return False
    return True


def _translated(part: Any) -> Any:
    if isinstance(part, type) and part in OTHERS:
        return NeuronSteerConfig
    if isinstance(part, str):
        return re.sub("ia3|road", OURS.lower(), re.sub("IA3|RoAd|RoAD", OURS, part))
    if isinstance(part, dict):
        fields = {name: value for name, value in part.items() if name != "feedforward_modules"}
        if "init_ia3_weights" in fields:
            fields["init_weights"] = fields.pop("init_ia3_weights")
        return fields
    if isinstance(part, PeftConfig):
        given = getattr(part, "init_ia3_weights", getattr(part, "init_weights", True))
        names = ("target_modules", "modules_to_save", "task_type")
        return NeuronSteerConfig(
            init_weights=given, **{name: getattr(part, name) for name in names}
        )
    return part


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that are not about these methods."""
    gone = [item for item in items if _split(item.nodeid)[0] is None]
    config.hook.pytest_deselected(items=gone)
    items[:] = [item for item in items if _split(item.nodeid)[0] is not None]


def _split(test: str) -> tuple[str | None, str]:
    """Return the method of a test, and its name without the method, which pairs have in common."""
    found = re.search(rf"\b({OURS}|{'|'.join(OTHERS.values())})-\d+\b", test)
    if found is None:
        return None, test
    return found[1], test.replace(f"{found[1]}-", "")


class Results:
    """Collects what became of every test, and compares the methods."""

    def __init__(self) -> None:
        self.outcomes: dict[str, dict[str, str]] = collections.defaultdict(dict)
        self.errors: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of a test."""
        method, pair = _split(report.nodeid)
        if method is not None and (report.when == "call" or report.outcome != "passed"):
            self.outcomes[pair][method] = report.outcome
            if method == OURS and report.failed:
                self.errors[pair] = report.longreprtext

    def worse(self) -> dict[str, str | None]:
        """Return the tests that only NEURONSTEER fails, with the reason if it is known."""
        found: dict[str, str | None] = {}
        for pair, methods in self.outcomes.items():
            others = {outcome for method, outcome in methods.items() if method != OURS}
            if methods.get(OURS) == "failed" and "failed" not in others:
                test = pair.rpartition("::")[2]
                reasons = [
                    why
                    for name, error, why in KNOWN
                    if test.startswith(f"{name}[") and error in self.errors[pair]
                ]
                found[test] = reasons[0] if reasons else None
        return found

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail if NEURONSTEER is worse, and not because IA3 fails, too."""
        if hasattr(session.config, "workerinput") or session.exitstatus not in (0, 1):
            return
        unexplained = [test for test, why in self.worse().items() if why is None]
        session.exitstatus = int(bool(unexplained) or not self.outcomes)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the table."""
        write = terminalreporter.write_line
        write("")
        write(f"PEFT {__version__}     passed  failed  skipped")
        for method in (*OTHERS.values(), OURS):
            outcomes = [methods.get(method) for methods in self.outcomes.values()]
            counts = [outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")]
            write(f"{method:<14} {counts[0]:>8}{counts[1]:>8}{counts[2]:>9}")
        for test, why in self.worse().items():
            write(f"only {OURS} fails {test}: {why or 'NO REASON KNOWN'}")


def pytest_configure(config: pytest.Config) -> None:
    """Watch the results."""
    config.pluginmanager.register(Results())
