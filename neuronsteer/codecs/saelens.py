"""Autoencoders that SAELens loads: every release in its directory, every architecture it knows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import ParameterError, require, shown
from . import CODECS, Codec

_HOOK = re.compile(r"^blocks\.(\d+)\.hook_(resid_post|mlp_out)$")
_SITES = {"resid_post": "sae.resid", "mlp_out": "sae.mlp"}


class SaeLensCodec(Codec):
    """Autoencoders of SAELens, one per layer.

    Args:
        saes: `sae_lens.SAE` objects; where each belongs is read off its `hook_name`.
        spec: How to load them again, if they were loaded.

    Raises:
        ParameterError: If one reads something else than the output of a layer or of its MLP, or two
            read the same.
    """

    def __init__(self, saes: list[Any], spec: Mapping[str, Any] | None = None) -> None:
        self.spec: Mapping[str, Any] = spec or {}
        self._saes: dict[int, Any] = {}
        sites: set[str] = set()
        for sae in saes:
            hook = str(sae.cfg.metadata.hook_name)
            found = _HOOK.match(hook)
            if found is None:
                raise ParameterError(
                    f"The autoencoder reads {hook!r}; expected blocks.<n>.hook_resid_post or "
                    "blocks.<n>.hook_mlp_out."
                )
            sites.add(_SITES[found[2]])
            layer = int(found[1])
            if layer in self._saes:
                raise ParameterError(f"Two autoencoders read layer {layer}; choose one per layer.")
            self._saes[layer] = sae
        if len(sites) != 1:
            raise ParameterError(
                "A codec reads one kind of place, in any number of layers; these read "
                f"{', '.join(sorted(sites)) or 'nothing'}."
            )
        (self.site,) = sites

    @classmethod
    def from_pretrained(cls, release: str, *ids: str, device: str = "cpu") -> SaeLensCodec:
        """Load autoencoders by SAELens's names, e.g. `"gpt2-small-res-jb"` and its ids.

        Raises:
            MissingExtraError: If sae_lens is not installed.
        """
        lens: Any = require("sae_lens", "sae", "Loading autoencoders of SAELens")
        saes = [lens.SAE.from_pretrained(release, each, device=device) for each in ids]
        return cls(saes, {"format": "saelens", "release": release, "ids": list(ids)})

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that it has features of, ascending."""
        return tuple(sorted(self._saes))

    def width(self, layer: int) -> int:
        """Return the number of features of a layer."""
        return int(self._saes[layer].cfg.d_sae)

    def encode(self, layer: int, rows: Tensor) -> Tensor:
        """Return features `[n, width]` of rows `[n, hidden]`."""
        with torch.no_grad():
            found = self._on(layer, rows.device).encode(rows)
        # Some architectures answer with a sparse tensor.
        return found.to_dense() if found.is_sparse else found

    def decode(self, layer: int, features: Tensor) -> Tensor:
        """Return rows `[n, hidden]` of features `[n, width]`."""
        with torch.no_grad():
            return self._on(layer, features.device).decode(features)

    def directions(self, layer: int, index: Tensor) -> Tensor:
        """Return decoder rows `[len(index), hidden]`."""
        decoder = self._saes[layer].W_dec.detach()
        return decoder[index.to(decoder.device)]

    def _on(self, layer: int, device: torch.device) -> Any:
        sae = self._saes[layer]
        if sae.W_dec.device != device:
            sae = self._saes[layer] = sae.to(device)
        return sae


@CODECS.register("saelens")
def open_release(spec: Mapping[str, Any]) -> SaeLensCodec:
    """Return the autoencoders `{"release": …, "ids": […]}`."""
    ids: Any = spec.get("ids")
    if not isinstance(spec.get("release"), str) or not isinstance(ids, list) or not ids:
        raise ParameterError(
            f"A codec of SAELens is {{'format': 'saelens', 'release': …, 'ids': […]}}; found "
            f"{shown(dict(spec))}."
        )
    return SaeLensCodec.from_pretrained(str(spec["release"]), *map(str, ids))
