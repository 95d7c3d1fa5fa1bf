"""Culture neurons: those of a culture, of its language, and of both."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import LabelError, StatsError
from ..neuron_set import NeuronSet
from ..neuron_set.value_columns import MLP_SITES
from ..stats.needs import Need
from . import DETECTORS, Detector, detector

if TYPE_CHECKING:
    from ..stats import Stats


@DETECTORS.register("culture")
@dataclasses.dataclass(frozen=True)
class Culture(Detector):
    """LAPE over languages and, separately, over cultures; then what each pair shares.

    The statistics hold both families of labels, told apart by their beginnings: `lang:de` is the
    language and `culture:de` the culture of the pair `de`. Each family is compared within itself
    only. A pair gives three labels, named like the set operations of `NeuronSet`:

    - `de:L&C`, neurons of the language and of the culture, with the values of the culture's texts;
    - `de:C-L`, neurons of the culture alone ("pure culture");
    - `de:L-C`, neurons of the language alone.

    Args:
        languages: How labels of languages begin.
        cultures: How labels of cultures begin.
        rate: Share of all neurons to select, in each family.
        filter: As in `lape`.
        bar: As in `lape`.
        site: Where positive values were counted: of MLP neurons only.

    Paper: Namazifard and Galke Poech (2025), "Isolating Culture Neurons in Multilingual Large
    Language Models". The released code's recommended path counts positive values of the MLP
    block's *output*, which is as wide as the residual stream: those are not neurons, and their
    indices mean other things at the activation that is masked. Other sites are refused here.
    """

    name: ClassVar[str] = "culture"
    paper: ClassVar[str] = "Namazifard and Galke Poech 2025, Isolating Culture Neurons"

    languages: str = "lang:"
    cultures: str = "culture:"
    rate: float = 0.01
    filter: float = 0.95
    bar: float = 0.95
    site: str = "mlp.act"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.site not in MLP_SITES:
            raise self.invalid(
                "site",
                f"expected {' or '.join(MLP_SITES)}. Dimensions of the residual stream or of an "
                "MLP's output are not neurons",
            )
        both = (self.languages, self.cultures)
        if not all(both) or any(a.startswith(b) for a, b in (both, both[::-1])):
            raise self.invalid(
                "languages",
                f"with cultures={self.cultures!r} expected two beginnings that no label can share",
            )
        self._lape()  # checks rate, filter and bar

    @property
    def needs(self) -> tuple[Need, ...]:
        """Counts of positive values."""
        return (Need("count", self.site),)

    def _lape(self) -> Detector:
        return detector("lape", rate=self.rate, filter=self.filter, bar=self.bar, site=self.site)

    def select(self, stats: Stats) -> NeuronSet:
        """Return the neurons of each pair by the rule in the class docstring."""
        families: list[NeuronSet] = []
        for begin in (self.languages, self.cultures):
            labels = [name for name in stats.labels if name.startswith(begin)]
            if len(labels) < 2:
                raise StatsError(
                    f"{self.title} compares labels that begin with {begin!r}, but these "
                    f"statistics have {', '.join(labels) or 'none'} among "
                    f"{', '.join(stats.labels)}. Collect with labels such as {begin}de."
                )
            found = self._lape().select(stats.only(*labels))
            families.append(found.relabel({name: name.removeprefix(begin) for name in labels}))
        language, culture = families
        pairs = [name for name in language.labels if name in culture.labels]
        if not pairs:
            raise LabelError(
                f"No language has a culture of the same name: {', '.join(language.labels)} and "
                f"{', '.join(culture.labels)}."
            )
        language, culture = language.only(*pairs), culture.only(*pairs)
        parts = {"L&C": culture & language, "C-L": culture - language, "L-C": language - culture}
        # By name, because the two families may list the pairs in different orders.
        named = [
            part.relabel({pair: f"{pair}:{name}" for pair in part.labels})
            for name, part in parts.items()
        ]
        found = named[0] | named[1] | named[2]
        results: dict[str, Any] = {
            "orphans": {"languages": families[0].orphans, "cultures": families[1].orphans},
            "families": {
                "languages": families[0].method.get("results"),
                "cultures": families[1].method.get("results"),
            },
        }
        return found.replace(
            method={"name": self.name, "parameters": self.parameters(), "results": results},
            calibration={k: v for part in named for k, v in part.calibration.items()},
            orphans=families[0].orphans + families[1].orphans,
        )
