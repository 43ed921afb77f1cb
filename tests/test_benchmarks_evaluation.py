"""The plain loops that the benchmarks of evaluation and scoring are measured against give the same numbers."""

import pytest
import torch

from benchmarks import evaluation, scoring


def test_plain_evaluation_gives_the_metrics_of_the_fast_one():
    problem = evaluation.draw(images=400, seen=20, unseen=6)
    plain, fast = evaluation.plain_evaluation(problem), evaluation.fast_evaluation(problem)
    assert len(plain) == 2 * (3 * 2 + 2)  # settings; P, R, F1 at two K; two conventions
    assert {key: fast[key] for key in plain} == pytest.approx(plain, rel=1e-12)


def test_the_drawn_products_are_exact():
    problem = evaluation.draw(images=50, seen=20, unseen=6)
    exact = evaluation.plain_scores(problem.embeddings.double(), problem.words.double())
    assert torch.equal(evaluation.plain_scores(problem.embeddings, problem.words).double(), exact)


def test_plain_scoring_chooses_the_same_labels():
    embeddings, words = scoring.draw(images=3, labels=500)
    assert torch.equal(scoring.fast(embeddings, words), scoring.plain(embeddings, words))
