"""Everything undocumented in vLLM that is used here: what it is for, and how it is wrapped.

An entry says what is used, what this package does with it, and what would go wrong if it changed.
The list is checked when an engine with neuron steering starts: a vLLM in which something is
missing, or takes other arguments, is refused with a message, because a hook that is never called
would answer every request unsteered without anybody noticing.

Nothing of vLLM is imported to wrap it: the front end has no use for the workers' modules, and a
user who has this package installed but does not steer should not notice it.

Documented and therefore not listed: the entry points `vllm.general_plugins` and
`vllm.endpoint_plugins`, `additional_config`, `SamplingParams.extra_args` (`vllm_xargs` over HTTP),
`cache_salt`, `collective_rpc`, `logits_processors` with their two interfaces, and the module names
of the models, which are those of transformers.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import wrapt

from ...errors import MissingExtraError, require

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]

#: Versions of vLLM that can be steered, and how this is known.
SUPPORTED = {
    "0.32": "the tests are run with it",
    "0.33": "it was not run, but this list was compared with its sources",
}
#: Setting this environment variable to 1 tries another version, if nothing on the list is missing.
ANY_VERSION = "NEURONSTEER_VLLM_ANY_VERSION"
#: Attribute of everything that was wrapped.
_MARK = "neuronsteer"


@dataclass(frozen=True)
class InternalUse:
    """One part of vLLM that is used.

    Attributes:
        module: Where it is.
        name: Dotted name there.
        takes: Parameters that must be there, for functions.
        why: What is done with it.
        breaks: What happens if it changes and this package does not notice.
    """

    module: str
    name: str
    takes: tuple[str, ...]
    why: str
    breaks: str


_ENGINE = (
    InternalUse(
        "vllm.engine.arg_utils",
        "EngineArgs.create_engine_config",
        (),
        "wrapped: settings that cannot be steered exactly are refused before anything is loaded",
        "such an engine starts; what it answers is undefined",
    ),
    InternalUse(
        "vllm.v1.engine.input_processor",
        "InputProcessor.__init__",
        ("vllm_config",),
        "wrapped: the neuron sets are loaded in the process that admits requests",
        "requests for steering are refused: nothing can be looked up",
    ),
    InternalUse(
        "vllm.v1.engine.input_processor",
        "InputProcessor.process_inputs",
        ("params", "resumable"),
        "wrapped: schedules are checked and resolved, and the prefix cache's salt is set, on the "
        "request that it returns (prompt_token_ids, prompt_embeds, sampling_params, cache_salt)",
        "requests run unsteered, or share cached prefixes with others",
    ),
    InternalUse(
        "vllm.v1.engine.output_processor",
        "OutputProcessor.add_request",
        ("request",),
        "wrapped: refuses a request whose rows do not fit the tables beside those of others, and "
        "notes which rows it needs, until it leaves `request_states`",
        "the engine may stop for want of rows; a removed set may be forgotten while it is needed",
    ),
)
_SAMPLING = (
    "to_sampling_params",
    "wrapped: mistakes are found before a stream begins",
    "in a stream, a mistake is reported in the stream instead of by HTTP 400",
)
_BEAMS = (
    "to_beam_search_params",
    "wrapped: beam search drops `vllm_xargs`, so steered ones are refused",
    "a steered beam search is answered unsteered",
)
#: The HTTP requests that carry `vllm_xargs`: class, and what is wrapped there.
HTTP = tuple(
    InternalUse(f"vllm.entrypoints.openai.{kind}.protocol", f"{request}.{name}", (), why, breaks)
    for kind, request, parts in (
        ("completion", "CompletionRequest", (_SAMPLING, _BEAMS)),
        ("chat_completion", "ChatCompletionRequest", (_SAMPLING, _BEAMS)),
        ("responses", "ResponsesRequest", (_SAMPLING,)),
    )
    for name, why, breaks in parts
)
FRONT_END = _ENGINE + HTTP
WORKERS = (
    InternalUse(
        "vllm.v1.worker.worker_base",
        "WorkerBase",
        (),
        "two methods are added for `collective_rpc`: sets are added and forgotten while serving",
        "sets cannot be added or removed",
    ),
    InternalUse(
        "vllm.model_executor.layers.fusion.quant_activation",
        "get_input_quant_key",
        ("layer",),
        "called: whether a projection gets activations that are quantised already",
        "such a model starts; the hook fails on the first request",
    ),
)
RUNNER_V1 = (
    InternalUse(
        "vllm.v1.worker.gpu_worker",
        "Worker.load_model",
        (),
        "wrapped: tables and hooks are made once the model is loaded, before it is compiled",
        "the engine stops at the first steered request",
    ),
    InternalUse(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner._model_forward",
        ("input_ids", "positions", "inputs_embeds"),
        "wrapped: says which row acts on which token, from `input_batch.req_ids`, `requests`, "
        "`query_start_loc` and the positions",
        "requests run unsteered",
    ),
)
RUNNER_V2 = (
    InternalUse(
        "vllm.v1.worker.gpu.model_states",
        "resolve_model_state_cls",
        ("vllm_config", "model"),
        "wrapped: the class that it returns is subclassed",
        "requests run unsteered",
    ),
    InternalUse(
        "vllm.v1.worker.gpu.model_states.interface",
        "ModelState.add_request",
        ("req_index", "new_req_data"),
        "overridden: a request got a slot of the batch (`sampling_params`, `req_id`)",
        "requests run unsteered",
    ),
    InternalUse(
        "vllm.v1.worker.gpu.model_states.interface",
        "ModelState.remove_request",
        ("req_id",),
        "overridden: a request left its slot",
        "only speed: every step is treated as steered",
    ),
    InternalUse(
        "vllm.v1.worker.gpu.model_states.interface",
        "ModelState.prepare_inputs",
        ("input_batch", "req_states"),
        "overridden: says which row acts on which token, from `num_tokens`, `num_reqs`, "
        "`num_tokens_after_padding`, `query_start_loc`, `idx_mapping` and `positions`",
        "requests run unsteered",
    ),
)
_GATE = (
    InternalUse(
        "vllm.config",
        "VllmConfig.use_v2_model_runner",
        (),
        "read: which of the two logits processors an engine needs",
        "the engine does not start",
    ),
    InternalUse(
        "vllm.tokenizers",
        "cached_tokenizer_from_config",
        ("model_config",),
        "called: the tokenizer whose tokens have scripts",
        "the engine does not start",
    ),
)
GATE_V1 = (
    *_GATE,
    InternalUse(
        "vllm.v1.sample.logits_processor",
        "process_dict_updates",
        ("req_entries", "batch_update", "new_state"),
        "called: follows which request is in which row",
        "the engine stops at the first request",
    ),
)
GATE_V2 = (
    *_GATE,
    InternalUse(
        "vllm.v1.worker.gpu.sample.logits_processor",
        "LogitsProcRequestState",
        ("all_token_ids", "prompt_len", "prefill_len"),
        "read: the tokens of a request",
        "the engine stops at the first request that is kept in a language",
    ),
    InternalUse(
        "vllm.v1.worker.gpu.sample.logits_processor",
        "LogitsContext",
        ("expanded_idx_mapping", "idx_mapping_np", "pos", "input_ids"),
        "read: which row belongs to which request, and which token was drawn last",
        "the engine stops at the first request that is kept in a language",
    ),
)


def wrap(module: str, name: str, wrapper: Wrapper) -> None:
    """Replace `name` in `module` by `wrapper(it)`, now or as soon as the module is imported.

    A name that does not exist is skipped: `verify` reports it before anything is steered.
    """

    def replace(found: ModuleType) -> None:
        owner: Any = found
        *path, last = name.split(".")
        for part in path:
            owner = getattr(owner, part, None)
        original = getattr(owner, last, None)
        # vLLM loads its plugins in every process, and in some of them more than once.
        if original is not None and not hasattr(original, _MARK):
            wrapped = functools.wraps(original)(wrapper(original))
            setattr(wrapped, _MARK, True)
            setattr(owner, last, wrapped)

    wrapt.register_post_import_hook(replace, module)


def add_method(module: str, owner: str, name: str, function: Callable[..., Any]) -> None:
    """Give a class in `module` one more method, now or as soon as the module is imported."""

    def add(found: ModuleType) -> None:
        if hasattr(found, owner):
            setattr(getattr(found, owner), name, function)

    wrapt.register_post_import_hook(add, module)


def missing(uses: tuple[InternalUse, ...]) -> list[str]:
    """Return, in words, which of these parts this vLLM does not have."""
    found: list[str] = []
    for use in uses:
        full = f"{use.module}.{use.name}"
        try:
            owner: Any = importlib.import_module(use.module)
            for part in use.name.split("."):
                owner = getattr(owner, part)
            # Inherited methods count as wrapped.
            if use.why.startswith("wrapped") and not hasattr(owner, _MARK):
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


def verify(uses: tuple[InternalUse, ...]) -> None:
    """Raise unless this vLLM is one that can be steered.

    Args:
        uses: The parts that must be there.

    Raises:
        MissingExtraError: Saying which versions are supported, or what is missing.
    """
    any_version = os.environ.get(ANY_VERSION, "") not in ("", "0")
    version = str(require("vllm", "vllm", "Serving").__version__)
    supported = "; ".join(f"{each}.x, {how}" for each, how in SUPPORTED.items())
    if ".".join(version.split(".")[:2]) not in SUPPORTED and not any_version:
        raise MissingExtraError(
            f"vLLM {version} is not supported by neuron steering; supported: {supported}. Install "
            f"one of these, or set {ANY_VERSION}=1 to try this one: then only the presence of the "
            "parts that are used is checked, not their meaning. Or serve a baked checkpoint, which "
            "needs no plugin (neuronsteer bake)."
        )
    lacking = missing(uses)
    if lacking:
        raise MissingExtraError(
            f"vLLM {version} cannot be steered, because parts that are needed are missing: "
            f"{'; '.join(lacking)}. Supported: {supported}. Or serve a baked checkpoint, which "
            "needs no plugin (neuronsteer bake)."
        )
