"""What is in force in a forward pass: decided here, once per pass, for every attached steerer.

There is one `GenerationTracker` per model. For every forward pass it gives every attached steerer a
`Plan`: nothing, one row, or rows per position. Those that take no part get "nothing", explicitly.
A plan belongs to a generation, or to the cache of a loop of one's own, and ends with it.

`generate` asks `prepare_inputs_for_generation` before each forward pass, outside any compiled graph
and with the full token sequence. Wrapping it gives the position of every column without keeping a
counter, so that beams, assisted decoding, chunked prefill, static caches and `use_cache=False` come
out right. A direct call of the model is placed by its cache instead.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import HookError, ScheduleError
from ..models.plain_copies import keep_copies_plain, ours, release
from .layer_hooks import MIXED, Plan, uncounted, watch_root
from .prompt_reader import end_of_prompt
from .recomputed_layers import RecomputedLayer
from .runs import NOTHING, Assignment, Generation, Prompt, Run, SteererState, ids_of
from .timeline import RowText, constant, follow_all
from .wrapped_methods import wrap_method

_TRACKER = "_neuronsteer_tracker"
_lock = threading.Lock()


def _leave_alone() -> Plan:
    return NOTHING


def _forget(reference: weakref.ref[Any]) -> None:
    root = reference()
    if root is not None:
        root.__dict__.pop(_TRACKER, None)
        release(root)


class _Local(threading.local):
    generation: Generation | None = None
    #: The only steerer that takes part in what this thread runs.
    only_participant: SteererState | None = None
    probing: bool = False

    def __init__(self) -> None:
        #: What the prompts of a direct call are written in, until its cache is known.
        self.languages: dict[SteererState, Sequence[str | None]] = {}


class GenerationTracker:
    """Decides for one model; `GenerationTracker.of(root)` finds or makes it."""

    def __init__(self, root: Any) -> None:
        # The model holds the tracker; the other way round it must not be kept alive.
        self._root = weakref.ref(root)
        # Replaced, never changed: a thread that goes through it is not disturbed.
        self._states: tuple[SteererState, ...] = ()
        self._local = _Local()
        self._undo: list[Callable[[], None]] = []
        self._generations = 0
        self._managers: weakref.WeakSet[Any] = weakref.WeakSet()
        # Compiled graphs read one tensor, whichever thread runs them.
        self._compiled = threading.RLock()
        self._owner: Generation | None = None
        self._arguments = tuple(inspect.signature(root.forward).parameters)

    @classmethod
    def join(cls, root: Any, state: SteererState) -> GenerationTracker:
        """Decide for `state`, too, from the next generation or direct call on.

        Returns:
            The tracker of the causal LM `root`, made if it is the first.
        """
        with _lock:
            tracker = root.__dict__.get(_TRACKER)
            if tracker is None:
                tracker = cls(root)
                tracker._install()
            state.current.outside = functools.partial(tracker._outside, state)
            tracker._states = (*tracker._states, state)
            return tracker

    def leave(self, state: SteererState) -> None:
        """Stop deciding for `state`; the last one out removes every wrapper."""
        with _lock:
            self._states = tuple(each for each in self._states if each is not state)
            state.current.outside = _leave_alone
            self._uninstall_if_unused()

    def assign(self, state: SteererState, assignment: Assignment) -> None:
        """Let `state` follow `assignment` from the next token on, in every thread."""
        # Managers are looked at last: one label after another must cost next to nothing.
        counted = assignment.everywhere is None and not state.private
        if counted and any(each.is_running() for each in self._managers):
            raise _packed()
        state.assignment = assignment
        if self._local.generation is None:
            state.current.local.plan = None
        if not self._generations and self._may_show():
            # Compiled code may be called at any time now; otherwise the next token brings it.
            state.current.show(state.resting)

    def run_exclusively(self, state: SteererState, call: Callable[[], Any]) -> Any:
        """Run `call`; only `state` takes part in its generations."""
        before = self._local.only_participant
        self._local.only_participant = state
        try:
            return call()
        finally:
            self._local.only_participant = before

    def probe(self, state: SteererState, call: Callable[[], Any]) -> Any:
        """Run a forward pass in which the hooks of `state` say that they fire; nobody steers."""
        self._local.probing = True
        try:
            return self.run_exclusively(state, call)
        finally:
            self._local.probing = False
            for each in self._states:  # also after a KeyboardInterrupt, of which torch tells nobody
                each.current.local.plan = None

    def _participants(self) -> list[SteererState]:
        only = self._local.only_participant
        if only is not None:
            return [only]
        return [state for state in self._states if not state.private]

    def _install(self) -> None:
        root: Any = self._root()
        undo: list[Callable[[], None]] = []
        try:
            keep_copies_plain(root)
            root.__dict__[_TRACKER] = ours(self)
            undo.append(functools.partial(_forget, self._root))
            undo.append(watch_root(root, self._before, self._after))
            for name, around in (
                ("prepare_inputs_for_generation", self._prepare),
                ("generate", self._generate),
                ("generate_batch", self._generate_batch),
                ("init_continuous_batching", self._init_batching),
            ):
                if hasattr(root, name):
                    undo.append(wrap_method(root, name, around))
        finally:
            self._undo = undo

    def _uninstall_if_unused(self) -> None:
        # A generation that runs goes on with the wrappers that it began with.
        if not self._states and not self._generations:
            for undo in reversed(self._undo):
                undo()
            self._undo = []

    # --- generate ---------------------------------------------------------------------------

    def _generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outer, config = self._local.generation, kwargs.get("generation_config")
        if outer is not None and getattr(config, "is_assistant", False):
            # Self-speculation: the model drafts for itself, in the frame of the outer call.
            return original(*args, **kwargs)
        generation = Generation.of(args, kwargs)
        plans, failed = self.plans(), True
        with _lock:
            self._generations += 1
        try:
            self._begin(generation, {**kwargs, "input_ids": ids_of(args, kwargs)})
            found = original(*args, **kwargs)
            failed = False
        finally:
            self._end(generation)
            # A generation may run inside another one, or inside a direct call.
            self._local.generation = outer
            for state, plan in plans:
                state.current.local.plan = plan
            for run in outer.runs if outer is not None else ():
                run.state.last = run
        if not failed:
            self._keep(generation, found)
            self._check(generation)
        return found

    def _begin(self, generation: Generation, options: dict[str, Any]) -> None:
        participants = self._participants()
        for state in participants:
            state.assignment.check(generation.batch)
        for state in participants:
            assignment = state.assignment
            run = Run(state, generation, assignment, assignment.timelines)
            run.start(functools.partial(self._read, state, options))
            generation.runs.append(run)
            state.running[generation] = state.last = run
        for state in self._states:
            state.current.local.plan = NOTHING
        for run in generation.runs:
            run.state.current.local.plan = run.everywhere
        self._local.generation = generation
        if self._may_be_compiled(options):
            self._own_compiled(generation)
        self._show_all(generation)

    def _may_be_compiled(self, options: dict[str, Any]) -> bool:
        """Return whether this generation may run compiled code, now or from some token on."""
        root: Any = self._root()
        config = options.get("generation_config") or root.generation_config
        names = ("cache_implementation", "compile_config")
        asked = any(options.get(name) or getattr(config, name, None) for name in names)
        traced = any(state.current.traced for state in self._states)
        replaced = "forward" in vars(root) or root._compiled_call_impl is not None
        return bool(asked or traced or replaced)

    def _own_compiled(self, generation: Generation) -> None:
        """Wait until no other generation runs compiled code, and keep others from it."""
        if not generation.locked:
            self._compiled.acquire()
            generation.locked = True
            self._owner = generation

    def _may_show(self) -> bool:
        """Return whether this thread may write what compiled graphs read."""
        return self._owner is None or self._owner is self._local.generation

    def _end(self, generation: Generation) -> None:
        for run in generation.runs:
            run.state.running.pop(generation, None)
            self._count(run)
        for state in {*self._states, *(run.state for run in generation.runs)}:
            state.current.local.plan = None
            state.current.local.up.clear()
            if self._may_show():
                state.current.show(state.resting)
        if generation.locked:
            self._owner = None
            self._compiled.release()
        with _lock:
            self._generations -= 1
            for run in generation.runs:
                run.state.generations += 1
            self._uninstall_if_unused()

    def _keep(self, generation: Generation, found: Any) -> None:
        """Keep what `spans()` tells of: the text that was returned, without rejected drafts."""
        sequences = getattr(found, "sequences", found)
        if not isinstance(sequences, Tensor):
            return
        new = sequences[:, generation.prompt or 0 :].cpu()
        generation.tokens = min(generation.tokens, int(new.shape[1]))
        for run in generation.runs:
            run.returned(new)

    def _check(self, generation: Generation) -> None:
        for run in generation.runs:
            traced, attached = run.state.current.traced, run.state in self._states
            if run.wanted and not run.hits and attached and not traced:
                raise _untouched()

    def _prepare(
        self, original: Callable[..., Any], input_ids: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        out = original(input_ids, *args, **kwargs)
        generation = self._local.generation
        if generation is None:
            self._refuse_uncounted(out)
            return out
        new = out.get("input_ids")
        shape = (out["inputs_embeds"] if new is None else new).shape
        batch, length = shape[0], shape[1]
        columns = input_ids.shape[1]
        if generation.prompt is None:
            generation.prompt = columns
        if generation.batch is None:
            generation.batch = batch
        if columns < generation.prompt:  # chunked prefill passes the chunk, not the sequence
            cache = kwargs.get("past_key_values")
            start = int(cache.get_seq_length()) - generation.offset if cache is not None else 0
        else:
            start = columns - length
        generation.prepared = generation.counted = True
        generation.token = start + length - generation.prompt
        generation.tokens = generation.token + 1
        new_plans = False
        for run in generation.runs:
            plan = run.everywhere
            if plan is not None and run.state.assignment is run.assignment:
                # The plan stays: only how many positions it changes is new.
                if plan.row is not None:
                    plan.steered = batch * length
            else:
                first = start - generation.prompt + 1
                self._plan_forward(run, first, batch, length, input_ids, kwargs)
                new_plans = True
        if new_plans or not generation.locked:
            self._show_all(generation, new_plans)
        return out

    def _plan_forward(
        self,
        run: Run,
        first: int,
        batch: int,
        length: int,
        ids: Tensor | None,
        given: dict[str, Any],
    ) -> None:
        """Plan one forward pass of a generation.

        Args:
            run: Whose.
            first: Generated token that its first position predicts; negative in the prompt.
            batch: Rows now.
            length: Positions per row.
            ids: The token sequence so far, or `None` where it is not the generation's own.
            given: Further arguments of the forward pass.
        """
        state, generation = run.state, run.generation
        assignment = state.assignment
        if assignment is not run.assignment:
            assignment.check(generation.batch)
            now = {**given, "input_ids": ids}
            run.switch(assignment, generation.token, functools.partial(self._read, state, now))
            run.everywhere = None
        self._count(run)
        state.current.local.plan = run.plan(ids, first, batch, length)

    def _count(self, run: Run) -> None:
        plan = run.state.current.local.plan
        if plan is not None and plan is not NOTHING:
            run.wanted += plan.steered
            run.hits += plan.hits
            plan.hits = plan.steered = 0

    def _show_all(self, generation: Generation, new_plans: bool = True) -> None:
        """Let compiled graphs follow the plans of this thread, until its generation ends."""
        states = self._states
        if not generation.locked:
            for state in states:
                if state.current.traced:
                    self._own_compiled(generation)
                    new_plans = True
                    break
        if new_plans and self._may_show():
            for state in states:
                state.current.show(state.current.local.plan)

    # --- direct calls -----------------------------------------------------------------------

    def _before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        generation = self._local.generation
        if generation is not None and generation.prepared:
            generation.prepared = False
            return
        given = self._named(args, kwargs)
        ids = given.get("input_ids")
        shaped = ids if ids is not None else given.get("inputs_embeds")
        if shaped is None:
            return
        batch, length = int(shaped.shape[0]), int(shaped.shape[1])
        if generation is not None and generation.counted:
            # A second look at the same token, as guidance takes it: it ends where the first does.
            for run in generation.runs:
                if run.everywhere is None:
                    first = generation.token - length + 1
                    self._plan_forward(run, first, batch, length, None, given)
            self._show_all(generation)
            return
        # A loop of one's own, which may also be `custom_generate=` inside of `generate`.
        takes_part = self._participants()
        if generation is not None:
            takes_part = [run.state for run in generation.runs]
        for state in self._states:
            if state in takes_part and self._local.probing:
                state.current.local.plan = None
            elif state in takes_part:
                state.current.local.plan = self._plan_direct(state, batch, length, given)
            else:
                state.current.local.plan = NOTHING
            if self._may_show():
                state.current.show(state.current.local.plan)
        root = self._root()
        if root is not None and root.training and torch.is_grad_enabled():
            self._keep_for_backward(root)

    def _named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call of the model by name."""
        return {**dict(zip(self._arguments, args, strict=False)), **kwargs} if args else kwargs

    def _plan_direct(
        self, state: SteererState, batch: int, length: int, kwargs: dict[str, Any]
    ) -> Plan:
        """Return the plan of a direct call of the model."""
        assignment, ids = state.assignment, kwargs.get("input_ids")
        if assignment.sensor is not None:
            raise ScheduleError(
                "keep() follows texts that model.generate() writes; this is a direct call of the "
                "model. Call off() first, or to() with a label."
            )
        if assignment.everywhere is not None:
            return constant(assignment.everywhere.row, batch, length)
        if kwargs.get("cu_seq_lens_q") is not None:
            raise _packed()
        assignment.check(batch)
        cache = kwargs.get("past_key_values")
        start = int(cache.get_seq_length()) if cache is not None else 0
        # A sequence that starts here is a prompt; what follows on its cache is output.
        known = Prompt(length) if start == 0 else state.prompts.get(cache)
        prompt = assignment.prompt_length
        if prompt is None and known is not None:
            prompt = known.length
        if prompt is None or (known is None and assignment.leaving is not None):
            raise ScheduleError(
                "A schedule counts generated tokens, but this call continues a cache that was "
                "filled before, so the prompt is unknown. Pass prompt_length=… (and source=…) to "
                "to(), or use model.generate()."
            )
        timelines, languages = assignment.timelines, known.languages if known else ()
        if assignment.leaving is not None:
            if start == 0:
                languages = self._read(state, kwargs, prompt)
            timelines = assignment.timelines_leaving(languages or [None])
        if cache is not None and start == 0:
            _remember(state, cache, Prompt(prompt, languages))
        self._local.languages[state] = languages
        texts: list[RowText] = []
        if any(each.needs_text for each in timelines) and start == 0 and ids is not None:
            texts = follow_all([], ids[:, prompt:].cpu())
        first = start - prompt + 1
        return state.planner.plan(timelines, texts, first, batch, length)

    def _read(
        self, state: SteererState, given: dict[str, Any], prompt: int | None = None
    ) -> Sequence[str | None]:
        """Return what each row of a prompt is written in; nothing is steered meanwhile."""
        root: Any = self._root()
        ends = getattr(root.generation_config, "eos_token_id", None)
        turn_ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        found = None if state.reader is None else end_of_prompt(given, prompt, turn_ends)
        if state.reader is None or found is None:
            return [None]
        inputs, counted = found
        reading = state.reader.start(counted)
        self.run_unsteered(state, inputs, reading)
        return state.reader.languages(reading)

    def run_unsteered(
        self, state: SteererState, inputs: dict[str, Tensor], reading: Callable[[int, Tensor], None]
    ) -> None:
        """Run the decoder once; `reading` gets what every layer does where `state` has hooks."""
        root: Any = self._root()
        before, (batch, length) = self.plans(), next(iter(inputs.values())).shape[:2]
        try:
            for each in self._states:
                each.current.local.plan = NOTHING
            state.current.local.plan = Plan(MIXED, batch=batch, length=length, reading=reading)
            with torch.no_grad():
                root.get_decoder()(**inputs, use_cache=False)
        finally:
            for each, plan in before:
                each.current.local.plan = plan
                each.current.local.up.clear()

    def _after(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        generation = self._local.generation
        if generation is not None and generation.counted:
            for run in generation.runs:
                if run.everywhere is None:
                    plan = run.state.current.local.plan
                    if plan is not None:
                        run.look(plan)
                    self._count(run)
                    run.state.current.local.plan = None
            return
        cache = None if output is None else getattr(output, "past_key_values", None)
        given = self._named(args, kwargs).get("past_key_values")
        made_here = cache is not None and given is None
        untouched = False
        for state in self._states:
            plan = state.current.local.plan
            state.current.local.plan = None
            state.current.local.up.clear()
            # Nothing of a steerer stays with the thread.
            languages = self._local.languages.pop(state, ())
            if self._may_show():
                state.current.show(state.resting)
            if plan is None or output is None:
                continue
            if made_here and state.assignment.everywhere is None:
                prompt = state.assignment.prompt_length or plan.length
                _remember(state, cache, Prompt(prompt, languages))
            untouched |= bool(plan.steered and not plan.hits and not state.current.traced)
        if untouched:
            raise _untouched()

    def _outside(self, state: SteererState) -> Plan:
        """Return what applies to a part of the model that is called by itself."""
        generation = self._local.generation
        takes_part = generation is not None and any(r.state is state for r in generation.runs)
        if (generation is not None and not takes_part) or self._local.probing:
            return NOTHING
        plan = state.resting
        if plan is None:
            raise HookError(uncounted("the decoder"))
        return plan

    def _refuse_uncounted(self, inputs: Any) -> None:
        """Raise where a loop prepares inputs itself and nothing says where the prompt ended."""
        uncounted = inputs.get("past_key_values") is None and inputs.get("use_cache") is False
        for state in self._participants() if uncounted else ():
            assignment = state.assignment
            if assignment.everywhere is None and assignment.prompt_length is None:
                raise ScheduleError(
                    "A schedule counts generated tokens, but generate() was called past this "
                    "model (as type(model).generate) and without a cache, so where the prompt "
                    "ended is unknown. Call model.generate(), use a cache, or pass "
                    "prompt_length=… to to()."
                )

    # --- gradient checkpointing ---------------------------------------------------------------

    def _keep_for_backward(self, root: nn.Module) -> None:
        """Let layers that are run again in `backward()` be steered as they were in `forward()`."""
        for module in root.modules():
            function = module.__dict__.get("_gradient_checkpointing_func")
            if isinstance(function, RecomputedLayer):
                if function.tracker() is self:
                    continue
                function = function.original  # of steerers that have left
            if function is not None:
                module.__dict__["_gradient_checkpointing_func"] = RecomputedLayer(function, self)

    def plans(self) -> list[tuple[SteererState, Plan | None]]:
        """Return the plans of this thread."""
        return [(state, state.current.local.plan) for state in self._states]

    def is_attached(self, state: SteererState) -> bool:
        """Return whether the steerer is still attached."""
        return state in self._states

    # --- continuous batching ------------------------------------------------------------------

    def _generate_batch(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._refuse_batching()
        return original(*args, **kwargs)

    def _init_batching(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._refuse_batching()
        manager = original(*args, **kwargs)
        self._managers.add(manager)
        return manager

    def _refuse_batching(self) -> None:
        if any(state.assignment.everywhere is None for state in self._participants()):
            raise _packed()


def _remember(state: SteererState, cache: Any, prompt: Prompt) -> None:
    try:
        state.prompts[cache] = prompt
    except TypeError:
        return  # a cache of the user's own making: it has to be told with prompt_length


def _packed() -> ScheduleError:
    return ScheduleError(
        "Continuous batching packs all requests into one row, so labels per row and schedules "
        "cannot be followed there, nor can a prompt's language be read. Use one label, with "
        "source=… if it adds a difference of means, or model.generate()."
    )


def _untouched() -> HookError:
    return HookError(
        "The model ran unsteered although a label was set: no steering hook was called. It was "
        "compiled before attach(), or its kernels bypass the layers. Attach before torch.compile, "
        "and load the model without kernel replacement."
    )
