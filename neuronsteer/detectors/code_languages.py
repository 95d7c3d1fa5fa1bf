"""Neurons of programming languages: LAPE with equal budgets."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from . import DETECTORS
from .lape import Lape


@DETECTORS.register("code_languages")
@dataclasses.dataclass(frozen=True)
class CodeLanguages(Lape):
    """LAPE with 400 neurons for every label, programming languages and prose being the labels.

    Of the neurons that are active above the bar for a language, those of lowest entropy; sharing
    is allowed. See `lape` for the rule and the parameters.

    Paper: Kargaran et al. (2025), "How Programming Concepts and Neurons Are Shared in Code Language
    Models". Its notebooks drop a language without candidates; here it stays, with no rows.
    """

    name: ClassVar[str] = "code_languages"
    paper: ClassVar[str] = "Kargaran et al. 2025, Programming Concepts and Neurons"

    per_label: int | None = 400
