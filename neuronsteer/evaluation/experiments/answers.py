"""Questions answered in words or numbers, with languages amplified: MGSM and XQuAD."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import TextError
from ...languages import canonical
from ..metrics import metric
from . import EXPERIMENTS
from ._amplification import OFF, Amplification
from ._model_under_test import ModelUnderTest

# What precedes the passage, the question and the answer: an English word would be a prompt to
# answer in English.
_WORDS = {
    "ar": ("السياق", "السؤال", "الجواب"), "bn": ("প্রসঙ্গ", "প্রশ্ন", "উত্তর"),
    "de": ("Kontext", "Frage", "Antwort"), "el": ("Κείμενο", "Ερώτηση", "Απάντηση"),
    "en": ("Context", "Question", "Answer"), "es": ("Contexto", "Pregunta", "Respuesta"),
    "fr": ("Contexte", "Question", "Réponse"), "hi": ("संदर्भ", "प्रश्न", "उत्तर"),
    "id": ("Konteks", "Pertanyaan", "Jawaban"), "it": ("Contesto", "Domanda", "Risposta"),
    "ja": ("文脈", "問題", "答え"), "ko": ("문맥", "질문", "답"),
    "nl": ("Context", "Vraag", "Antwoord"), "pl": ("Kontekst", "Pytanie", "Odpowiedź"),
    "pt": ("Contexto", "Pergunta", "Resposta"), "ro": ("Context", "Întrebare", "Răspuns"),
    "ru": ("Контекст", "Вопрос", "Ответ"), "sw": ("Muktadha", "Swali", "Jibu"),
    "te": ("సందర్భం", "ప్రశ్న", "సమాధానం"), "th": ("บริบท", "คำถาม", "คำตอบ"),
    "tr": ("Bağlam", "Soru", "Cevap"), "vi": ("Ngữ cảnh", "Câu hỏi", "Trả lời"),
    "zh": ("背景", "问题", "回答"),
}  # fmt: skip


@dataclass(frozen=True)
class Answers(Amplification):
    """Replies that are generated, greedily, and compared with the reference.

    Args:
        items: Questions per language.
        tokens: New tokens per reply.
    """

    items: int = 8
    tokens: int = 32

    #: Of the metric `exact_match`.
    kind: ClassVar[str] = "span"

    @abstractmethod
    def asked(self, row: Mapping[str, Any], language: str) -> tuple[str, list[str]]:
        """Return the prompt, and the answers that are right."""

    def score_questions(
        self, tested: ModelUnderTest, language: str, rows: Sequence[Any], states: Sequence[str]
    ) -> dict[str, list[float]]:
        """Return per state whether every reply is right, or how much of it."""
        asked = [self.asked(row, language) for row in rows]
        # All states at once: every row of a batch has its own.
        plan = [(state, prompt) for state in states for prompt, _ in asked]
        made = tested.generate(
            [prompt for _, prompt in plan],
            [None if state == OFF else state for state, _ in plan],
            self.tokens,
            key=(self.name, language),
            greedy=True,
        )
        stop = _words(language)
        replies = [_first(text, stop) for text in made]
        found: dict[str, list[float]] = {}
        for k, state in enumerate(states):
            own = replies[k * len(asked) : (k + 1) * len(asked)]
            found[state] = [
                self.value(reply, right, language)
                for reply, (_, right) in zip(own, asked, strict=True)
            ]
        return found

    def value(self, reply: str, right: Sequence[str], language: str) -> float:
        """Return what one reply scores."""
        score = metric("exact_match", kind=self.kind).compute([reply], [list(right)], [language])
        return float(score["exact_match" if self.kind == "number" else "f1"] or 0.0)


@EXPERIMENTS.register("mgsm")
@dataclass(frozen=True)
class Mgsm(Answers):
    """MGSM: grade-school arithmetic, answered directly, without examples.

    Args:
        items: Questions per language.
        tokens: New tokens per reply.
    """

    name: ClassVar[str] = "mgsm"
    title: ClassVar[str] = "MGSM"
    scored: ClassVar[str] = "right numbers"
    reads: ClassVar[tuple[str, ...]] = ("mgsm",)
    kind: ClassVar[str] = "number"

    def asked(self, row: Mapping[str, Any], language: str) -> tuple[str, list[str]]:
        """Return the question and its number."""
        question, answer = _field(row, "question"), row.get("answer", row.get("answer_number"))
        if answer is None:
            raise TextError(f"A row of MGSM has no answer: {question[:60]!r}.")
        _, ask, reply = _words(language)
        return f"{ask}: {question}\n{reply}:", [str(answer)]


@EXPERIMENTS.register("xquad")
@dataclass(frozen=True)
class Xquad(Answers):
    """XQuAD: words of a passage that answer a question, scored by F1.

    Args:
        items: Questions per language.
        tokens: New tokens per reply.
    """

    name: ClassVar[str] = "xquad"
    title: ClassVar[str] = "XQuAD"
    scored: ClassVar[str] = "F1"
    reads: ClassVar[tuple[str, ...]] = ("xquad",)

    items: int = 6
    tokens: int = 16

    def asked(self, row: Mapping[str, Any], language: str) -> tuple[str, list[str]]:
        """Return passage and question, and the right answers."""
        context, ask, reply = _words(language)
        answers = row.get("answers")
        right = answers.get("text") if isinstance(answers, Mapping) else answers
        if not isinstance(right, list | tuple) or not right:
            raise TextError("A row of XQuAD has no answers.")
        passage, question = _field(row, "context"), _field(row, "question")
        return f"{context}: {passage}\n{ask}: {question}\n{reply}:", [str(r) for r in right]


def _words(language: str) -> tuple[str, str, str]:
    return _WORDS.get(canonical(language), _WORDS["en"])


def _field(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise TextError(f"A row has no {name!r}; it has {', '.join(map(str, row))}.")
    return value.strip()


def _first(text: str, words: Sequence[str]) -> str:
    """Return a reply up to its end: what follows is the model's own next question."""
    text = text.strip()
    ends = [text.find(mark) for mark in ("\n", *(f"{word}:" for word in words))]
    return text[: min((end for end in ends if end > 0), default=len(text))].strip()
