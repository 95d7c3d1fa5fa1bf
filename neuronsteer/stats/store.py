"""Stats: what was collected, per label, site, layer and neuron."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import MismatchError, ParameterError, StatsError, unknown_label
from ..hub import UploadOptions, fetch, read_folder, scratch_folder
from ..neuron_set.card import hub_id
from . import hub_repository
from .data import StatsData
from .files import FACTS, NUMBERS, read, write
from .merging import merged
from .needs import Need
from .published import from_counts, from_means, read_count_files, read_mean_files
from .reducers.quantile import estimate

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from typing_extensions import Unpack

#: Header fields that two statistics must share to be merged or compared.
_MODEL = ("model_type", "num_layers", "width", "base_model", "revision", "gated")
IDENTITY = (*_MODEL, "policy", "codec")


class Stats(StatsData):
    """Statistics of neurons per label. What `collect` returns; immutable."""

    @property
    def model_type(self) -> str | None:
        """Family of the model."""
        return self.header.get("model_type")

    @property
    def base_model(self) -> str | None:
        """Name or path of the model."""
        return self.header.get("base_model")

    @property
    def revision(self) -> str | None:
        """Revision of the model on the Hub, if it is known."""
        return self.header.get("revision")

    @property
    def gated(self) -> bool | None:
        """Whether the model's neurons are products g * u."""
        return self.header.get("gated")

    @property
    def policy(self) -> dict[str, Any]:
        """The token policy, as recorded."""
        return self.header.get("policy") or {}

    @property
    def widths(self) -> tuple[int, ...]:
        """MLP neurons per layer; those of the only site if no MLP site was collected."""
        for site in ("mlp.neuron", "mlp.act"):
            if site in self.site_widths:
                return self.site_widths[site]
        return tuple(self.header.get("widths") or next(iter(self.site_widths.values())))

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(next(iter(self.site_widths.values())))

    @property
    def width(self) -> int:
        """Largest number of MLP neurons of a layer."""
        return max(self.widths)

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites at which something was collected."""
        return tuple(self.site_widths)

    def has(self, reducer: str, site: str) -> bool:
        """Return whether a reducer was collected at a site."""
        need = Need(reducer, site)
        return need in self.arrays or need in self.rows or need in self.weight_measures

    def get(self, reducer: str, site: str) -> Tensor:
        """Return what a reducer collected, `[labels, layers, width, ...]`; not to be changed.

        Raises:
            StatsError: If it was not collected.
        """
        found = self.arrays.get(Need(reducer, site))
        if found is None:
            raise self._missing(reducer, site)
        return found

    def probabilities(self, site: str = "mlp.act") -> Tensor:
        """Return the share of tokens with a value above 0, `[labels, layers, width]` float64.

        For experts: of the tokens that were routed to the expert; NaN if there were none.
        """
        return self.get("count", site).double() / self._denominator(site)

    def mean(self, site: str) -> Tensor:
        """Return mean values `[labels, layers, width]`, float32."""
        return (self.get("sum", site) / self._denominator(site)).nan_to_num(nan=0.0).float()

    def std(self, site: str) -> Tensor:
        """Return standard deviations `[labels, layers, width]`, float32."""
        count = self._denominator(site)
        mean, square = self.get("sum", site) / count, self.get("sumsq", site) / count
        return (square - mean**2).clamp(min=0).sqrt().nan_to_num(nan=0.0).float()

    def max(self, site: str) -> Tensor:
        """Return largest values `[labels, layers, width]`, float32; 0 where nothing was seen."""
        found = self.get("max", site)
        return torch.where(torch.isinf(found), torch.zeros_like(found), found)

    def other_mean(self, site: str) -> Tensor:
        """Return, for each label, the mean over the other labels of their means.

        Raises:
            StatsError: If there is only one label.
        """
        if len(self.labels) < 2:
            raise StatsError(
                f"The mean over other labels needs at least two; there is only "
                f"{', '.join(self.labels)}."
            )
        mean = self.mean(site).double()
        return ((mean.sum(0, keepdim=True) - mean) / (len(self.labels) - 1)).float()

    def quantile(self, q: float, site: str, at: tuple[Tensor, ...] | None = None) -> Tensor:
        """Return an estimate of a quantile, `[labels, layers, width]` float32.

        Within 9.1 % of the true value for magnitudes from 2**-10 to 64.

        Args:
            q: From 0 to 1.
            site: Where histograms were collected.
            at: Only these neurons: positions of label, layer and neuron.
        """
        if not 0 <= q <= 1:
            raise StatsError(f"Quantile {q!r} is not between 0 and 1.")
        histogram = self.get("quantile", site)
        return estimate(histogram if at is None else histogram[at], q)

    def median(self, site: str) -> Tensor:
        """Return estimated medians; see `quantile`."""
        return self.quantile(0.5, site)

    def responses(self, site: str) -> dict[str, Tensor]:
        """Return per-text mean responses, label → `[texts, layers, width]`."""
        found = self.rows.get(Need("responses", site))
        if found is None:
            raise self._missing("responses", site)
        return dict(found)

    def norms(self, site: str = "mlp.neuron") -> Tensor:
        """Return how far a unit of each neuron moves the residual stream, `[layers, width]`.

        Raises:
            StatsError: If it was not collected; published counts do not have it.
        """
        found = self.weight_measures.get(Need("norm", site))
        if found is None:
            raise self._missing("norm", site)
        return found

    def only(self, *labels: str) -> Stats:
        """Return the statistics of some labels, in the given order."""
        for label in labels:
            if label not in self.labels:
                raise unknown_label(label, self.labels, "these statistics")
        if not labels or len(set(labels)) < len(labels):
            raise StatsError(f"Expected different labels, got {', '.join(labels) or 'none'}.")
        index = torch.tensor([self.labels.index(label) for label in labels])
        return Stats(
            labels=tuple(labels),
            tokens={label: self.tokens[label] for label in labels},
            texts={label: self.texts[label] for label in labels},
            site_widths=dict(self.site_widths),
            arrays={need: array[index] for need, array in self.arrays.items()},
            rows={
                need: {label: rows[label] for label in labels} for need, rows in self.rows.items()
            },
            routed={site: array[index] for site, array in self.routed.items()},
            weight_measures=dict(self.weight_measures),
            header={
                **self.header,
                "calibration": {
                    label: self.calibration[label] for label in labels if label in self.calibration
                },
            },
        )

    def merge(self, *others: Stats) -> Stats:
        """Return the statistics of all together: labels are united, equal labels add up.

        Raises:
            MismatchError: If they are of different models or token policies.
            StatsError: If they hold different statistics, or the same texts twice.
        """
        found = self
        for other in others:
            found.check_same_model(other)
            found = Stats(**vars(merged(found, other)))
        return found

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a folder with `stats.json` and `stats.safetensors`; return it."""
        return write(Path(path).expanduser(), self)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Stats:
        """Read what `save` wrote, and check it.

        Raises:
            StatsError: If the folder is not there, damaged, or of a newer format.
        """
        return cls(**vars(read(Path(path).expanduser())))

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **upload: Any,
    ) -> Path:
        """Write a folder, as `save` does, and return it.

        Args:
            save_directory: Folder; made if needed.
            push_to_hub: Also upload the statistics.
            repo_id: Where to; default: the name of the folder, in your own namespace.
            **upload: Further arguments of `push_to_hub`.
        """
        if not push_to_hub and (repo_id is not None or upload):
            given = ", ".join(["repo_id"] * (repo_id is not None) + list(upload))
            raise ParameterError(f"Only push_to_hub=True takes {given}; nothing was written.")
        folder = self.save(save_directory)
        if push_to_hub:
            self.push_to_hub(repo_id or folder.resolve().name, **upload)
        return folder

    def push_to_hub(
        self,
        repo_id: str,
        *,
        subfolder: str | None = None,
        commit_message: str | None = None,
        **options: Unpack[UploadOptions],
    ) -> CommitInfo:
        """Upload the statistics to the Hub as one commit, creating the repository if needed.

        Replaces the statistics that are there, if any; a `README.md` that was not generated is left
        alone. They hold no text, but what they say was computed from your texts.

        Args:
            repo_id: `owner/name`, of a model repository.
            subfolder: Folder inside the repository.
            commit_message: Default: what was uploaded.
            **options: `private` (an existing public repository is then refused), `revision` (a
                branch, made if needed), `create_pr` and `token`.

        Returns:
            What the Hub says about the commit or pull request.

        Raises:
            HubError: If it could not be uploaded; the repository is then as it was before.
        """
        public = self
        if self.base_model and not hub_id(self.base_model):
            # The path of a folder on this machine must not be published.
            header = {key: value for key, value in self.header.items() if key != "base_model"}
            public = dataclasses.replace(self, header=header)
        with scratch_folder() as scratch:
            files = read_folder(public.save(scratch))
        where: dict[str, Any] = {"subfolder": subfolder, "commit_message": commit_message}
        return hub_repository.push(files, public.summary(), repo_id, **where, **options)

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | os.PathLike[str],
        revision: str | None = None,
        subfolder: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Stats:
        """Return the statistics in a local folder or Hub repository, checked.

        Args:
            path_or_repo: Folder, or Hub id of a model repository.
            revision: Branch, tag or commit.
            subfolder: Folder inside.
            token: Hub token; default: the stored one.
            cache_dir: Download cache.
            local_files_only: Never ask the network.
            force_download: Download even if cached.

        Raises:
            HubError: If it cannot be found or reached.
            StatsError: If it is damaged, or of a newer format.
        """
        folder = fetch(
            path_or_repo,
            filenames=(FACTS, NUMBERS),
            revision=revision,
            subfolder=subfolder,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        return cls.load(folder)

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, Any],
        tokens: Mapping[str, int],
        site: str = "mlp.act",
        clip: bool = False,
        **header: Any,
    ) -> Stats:
        """Return statistics from published counts.

        Args:
            counts: Label → how often each neuron was positive, `[layers, width]`.
            tokens: Label → number of tokens.
            site: Where they were counted.
            clip: Accept counts below 0 or above the label's tokens, as 0 or as the tokens. How many
                values of a label that changed, and by how much at most, is in
                `calibration[label]["clipped"]`, here and in neuron sets made from these statistics.
            **header: Facts to keep, e.g. `model_type`, `base_model`, `revision`, `texts`.

        Raises:
            StatsError: If counts or tokens are malformed, or contradict each other.
        """
        return cls(**vars(from_counts(counts, tokens, site, clip, header)))

    @classmethod
    def from_count_files(
        cls,
        files: Mapping[str, str | os.PathLike[str]],
        *,
        subtract: Mapping[str, str | os.PathLike[str]] | None = None,
        site: str = "mlp.act",
        clip: bool = False,
        **header: Any,
    ) -> Stats:
        """Return statistics from the count files of LAPE and of works that copied its format.

        Such a file is a dictionary, saved by torch: `over_zero` is how often each neuron was
        positive, `n` or `total_tokens` the number of tokens. Only tensors are read; no code runs.

        Args:
            files: Label → file.
            subtract: Label → file whose counts and tokens are subtracted: that of the prompts alone
                leaves those of the responses.
            site: Where they were counted.
            clip: See `from_counts`; differences of two runs may need it.
            **header: See `from_counts`.

        Raises:
            StatsError: If a file is missing or is not such a file, or its numbers contradict each
                other.
        """
        counts, tokens = read_count_files(files, subtract or {})
        return cls.from_counts(counts, tokens, site, clip, **header)

    @classmethod
    def from_mean_files(
        cls,
        files: Mapping[str, str | os.PathLike[str]],
        *,
        site: str = "resid",
        **header: Any,
    ) -> Stats:
        """Return statistics from the mean states that CLaS-Bench publishes, one file per language.

        Such a file is a dictionary, saved by torch: `steering_vectors` is the mean state after each
        layer, `[layers, hidden size]`, and `num_tokens` the number of tokens. Only tensors are
        read; no code runs. The statistics hold sums: enough for `diffmean`.

        Args:
            files: Label → file.
            site: Where the means were taken.
            **header: Facts to keep, e.g. `model_type`, `base_model`.

        Raises:
            StatsError: If a file is missing or is not such a file, or files differ in shape.
        """
        means, tokens = read_mean_files(files)
        return cls(**vars(from_means(means, tokens, site, header)))

    def summary(self) -> dict[str, Any]:
        """Return what is in here, JSON-plain."""
        return {
            "labels": list(self.labels),
            "tokens": dict(self.tokens),
            "texts": dict(self.texts),
            "needs": [str(need) for need in self.needs],
            "sites": {site: max(widths) for site, widths in self.site_widths.items()},
            "num_layers": self.num_layers,
            "width": self.width,
            "model_type": self.model_type,
            "base_model": self.base_model,
            "revision": self.revision,
            "policy": self.policy,
            "calibration": self.calibration,
            "bytes": sum(array.nbytes for array in self.arrays.values())
            + sum(part.nbytes for rows in self.rows.values() for part in rows.values()),
        }

    def __repr__(self) -> str:
        labels = ", ".join(f"{label} {_short(self.tokens[label])}" for label in self.labels[:8])
        more = f", … {len(self.labels)} in all" if len(self.labels) > 8 else ""
        return (
            f"Stats({labels}{more} tokens; {self.num_layers} layers × {self.width} of "
            f"{self.model_type or 'unknown model'}; {', '.join(map(str, self.needs))})"
        )

    def check_same_model(self, other: Stats) -> None:
        """Raise `MismatchError` naming the field if the other is of another model or policy."""
        for name in IDENTITY:
            mine = getattr(self, name) if hasattr(self, name) else self.header.get(name)
            theirs = getattr(other, name) if hasattr(other, name) else other.header.get(name)
            # What one side does not know cannot contradict the other.
            if mine and theirs and mine != theirs:
                raise MismatchError(
                    f"Statistics differ in {name}: {mine!r} and {theirs!r}. Only statistics of the "
                    f"same model and the same token policy can be merged."
                )
        if self.site_widths != other.site_widths:
            raise MismatchError(
                f"Statistics differ in sites or widths: {self.site_widths} and {other.site_widths}."
            )

    def _denominator(self, site: str) -> Tensor:
        """Return the tokens that each neuron could see, broadcastable `[labels, layers, width]`."""
        tokens = torch.tensor([self.tokens[label] for label in self.labels], dtype=torch.float64)
        routed = self.routed.get(site)
        if routed is None:
            return tokens[:, None, None]
        widths = self.site_widths[site]
        found = tokens[:, None, None].repeat(1, len(widths), max(widths))
        for layer, block in enumerate(self.header.get("experts", {}).get(site, [])):
            if block:
                count, width = block["num_experts"], block["expert_width"]
                share = routed[:, layer, :count].double().repeat_interleave(width, dim=-1)
                found[:, layer, : count * width] = share
        return found

    def _missing(self, reducer: str, site: str) -> StatsError:
        return StatsError(
            f"These statistics do not hold {reducer!r} at {site!r}; they hold "
            f"{', '.join(map(str, self.needs))}. Collect again with "
            f"needs=[..., '{reducer}@{site}']."
        )


def _short(number: int) -> str:
    for limit, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}{unit}"
    return str(number)
