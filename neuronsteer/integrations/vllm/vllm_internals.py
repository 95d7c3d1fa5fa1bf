"""Everything of vLLM that is touched and not documented, in one place, with what it is for.

A row says what is used, what this package makes of it, and what would go wrong if it changed. The
list is checked when an engine with neuron steering starts: a vLLM in which something is missing, or
takes other arguments, is refused with a message, because a hook that is never called would answer
every request unsteered without anybody noticing.

Documented and therefore not listed: the entry points `vllm.general_plugins` and
`vllm.endpoint_plugins`, `additional_config`, `SamplingParams.extra_args` (`vllm_xargs` over HTTP),
`cache_salt`, `collective_rpc`, and the module names of the models, which are those of transformers.
"""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass
from typing import Any

from ...errors import MissingExtraError, require
from .wrapping import is_wrapped

#: Versions of vLLM that can be steered, and how one knows.
SUPPORTED = {
    "0.32": "the tests are run with it",
    "0.33": "it was not run, but this list was compared with its sources",
}
#: Setting this environment variable to 1 tries another version, if nothing on the list is missing.
ANYWAY = "NEURONSTEER_VLLM_ANY_VERSION"


@dataclass(frozen=True)
class Use:
    """One thing that is touched.

    Attributes:
        module: Where it is.
        name: Dotted name there.
        takes: Parameters that must be there, for functions.
        why: What is done with it.
        breaks: What happens if it changes without being noticed.
    """

    module: str
    name: str
    takes: tuple[str, ...]
    why: str
    breaks: str


_ENGINE = (
    Use(
        "vllm.engine.arg_utils",
        "EngineArgs.create_engine_config",
        (),
        "wrapped: settings that cannot be steered exactly are refused before anything is loaded",
        "such an engine starts; what it answers is undefined",
    ),
    Use(
        "vllm.v1.engine.input_processor",
        "InputProcessor.__init__",
        ("vllm_config",),
        "wrapped: the neuron sets are loaded in the process that admits requests",
        "requests for steering are refused: nothing can be looked up",
    ),
    Use(
        "vllm.v1.engine.input_processor",
        "InputProcessor.process_inputs",
        ("params", "resumable"),
        "wrapped: schedules are checked and resolved, and the prefix cache's salt is set, on the "
        "request that it returns (prompt_token_ids, prompt_embeds, sampling_params, cache_salt)",
        "requests run unsteered, or share cached prefixes with others",
    ),
    Use(
        "vllm.v1.engine.output_processor",
        "OutputProcessor.add_request",
        ("request",),
        "wrapped: notes which rows a request needs, until it leaves `request_states`",
        "rows of a removed set may be reused while a request still needs them",
    ),
)
_SAMPLED = (
    "to_sampling_params",
    "wrapped: mistakes are found before a stream begins",
    "in a stream, a mistake is told in the stream instead of by HTTP 400",
)
_BEAMS = (
    "to_beam_search_params",
    "wrapped: beam search drops `vllm_xargs`, so steered ones are refused",
    "a steered beam search is answered unsteered",
)
#: The HTTP requests that carry `vllm_xargs`: class, and what is wrapped there.
HTTP = tuple(
    Use(f"vllm.entrypoints.openai.{kind}.protocol", f"{request}.{name}", (), why, breaks)
    for kind, request, parts in (
        ("completion", "CompletionRequest", (_SAMPLED, _BEAMS)),
        ("chat_completion", "ChatCompletionRequest", (_SAMPLED, _BEAMS)),
        ("responses", "ResponsesRequest", (_SAMPLED,)),
    )
    for name, why, breaks in parts
)
FRONT_END = _ENGINE + HTTP
WORKERS = (
    Use(
        "vllm.v1.worker.worker_base",
        "WorkerBase",
        (),
        "two methods are added for `collective_rpc`: sets come and go while serving",
        "sets cannot be added or removed",
    ),
    Use(
        "vllm.model_executor.layers.fusion.quant_activation",
        "get_input_quant_key",
        ("layer",),
        "asked: whether a projection gets activations that are quantised already",
        "such a model starts; the hook fails on the first request",
    ),
)
RUNNER_1 = (
    Use(
        "vllm.v1.worker.gpu_worker",
        "Worker.load_model",
        (),
        "wrapped: tables and hooks are made once the model is there, before it is compiled",
        "the engine stops at the first steered request",
    ),
    Use(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner._model_forward",
        ("input_ids", "positions", "inputs_embeds"),
        "wrapped: says which row acts on which token, from `input_batch.req_ids`, `requests`, "
        "`query_start_loc` and the positions",
        "requests run unsteered",
    ),
)
RUNNER_2 = (
    Use(
        "vllm.v1.worker.gpu.model_states",
        "resolve_model_state_cls",
        ("vllm_config", "model"),
        "wrapped: the class that it returns is subclassed",
        "requests run unsteered",
    ),
    Use(
        "vllm.v1.worker.gpu.model_states.interface",
        "ModelState.add_request",
        ("req_index", "new_req_data"),
        "overridden: a request got a place in the batch (`sampling_params`, `req_id`)",
        "requests run unsteered",
    ),
    Use(
        "vllm.v1.worker.gpu.model_states.interface",
        "ModelState.remove_request",
        ("req_id",),
        "overridden: it left its place",
        "only speed: every step is treated as steered",
    ),
    Use(
        "vllm.v1.worker.gpu.model_states.interface",
        "ModelState.prepare_inputs",
        ("input_batch", "req_states"),
        "overridden: says which row acts on which token, from `num_tokens`, `num_reqs`, "
        "`num_tokens_after_padding`, `query_start_loc`, `idx_mapping` and `positions`",
        "requests run unsteered",
    ),
)


def missing(uses: tuple[Use, ...]) -> list[str]:
    """Return what of a list this vLLM does not have, in words."""
    found: list[str] = []
    for use in uses:
        full = f"{use.module}.{use.name}"
        try:
            owner: Any = importlib.import_module(use.module)
            for part in use.name.split("."):
                owner = getattr(owner, part)
            if use.why.startswith("wrapped") and not is_wrapped(owner):
                raise AttributeError("it could not be wrapped")
        except (ImportError, AttributeError) as error:
            found.append(f"{full} ({error})")
            continue
        if use.takes:
            names = set(inspect.signature(owner).parameters)
            lacking = [name for name in use.takes if name not in names]
            if lacking:
                found.append(f"{full} takes no {', '.join(lacking)}")
    return found


def verify(uses: tuple[Use, ...], *, anyway: bool) -> None:
    """Raise unless this vLLM is one that can be steered.

    Args:
        uses: What has to be there.
        anyway: Accept other versions if nothing is missing.

    Raises:
        MissingExtraError: Saying which versions can be, or what is missing.
    """
    version = str(require("vllm", "vllm", "Serving").__version__)
    supported = "; ".join(f"{each}.x, {how}" for each, how in SUPPORTED.items())
    if ".".join(version.split(".")[:2]) not in SUPPORTED and not anyway:
        raise MissingExtraError(
            f"vLLM {version} is not supported by neuron steering; supported: {supported}. Install "
            f"one of these, or set {ANYWAY}=1 to try this one: then everything that is used is "
            "checked to be there, but not that it still means the same. Or serve a baked "
            "checkpoint, which needs no plugin (neuronsteer bake)."
        )
    lacking = missing(uses)
    if lacking:
        raise MissingExtraError(
            f"vLLM {version} cannot be steered, because parts that are used are not there: "
            f"{'; '.join(lacking)}. Supported: {supported}. Or serve a baked checkpoint, which "
            "needs no plugin (neuronsteer bake)."
        )
