"""What a method wants collected: a reducer at a site."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from ..errors import ParameterError, did_you_mean
from ..models import SITES as MODEL_SITES
from ..neuron_set.value_columns import FEATURE_SITES

SITES = (*MODEL_SITES, *FEATURE_SITES)


class Need(NamedTuple):
    """One reducer at one site, written `"count@mlp.act"` as text."""

    reducer: str
    site: str

    def __str__(self) -> str:
        return f"{self.reducer}@{self.site}"

    @classmethod
    def parse(cls, text: str) -> Need:
        """Return the need that is written as `text`."""
        reducer, _, site = text.partition("@")
        return cls(reducer, site)


class HasNeeds(Protocol):
    """An object that states what it needs: a detector."""

    @property
    def needs(self) -> Iterable[Need]:
        """Statistics that it reads."""
        ...


#: One thing to collect as users may write it, or a detector, for all that it needs.
NeedLike = Need | tuple[str, str] | str | HasNeeds

#: What is collected unless told otherwise: enough for LAPE, effect and diffmean, and for every
#: value that the operations can steer with, except medians.
DEFAULT_NEEDS = (
    Need("count", "mlp.act"),
    Need("sum", "mlp.act"),
    Need("sumsq", "mlp.act"),
    Need("max", "mlp.act"),
    Need("sum", "mlp.neuron"),
    Need("sumsq", "mlp.neuron"),
    Need("max", "mlp.neuron"),
    Need("norm", "mlp.neuron"),
    Need("sum", "resid"),
)

#: What is collected at a site that is only named.
SITE_REDUCERS = ("count", "sum", "sumsq", "max")


def resolve_needs(
    needs: NeedLike | Iterable[NeedLike] | None,
    sites: Iterable[str] | None,
    known: Iterable[str],
) -> tuple[Need, ...]:
    """Return the needs without duplicates, in a canonical order.

    Args:
        needs: Pairs, `"reducer@site"`, objects with `.needs`, or one of these; `None` means the
            defaults.
        sites: With `needs`, only the needs at these sites are kept. Without, count, sum, sum of
            squares and max are collected at each of them.
        known: Names of the registered reducers and of the measures of weights.

    Raises:
        ParameterError: If a reducer or a site does not exist, or nothing is left.
    """
    chosen = None if needs is None else _parsed(needs)
    if sites is not None:
        wanted = [sites] if isinstance(sites, str) else list(sites)
        for site in wanted:
            _check("site", site, SITES)
        if chosen is None:
            chosen = [Need(reducer, site) for site in wanted for reducer in SITE_REDUCERS]
        else:
            chosen = [need for need in chosen if need.site in wanted]
    if chosen is None:
        chosen = list(DEFAULT_NEEDS)
    if not chosen:
        raise ParameterError("Nothing to collect: `needs` is empty, or holds none of `sites`.")
    reducers = list(known)
    for need in chosen:
        _check("reducer", need.reducer, reducers)
        _check("site", need.site, SITES)
    return canonical(chosen)


def canonical(needs: Iterable[Need]) -> tuple[Need, ...]:
    """Return the needs without duplicates, ordered by site and reducer."""
    order = {site: position for position, site in enumerate(SITES)}
    return tuple(
        sorted(set(needs), key=lambda n: (order.get(n.site, len(order)), n.site, n.reducer))
    )


def _parsed(needs: Any) -> list[Need]:
    if isinstance(needs, Need | str) or hasattr(needs, "needs"):
        needs = [needs]
    found: list[Need] = []
    for need in needs:
        if isinstance(need, str):
            if "@" not in need:
                raise ParameterError(
                    f"The need {need!r} does not name a site; write it as 'reducer@site', e.g. "
                    f"'count@mlp.act'. To collect what a method needs, pass its detector: "
                    f"needs=neuronsteer.detectors.detector('lape')."
                )
            found.append(Need.parse(need))
        elif hasattr(need, "needs"):
            found.extend(need.needs)
        else:
            reducer, site = need
            found.append(Need(reducer, site))
    return found


def _check(kind: str, name: str, options: Iterable[str]) -> None:
    known = list(options)
    if name not in known:
        raise ParameterError(
            f"Unknown {kind} {name!r}.{did_you_mean(name, known)} There are: {', '.join(known)}."
        )
