"""Seeded damage to files: to their bytes, to the JSON in them, and to the tensors in them.

The same seed gives the same damage. Most of it leaves a file readable, so that what is checked is
not the parser but what comes after it.
"""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from collections.abc import Mapping
from typing import Any

import safetensors
import safetensors.torch
import torch

Files = dict[str, bytes]

#: Texts that break something: paths, markup, YAML, terminals, the ends of Unicode.
EVIL_TEXTS = (
    "",
    " ",
    "-",
    "../../outside.safetensors",
    "/etc/passwd",
    "C:\\x",
    "a\x00b",
    "\n---\nlicense: mit\n---\n",
    "```\n<script>alert(1)</script>\n```",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }} {% for x in y %} ${x}",
    "[a](javascript:alert(1)) | ![x](y)",
    "\x1b[31m\u202eabc\u2028\u2066",
    "🧭" * 50,
    "x" * 5_000,
    "nan",
    "count@mlp.act",
)
EVIL_VALUES = (
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    0.5,
    -0.0,
    1e308,
    5e-324,
    2**31,
    2**53,
    2**63,
    -(2**63),
    10**30,
    10**9,
    [],
    {},
    [[]],
    [None],
    [0, "x", []],
    {"name": "zero"},
    {"": {"": 0}},
    *EVIL_TEXTS,
)
_PIECES = (
    "",
    *",:@*~-=%()01\n\x00é🧭 ",
    *("%2C", "%2D", " + ", " - ", "9" * 18, "9" * 40, "1e999", "nan", "fr"),
    *("sentence", "text=", "repeat=", "prompt="),
)
_DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.float8_e4m3fn,
    torch.complex64,
)


def mutate(files: Mapping[str, bytes], chance: random.Random) -> Files:
    """Return the files with one to three damages."""
    found = dict(files)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        name = chance.choice(sorted(files))
        data = found.get(name)
        if data is None:
            continue
        kind = chance.random()
        if kind < 0.03:
            del found[name]
        elif kind < 0.18:
            found[name] = _bytes(data, chance)
        elif name.endswith(".safetensors"):
            found[name] = _tensors(data, chance)
        elif name.endswith(".pth"):
            found[name] = _archive(data, chance)
        else:
            found[name] = _json(data, chance)
    return found


def mutate_text(text: str, chance: random.Random) -> str:
    """Return a text with one to four small changes."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randint(0, len(text))
        stop = min(len(text), start + chance.choice((0, 0, 1, 1, 3, 8)))
        text = text[:start] + chance.choice(_PIECES) + text[stop:]
    return text * chance.choice((1,) * 40 + (50,))


def mutate_json(value: Any, chance: random.Random) -> Any:
    """Return a JSON value with one change somewhere inside."""
    found = copy.deepcopy(value)
    places = list(_places(found))
    if not places:
        return chance.choice(EVIL_VALUES)
    holder, key = chance.choice(places)
    kind = chance.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[chance.choice(EVIL_TEXTS)] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list):
        holder.extend([copy.deepcopy(holder[key])] * chance.choice((1, 2, 40)))
    elif kind == 3:
        other, there = chance.choice(places)
        holder[key] = copy.deepcopy(other[there])
    elif kind == 4 and isinstance(holder[key], str):
        holder[key] = mutate_text(holder[key], chance)[:10_000]
    else:
        holder[key] = copy.deepcopy(chance.choice(EVIL_VALUES))
    return found


def _places(value: Any) -> Any:
    """Yield `(holder, key)` of everything inside a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _bytes(data: bytes, chance: random.Random) -> bytes:
    kind = chance.randrange(6)
    at = chance.randrange(len(data) + 1)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + chance.randbytes(chance.choice((1, 8, 100))) + data[at:]
    if kind == 2:
        return data[:at] + data[at + chance.choice((1, 7, 64)) :]
    if kind == 3:
        depth = chance.choice((70, 2_000, 100_000))
        return b'{"x":' + b"[" * depth + b"]" * depth + b"}"
    if kind == 4:
        return chance.choice((b"", b"null", b"[]", b'"x"', b"{}", b"NaN", b"\xff\xfe", b"{" * 9))
    changed = bytearray(data)
    for _ in range(chance.choice((1, 3, 20))):
        if changed:
            changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def _json(data: bytes, chance: random.Random) -> bytes:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    return json.dumps(mutate_json(value, chance), ensure_ascii=chance.random() < 0.5).encode(
        errors="replace"
    )


def _tensors(data: bytes, chance: random.Random) -> bytes:
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, RuntimeError, KeyError):
        return data
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__")
    if not tensors:
        return data
    name = chance.choice(sorted(tensors))
    tensor = tensors.pop(name)
    kind = chance.randrange(9)
    if kind == 0:
        pass
    elif kind == 1:
        names = (*EVIL_TEXTS, "routed/x", "array/x@y", "x.means", f"{name}x")
        tensors[chance.choice(names)] = tensor
    elif kind == 2:
        tensors[name] = tensor.to(chance.choice(_DTYPES))
    elif kind == 3:
        shape = chance.choice([(), (0,), (1,), (7,), (2, 3), (1, 1, 1, 1), (tensor.numel(), 9)])
        tensors[name] = torch.ones(shape, dtype=tensor.dtype)
    elif kind == 4:
        tensors[name] = torch.cat([tensor.flatten(), tensor.flatten()]).view(-1)
    elif kind == 5 and tensor.dim():
        tensors[name] = tensor[: chance.randrange(len(tensor) + 1)]
    elif kind == 6 and tensors:
        tensors[name] = tensors[chance.choice(sorted(tensors))].clone()
    elif tensor.is_floating_point() and tensor.numel():
        extreme = chance.choice((float("nan"), float("inf"), -float("inf"), 1e30, -1.0))
        tensor.view(-1)[chance.randrange(tensor.numel())] = extreme
        tensors[name] = tensor
    elif tensor.numel() and tensor.dtype != torch.bool:
        most = torch.iinfo(tensor.dtype)
        place = chance.randrange(tensor.numel())
        tensor.view(-1)[place] = chance.choice((most.min, most.max, -1 % (most.max + 1), 0, 100))
        tensors[name] = tensor
    ready = {key: each.contiguous().clone() for key, each in tensors.items()}
    return safetensors.torch.save(ready, metadata)


def _archive(data: bytes, chance: random.Random) -> bytes:
    """Return what `torch.save` wrote with one of its tensors changed, or packed differently."""
    try:
        if chance.random() < 0.2:
            return _packed(data, chance)
        content = torch.load(io.BytesIO(data), weights_only=True)
        _change_tensor(content, chance)
    except Exception:  # damaged before, so that torch cannot read it, or not do this with it
        return data
    written = io.BytesIO()
    torch.save(content, written)
    return written.getvalue()


def _change_tensor(content: Any, chance: random.Random) -> None:
    holder, key = chance.choice(list(_places(content)))
    value = holder[key]
    kind = chance.randrange(10)
    if isinstance(value, torch.Tensor) and kind < 8 and value.numel() < 10**6:
        holder[key] = (
            lambda: value[:1].expand(10**9, *value.shape[1:]),
            lambda: value.to(chance.choice(_DTYPES)),
            lambda: value.to_sparse(),
            lambda: value.to("meta"),
            lambda: value.repeat(3, *[1] * (value.dim() - 1)),
            lambda: value.tolist(),
            lambda: value.flatten()[1:],
            lambda: torch.nn.Parameter(value, requires_grad=False),
        )[kind]()
    elif isinstance(holder, list) and kind == 8:
        holder.extend([value] * chance.choice((1, 40, 100_000)))
    elif kind == 9:
        for _ in range(chance.choice((2, 10))):
            value = [value, value]
        holder[key] = value
    else:
        holder[key] = copy.deepcopy(chance.choice((*EVIL_VALUES, 10**400, [1, 2**64])))


def _packed(data: bytes, chance: random.Random) -> bytes:
    """Return the same archive with an entry that is compressed, longer, shorter, or changed."""
    written = io.BytesIO()
    kind = chance.randrange(4)
    method = zipfile.ZIP_DEFLATED if kind == 0 else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(written, "w", method) as new:
        changed = chance.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            if name == changed:
                content += bytes(chance.choice((1_000, 30_000_000))) if kind == 0 else b""
                content = content[:-1] if kind == 1 else content
                content = _bytes(content, chance) if kind > 1 else content
            new.writestr(name, content)
    return written.getvalue()
