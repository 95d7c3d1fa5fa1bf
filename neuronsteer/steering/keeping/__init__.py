"""Keeping a model in one language: `keep`, and the parts that it is made of."""

from .keep import Keeper, keep
from .vocabulary_gate import Candidates, Refusal, VocabularyGate

__all__ = ["Candidates", "Keeper", "Refusal", "VocabularyGate", "keep"]
