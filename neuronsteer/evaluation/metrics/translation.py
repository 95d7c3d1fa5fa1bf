"""Translation quality: BLEU and chrF by sacrebleu, with the tokenizer that the script needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import MissingExtraError, ParameterError, require
from ...languages import canonical, unspaced
from ..bootstrap import interval
from . import METRICS, Metric, Score, aligned

#: sacrebleu's own names. Without these, a sentence of Japanese is one word.
_TOKENIZERS = {"zh": "zh", "yue": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}


@METRICS.register("translation")
@dataclass(frozen=True)
class Translation(Metric):
    """Corpus BLEU and chrF, computed by sacrebleu.

    The tokenizer follows the target language: `zh` for Chinese, `ja-mecab` and `ko-mecab` for
    Japanese and Korean, characters for other scripts without spaces (Thai, Lao, Khmer, Burmese,
    Tibetan), `13a` elsewhere. sacrebleu's signatures, which name it, are in the settings.

    Traps: BLEU of two tokenizers does not compare, and `13a` on unspaced scripts scores whole
    sentences as words. The mean of sentence or batch BLEU is not BLEU. chrF needs no tokenizer and
    is the safer number for low-resource languages. Neither notices the wrong language as such: a
    copy of the source scores above zero between related languages.

    Args:
        target: Target language.
        tokenize: Another tokenizer of sacrebleu's.
        chrf_word_order: 2 gives chrF++.
        samples: Resamples of the bootstrap over sentences; 0 for none.
        seed: Seed of the bootstrap.
    """

    name: ClassVar[str] = "translation"
    title: ClassVar[str] = "BLEU and chrF"
    paper: ClassVar[str] = "Post 2018, A Call for Clarity in Reporting BLEU Scores"
    primary: ClassVar[str] = "chrf"
    columns: ClassVar[Mapping[str, str]] = {"predictions": "string", "references": "strings"}

    target: str | None = None
    tokenize: str | None = None
    chrf_word_order: int = 0
    samples: int = 200
    seed: int = 0

    @property
    def tokenizer(self) -> str:
        """Name of the BLEU tokenizer."""
        if self.tokenize is not None:
            return self.tokenize
        if self.target is None:
            raise ParameterError(
                "translation needs target=<language>, because the tokenizer of BLEU depends on it; "
                "or give tokenize=<a tokenizer of sacrebleu>."
            )
        found = _TOKENIZERS.get(canonical(self.target))
        return found or ("char" if unspaced(self.target) else "13a")

    def compute(
        self, predictions: Sequence[str], references: Sequence[str | Sequence[str]]
    ) -> Score:
        """Return the score, on sacrebleu's scale of 0 to 100.

        Args:
            predictions: Translations.
            references: One or several references of each.
        """
        n = aligned(self.name, predictions=predictions, references=references)
        module: Any = require("sacrebleu.metrics", "eval", "BLEU and chrF")
        several = [[each] if isinstance(each, str) else list(each) for each in references]
        most = max(map(len, several))
        if not all(several):
            raise ParameterError("Every translation needs at least one reference.")
        # sacrebleu wants one list per reference number; None marks one that is missing.
        streams: list[list[str | None]] = [
            [each[k] if k < len(each) else None for each in several] for k in range(most)
        ]
        try:
            bleu: Any = module.BLEU(tokenize=self.tokenizer)
        except RuntimeError as error:
            language = self.tokenizer.split("-")[0]
            raise MissingExtraError(
                f"BLEU of {self.target or self.tokenizer} needs the tokenizer {self.tokenizer!r}, "
                f"which is not installed. Install it with: pip install 'sacrebleu[{language}]', "
                "or pass tokenize='char', whose numbers compare only with each other."
            ) from error
        chrf: Any = module.CHRF(word_order=self.chrf_word_order)
        texts = list(predictions)
        values = {
            "bleu": float(bleu.corpus_score(texts, streams).score),
            "chrf": float(chrf.corpus_score(texts, streams).score),
        }
        signatures = {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}
        intervals: dict[str, tuple[float, float] | None] = {}
        if self.samples:
            for name, scorer in (("bleu", bleu), ("chrf", chrf)):
                # Counts are taken once per sentence; a resample only adds them up.
                counts = np.array(scorer._extract_corpus_statistics(texts, streams))
                intervals[name] = interval(
                    texts,
                    lambda rows, c=counts, s=scorer: float(
                        s._compute_score_from_stats(c[rows].sum(0).tolist()).score
                    ),
                    samples=self.samples,
                    seed=self.seed,
                )
        return self.score(n, values, intervals, tokenizer=self.tokenizer, signatures=signatures)
