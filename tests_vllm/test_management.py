"""Sets that are added and removed while an engine runs, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neuronsteer.errors import NeuronSteerError
from neuronsteer.integrations.vllm import (
    add_set,
    list_sets,
    remove_set,
    served_sets,
    vllm_internals,
)
from tests_vllm.material import (
    LAYERS,
    Reference,
    block,
    checkpoint,
    engine,
    neuron_set,
    neuron_sets,
    params,
    prompts,
    run,
    same,
)


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(served_sets, "GRACE", 0.0)


def test_sets_come_and_go_while_requests_run(storage: Path):
    folder, sets = checkpoint(storage), neuron_sets(storage)
    reference = Reference(folder, sets)
    ids = prompts()[1]

    def check(llm: Any, schedule: str) -> None:
        same(
            run(llm, [(ids, schedule)], 20),
            [reference.greedy(ids, schedule, 20)],
            [(ids, schedule)],
        )

    with engine(folder, block({"fr": sets["fr"]}, capacity=2)) as llm:
        with pytest.raises(Exception, match="Unknown label 'de': this server has fr"):
            run(llm, [(ids, "de")], 4)
        listed = add_set(llm, str(sets["de"]), name="de")
        assert list(listed["sets"]) == ["fr", "de"] and listed["used"] == 2
        check(llm, "fr,5:de")
        with pytest.raises(NeuronSteerError, match=r"hold 2 and 2 are taken"):
            add_set(llm, str(sets["zh"]), name="zh")

        # A request that runs keeps its rows, whatever happens to the set it came from.
        core = llm.llm_engine
        core.add_request("old", {"prompt_token_ids": ids}, params("fr,5:de", 20))
        for _ in range(3):
            core.step()
        remove_set(llm, "de")
        with pytest.raises(Exception, match="Unknown label 'de'"):
            run(llm, [(ids, "de")], 4)
        with pytest.raises(NeuronSteerError, match="still in use"):
            add_set(llm, str(sets["zh"]), name="zh")
        tokens: list[int] = []
        while core.has_unfinished_requests():
            for output in core.step():
                tokens = list(output.outputs[0].token_ids)
        assert tokens == reference.greedy(ids, "fr,5:de", 20)

        # Now its row is another set's, and the first set's is its own still.
        add_set(llm, str(sets["zh"]), name="zh")
        check(llm, "zh,4:fr")
        assert [len(rows) for rows in llm.collective_rpc("neuronsteer_rows")] == [2]
        remove_set(llm, "zh")
        add_set(llm, str(sets["zh"]), name="again")  # the same content: the row is still there
        same(run(llm, [(ids, "again/zh")], 20), [reference.greedy(ids, "zh", 20)], [(ids, "zh")])
        assert list(list_sets(llm)["sets"]) == ["fr", "again"]


def test_operation_of_a_served_set_can_be_another_than_its_own(storage: Path):
    import neuronsteer as ns

    folder, sets = checkpoint(storage), neuron_sets(storage)
    ids = prompts()[1]
    zeroed = storage / "fr-zeroed"
    ns.NeuronSet.from_pretrained(sets["fr"]).replace(operation={"name": "zero"}).save_pretrained(
        zeroed
    )
    both = {"set": {"source": str(sets["fr"])}, "off": {"source": str(sets["fr"])}}
    both["off"]["operation"] = "zero"
    with engine(folder, {"neuronsteer": {"sets": both}}) as llm:
        with pytest.raises(Exception, match="'set/fr' or 'off/fr'"):
            run(llm, [(ids, "fr")], 4)
        found = run(llm, [(ids, "set/fr"), (ids, "off/fr")], 20)
    expected = [
        Reference(folder, {"fr": path}).greedy(ids, "fr", 20) for path in (sets["fr"], zeroed)
    ]
    assert found == expected and found[0] != found[1]


def test_a_default_is_what_requests_get_that_say_nothing(storage: Path):
    folder, sets = checkpoint(storage), neuron_sets(storage)
    reference = Reference(folder, sets)
    ids = prompts()[1]
    with engine(folder, block(sets, default="fr,6:de")) as llm:
        wanted = [(ids, None), (ids, "-"), (ids, "zh")]
        found = run(llm, wanted, 20)
        with pytest.raises(NeuronSteerError, match="default 'fr,6:de' needs the set 'de'"):
            remove_set(llm, "de")
    assert found == [reference.greedy(ids, schedule, 20) for schedule in ("fr,6:de", None, "zh")]


MISTAKES = [
    ("xx", "Unknown label 'xx': this server has fr, de, zh, ja"),
    ("fr,24", "only the first part may be a bare label"),
    ("fr,9:de,3:zh", "strictly increasing order"),
    ("fr,sentence:de", "waits for text, which a server cannot do"),
    ("fr*1.5", "blends between untouched"),
    (["fr"], "expected a schedule as text"),
    (",".join(f"{i}:fr" for i in range(1, 40)), "a request may have 32"),
    ("fr/de", "Unknown label 'de': the set 'fr' has fr"),
]


def test_mistakes_are_refused_at_admission_and_the_engine_lives_on(storage: Path):
    from vllm import SamplingParams

    folder, sets = checkpoint(storage), neuron_sets(storage)
    reference = Reference(folder, sets)
    ids = prompts()[1]
    with engine(folder, block(sets)) as llm:
        for schedule, message in MISTAKES:
            with pytest.raises(Exception, match=message) as caught:
                run(llm, [(ids, schedule)], 4)  # pyright: ignore
            assert type(caught.value).__name__ == "VLLMValidationError"
        with pytest.raises(Exception, match="did you mean 'neuronsteer'"):
            llm.generate(
                [{"prompt_token_ids": ids}], SamplingParams(extra_args={"neuron_steer": "fr"})
            )
        with pytest.raises(NeuronSteerError, match="called 'fr' is served already"):
            add_set(llm, str(sets["fr"]), name="fr")
        with pytest.raises(NeuronSteerError, match="No neuron set called 'frr'.*mean 'fr'"):
            remove_set(llm, "frr")
        other = storage / "other-model"
        neuron_set("it", "mistral", {"name": "zero"}, seed=1).save_pretrained(other)
        with pytest.raises(NeuronSteerError, match="Field 'model_type'"):
            add_set(llm, str(other))
        same(run(llm, [(ids, "fr")], 8), [reference.greedy(ids, "fr", 8)], [(ids, "fr")])


def test_without_sets_nothing_is_changed_and_steering_is_refused(storage: Path):
    folder = checkpoint(storage)
    reference = Reference(folder, {})
    ids = prompts()[1]
    with engine(folder) as llm:
        runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
        assert not hasattr(runner, "neuronsteer")
        assert not any(len(each._forward_pre_hooks) for each in runner.model.modules())
        with pytest.raises(Exception, match="started without neuron steering"):
            run(llm, [(ids, "fr")], 4)
        assert run(llm, [(ids, None)], 8) == [reference.greedy(ids, None, 8)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pipeline_parallel_size": 2}, "does not work with pipeline parallelism"),
        (
            {"speculative_config": {"method": "ngram_gpu", "num_speculative_tokens": 2}},
            "does not work with speculative decoding by 'ngram_gpu'",
        ),
        ({"runner": "pooling"}, "does not work with the runner 'pooling'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_engines_that_cannot_be_steered_exactly_do_not_start(
    storage: Path, options: dict[str, Any], message: str
):
    from vllm.engine.arg_utils import EngineArgs

    folder, sets = checkpoint(storage), neuron_sets(storage)
    wanted = {"model": str(folder), "dtype": "float32", "max_model_len": 64, **options}
    with pytest.raises((NeuronSteerError, ValueError, ImportError), match=message):
        EngineArgs(**wanted, additional_config=block(sets)).create_engine_config()


def test_another_version_is_refused_before_anything_is_loaded(
    storage: Path, monkeypatch: pytest.MonkeyPatch
):
    import vllm
    from vllm.engine.arg_utils import EngineArgs

    folder, sets = checkpoint(storage), neuron_sets(storage)
    wanted = {"model": str(folder), "dtype": "float32", "max_model_len": 64}
    EngineArgs(**wanted, additional_config=block(sets)).create_engine_config()
    monkeypatch.setattr(vllm, "__version__", "0.31.2")
    EngineArgs(**wanted).create_engine_config()  # who does not steer does not notice
    steered = EngineArgs(**wanted, additional_config=block(sets))
    with pytest.raises(NeuronSteerError, match=r"vLLM 0\.31\.2 is not supported.*0\.32\.x"):
        steered.create_engine_config()
    monkeypatch.setenv(vllm_internals.ANY_VERSION, "1")
    steered.create_engine_config()
    # A part that is gone is refused even so.
    from vllm.v1.engine.output_processor import OutputProcessor

    monkeypatch.delattr(OutputProcessor, "add_request")
    with pytest.raises(NeuronSteerError, match=r"OutputProcessor\.add_request"):
        steered.create_engine_config()


def test_the_list_of_private_parts_is_all_there():
    uses = vllm_internals.FRONT_END + vllm_internals.WORKERS + vllm_internals.RUNNER_V1
    assert vllm_internals.missing(uses) == []


def test_a_model_without_the_layout_is_refused(storage: Path):
    from torch import nn

    from neuronsteer.errors import LayoutError
    from neuronsteer.integrations.vllm.layers import find_layers

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.Module()
            self.mlp.experts = nn.Linear(4, 4)

    model = nn.Module()
    model.layers = nn.ModuleList([Block() for _ in range(LAYERS)])
    with pytest.raises(LayoutError, match=r"of 4 layers 0 have.*Mixtures of experts"):
        find_layers(model, LAYERS, 4, __import__("torch").device("cpu"))
