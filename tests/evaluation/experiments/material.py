"""Three languages that a script tells apart, a tiny model of random weights, and data for tasks."""

from __future__ import annotations

from typing import Any

from neuronsteer.evaluation.metrics.lss import Fact

from ...steering.sets import toy_set
from ...tiny_models import tiny_model, tiny_tokenizer

LABELS = ("en", "ru", "ja")
WORDS = {
    "en": "the cat sat on a mat and then it slept for a long time",
    "ru": "кот сидел на ковре и потом долго спал там один",
    "ja": "猫は庭で寝ていてそれから長いあいだ起きなかった",
}
TEXTS = {label: [text, text[: len(text) // 2]] for label, text in WORDS.items()}
PROMPTS = {label: [text[:9], text[3:11]] for label, text in WORDS.items()}
FACTS = [
    Fact(WORDS[base][:9], base, target, " x" + WORDS[base][:2], " y" + WORDS[target][:2])
    for base in LABELS
    for target in LABELS
    if base != target
]
XCOPA = {
    "premise": "It rained.",
    "choice1": "The street is wet.",
    "choice2": "The street sings.",
    "question": "effect",
    "label": 0,
}
TASKS: dict[str, Any] = {
    "xcopa": {"en": [XCOPA]},
    "mgsm": {"en": [{"question": "1 + 1?", "answer": "2"}]},
    "xquad": {"en": [{"context": "A cat.", "question": "Who?", "answers": ["A cat"]}]},
    "xwinograd": {
        "en": [{"sentence": "A saw B and _ left.", "option1": "A", "option2": "B", "answer": "1"}]
    },
    "xnli": {"en": [{"premise": "It rains", "hypothesis": "It is wet", "label": 0}]},
    "belebele": {
        "en": [
            {
                "flores_passage": "A cat.",
                "question": "Who?",
                "correct_answer_num": "1",
                **{f"mc_answer{k}": f"cat {k}" for k in range(1, 5)},
            }
        ]
    },
    "relations": {
        label: [{"prompt": text[:9], "answer": text[9:11]}] for label, text in WORDS.items()
    },
    "include": {"en": [{"question": "Who?", "choices": list("abcd"), "answer": 1}]},
}
PAIRS = {
    label: [{"en": WORDS["en"][i : i + 12], "text": WORDS[label][i : i + 9]} for i in range(4)]
    for label in LABELS
    if label != "en"
}
DATA: dict[str, Any] = {"pairs": PAIRS, "texts": TEXTS, "prompts": PROMPTS, "facts": FACTS, **TASKS}


def by_script(text: str) -> str | None:
    """Tell the three languages apart by their letters: quick, and never unsure for long."""
    counts = {
        "en": sum("a" <= c.lower() <= "z" for c in text),
        "ru": sum("а" <= c.lower() <= "я" for c in text),
        "ja": sum("\u3040" <= c <= "\u9fff" for c in text),
    }
    best = max(counts, key=lambda label: counts[label])
    return best if counts[best] else None


def subject() -> tuple[Any, Any, Any]:
    """Return a model, its tokenizer and a set."""
    model = tiny_model()
    return model, tiny_tokenizer(), toy_set(model, labels=LABELS)
