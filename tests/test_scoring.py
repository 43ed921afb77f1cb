"""The scoring equation against plain loops, its block-wise form, top-k, and that there is only one of it."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import src.evaluation
import src.inference.tagger
import src.loss_functions.SDL_loss
import src.metrics.precision_recall
import src.scoring
from src.data.parts import GroundTruth
from src.data.split import make_split
from src.data.transforms import eval_transform
from src.evaluation import evaluate
from src.inference.tagger import Tagger
from src.loss_functions.SDL_loss import SDLLoss
from src.metrics import Protocol
from src.scoring import principal_vectors, score_labels, top_k_labels
from tests.conftest import ROOT


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def loop_scores(embedding: Tensor, words: Tensor) -> list[list[float]]:
    """max_m <A[:, m], w_c>, one number at a time, from the flat layout of the released code."""
    dim, num_labels = words.shape
    rows = embedding.shape[1] // dim
    flat, vectors = embedding.double().tolist(), words.double().tolist()
    return [
        [
            max(math.fsum(x[d * rows + m] * vectors[d][c] for d in range(dim)) for m in range(rows))
            for c in range(num_labels)
        ]
        for x in flat
    ]


def largest_tensor(run: Callable[[], object]) -> int:
    """The number of elements of the largest tensor that any operation inside ``run`` makes, backward pass included."""
    sizes = [0]

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            made = result if isinstance(result, (tuple, list)) else (result,)
            sizes.extend(tensor.numel() for tensor in made if isinstance(tensor, Tensor))
            return result

    with Recorder():
        run()
    return max(sizes)


# --- principal vectors ---


def test_principal_vector_m_is_every_mth_number_of_the_output():
    x = torch.arange(2 * 15).float().view(2, 15)  # D = 5, M = 3
    vectors = principal_vectors(x, 5)
    assert vectors.shape == (2, 3, 5)
    for image in range(2):
        for m in range(3):
            assert torch.equal(vectors[image, m], x[image, m::3])
        assert torch.equal(vectors[image].T, x[image].view(5, 3))  # A [D, M], as the released code reads it


def test_one_principal_vector_is_the_output_itself():
    x = normal(4, 6, seed=0)
    assert torch.equal(principal_vectors(x, 6), x.unsqueeze(1))


def test_no_images_give_no_principal_vectors():
    assert principal_vectors(torch.empty(0, 6), 3).shape == (0, 2, 3)


@pytest.mark.parametrize(
    ("shape", "dim", "message"),
    [
        ((6,), 3, r"embedding must be \[B, D\*M\], got shape \(6,\)"),
        ((1, 2, 3), 3, r"embedding must be \[B, D\*M\], got shape \(1, 2, 3\)"),
        ((2, 7), 3, "embedding length 7 is not a positive multiple of the word-vector length 3"),
        ((2, 2), 3, "embedding length 2 is not a positive multiple of the word-vector length 3"),
        ((2, 0), 3, "embedding length 0 is not a positive multiple of the word-vector length 3"),
        ((2, 6), 0, "embedding length 6 is not a positive multiple of the word-vector length 0"),
    ],
)
def test_principal_vectors_refuse_a_shape_that_does_not_fit(shape, dim, message):
    with pytest.raises(ValueError, match=message):
        principal_vectors(torch.zeros(shape), dim)


# --- scores ---


@pytest.mark.parametrize(
    ("batch", "dim", "rows", "labels"), [(1, 1, 1, 1), (3, 5, 1, 4), (4, 7, 3, 9), (2, 300, 7, 11)]
)
def test_scores_equal_the_plain_loop(batch, dim, rows, labels):
    x, words = normal(batch, dim * rows, seed=1), normal(dim, labels, seed=2)
    scores = score_labels(x, words)
    assert scores.shape == (batch, labels)
    torch.testing.assert_close(scores.double(), torch.tensor(loop_scores(x, words)).double(), rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_score_is_the_word_vector_at_its_best_principal_vector():
    x, words = normal(3, 4 * 5, seed=3, dtype=torch.float64).requires_grad_(), normal(4, 6, seed=4).double()
    upstream = normal(3, 6, seed=5).double()
    (gradient,) = torch.autograd.grad((score_labels(x, words) * upstream).sum(), x)
    expected = torch.zeros(3, 4, 5, dtype=torch.float64)
    matrices = x.detach().view(3, 4, 5)
    for image in range(3):
        for label in range(6):
            best = max(range(5), key=lambda m: float(matrices[image, :, m] @ words[:, label]))
            expected[image, :, best] += upstream[image, label] * words[:, label]
    torch.testing.assert_close(gradient, expected.view(3, 20))


@pytest.mark.parametrize(
    "limit", [1, 11, 12, 13, 40, 131, 132]
)  # B * M = 12: blocks of 1, 1, 1, 1, 3, 10 and 11 labels
def test_blocks_equal_one_block_in_value_and_gradient(limit):
    x, words = normal(4, 5 * 3, seed=6, dtype=torch.float64), normal(5, 11, seed=7).double()
    upstream = normal(4, 11, seed=8).double()
    results = []
    for max_block_elements in (1 << 26, limit):
        leaf, vectors = x.clone().requires_grad_(), words.clone().requires_grad_()
        scores = score_labels(leaf, vectors, max_block_elements=max_block_elements)
        results.append((scores.detach(), *torch.autograd.grad((scores * upstream).sum(), (leaf, vectors))))
    for whole, blockwise in zip(*results, strict=True):
        torch.testing.assert_close(blockwise, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("limit", [None, 1, 12, 40, 1 << 20])
def test_scores_are_written_to_out(limit):
    x, words = normal(4, 5 * 3, seed=26), normal(5, 11, seed=27)
    room = torch.full((6, 20), math.nan)
    wanted = room[1:5, 3:14]
    assert score_labels(x, words, max_block_elements=limit, out=wanted) is wanted
    torch.testing.assert_close(wanted, score_labels(x, words, max_block_elements=limit))
    assert int(room.isnan().sum()) == 6 * 20 - 4 * 11  # nothing beside it was touched


def test_room_for_scores_must_fit_and_carries_no_gradient():
    x, words = normal(4, 5 * 3, seed=28), normal(5, 11, seed=29)
    with pytest.raises(ValueError, match=r"out must be \[B, C\] = \(4, 11\), got shape \(11, 4\)"):
        score_labels(x, words, out=torch.empty(11, 4))
    with pytest.raises(ValueError, match="out cannot be written to where a gradient is required"):
        score_labels(x.requires_grad_(), words, out=torch.empty(4, 11))


def test_no_intermediate_is_larger_than_a_block():
    x, words = normal(6, 4 * 5, seed=9), normal(4, 200, seed=10)
    assert largest_tensor(lambda: score_labels(x, words, max_block_elements=600)) == 6 * 200  # the result itself
    assert largest_tensor(lambda: score_labels(x, words)) == 6 * 5 * 200  # what the blocks spare


def test_four_hundred_thousand_labels_are_scored_without_their_products_at_once():
    batch, rows, labels, limit = 32, 7, 400_000, 1 << 22
    x, words = normal(batch, 4 * rows, seed=11), normal(4, labels, seed=12)
    scores = []
    largest = largest_tensor(lambda: scores.append(score_labels(x, words, max_block_elements=limit)))
    assert scores[0].shape == (batch, labels)
    assert largest == batch * labels  # 12.8 million; the products would be 89.6 million
    block = limit // (batch * rows)
    some = torch.tensor([0, 1, block - 1, block, block + 1, 7 * block - 1, 7 * block, 123_456, labels - 1])
    torch.testing.assert_close(scores[0][:, some], score_labels(x, words[:, some]), rtol=1e-5, atol=1e-5)
    expected = torch.tensor(loop_scores(x[:2], words[:, some])).float()
    torch.testing.assert_close(scores[0][:2][:, some], expected, rtol=1e-5, atol=1e-5)


def test_scores_are_the_same_with_and_without_a_gradient():
    x, words = normal(5, 6 * 3, seed=24), normal(6, 9, seed=25)
    for limit in (None, 15, 1 << 20):
        with_gradient = score_labels(x.clone().requires_grad_(), words, max_block_elements=limit)
        torch.testing.assert_close(with_gradient.detach(), score_labels(x, words, max_block_elements=limit))


def test_the_gradient_of_equally_good_principal_vectors_goes_to_one_of_them():
    x = torch.ones(1, 4 * 3, requires_grad=True)  # three equal principal vectors
    (gradient,) = torch.autograd.grad(score_labels(x, torch.ones(4, 1)).sum(), x)
    assert sorted(gradient.view(4, 3).sum(dim=0).tolist()) == [0.0, 0.0, 4.0]


def test_without_a_limit_the_labels_are_never_cut():
    x, words = normal(6, 4 * 5, seed=26), normal(4, 200, seed=27)
    assert largest_tensor(lambda: score_labels(x, words, max_block_elements=None)) == 6 * 5 * 200
    torch.testing.assert_close(score_labels(x, words, max_block_elements=None), score_labels(x, words))
    assert score_labels(x, words[:, :0], max_block_elements=None).shape == (6, 0)


def test_without_a_limit_one_trace_serves_batches_of_any_size():
    class Scores(torch.nn.Module):
        def forward(self, x: Tensor, words: Tensor) -> Tensor:
            return score_labels(x, words, max_block_elements=None)

    words = normal(6, 11, seed=28)
    any_size = {0: torch.export.Dim("batch")}
    traced = torch.export.export(Scores(), (normal(3, 12, seed=29), words), dynamic_shapes=(any_size, None)).module()
    for batch in (1, 2, 5, 33):
        x = normal(batch, 12, seed=batch)
        torch.testing.assert_close(traced(x, words), score_labels(x, words))


@pytest.mark.parametrize("words_dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_scores_have_the_embeddings_dtype(dtype, words_dtype):
    x, words = normal(3, 8, seed=13).to(dtype), normal(4, 5, seed=14).to(words_dtype)
    scores = score_labels(x, words)
    assert scores.dtype == dtype
    expected = torch.tensor(loop_scores(x, words)).float()
    torch.testing.assert_close(scores.float(), expected, rtol=0.02, atol=0.05)


def test_no_labels_and_no_images_give_empty_scores():
    x = normal(3, 8, seed=15)
    assert score_labels(x, torch.empty(4, 0)).shape == (3, 0)
    assert score_labels(x[:0], torch.empty(4, 5)).shape == (0, 5)
    assert score_labels(x[:0], torch.empty(4, 5), max_block_elements=1).shape == (0, 5)
    assert score_labels(x[:0], torch.empty(4, 0)).shape == (0, 0)


def test_order_of_images_labels_and_principal_vectors_does_not_matter():
    x, words = normal(5, 6 * 3, seed=16), normal(6, 8, seed=17)
    scores = score_labels(x, words)
    images, labels = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([7, 2, 0, 5, 1, 6, 3, 4])
    torch.testing.assert_close(score_labels(x[images], words[:, labels]), scores[images][:, labels])
    shuffled = x.view(5, 6, 3)[:, :, [2, 0, 1]].reshape(5, 18)
    torch.testing.assert_close(score_labels(shuffled, words), scores)


def test_word_vectors_are_not_normalised():
    x, words = normal(2, 8, seed=18), normal(4, 5, seed=19)
    torch.testing.assert_close(score_labels(x, 3 * words), 3 * score_labels(x, words))


@pytest.mark.parametrize(
    ("embedding", "words", "message"),
    [
        ((2, 8), (1, 4, 3), r"word_vectors must be \[D, C\], got shape \(1, 4, 3\)"),
        ((2, 8), (4,), r"word_vectors must be \[D, C\], got shape \(4,\)"),
        ((8,), (4, 3), r"embedding must be \[B, D\*M\], got shape \(8,\)"),
        ((2, 8), (3, 4), "embedding length 8 is not a positive multiple of the word-vector length 3"),
        ((2, 8), (0, 4), "embedding length 8 is not a positive multiple of the word-vector length 0"),
    ],
)
def test_scores_refuse_shapes_that_do_not_fit(embedding, words, message):
    with pytest.raises(ValueError, match=message):
        score_labels(torch.zeros(embedding), torch.zeros(words))


# --- top k ---


@pytest.mark.parametrize("k", [1, 2, 5, 16, 17])
@pytest.mark.parametrize("levels", [2, 4, 1000])  # two levels: nearly all is tied
def test_top_k_equals_sorting_by_score_then_index(k, levels):
    scores = torch.randint(0, levels, (40, 17), generator=torch.Generator().manual_seed(20)).float() - 1
    values, labels = top_k_labels(scores, k)
    for row, row_values, row_labels in zip(scores.tolist(), values.tolist(), labels.tolist(), strict=True):
        expected = sorted(range(17), key=lambda c: (-row[c], c))[:k]
        assert row_labels == expected
        assert row_values == [row[c] for c in expected]


def test_top_k_prefers_the_lower_index_within_and_at_the_cut():
    values, labels = top_k_labels(torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0, 2.0]]), 4)
    assert labels.tolist() == [[1, 3, 2, 4]]
    assert values.tolist() == [[3.0, 3.0, 2.0, 2.0]]


@pytest.mark.parametrize("k", [1, 4])
def test_top_k_of_rows_with_and_without_a_tie_at_the_cut(k):
    scores = torch.arange(30.0).repeat(5, 1)
    scores[1, 29 - k] = scores[1, 30 - k]  # the k-th place and the next
    scores[3] = 7.0
    scores[4, :2] = torch.tensor([0.0, -0.0])
    labels = top_k_labels(scores, k)[1].tolist()
    assert labels == [sorted(range(30), key=lambda c: (-row[c], c))[:k] for row in scores.tolist()]
    assert top_k_labels(-scores[4:, :3].abs(), 1)[1].tolist() == [[0]]  # -0.0 is no less than 0.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_top_k_of_any_precision(dtype):
    scores = normal(40, 300, seed=30).to(dtype)
    expected = [sorted(range(300), key=lambda c: (-row[c], c))[:6] for row in scores.tolist()]
    assert top_k_labels(scores, 6)[1].tolist() == expected


def test_top_k_makes_nothing_as_large_as_the_scores_where_nothing_is_tied():
    scores = torch.stack([torch.randperm(5000, generator=torch.Generator().manual_seed(row)) for row in range(4)])
    assert largest_tensor(lambda: top_k_labels(scores.float(), 10)) == scores.numel()  # .float() itself
    scores = scores.float()
    assert largest_tensor(lambda: top_k_labels(scores, 10)) == 4 * 11


def test_top_k_takes_infinite_scores_and_no_images():
    infinite = torch.tensor([[-math.inf, -math.inf, math.inf, -math.inf]])
    assert top_k_labels(infinite, 3)[1].tolist() == [[2, 0, 1]]
    values, labels = top_k_labels(torch.empty(0, 4), 3)
    assert values.shape == labels.shape == (0, 3)


@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("k", [1, 4])
def test_top_k_refuses_nan_wherever_it_is(place, k):
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    scores[1, place] = math.nan
    with pytest.raises(ValueError, match="scores contain NaN"):
        top_k_labels(scores, k)


@pytest.mark.parametrize("k", [-1, 0, 5])
def test_top_k_refuses_a_k_out_of_range(k):
    with pytest.raises(ValueError, match=f"k must be between 1 and the number of labels 4, got {k}"):
        top_k_labels(torch.zeros(2, 4), k)


# --- one equation, one function ---


def pooled_model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten())  # [B, 3, H, W] -> [B, 12]


def test_a_stub_in_place_of_the_equation_changes_loss_evaluation_and_tagging(monkeypatch):
    x, words = normal(6, 12, seed=21), normal(4, 5, seed=22)
    y = (normal(6, 5, seed=23) > 0).int()
    split = make_split("abcde", (0, 1, 2), (3, 4), words, name="five", source="test")
    tagger = Tagger(pooled_model(), split, transform=eval_transform(8))
    image = Image.new("RGB", (8, 8), (200, 30, 90))
    criterion = SDLLoss(weight=0.3, wordvec_array=words)

    def everything() -> tuple[float, dict[str, float], list[str]]:
        report = evaluate(x, split, GroundTruth(y), Protocol(ks=(1,), images="all-images"))
        return criterion(x, y).item(), report, [tag.label for tag in tagger.tag([image], top_k=5)[0]]

    loss, report, tags = everything()
    calls = []

    def upside_down(embedding: Tensor, word_vectors: Tensor, **keywords: Any) -> Tensor:
        calls.append(tuple(embedding.shape))
        return score_labels(embedding, word_vectors, **keywords).neg_()

    for module in (src.loss_functions.SDL_loss, src.evaluation, src.inference.tagger):
        monkeypatch.setattr(module, "score_labels", upside_down)
    other_loss, other_report, other_tags = everything()
    assert calls == [(6, 12), (6, 12), (1, 12)]
    assert other_loss != pytest.approx(loss, rel=1e-3)
    assert other_report["zero_shot.mAP"] != pytest.approx(report["zero_shot.mAP"], rel=1e-3)
    assert other_tags == tags[::-1]


def source_files() -> list[Path]:
    files = [*ROOT.glob("*.py"), *(ROOT / "src").rglob("*.py")]
    assert {ROOT / "train.py", ROOT / "validate.py", ROOT / "infer.py", ROOT / "src" / "scoring.py"} <= set(files)
    return files


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("name", ["score_labels", "principal_vectors", "top_k_labels"])
def test_scoring_functions_are_defined_once(name):
    defined = [
        path.relative_to(ROOT).as_posix()
        for path in source_files()
        if any(function.name == name for function in functions(ast.parse(path.read_text(encoding="utf-8"))))
    ]
    assert defined == ["src/scoring.py"]
    for module in (src.loss_functions.SDL_loss, src.evaluation, src.inference.tagger, src.metrics.precision_recall):
        assert getattr(module, name, getattr(src.scoring, name)) is getattr(src.scoring, name)


def called_names(function: ast.FunctionDef) -> set[str]:
    """Names of all functions and methods that it calls, and ``@`` for a matrix product."""
    names = {"@" for node in ast.walk(function) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)}
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            names.add(node.func.id if isinstance(node.func, ast.Name) else node.func.attr)
    return names


def test_no_other_function_takes_a_maximum_over_products():
    products, maxima = {"@", "matmul", "mm", "bmm", "einsum", "tensordot"}, {"max", "amax", "topk", "cummax"}
    suspects = [
        f"{path.relative_to(ROOT).as_posix()}:{function.name}"
        for path in source_files()
        for function in functions(ast.parse(path.read_text(encoding="utf-8")))
        if called_names(function) & products and called_names(function) & maxima
    ]
    assert suspects == ["src/scoring.py:score_labels"]
