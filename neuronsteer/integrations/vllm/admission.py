"""The front end: requests are checked and resolved, and the prefix cache's salt is set.

Whatever a user can get wrong is found here, where it is answered with an error (HTTP 400). A worker
can only stop the whole engine.
"""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Callable
from typing import Any

from ...errors import NeuronSteerError, ParameterError, require, shown
from . import served_sets
from .kept_requests import ALL_KEEPING, Keeping, config_obstacle
from .request_schedule import RequestSchedule
from .served_sets import ALL_SERVED_SETS, ModelShape, ServedSets
from .settings import KEEP, KEY, REQUEST_FIELDS, SOURCE, THINKING, ServeSettings, settings_of
from .vllm_internals import FRONT_END, GATE_V1, GATE_V2, HTTP, WORKERS, verify, wrap
from .worker_gate import processor_name, tokenizer_obstacle

#: Ways of speculative decoding whose output was shown to be that of the steered model.
SPECULATIVE = ("ngram", "draft_model")

_OFF = (
    "this server was started without neuron steering. Start it with: neuronsteer serve MODEL SET, "
    f'or pass vLLM --additional-config \'{{"{KEY}": {{"sets": …}}}}\''
)
_KEEPS_NOTHING = (
    "this server was started without neuronsteer. Start it with: neuronsteer serve MODEL "
    f'--keep ko, or pass vLLM --additional-config \'{{"{KEY}": {{"keep": "ko"}}}}\''
)


def install() -> None:
    """Wrap the front end of vLLM; nothing changes for engines without neuron sets."""
    wrap("vllm.engine.arg_utils", "EngineArgs.create_engine_config", _check_config)
    wrap("vllm.v1.engine.input_processor", "InputProcessor.__init__", _load_sets)
    wrap("vllm.v1.engine.input_processor", "InputProcessor.process_inputs", _admit)
    wrap("vllm.v1.engine.output_processor", "OutputProcessor.add_request", _note_rows)
    for use in HTTP:
        beams = use.name.endswith("to_beam_search_params")
        wrap(use.module, use.name, _refuse_beams if beams else _check_early)


def check_engine(vllm_config: Any) -> ServeSettings | None:
    """Return the settings of an engine, `None` if it was started without neuron steering.

    Raises:
        ParameterError: If steering it would not be exact.
    """
    settings = settings_of(vllm_config)
    if settings is None:
        return None
    verify(FRONT_END + (WORKERS if settings.steers else ()))
    parallel = vllm_config.parallel_config
    speculative = vllm_config.speculative_config
    method = None if speculative is None else speculative.method
    for found, what, instead in (
        (
            parallel.pipeline_parallel_size > 1,
            "pipeline parallelism",
            "use tensor parallelism",
        ),
        (parallel.use_ubatching, "micro-batching (dual batch overlap)", "switch it off"),
        (
            getattr(parallel, "prefill_context_parallel_size", 1) > 1,
            "prefill context parallelism",
            "switch it off",
        ),
        (
            method is not None and method not in SPECULATIVE,
            f"speculative decoding by {method!r}",
            f"use {' or '.join(map(repr, SPECULATIVE))}",
        ),
        (
            getattr(vllm_config.model_config, "enable_sleep_mode", False),
            "sleep mode, which throws the tables away",
            "switch it off",
        ),
        (
            vllm_config.model_config.runner_type != "generate",
            f"the runner {vllm_config.model_config.runner_type!r}",
            "neuron steering is for generation",
        ),
    ):
        if found:
            raise ParameterError(
                f"neuronsteer does not work with {what}: no test shows that the answers are "
                f"those of the steered model. Please {instead}."
            )
    Keeping(settings.keep, config_obstacle(vllm_config))  # raises if it has to and cannot
    return settings


def shape_of(vllm_config: Any) -> ModelShape:
    """Return what a neuron set must fit, as far as the model's config tells."""
    config = vllm_config.model_config.hf_text_config
    width = getattr(config, "intermediate_size", None)
    return ModelShape(
        getattr(config, "model_type", None),
        int(config.num_hidden_layers),
        width if isinstance(width, int) else None,
    )


def schedule_of(sampling_params: Any) -> RequestSchedule | None:
    """Return the schedule that admission wrote into a request, for the workers."""
    extra = None if sampling_params is None else sampling_params.extra_args
    wire = extra.get(KEY) if extra else None
    return None if wire is None else RequestSchedule.from_wire(wire)


def _check_config(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        vllm_config = original(self, *args, **kwargs)
        if check_engine(vllm_config) is not None:
            _add_gate(vllm_config)
        return vllm_config

    return create_engine_config


def _add_gate(vllm_config: Any) -> None:
    """Have the workers make a vocabulary gate, unless it could do nothing in this engine."""
    if config_obstacle(vllm_config) is not None:
        return
    verify(GATE_V2 if vllm_config.use_v2_model_runner else GATE_V1)
    model = vllm_config.model_config
    name = processor_name(vllm_config)
    before: list[Any] = list(model.logits_processors or ())
    if name not in before:
        model.logits_processors = [*before, name]


def _load_sets(original: Callable[..., Any]) -> Callable[..., Any]:
    def init(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        original(self, vllm_config, *args, **kwargs)
        settings = settings_of(vllm_config)
        processes = getattr(vllm_config.parallel_config, "_api_process_count", 1)
        self.neuronsteer = self.neuronsteer_keeping = None
        if settings is not None:
            if settings.steers:
                self.neuronsteer = ServedSets(settings, shape_of(vllm_config), processes)
            obstacle = config_obstacle(vllm_config) or tokenizer_obstacle(vllm_config)
            self.neuronsteer_keeping = Keeping(settings.keep, obstacle)
            ALL_KEEPING.add(self.neuronsteer_keeping)

    return init


def _admit(original: Callable[..., Any]) -> Callable[..., Any]:
    def process_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = original(self, *args, **kwargs)
        params = request.sampling_params
        if params is None:  # pooling: nothing is generated
            return request
        try:
            _resolve(getattr(self, "neuronsteer", None), request, params)
            _resolve_kept(getattr(self, "neuronsteer_keeping", None), request, params)
        except NeuronSteerError as error:
            raise _refusal(str(error)) from error
        return request

    return process_inputs


def _check_names(extra: dict[str, Any]) -> None:
    """Raise for a field that is none of ours, but looks like one."""
    for name in extra:
        if name in REQUEST_FIELDS:
            continue
        near = difflib.get_close_matches(name, REQUEST_FIELDS, 1, 0.8)
        if near or name.startswith(KEY):
            fields = ", ".join(map(repr, REQUEST_FIELDS))
            meant = f"did you mean {near[0]!r}?" if near else f"the fields are {fields}."
            raise ParameterError(f"Unknown field {shown(name)}; {meant}")


def _wanted(served: ServedSets | None, extra: dict[str, Any]) -> tuple[Any, Any]:
    """Return the schedule and source a request asks for, `None` if none; raise if it cannot."""
    _check_names(extra)
    found: list[Any] = []
    for field in (KEY, SOURCE):
        value = extra.get(field)
        found.append(value)
        if value is not None and served is None:
            what = "steer to" if field == KEY else f"steer, with {SOURCE!r}"
            raise ParameterError(f"Cannot {what} {shown(value)}: {_OFF}.")
    return found[0], found[1]


def _resolve(served: ServedSets | None, request: Any, params: Any) -> None:
    extra: dict[str, Any] = params.extra_args or {}
    wanted, source = _wanted(served, extra)
    if served is None:
        return
    ids, embeds = request.prompt_token_ids, request.prompt_embeds
    schedule = served.resolve(wanted, len(embeds if ids is None else ids), source)
    if schedule is not None and request.resumable:
        raise ParameterError(
            "A request whose prompt comes in parts cannot be steered, because switch points are "
            "counted from the end of the prompt. Send the whole prompt at once."
        )
    # The sampling parameters are this request's own copy, but what they hold may be shared.
    rest = {name: value for name, value in extra.items() if name not in (KEY, SOURCE)}
    if schedule is not None:
        params.extra_args = {**rest, KEY: schedule.to_wire()}
        salt = f"{KEY}:{schedule.salt}"
        request.cache_salt = f"{request.cache_salt}|{salt}" if request.cache_salt else salt
    elif len(rest) < len(extra):
        params.extra_args = rest or None


def _check_kept(keeping: Keeping | None, extra: dict[str, Any]) -> None:
    """Raise if an engine keeps nothing, and a request asks for it."""
    for field in (KEEP, THINKING):
        value = extra.get(field)
        if value is not None and keeping is None:
            raise ParameterError(f"Cannot follow {field!r}: {shown(value)}; {_KEEPS_NOTHING}.")


def _resolve_kept(keeping: Keeping | None, request: Any, params: Any) -> None:
    extra: dict[str, Any] = params.extra_args or {}
    _check_kept(keeping, extra)
    if keeping is None:
        return
    kept = keeping.resolve(extra)
    if kept is not None and (request.prompt_token_ids is None or request.resumable):
        how = "comes in parts" if request.resumable else "is given as embeddings"
        raise ParameterError(
            f"A request whose prompt {how} cannot be kept in a language, because what may be said "
            f"is read off the prompt. Send it as text or tokens at once, or with {KEEP!r}: '-'."
        )
    rest = {name: value for name, value in extra.items() if name not in (KEEP, THINKING)}
    if kept is not None:
        params.extra_args = {**rest, KEEP: kept.to_wire()}
    elif len(rest) < len(extra):
        params.extra_args = rest or None


def _note_rows(original: Callable[..., Any]) -> Callable[..., Any]:
    def add_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        schedule = schedule_of(request.sampling_params)
        if schedule is None:
            return original(self, request, *args, **kwargs)
        rows = rows_in_use(self)
        # It does not say which engine it belongs to. Only one of them knows its rows, unless
        # several serve the same set; then the smallest tables decide.
        for served in ALL_SERVED_SETS:
            try:
                served.check_room(schedule.keys, rows.values())
            except NeuronSteerError as error:
                raise _refusal(str(error)) from error
        result = original(self, request, *args, **kwargs)
        rows[request.request_id] = schedule.keys
        return result

    return add_request


def rows_in_use(output_processor: Any) -> dict[str, frozenset[str]]:
    """Return which rows the unfinished requests of an engine need, by request."""
    rows: dict[str, frozenset[str]] = vars(output_processor).setdefault("neuronsteer", {})
    gone: dict[str, float] = vars(output_processor).setdefault("neuronsteer_gone", {})
    now = time.monotonic()
    for request_id in [each for each in rows if each not in output_processor.request_states]:
        if now - gone.setdefault(request_id, now) >= _until_workers_know():
            del rows[request_id], gone[request_id]
    return rows


def _until_workers_know() -> float:
    """Return for how many seconds a worker may go on with a request that was given up here."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return 0.0  # the engine is told before anything else can be asked of it
    return served_sets.GRACE


def _check_early(original: Callable[..., Any]) -> Callable[..., Any]:
    """Find mistakes before a stream begins: once it has begun, the status is already 200."""

    def to_sampling_params(self: Any, *args: Any, **kwargs: Any) -> Any:
        params = original(self, *args, **kwargs)
        extra: dict[str, Any] = params.extra_args or {}
        # A request over HTTP does not say for which engine it is; a server has one.
        engines: list[ServedSets | None] = list(ALL_SERVED_SETS) or [None]
        keepers: list[Keeping | None] = list(ALL_KEEPING) or [None]
        try:
            if len(engines) == 1:
                wanted, source = _wanted(engines[0], extra)
                if engines[0] is not None:
                    engines[0].resolve(wanted, 1, source)
            if len(keepers) == 1:
                _check_kept(keepers[0], extra)
                if keepers[0] is not None:
                    keepers[0].resolve(extra)
        except NeuronSteerError as error:
            raise _refusal(str(error)) from error
        return params

    return to_sampling_params


def _refuse_beams(original: Callable[..., Any]) -> Callable[..., Any]:
    def to_beam_search_params(self: Any, *args: Any, **kwargs: Any) -> Any:
        default = any(
            served.default is not None and not served.default.is_constant
            for served in ALL_SERVED_SETS
        )
        if {KEY, SOURCE} & (self.vllm_xargs or {}).keys() or default:
            raise _refusal(
                "Beam search cannot be steered: vLLM starts every step of it as a new request, "
                "without the schedule and the number of tokens so far. Sample instead."
            )
        kept = any(keeping.by_default for keeping in ALL_KEEPING)
        if {KEEP, THINKING} & (self.vllm_xargs or {}).keys() or kept:
            raise _refusal(
                "Beam search cannot be kept in a language: vLLM follows the model's own "
                "probabilities there, before anything is held back. Sample instead."
            )
        return original(self, *args, **kwargs)

    return to_beam_search_params


def _refusal(message: str) -> Exception:
    """Return vLLM's own error for a bad request: HTTP 400, and `param` says which field."""
    exceptions = require("vllm.exceptions", "vllm", "Serving")
    return exceptions.VLLMValidationError(message, parameter=KEY)
