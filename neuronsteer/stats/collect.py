"""`collect`: texts in, statistics out."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..codecs import FEATURE_SITES, Codec, open_codec
from ..errors import HookError, ParameterError
from ..models import Anatomy, inspect
from .activation_collector import Gatherer
from .batches import BatchPlan
from .checkpoint import Checkpoint
from .distributed import Ranks, joined, tensor_parallel
from .forward import input_device
from .identity import context_length, model_facts, model_identity, tokenizer_identity, versions
from .needs import Need, resolve_needs
from .policy import TokenPolicy, make_policy
from .progress import OnProgress
from .reducers import REDUCERS
from .reducers.texts import BY_TEXT
from .run import Run
from .store import Stats
from .texts import Source, check_field, read_sources
from .tokens import RowReader, check_tokenizer
from .weight_norms import STATICS, measure

log = logging.getLogger(__name__)

#: Positions per batch: enough to keep the device busy, few enough to fit beside the model.
CPU_BATCH_TOKENS = 2048
BATCH_TOKENS = 8192
MEMORY_LIMIT = 16 * 2**30


def collect(
    model: Any,
    tokenizer: Any,
    texts: Any,
    *,
    needs: Iterable[Need | tuple[str, str] | str] | None = None,
    method: Any = None,
    sites: Iterable[str] | None = None,
    policy: TokenPolicy | dict[str, Any] | None = None,
    batch_size: int | str = "auto",
    out: str | Path | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    checkpoint_every: float = 60.0,
    progress: bool | OnProgress = True,
    device: torch.device | str | None = None,
    text_field: str = "text",
    memory_limit: int | None = MEMORY_LIMIT,
    codec: Any = None,
    **options: Any,
) -> Stats:
    """Return statistics of a model's neurons over texts, per label.

    The model runs without LM head, cache and gradients, in eval mode; its mode is restored and no
    hook is left. Under `torchrun` or `accelerate launch` every process makes the same call, batches
    are shared out, and every process gets the result.

    Counts are exact integers. They never depend on the number of processes, on the tokenizer's
    padding side, or on where a run was interrupted. On the CPU they do not depend on the batch size
    either, nor on the order and company of texts that are read on their own (dense models, any
    dtype; measured, see `batches.py`). Elsewhere, for experts, and with another number of threads,
    a kernel may round a value that is next to zero to its other side in a batch of another size.

    Args:
        model: A causal language model, also quantised, offloaded or wrapped by PEFT.
        tokenizer: Its tokenizer. Its padding side does not matter.
        texts: Label → texts, `(prompt, response)` pairs, records, a path or a dataset; or a folder
            with one file per label.
        needs: What to collect, e.g. `["count@mlp.act"]`; see `DEFAULT_NEEDS`.
        method: Collect what this detector needs: its name, or a detector with parameters.
        sites: Only these sites.
        policy: Which tokens count.
        batch_size: Rows per batch, or `"auto"`: as many as make up a fixed number of tokens. An
            out-of-memory error halves it and the run goes on.
        out: Folder to save the statistics in. With a checkpoint, nothing is lost between the end of
            the run and saving.
        checkpoint: Folder to keep the state in while running; it is removed at the end.
        resume: Go on from the checkpoint, if there is one.
        checkpoint_every: Seconds between checkpoints; one is written after each label, too.
        progress: Show progress on stderr: a bar, or a line every 30 s where it is no terminal. A
            callable gets `Progress` events instead.
        device: Move the model there first.
        text_field: Field of records that holds the text.
        memory_limit: Refuse to start when the results alone would take more bytes. `None`: allow.
        codec: Folder of sparse autoencoders, or a `Codec`: what features (`sae.resid`, `sae.mlp`)
            are read with.
        **options: Fields of `TokenPolicy`, e.g. `max_tokens=1_000_000`.

    Raises:
        TextError: If a label has no text, or text cannot be read.
        ParameterError: If an option is unknown or out of range.
        LayoutError: If the model's neurons cannot be located.
        HookError: If a module that should be read does not run.
        StatsError: If a checkpoint belongs to another run, or values overflow.
    """
    if resume and checkpoint is None:
        raise ParameterError("resume=True needs checkpoint=FOLDER, where the state was kept.")
    if method is not None:
        needs = [*(needs or ()), *_needs_of(method)]
    anatomy = inspect(model)
    check_tokenizer(tokenizer)
    rule = make_policy(policy, options).resolved(context_length(anatomy))
    asked = resolve_needs(needs, sites, [*REDUCERS.names(), *STATICS])
    chosen = tuple(need for need in asked if need.reducer not in STATICS)
    if not chosen:
        raise ParameterError(
            f"{', '.join(map(str, asked))} needs no text; ask for something to collect, too."
        )
    if tensor_parallel(anatomy.root):
        raise HookError(
            "The model is tensor-parallel: every process sees a slice of each layer. Load it "
            "without tp_plan; collecting shares out the texts instead."
        )
    if device is not None:
        nn.Module.to(anatomy.root, torch.device(device))
    sources = read_sources(texts, check_field(text_field))
    _check_pairs(rule, chosen)
    dictionary = _codec(codec, chosen)
    gatherer = Gatherer(anatomy, chosen, dictionary)
    _check_memory(gatherer, sources, rule, memory_limit)
    place = input_device(anatomy)
    plan = BatchPlan(
        tokens=_tokens(place, gatherer),
        rows=_rows(batch_size),
        longest=context_length(anatomy),
    )
    # What nobody asked for by name must not make a run fail.
    statics = measure(anatomy, asked, strict=needs is not None)
    widths = {need.site: anatomy.widths for need in statics}
    with joined() as ranks:
        keeper = None
        if checkpoint is not None or ranks.size > 1:
            identity = {
                **model_identity(anatomy),
                "tokenizer": tokenizer_identity(tokenizer),
                "needs": [str(need) for need in asked],
                "policy": rule.to_dict(),
                "batches": [plan.tokens, plan.rows, plan.longest],
                "codec": None if dictionary is None else dict(dictionary.spec),
                "texts": [[source.label, source.name, source.mark] for source in sources],
            }
            for name, value in identity.items():
                ranks.agree(name, json.dumps(value))
            if checkpoint is not None:
                folder = Path(checkpoint)
                keeper = Checkpoint(folder, identity, ranks.rank, ranks.size, checkpoint_every)
        run = Run(
            anatomy, gatherer, RowReader(tokenizer, rule), plan, sources, ranks, place, keeper
        )
        fields = run.collect(resume, progress)
        # What nobody asked for by name must not make a run fail.
        statics = measure(anatomy, asked, strict=needs is not None)
        widths = {need.site: anatomy.widths for need in statics}
        header = {
            **model_facts(anatomy),
            "policy": rule.to_dict(),
            "calibration": fields.pop("calibration"),
            "execution": {
                **versions(),
                "device": place.type,
                "processes": ranks.size,
                "batch_tokens": plan.tokens,
                "batch_size": plan.rows or "auto",
                "out_of_memory": fields.pop("out_of_memory"),
            },
            **_experts(anatomy, gatherer),
            **({} if dictionary is None else {"codec": dict(dictionary.spec)}),
        }
        stats = Stats(
            labels=tuple(source.label for source in sources),
            site_widths={**widths, **gatherer.widths},
            statics=statics,
            header=header,
            **fields,
        )
        _finish(stats, out, keeper, ranks)
    return stats


def _codec(given: Any, needs: tuple[Need, ...]) -> Codec | None:
    found = None if given is None else open_codec(given)
    missing = [n for n in needs if n.site in FEATURE_SITES and (not found or n.site != found.site)]
    if missing:
        raise ParameterError(
            f"{missing[0]} is about features, and "
            + (f"the codec has them at {found.site!r}." if found else "no codec was given.")
            + " Pass codec=FOLDER of the sparse autoencoders."
        )
    return found


def _finish(stats: Stats, out: str | Path | None, keeper: Checkpoint | None, ranks: Ranks) -> None:
    """Save the result before the checkpoint goes: at no moment is neither on disk."""
    error: Exception | None = None
    if out is not None and ranks.rank == 0:
        try:
            stats.save(out)
        except Exception as found:
            error = found
    ranks.check(error)
    if keeper is not None:
        keeper.remove()


def _needs_of(method: Any) -> tuple[Need, ...]:
    if isinstance(method, str):
        # By name, as plugins are found: the detectors are a room above this one.
        method = importlib.import_module("..detectors", __package__).detector(method)
    return tuple(method.needs)


def _tokens(place: torch.device, gatherer: Gatherer) -> int:
    found = CPU_BATCH_TOKENS if place.type == "cpu" else BATCH_TOKENS
    # A backward pass holds every layer's values at once.
    return found // 4 if gatherer.gradient else found


def _rows(batch_size: int | str) -> int | None:
    if batch_size == "auto":
        return None
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ParameterError(f"batch_size={batch_size!r}; expected 'auto' or a number from 1.")
    return batch_size


def _check_pairs(policy: TokenPolicy, needs: tuple[Need, ...]) -> None:
    found = [(need, REDUCERS.get(need.reducer)) for need in needs]
    per_text = [
        need
        for need, reducer in found
        if reducer.per_text or reducer.meter or reducer.name == BY_TEXT
    ]
    if per_text and policy.packed:
        raise ParameterError(
            f"{per_text[0]} is kept per text, but block_size={policy.block_size} puts texts end to "
            f"end. Leave block_size out."
        )


def _check_memory(
    gatherer: Gatherer, sources: tuple[Source, ...], policy: TokenPolicy, limit: int | None
) -> None:
    """State what the results take, before hours of work end in a full memory."""
    fixed = sum(
        len(sources) * held.shape[0] * held.shape[1] * _bytes(held.reducer)
        for held in gatherer.slots.values()
    )
    per_text = sum(4 * held.layers * held.width for held in gatherer.texts.values())
    counts = [_expected(source, policy) for source in sources]
    size = fixed + per_text * sum(count or 0 for count in counts)
    if per_text and None in counts:
        log.warning(
            "Per-text responses take %.2f MB per text; the number of texts is not known.",
            per_text / 1e6,
        )
    log.info("Results take %.2f GB of memory.", size / 1e9)
    if limit is not None and size > limit:
        raise ParameterError(
            f"The results would take {size / 1e9:.1f} GB of memory, above memory_limit of "
            f"{limit / 1e9:.1f} GB. Collect fewer texts, sites or reducers "
            f"({', '.join(map(str, gatherer.needs))}), or raise memory_limit."
        )


def _bytes(reducer: Any) -> int:
    numbers = 1
    for size in reducer.tail:
        numbers *= size
    return numbers * reducer.total_dtype.itemsize


def _expected(source: Source, policy: TokenPolicy) -> int | None:
    found = source.size
    if found is not None and policy.sample is not None:
        found = round(found * policy.sample)
    if policy.max_texts is not None:
        found = policy.max_texts if found is None else min(found, policy.max_texts)
    return found


def _experts(anatomy: Anatomy, gatherer: Gatherer) -> dict[str, Any]:
    if not anatomy.is_moe:
        return {}
    found: dict[str, Any] = {}
    for site, taps in gatherer.taps.items():
        if not any(tap.experts for tap in taps):
            continue
        layers: list[Any] = [None] * anatomy.num_layers
        for tap in taps:
            block = tap.experts
            if block is not None:
                layers[tap.layer] = {
                    "num_experts": block.num_experts,
                    "expert_width": block.expert_width,
                    "shared_width": block.shared.width if block.shared else 0,
                }
        found[site] = layers
    return {"experts": found} if found else {}
