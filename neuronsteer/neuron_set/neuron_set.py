"""The artifact: which neurons stand for which label, with the statistics that steering needs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import hub
from ..errors import ArtifactError, LabelError, MismatchError, ParameterError
from . import benchmark_results, card, hub_repository, peft_files, row_math, storage
from .rows import COLUMNS, Rows
from .value_columns import DIRECTION, MEANS, ColumnSource, common_columns, gather, same_space

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from rich.table import Table
    from typing_extensions import Unpack


class NeuronSet(Rows):
    """The neurons of one or more labels: detected, shared, steered with.

    A frozen table; every method returns a new set. Fields and their meaning are those of `Rows`
    (`rows.py`): the row columns `label`, `layer`, `index`, `score`, `values`, and the header
    (`labels`, `site`, `num_layers`, `width`, `model_type`, `base_model`, `method`, …).

    Example:
        >>> neurons = NeuronSet.from_rows(
        ...     ["en", "fr"], label=[0, 1, 1], layer=[0, 0, 2], index=[5, 5, 7],
        ...     site="mlp.act", num_layers=4, width=32,
        ... )
        >>> neurons.counts
        {'en': 1, 'fr': 2}
        >>> neurons.sharing()
        {1: 1, 2: 1}
        >>> (neurons - neurons.only("en").relabel({"en": "fr"})).counts
        {'en': 1, 'fr': 1}
    """

    def only(self, *labels: str) -> NeuronSet:
        """Return the set of these labels, in the given order."""
        self.require_labels(labels)
        return self.take(None, list(dict.fromkeys(labels)))

    def without(self, *labels: str) -> NeuronSet:
        """Return the set without these labels."""
        self.require_labels(labels)
        kept = [name for name in self.labels if name not in labels]
        if not kept:
            raise LabelError("Nothing is left: a neuron set needs at least one label.")
        return self.take(None, kept)

    def rows(self, label: str) -> NeuronSet:
        """Return the rows of one label, as a set of that label."""
        return self.only(label)

    def relabel(self, names: Mapping[str, str]) -> NeuronSet:
        """Return the set with labels renamed, `{old: new}`; two labels cannot become one."""
        self.require_labels(names)
        return self.replace(
            labels=tuple(names.get(name, name) for name in self.labels),
            means_of=tuple(names.get(name, name) for name in self.means_of),
            source=names.get(self.source or "", self.source),
            calibration={names.get(key, key): part for key, part in self.calibration.items()},
            strengths={names.get(key, key): part for key, part in self.strengths.items()},
        )

    def top(self, n: int, per_label: bool = True) -> NeuronSet:
        """Return the `n` rows of highest score, of every label or of the whole set.

        Of equal scores, the row of the lower label, layer and index is kept.
        """
        if n < 0:
            raise ParameterError(f"top({n}): expected a number of rows >= 0.")
        group = self.label if per_label else torch.zeros_like(self.label)
        return self.take(row_math.best_rows(self.score, group, n), self.labels)

    def random_like(self, seed: int, stats: ColumnSource | None = None) -> NeuronSet:
        """Return random neurons, as many per label and layer as here: the control.

        A label never gets one of its own neurons back, unless a layer has too few others. Labels
        are drawn independently, so the sharing between labels is not reproduced.

        Args:
            seed: Seed of the draw.
            stats: Statistics to take the drawn neurons' own values from. Without them every drawn
                neuron gets the values of a random original row of the same label and layer, so
                that an operation changes as much as in the original.
        """
        index, source = row_math.draw_others(
            self.label, self.layer, self.index, len(self.labels), self.width_per_layer, seed
        )
        if stats is None:
            # A feature's decoder row is its own; with another's it would be that other feature.
            own = f".{DIRECTION}"
            values = {n: c[source] for n, c in self.values.items() if not n.endswith(own)}
        else:
            values = gather(stats, self.labels, self.label, self.layer, index, self.site)
        method = {"name": "random", "parameters": {"seed": seed}, "like": self.method}
        means_of = self.means_of if stats is None else tuple(stats.labels)
        drawn: dict[str, Any] = {"index": index, "values": values, "means_of": means_of}
        return self.replace(**drawn, score=torch.zeros_like(self.score), method=method, orphans=0)

    def with_values(self, stats: ColumnSource, *sources: str) -> NeuronSet:
        """Return the set with more values to steer with, e.g. `"p25"`, `"layer_mean"` or `"means"`.

        With `"means"` steering can leave any label of the statistics.
        """
        place = (self.label, self.layer, self.index)
        more = gather(stats, self.labels, *place, self.site, sources)
        if MEANS not in sources:
            return self.replace(values={**self.values, **more})
        kept = {name: c for name, c in self.values.items() if not name.endswith(f".{MEANS}")}
        return self.replace(values={**kept, **more}, means_of=tuple(stats.labels))

    def __and__(self, other: NeuronSet) -> NeuronSet:
        """Return the rows that both have, for the labels that both have; values from the left."""
        mine, theirs = self._keys(other)
        common = [name for name in self.labels if name in other.labels]
        if not common:
            raise LabelError(
                f"The sets have no label in common ({', '.join(self.labels)} and "
                f"{', '.join(other.labels)}). Rename with relabel() what should be compared."
            )
        return self.take(torch.isin(mine, theirs), common)

    def __or__(self, other: NeuronSet) -> NeuronSet:
        """Return the rows of either; header and values of shared rows come from the left.

        Only value columns that both sets have are kept (an empty set does not count).
        """
        mine, theirs = self._keys(other)
        labels = (*self.labels, *(name for name in other.labels if name not in self.labels))
        left = self.take(None, labels)
        right = other.take(~torch.isin(theirs, mine), labels)
        if not len(right) or not len(left):
            full = left if len(left) else right
            return left.replace(**{name: getattr(full, name) for name in COLUMNS})
        joined: dict[str, Any] = {
            name: torch.cat([getattr(left, name), getattr(right, name)]) for name in COLUMNS[:4]
        }
        calibration = {**other.calibration, **self.calibration}
        strengths = {**other.strengths, **self.strengths}
        means_of = tuple(name for name in left.means_of if name in right.means_of)
        left, right = left.with_means_of(means_of), right.with_means_of(means_of)
        joined["values"] = common_columns(left.values, right.values)
        return left.replace(**joined, calibration=calibration, strengths=strengths)

    def __sub__(self, other: NeuronSet) -> NeuronSet:
        """Return the rows that only the left has, with all labels of the left."""
        mine, theirs = self._keys(other)
        return self.take(~torch.isin(mine, theirs), self.labels)

    def _keys(self, other: NeuronSet) -> tuple[torch.Tensor, torch.Tensor]:
        """Return comparable row keys of both sets, or raise if they cannot be compared."""
        for field in ("num_layers", "width", "widths", "model_type"):
            mine, theirs = getattr(self, field), getattr(other, field)
            if mine != theirs and not (field == "model_type" and None in (mine, theirs)):
                raise MismatchError(
                    f"The sets cannot be combined: field {field!r} is {mine} on the left and "
                    f"{theirs} on the right. Both must come from the same kind of model."
                )
        if not same_space(self.site, other.site):
            raise MismatchError(
                f"The sets cannot be combined: field 'site' is {self.site!r} on the left and "
                f"{other.site!r} on the right, whose neurons are different things."
            )
        order = {name: i for i, name in enumerate(dict.fromkeys(self.labels + other.labels))}
        keys: list[torch.Tensor] = []
        for side in (self, other):
            position = torch.tensor([order[name] for name in side.labels])
            row = (position[side.label], side.layer, side.index)
            keys.append(row_math.row_keys(*row, self.num_layers, self.width))
        return keys[0], keys[1]

    # --- disk and Hub ---------------------------------------------------------------------------

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        peft: bool | str = False,
        *,
        source: str | Sequence[str] | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **upload: Any,
    ) -> Path:
        """Write config, row columns and card into a folder and return the folder.

        Each file is replaced atomically, and a folder whose files do not belong together is
        refused on loading. A `README.md` that was not generated here is left alone. Results on
        benchmarks of the Hub, if the header has any, become `.eval_results/neuronsteer.yaml`.

        Args:
            save_directory: Folder; made if needed.
            peft: Also write what PEFT loads: an adapter per label in the subfolder `lang_<label>`,
                and in the folder itself that of the first label with neurons, or of `peft="fr"`.
            source: What these adapters leave, where the operation adds a difference of means: they
                cannot read prompts. Default: the header's, which must then be a label or "others".
            push_to_hub: Also upload the set.
            repo_id: Where to; default: the name of the folder, in your own namespace.
            **upload: Further arguments of `push_to_hub`.
        """
        if not push_to_hub and (repo_id is not None or upload):
            given = ", ".join(["repo_id"] * (repo_id is not None) + list(upload))
            raise ParameterError(f"Only push_to_hub=True takes {given}; nothing was written.")
        folder = Path(save_directory).expanduser()
        entries, files = {}, {}
        if peft:
            default = peft if isinstance(peft, str) else None
            entries, weights = peft_files.write(folder, self, default, source)
            files[peft_files.WEIGHTS] = weights
        else:
            peft_files.remove(folder)
        listed = card.evaluation_results(self.evaluation)
        scores = benchmark_results.file_of(listed, (self.evaluation or {}).get("created"))
        if not scores:
            benchmark_results.remove(folder)
        columns = {"label": self.label, "layer": self.layer, "index": self.index}
        storage.write(
            folder,
            self.header(),
            {**columns, "score": self.score, **self.values},
            fingerprint=self.fingerprint,
            card=card.render(self.summary()) if card.may_write(folder / storage.CARD) else None,
            entries=entries,
            files={**files, **scores},
        )
        if push_to_hub:
            upload = {"peft": peft or None, "source": source, **upload}
            self.push_to_hub(repo_id or folder.resolve().name, **upload)
        return folder

    @classmethod
    def from_pretrained(
        cls, path_or_repo: str | os.PathLike[str], **options: Unpack[hub.DownloadOptions]
    ) -> NeuronSet:
        """Return the set in a local folder or Hub repository, fully validated.

        Args:
            path_or_repo: Folder, Hub id, or the name of a shipped set (`"demo"`).
            **options: `revision`, `subfolder`, `token`, `cache_dir`, `local_files_only` and
                `force_download`, as everywhere in Hugging Face libraries.

        Raises:
            HubError: If it cannot be found or reached.
            ArtifactError: If it is something else or damaged; the message names the field.
        """
        folder = hub_repository.pull(path_or_repo, **options)
        try:
            header, columns, fingerprint = storage.read(folder)
            rows = {name: columns.pop(name) for name in COLUMNS[:4]}
            neurons = cls.from_rows(**rows, values=columns, **header)
            if fingerprint is not None and fingerprint != neurons.fingerprint:
                raise ArtifactError(
                    f"Field 'fingerprint' is {fingerprint[:12]}…, but the content gives "
                    f"{neurons.fingerprint[:12]}…: the file was damaged, or changed by hand. "
                    f"{storage.AGAIN} After a change on purpose, remove the field."
                )
            return neurons
        except ArtifactError as error:
            raise type(error)(f"Cannot load {os.fspath(path_or_repo)!r}: {error}") from error

    def push_to_hub(
        self,
        repo_id: str,
        *,
        subfolder: str | None = None,
        peft: bool | str | None = None,
        source: str | Sequence[str] | None = None,
        commit_message: str | None = None,
        **options: Unpack[hub.UploadOptions],
    ) -> CommitInfo:
        """Upload the set to the Hub as one commit, creating the repository if needed.

        Replaces the set that is there, if any; a `README.md` that was not generated is left alone.

        Args:
            repo_id: `owner/name`.
            subfolder: Folder inside the repository, for several sets in one.
            peft: As in `save_pretrained`; default: if this kind of set can be a PEFT adapter.
            source: As in `save_pretrained`.
            commit_message: Default: what was uploaded.
            **options: `private` (an existing public repository is then refused), `revision` (a
                branch, made if needed), `create_pr` and `token`.

        Returns:
            What the Hub says about the commit or pull request.

        Raises:
            HubError: If it could not be uploaded; the repository is then as it was before.
        """
        # The path of a folder on this machine must not be published.
        public = self if card.hub_id(self.base_model) else self.replace(base_model=None)
        wanted = peft_files.possible(self, source) if peft is None else peft
        with hub.scratch_folder() as scratch:
            files = hub.read_folder(public.save_pretrained(scratch, peft=wanted, source=source))
        return hub_repository.push(
            files,
            public.summary(),
            repo_id,
            subfolder=subfolder,
            commit_message=commit_message,
            **options,
        )

    # --- showing --------------------------------------------------------------------------------

    def summary(self) -> dict[str, Any]:
        """Return what is worth knowing as a JSON-able dictionary.

        `labels`, `counts` per label, `sharing` {owners: neurons}, `layers` (per label the count in
        every layer), `orphans`, `rows`, `neurons`, `values` (names of the value columns),
        `fingerprint`, and every header field.
        """
        profile = self.layer_profile().tolist()
        header = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.header().items()
        }
        return {
            **header,
            "counts": self.counts,
            "sharing": self.sharing(),
            "layers": dict(zip(self.labels, profile, strict=True)),
            "rows": len(self),
            "neurons": self.num_neurons,
            "values": list(self.values),
            "fingerprint": self.fingerprint,
        }

    def table(self) -> Table:
        """Return a Rich table: per label the neurons, how many are shared, and where they lie."""
        return card.rich_table(self.summary(), self.exclusive_counts())

    def __repr__(self) -> str:
        counts = " · ".join(f"{label} {count}" for label, count in list(self.counts.items())[:8])
        more = f" · … {len(self.labels)} labels" if len(self.labels) > 8 else ""
        model = self.base_model or self.model_type or "unknown model"
        return (
            f"NeuronSet({self.num_neurons} neurons at {self.site}: {counts}{more} | "
            f"{self.method['name']}, {model}, {self.num_layers}x{self.width})"
        )
