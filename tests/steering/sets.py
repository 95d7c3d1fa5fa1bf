"""Neuron sets for random models: a few neurons per label and layer, with strong values."""

from __future__ import annotations

import torch

from neuronsteer.models import inspect
from neuronsteer.neuron_set import NeuronSet
from neuronsteer.steering.attachment import steered_site

FAMILIES = ("llama", "qwen2", "qwen3", "gemma2", "bloom", "opt", "gpt2", "mixtral", "phi3")
LABELS = ("en", "fr", "ja")


def toy_set(model, site="mlp.act", labels=LABELS, per_layer=6, seed=0, empty=(), **header):
    """Return a set with `per_layer` random neurons per label and layer, some of them shared."""
    anatomy = inspect(model)
    points = anatomy.hook_points(steered_site(site))
    widths = [point.width for point in points]
    generator = torch.Generator().manual_seed(seed)
    rows = [
        (k, point.layer, i)
        for k, label in enumerate(labels)
        for point in points
        if label not in empty
        # From few candidates, so that labels share some.
        for i in torch.randperm(point.width, generator=generator)[:per_layer].tolist()
    ]
    columns = list(zip(*rows, strict=True))
    sites = (site, "mlp.neuron") if site == "mlp.act" else (site,)
    values = {
        f"{where}.{source}": (torch.randn(len(rows), generator=generator) * 4).tolist()
        for where in sites
        for source in ("mean", "other_mean", "max")
    }
    header = {"operation": {"name": "set", "value": "mean"}, **header}
    return NeuronSet.from_rows(
        labels,
        *columns,
        values=values,
        site=site,
        num_layers=anatomy.num_layers,
        width=max(widths),
        widths=tuple(widths) if len(set(widths)) > 1 else None,
        model_type=anatomy.model_type,
        **header,
    )


def greedy(model, ids, new=12, mask=None, **kwargs):
    """Return the generated tokens only."""
    mask = torch.ones_like(ids) if mask is None else mask
    options = {"max_new_tokens": new, "do_sample": False, **kwargs}
    return model.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :]
