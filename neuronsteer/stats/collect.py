"""`collect`: texts in, statistics out."""

from __future__ import annotations

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
from .activation_collector import ActivationCollector
from .batches import BatchPlan
from .checkpoint import CollectionCheckpoint
from .collection_run import CollectionRun
from .distributed import Processes, started_processes, tensor_parallel
from .forward import input_device
from .identity import context_length, model_facts, model_identity, tokenizer_identity, versions
from .needs import Need, NeedLike, resolve_needs
from .policy import TokenPolicy, make_policy
from .progress import OnProgress
from .reducers import REDUCERS
from .reducers.per_text import BY_TEXT
from .store import Stats
from .texts import Source, check_field, read_sources
from .tokens import RowReader, check_tokenizer
from .weight_norms import WEIGHT_MEASURES, measure

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
    needs: NeedLike | Iterable[NeedLike] | None = None,
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
    are split over them, and each gets the result.

    Counts are exact integers. They never depend on the number of processes, on the tokenizer's
    padding side, or on where a run was interrupted. On the CPU they do not depend on the batch size
    either, nor on the order of the texts or on the others in a batch, if texts are read on their
    own (dense models, any dtype; measured, see `batches.py`). Elsewhere, for experts, and with
    another number of threads, a kernel may round a value next to zero to its other side in a batch
    of another size.

    Args:
        model: A causal language model, also quantised, offloaded or wrapped by PEFT.
        tokenizer: Its tokenizer. Its padding side does not matter.
        texts: Label → texts, `(prompt, response)` pairs, records, a path or a dataset; or a folder
            with one file per label.
        needs: What to collect: a detector such as `detectors.detector("lape")`, for what it needs,
            or `["count@mlp.act", …]`, or both in a list; see `DEFAULT_NEEDS`.
        sites: Only these sites.
        policy: Which tokens count.
        batch_size: Rows per batch, or `"auto"`: as many as make up a fixed number of tokens. An
            out-of-memory error halves it and the run continues.
        out: Folder to save the statistics in. With a checkpoint, nothing is lost between the end of
            the run and saving.
        checkpoint: Folder to keep the state in while running; it is removed at the end.
        resume: Continue from the checkpoint, if there is one.
        checkpoint_every: Seconds between checkpoints; one is written after each label, too.
        progress: Show progress on stderr: a bar, or a line every 30 s where that is not a
            terminal. A callable gets `Progress` events instead.
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
    if "method" in options:
        raise ParameterError(
            f"collect takes no method=; pass the detector, for what it needs: "
            f"needs=neuronsteer.detectors.detector({options['method']!r})."
        )
    anatomy = inspect(model)
    check_tokenizer(tokenizer)
    resolved = make_policy(policy, options).resolved(context_length(anatomy))
    wanted = resolve_needs(needs, sites, [*REDUCERS.names(), *WEIGHT_MEASURES])
    from_texts = tuple(need for need in wanted if need.reducer not in WEIGHT_MEASURES)
    if not from_texts:
        raise ParameterError(
            f"{', '.join(map(str, wanted))} is measured on the weights alone, so that no text "
            f"would be read. Name something to collect from texts, too, e.g. 'count@mlp.act'."
        )
    if tensor_parallel(anatomy.root):
        raise HookError(
            "The model is tensor-parallel: every process sees a slice of each layer. Load it "
            "without tp_plan; collecting splits the texts over the processes instead."
        )
    if device is not None:
        nn.Module.to(anatomy.root, torch.device(device))
    sources = read_sources(texts, check_field(text_field))
    _check_pairs(resolved, from_texts)
    opened = _codec(codec, from_texts)
    collector = ActivationCollector(anatomy, from_texts, opened)
    _check_memory(collector, sources, resolved, memory_limit)
    input_at = input_device(anatomy)
    plan = BatchPlan(
        tokens=_tokens(input_at, collector),
        rows=_rows(batch_size),
        longest=context_length(anatomy),
    )
    # A default that this model cannot give is left out; what was named is not.
    weight_measures = measure(anatomy, wanted, strict=needs is not None)
    widths = {need.site: anatomy.widths for need in weight_measures}
    with started_processes() as processes:
        saved = None
        if checkpoint is not None or processes.size > 1:
            identity = {
                **model_identity(anatomy),
                "tokenizer": tokenizer_identity(tokenizer),
                "needs": [str(need) for need in wanted],
                "policy": resolved.to_dict(),
                "batches": [plan.tokens, plan.rows, plan.longest],
                "codec": None if opened is None else dict(opened.spec),
                "texts": [[source.label, source.name, source.mark] for source in sources],
            }
            for name, value in identity.items():
                processes.require_equal(name, json.dumps(value))
            if checkpoint is not None:
                saved = CollectionCheckpoint(
                    Path(checkpoint), identity, processes.rank, processes.size, checkpoint_every
                )
        reader = RowReader(tokenizer, resolved)
        run = CollectionRun(anatomy, collector, reader, plan, sources, processes, input_at, saved)
        fields = run.collect(resume, progress)
        header = {
            **model_facts(anatomy),
            "policy": resolved.to_dict(),
            "calibration": fields.pop("calibration"),
            "execution": {
                **versions(),
                "device": input_at.type,
                "processes": processes.size,
                "batch_tokens": plan.tokens,
                "batch_size": plan.rows or "auto",
                "out_of_memory": fields.pop("out_of_memory"),
            },
            **_experts(anatomy, collector),
            **({} if opened is None else {"codec": dict(opened.spec)}),
        }
        stats = Stats(
            labels=tuple(source.label for source in sources),
            site_widths={**widths, **collector.widths},
            weight_measures=weight_measures,
            header=header,
            **fields,
        )
        _finish(stats, out, saved, processes)
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


def _finish(
    stats: Stats,
    out: str | Path | None,
    checkpoint: CollectionCheckpoint | None,
    processes: Processes,
) -> None:
    """Save the result before the checkpoint is deleted, so that one of them is always on disk."""
    error: Exception | None = None
    if out is not None and processes.rank == 0:
        try:
            stats.save(out)
        except Exception as found:
            error = found
    processes.raise_together(error)
    if checkpoint is not None:
        checkpoint.remove()


def _tokens(device: torch.device, collector: ActivationCollector) -> int:
    found = CPU_BATCH_TOKENS if device.type == "cpu" else BATCH_TOKENS
    # A backward pass keeps every layer's values in memory.
    return found // 4 if collector.gradient else found


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
        if reducer.per_text
        or reducer.document_measure
        or reducer.last_only
        or reducer.name == BY_TEXT
    ]
    if per_text and policy.packed:
        raise ParameterError(
            f"{per_text[0]} is kept per text, but block_size={policy.block_size} puts texts end to "
            f"end. Leave block_size out."
        )


def _check_memory(
    collector: ActivationCollector,
    sources: tuple[Source, ...],
    policy: TokenPolicy,
    limit: int | None,
) -> None:
    """Log how much memory the results take, and raise if it is above the limit."""
    fixed = sum(
        len(sources) * each.shape[0] * each.shape[1] * _bytes(each.reducer)
        for each in collector.accumulators.values()
    )
    per_text = sum(4 * rows.layers * rows.width for rows in collector.text_rows.values())
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
            f"({', '.join(map(str, collector.needs))}), or raise memory_limit."
        )


def _bytes(reducer: Any) -> int:
    numbers = 1
    for size in reducer.entry_shape:
        numbers *= size
    return numbers * reducer.total_dtype.itemsize


def _expected(source: Source, policy: TokenPolicy) -> int | None:
    found = source.size
    if found is not None and policy.sample is not None:
        found = round(found * policy.sample)
    if policy.max_texts is not None:
        found = policy.max_texts if found is None else min(found, policy.max_texts)
    return found


def _experts(anatomy: Anatomy, collector: ActivationCollector) -> dict[str, Any]:
    if not anatomy.is_moe:
        return {}
    found: dict[str, Any] = {}
    for site, points in collector.points.items():
        if not any(point.experts for point in points):
            continue
        layers: list[Any] = [None] * anatomy.num_layers
        for point in points:
            block = point.experts
            if block is not None:
                layers[point.layer] = {
                    "num_experts": block.num_experts,
                    "expert_width": block.expert_width,
                    "shared_width": block.shared.width if block.shared else 0,
                }
        found[site] = layers
    return {"experts": found} if found else {}
