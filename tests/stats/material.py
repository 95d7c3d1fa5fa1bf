"""Texts, and the slow, obvious way to count: one text at a time, plain hooks, no batching."""

import random

import torch

from neuronsteer.models import inspect

ALPHABETS = {"a": "abcdefgh ", "b": "stuvwxyz .", "c": "äöüß éèê!"}


def texts(label: str, count: int, longest: int = 60, seed: int = 0) -> list[str]:
    draw = random.Random(f"{label}{seed}")
    letters = ALPHABETS[label]
    return [
        "".join(draw.choice(letters) for _ in range(draw.randint(2, longest))) for _ in range(count)
    ]


def corpus(*labels: str, count: int = 30, longest: int = 60) -> dict[str, list[str]]:
    return {label: texts(label, count, longest) for label in labels}


def one_by_one(model, rows: list[tuple[list[int], list[bool]]]) -> dict[str, torch.Tensor]:
    """Statistics of `(ids, counts)` rows: g and a per token, every row alone, unpadded."""
    anatomy = inspect(model)
    found: dict[str, list[torch.Tensor]] = {"mlp.act": [], "mlp.neuron": []}
    for ids, counts in rows:
        seen: dict[tuple[str, int], torch.Tensor] = {}
        handles = []
        for site in found:
            for point in anatomy.hook_points(site):
                handles.append(_watch(point, site, seen, anatomy))
        with torch.no_grad():
            model.get_decoder()(input_ids=torch.tensor([ids]), use_cache=False)
        for handle in handles:
            handle.remove()
        keep = torch.tensor(counts)
        for site, values in found.items():
            layers = [seen[site, layer] for layer in range(anatomy.num_layers)]
            values.append(torch.stack(layers, 1)[keep])
    return {site: torch.cat(values) for site, values in found.items()}


def _watch(point, site, seen, anatomy):
    def keep(tensor):
        values = point.read(tensor)
        values = values.reshape(-1, values.shape[-1])
        if site == "mlp.act" and point.side == "output":
            values = anatomy.activation(values, point.layer)
        seen[site, point.layer] = values.clone()

    if point.side == "input":
        return point.module.register_forward_pre_hook(lambda _m, args: keep(args[0]))
    return point.module.register_forward_hook(lambda _m, _a, output: keep(output))


def hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def stop_after(batches: int, error: type[BaseException]):
    """Return a progress callable that raises after so many batches."""
    left = batches

    def progress(event):
        nonlocal left
        left -= 1
        if left <= 0:
            raise error

    return progress
