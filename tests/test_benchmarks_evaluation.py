"""The plain loops of the evaluation and scoring benchmarks give the same numbers; rows are written only on request."""

import json

import pytest
import torch

from benchmarks import evaluation, scoring
from benchmarks.common import benchmark_parser, record


def test_plain_evaluation_gives_the_metrics_of_the_fast_one():
    problem = evaluation.draw(images=400, seen=20, unseen=6)
    plain, fast = evaluation.plain_evaluation(problem), evaluation.fast_evaluation(problem)
    assert len(plain) == 2 * (3 * 2 + 2)  # settings; P, R, F1 at two K; two conventions
    assert {key: fast[key] for key in plain} == pytest.approx(plain, rel=1e-12)


def test_the_drawn_products_are_exact():
    problem = evaluation.draw(images=50, seen=20, unseen=6)
    exact = evaluation.plain_scores(problem.embeddings.double(), problem.split.word_vectors.double())
    assert torch.equal(evaluation.plain_scores(problem.embeddings, problem.split.word_vectors).double(), exact)


def test_plain_scoring_chooses_the_same_labels():
    embeddings, words = scoring.draw(images=3, labels=500)
    assert torch.equal(scoring.fast(embeddings, words), scoring.plain(embeddings, words))


def test_rows_are_printed_and_written_only_where_asked(tmp_path, capsys):
    record("loss", [{"labels": 3}], None)
    assert not list(tmp_path.iterdir())
    printed = capsys.readouterr().out
    record("loss", [{"labels": 3}], tmp_path / "new")
    assert (tmp_path / "new" / "loss.jsonl").read_text(encoding="utf-8") == printed
    assert json.loads(printed).items() >= {"subject": "loss", "labels": 3, "dtype": "float32"}.items()
    assert benchmark_parser("x").parse_args([]).output is None
