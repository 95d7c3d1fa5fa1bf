"""Whose answer it is: the own prompt against others, with likelihoods made by hand."""

from __future__ import annotations

from neuronsteer.evaluation.metrics.scoring import Likelihood
from neuronsteer.evaluation.retrieval import CANDIDATES, other_candidates, prompts_found


def by_sum(rows):
    """Score a row by its first token: higher ones are likelier."""
    return [Likelihood(float(row.ids[0]), len(row.ids) - row.start) for row in rows]


def test_the_own_prompt_must_be_the_best_one():
    texts = [([[3], [1], [2]], [9]), ([[1], [3]], [9]), ([[2], [2]], [9])]
    assert prompts_found(texts, by_sum) == [True, False, False]


def test_only_the_text_is_scored():
    seen = []

    def score(rows):
        seen.extend((row.ids, row.start) for row in rows)
        return by_sum(rows)

    prompts_found([([[5, 6], [7]], [8, 9])], score)
    assert seen == [((5, 6, 8, 9), 2), ((7, 8, 9), 1)]


def test_an_empty_text_is_not_found_and_one_without_other_prompts_is_not_counted():
    texts = [([[3], [1]], []), ([[3]], [9]), ([[3], [1]], [9])]
    assert prompts_found(texts, by_sum) == [False, None, True]


def test_the_same_prompts_are_drawn_for_a_prompt_every_time():
    others = [str(i) for i in range(50)]
    drawn = other_candidates("a", others, 0)
    assert len(set(drawn)) == CANDIDATES - 1 and drawn == other_candidates("a", others, 0)
    assert drawn != other_candidates("b", others, 0) != other_candidates("b", others, 1)
    assert sorted(other_candidates("a", others[:3], 0)) == others[:3]
