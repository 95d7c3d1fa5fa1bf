"""Small autoencoders for small models, to try features where none are published."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..errors import ParameterError, TextError
from ..models import inspect
from ..models.layer_choice import Layers, chosen_layers
from ..models.readonly_hooks import read_activations
from .plain import Autoencoder, PlainCodec


def train(
    rows: Tensor,
    features: int,
    k: int,
    *,
    steps: int = 400,
    batch: int = 512,
    rate: float = 3e-3,
    seed: int = 0,
) -> Autoencoder:
    """Return a topk autoencoder of the rows `[n, hidden]`, trained to rebuild them.

    Args:
        rows: What a layer handed on, one row per token.
        features: Size of the dictionary.
        k: How many features a row may use.
        steps: Optimiser steps.
        batch: Rows per step.
        rate: Learning rate at the start; it falls to nothing in a straight line.
        seed: For the initial dictionary and the order of the rows.
    """
    if rows.dim() != 2 or not len(rows):
        raise ParameterError(f"Expected rows [n, hidden] to train on; got {list(rows.shape)}.")
    if not 1 <= k <= features:
        raise ParameterError(f"A row cannot use k={k} of {features} features.")
    generator = torch.Generator().manual_seed(seed)
    rows = rows.detach().float()
    centre = rows.mean(0)
    # Trained at length 1, so that the rate fits every model.
    length = (rows - centre).norm(dim=1).mean().clamp(min=1e-6)
    data = (rows - centre) / length
    start = torch.randn(features, rows.shape[1], generator=generator)
    # Half of the dictionary begins at rows, where there is something to describe.
    some = torch.randint(len(data), (features // 2,), generator=generator)
    start[: features // 2] = data[some]
    decoder = (start / start.norm(dim=1, keepdim=True).clamp(min=1e-6)).requires_grad_()
    encoder = decoder.detach().T.clone().requires_grad_()
    bias = torch.zeros(features, requires_grad=True)
    parameters = [encoder, bias, decoder]
    optimizer = torch.optim.Adam(parameters, lr=rate)
    with torch.enable_grad():
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - step / steps)
            x = data[torch.randint(len(data), (batch,), generator=generator)]
            values, index = (x @ encoder + bias).relu().topk(k, dim=-1)
            used = torch.zeros(len(x), features).scatter(-1, index, values)
            loss = (used @ decoder - x).square().sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                decoder /= decoder.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return Autoencoder(
        encoder.detach(),
        bias.detach() * length,
        decoder.detach(),
        centre,
        activation="topk",
        k=k,
    )


def fit(
    model: Any,
    tokenizer: Any,
    texts: Iterable[str],
    layers: Layers,
    *,
    features: int = 512,
    k: int = 16,
    site: str = "sae.resid",
    max_rows: int = 20_000,
    max_length: int = 256,
    **options: Any,
) -> PlainCodec:
    """Return a codec of a small model's layers, trained on what they hand on for the texts.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        texts: Text of every label that features should tell apart, mixed.
        layers: Layers to train an autoencoder for, e.g. `"0-3"`, `5` or `[0, -1]`.
        features: Size of each dictionary.
        k: How many features a row may use.
        site: What to read: `"sae.resid"` or `"sae.mlp"`.
        max_rows: Tokens to train on, at most.
        max_length: Longer texts are cut.
        **options: Options of `train`.
    """
    anatomy = inspect(model)
    hidden = anatomy.hidden_size
    shape = Autoencoder(
        torch.zeros(hidden, 1), torch.zeros(1), torch.zeros(1, hidden), torch.zeros(hidden)
    )
    chosen = chosen_layers(layers, anatomy.num_layers, "fit()")
    points = PlainCodec(dict.fromkeys(chosen, shape), site).hook_points(anatomy)
    rows: dict[int, list[Tensor]] = {layer: [] for layer in chosen}
    count = 0
    device = anatomy.root.get_input_embeddings().weight.device
    entries = [
        (point, lambda t, at=point.layer: rows[at].append(t.reshape(-1, hidden).float().cpu()))
        for point in points
    ]
    training = anatomy.root.training
    anatomy.root.eval()
    try:
        with torch.no_grad(), read_activations(entries):
            for text in texts:
                ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=max_length)
                ids = ids["input_ids"].to(device)
                if ids.shape[1]:
                    anatomy.decoder()(input_ids=ids, use_cache=False)
                    count += ids.shape[1]
                if count >= max_rows:
                    break
    finally:
        anatomy.root.train(training)
    if not count:
        raise TextError("There is no text to train the autoencoders on.")
    found = {
        layer: train(torch.cat(parts)[:max_rows], features, k, **options)
        for layer, parts in rows.items()
    }
    return PlainCodec(found, site)
