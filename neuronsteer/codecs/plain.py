"""Sparse autoencoders in plain safetensors files; nothing else has to be installed.

A folder per layer, called `layers.<n>` (residual stream) or `layers.<n>.mlp` (MLP output), holds
`cfg.json` and one safetensors file. The names inside may be those that SAELens writes (`W_enc`
[hidden, features], `b_enc`, `W_dec` [features, hidden], `b_dec`, `threshold`) or those of
EleutherAI's sparsify (`encoder.weight` [features, hidden], `encoder.bias`, `W_dec`, `b_dec`), whose
folders are called the same. What `cfg.json` says is done or refused, never ignored.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..errors import ArtifactError, ParameterError, shown
from ..hub import read_json, read_tensors, write_folder
from ..neuron_set.validation import MOST
from . import CODECS, Codec

_FOLDER = re.compile(r"^layers\.(\d+)(\.mlp)?$")
_HOOK = re.compile(r"^blocks\.(\d+)\.hook_(resid_post|mlp_out)$")
_NAMES = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
_KINDS = {"relu": "relu", "standard": "relu", "topk": "topk", "jumprelu": "jumprelu"}
#: What a configuration may ask for that is not computed here, with the value that asks for nothing.
_REFUSED: dict[str, tuple[Any, ...]] = {
    "normalize_activations": ("none", None),
    "reshape_activations": ("none", None),
    "rescale_acts_by_decoder_norm": (False, None),
    "transcode": (False, None),
    "skip_connection": (False, None),
    "signed": (False, None),
    "multi_topk": (False, True, None),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Autoencoder:
    """One layer's dictionary: `features = act((x - b_dec) @ W_enc + b_enc)`.

    Attributes:
        encoder: `[hidden, features]`.
        encoder_bias: `[features]`.
        decoder: `[features, hidden]`.
        decoder_bias: `[hidden]`.
        activation: `"relu"`, `"topk"` (the `k` largest of a row, if positive) or `"jumprelu"` (what
            exceeds the feature's threshold).
        k: How many, for `topk`.
        threshold: `[features]`, for `jumprelu`.
        centred: Whether the decoder's bias is subtracted from the input.
    """

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    activation: str = "relu"
    k: int | None = None
    threshold: Tensor | None = None
    centred: bool = True

    def __post_init__(self) -> None:
        if self.encoder.dim() != 2:
            raise ArtifactError(
                f"An autoencoder's encoder has shape {list(self.encoder.shape)}; expected "
                "[hidden, features]."
            )
        hidden, features = self.encoder.shape
        for name, shape in (
            ("encoder_bias", (features,)),
            ("decoder", (features, hidden)),
            ("decoder_bias", (hidden,)),
            ("threshold", (features,)),
        ):
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ArtifactError(
                    f"An autoencoder's {name} has shape {list(value.shape)}; its encoder asks for "
                    f"{list(shape)}."
                )
        if self.activation not in ("relu", "topk", "jumprelu"):
            raise ArtifactError(
                f"An autoencoder's activation is {self.activation!r}; expected relu, topk or "
                "jumprelu."
            )
        k = cast(object, self.k)
        if self.activation == "topk" and not (type(k) is int and 1 <= k <= features):
            raise ArtifactError(
                f"A topk autoencoder of {features} features has k={shown(k)}; expected a whole "
                f"number from 1 to {features}."
            )
        if self.activation == "jumprelu" and self.threshold is None:
            raise ArtifactError("A jumprelu autoencoder has no threshold.")

    def encode(self, rows: Tensor) -> Tensor:
        """Return features `[n, features]` of rows `[n, hidden]`."""
        x = rows.to(self.encoder)
        found = (x - self.decoder_bias if self.centred else x) @ self.encoder + self.encoder_bias
        if self.activation == "jumprelu" and self.threshold is not None:
            return torch.where(found > self.threshold, found, 0.0).relu()
        found = found.relu()
        if self.activation == "topk" and self.k is not None:
            values, index = found.topk(self.k, dim=-1)
            return torch.zeros_like(found).scatter(-1, index, values)
        return found

    def decode(self, features: Tensor) -> Tensor:
        """Return rows `[n, hidden]`."""
        return features.to(self.decoder) @ self.decoder + self.decoder_bias

    def to(self, device: torch.device) -> Autoencoder:
        """Return it on a device."""
        if self.encoder.device == device:
            return self
        names = ("encoder", "encoder_bias", "decoder", "decoder_bias")
        moved: dict[str, Any] = {name: getattr(self, name).to(device) for name in names}
        if self.threshold is not None:
            moved["threshold"] = self.threshold.to(device)
        return dataclasses.replace(self, **moved)


class PlainCodec(Codec):
    """Autoencoders by layer, in memory or in a folder.

    Args:
        layers: Layer → autoencoder, or the folder it is read from when it is needed.
        site: `"sae.resid"` or `"sae.mlp"`.
        path: Where it was read from.
    """

    def __init__(
        self,
        layers: Mapping[int, Autoencoder | Path],
        site: str = "sae.resid",
        path: str | Path | None = None,
    ) -> None:
        if not layers:
            raise ParameterError("A codec needs at least one layer.")
        self.site = site
        self.spec: Mapping[str, Any] = (
            {} if path is None else {"format": "plain", "path": str(path)}
        )
        self._layers = dict(sorted(layers.items()))
        self._placed: dict[tuple[int, torch.device], Autoencoder] = {}

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that it has features of, ascending."""
        return tuple(self._layers)

    def layer(self, layer: int, device: torch.device | None = None) -> Autoencoder:
        """Return the autoencoder of a layer."""
        found = self._layers[layer]
        if isinstance(found, Path):
            found = self._layers[layer] = read(found)
        if device is None or found.encoder.device == device:
            return found
        key = (layer, device)
        if key not in self._placed:
            self._placed[key] = found.to(device)
        return self._placed[key]

    def width(self, layer: int) -> int:
        """Return the number of features of a layer."""
        found = self._layers[layer]
        return _size(found) if isinstance(found, Path) else found.encoder.shape[1]

    def encode(self, layer: int, rows: Tensor) -> Tensor:
        """Return features `[n, width]` of rows `[n, hidden]`."""
        return self.layer(layer, rows.device).encode(rows)

    def decode(self, layer: int, features: Tensor) -> Tensor:
        """Return rows `[n, hidden]` of features `[n, width]`."""
        return self.layer(layer, features.device).decode(features)

    def directions(self, layer: int, index: Tensor) -> Tensor:
        """Return decoder rows `[len(index), hidden]`; from a file, only these are read."""
        found = self._layers[layer]
        if not isinstance(found, Path):
            return found.decoder[index.to(found.decoder.device)]
        with _decoder(found) as rows:
            return torch.stack([rows[i] for i in index.tolist()])

    def save(self, folder: str | Path) -> Path:
        """Write a folder that `open_codec` reads; return it."""
        folder = Path(folder)
        for number in self.layers:
            each = self.layer(number)
            tensors = {
                "W_enc": each.encoder,
                "b_enc": each.encoder_bias,
                "W_dec": each.decoder,
                "b_dec": each.decoder_bias,
            }
            if each.threshold is not None:
                tensors["threshold"] = each.threshold
            config = {
                "activation": each.activation,
                "k": each.k,
                "apply_b_dec_to_input": each.centred,
                "d_in": each.encoder.shape[0],
                "d_sae": each.encoder.shape[1],
            }
            data = {
                "sae.safetensors": safetensors.torch.save(
                    {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
                ),
                "cfg.json": json.dumps(config, indent=2).encode(),
            }
            name = f"layers.{number}" + (".mlp" if self.site == "sae.mlp" else "")
            write_folder(folder / name, data)
        return folder


@CODECS.register("plain")
def open_folder(spec: Mapping[str, Any]) -> PlainCodec:
    """Return the codec in the folder `spec["path"]`.

    Raises:
        ArtifactError: If there is none, or its layers do not read the same place.
    """
    folder = Path(str(spec.get("path", ""))).expanduser()
    found: dict[str, dict[int, Path]] = {}
    for each in sorted(folder.iterdir()) if folder.is_dir() else []:
        place = _place(each)
        if place is not None:
            found.setdefault(place[1], {})[place[0]] = each
    if len(found) != 1:
        there = "there is no such folder"
        if folder.is_dir():
            there = "it holds " + (", ".join(sorted(p.name for p in folder.iterdir())) or "nothing")
        raise ArtifactError(
            f"{str(folder)!r} is not a folder of autoencoders ({there}): expected folders "
            "'layers.3' or 'layers.3.mlp', all of one kind, each with cfg.json and a "
            "safetensors file."
        )
    ((site, layers),) = found.items()
    return PlainCodec(layers, site, folder)


def read(folder: Path) -> Autoencoder:
    """Return the autoencoder in one layer's folder."""
    config = _config(folder)
    tensors, _ = read_tensors(_weights(folder), ArtifactError)
    found: dict[str, Tensor] = {}
    for name, other in _NAMES.items():
        tensor = tensors.get(name)
        if tensor is None and other in tensors:
            tensor = tensors[other].T if name == "W_enc" else tensors[other]
        if tensor is None:
            raise ArtifactError(
                f"{str(folder)!r} has no tensor {name!r}; it has {', '.join(sorted(tensors))}."
            )
        if not bool(tensor.isfinite().all()):
            raise ArtifactError(
                f"{str(folder)!r}: tensor {name!r} has numbers that are not finite."
            )
        found[name] = tensor.float().contiguous()
    for name, harmless in _REFUSED.items():
        if config.get(name) not in harmless:
            raise ArtifactError(
                f"{str(folder / 'cfg.json')!r} asks for {name}={shown(config[name])}, which is not "
                "done here. Open it with the SAELens adapter instead."
            )
    # sparsify is always topk, and says so only in newer versions.
    kind = config.get("activation") or config.get("architecture") or "topk"
    threshold = tensors.get("threshold")
    return Autoencoder(
        found["W_enc"],
        found["b_enc"],
        found["W_dec"],
        found["b_dec"],
        activation=_KINDS.get(str(kind), shown(kind)),
        k=config.get("k"),
        threshold=None if threshold is None else threshold.float(),
        centred=bool(config.get("apply_b_dec_to_input", True)),
    )


def _place(folder: Path) -> tuple[int, str] | None:
    """Return the layer that a folder is about, and the site."""
    if not (folder / "cfg.json").is_file():
        return None
    named = _FOLDER.match(folder.name)
    if named is not None:
        return _layer(named[1], folder), "sae.mlp" if named[2] else "sae.resid"
    config = _config(folder)
    metadata = config.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    hook = config.get("hook_name") or metadata.get("hook_name") or ""
    named = _HOOK.match(str(hook))
    if named is None:
        return None
    return _layer(named[1], folder), "sae.mlp" if named[2] == "mlp_out" else "sae.resid"


def _layer(digits: str, folder: Path) -> int:
    # Many digits are no number of a layer, and too many of them cannot be converted.
    if len(digits) > 9 or int(digits) >= MOST["num_layers"]:
        raise ArtifactError(
            f"{str(folder)!r} is about layer {shown(digits)}; expected 0 to "
            f"{MOST['num_layers'] - 1}."
        )
    return int(digits)


def _config(folder: Path) -> dict[str, Any]:
    return read_json(folder / "cfg.json", ArtifactError)


def _weights(folder: Path) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    # Beside the weights, SAELens may keep a file of sparsities.
    files = [file for file in files if file.stem != "sparsity"] or files
    if len(files) != 1:
        names = ", ".join(file.name for file in files) or "none"
        raise ArtifactError(f"{str(folder)!r} must have one safetensors file; it has {names}.")
    return files[0]


@contextmanager
def _decoder(folder: Path) -> Generator[Any]:
    """Yield the decoder in a layer's folder, of which single rows can be read."""
    path = _weights(folder)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            rows = file.get_slice("W_dec")
            if len(rows.get_shape()) != 2:
                raise ArtifactError(f"{str(path)!r}: 'W_dec' has shape {rows.get_shape()}.")
            yield rows
    except (safetensors.SafetensorError, OSError) as error:
        raise ArtifactError(f"{str(path)!r} is damaged, or has no 'W_dec': {error}.") from error


def _size(folder: Path) -> int:
    with _decoder(folder) as rows:
        return int(rows.get_shape()[0])
