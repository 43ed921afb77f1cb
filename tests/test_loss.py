"""The SDL loss against the released code's numbers and against a plain loop, in value and gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from src.loss_functions.SDL_loss import SDLLoss, diversity_weight, ranking_term, variance_regularizer
from src.scoring import principal_vectors, score_labels
from tests.conftest import GOLDEN
from tests.test_scoring import largest_tensor, normal

# Rows: two positives, three, one, none, every label, some unknown, positives and unknown only, all unknown.
TARGETS = torch.tensor(
    [
        [1, 0, 0, 1, 0, 0, 0],
        [0, 1, 1, 0, 0, 0, 1],
        [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1],
        [1, -1, 0, 1, -1, 0, 0],
        [-1, 1, 1, -1, -1, -1, 1],
        [-1, -1, -1, -1, -1, -1, -1],
    ]
)
WITHOUT_POSITIVE, ALL_POSITIVE = 3, 4


def unit_words(dim: int, labels: int, seed: int) -> Tensor:
    return torch.nn.functional.normalize(normal(dim, labels, seed=seed), dim=0)


def problem(dim: int = 5, rows: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Embeddings for TARGETS, and word vectors."""
    return normal(len(TARGETS), dim * rows, seed=seed), unit_words(dim, TARGETS.shape[1], seed=seed + 100)


def loop_loss(
    x: Tensor, y: Tensor, words: Tensor, weight: float | None, reduction: str, normalization: str, unknown: str
) -> Tensor:
    """The loss as the paper's equations read: per image, per pair, in float64."""
    words = words.double()
    dim, num_labels = words.shape
    losses = []
    for flat, target in zip(x.double(), y.tolist(), strict=True):
        matrix = flat.view(dim, -1)  # A [D, M]
        num_rows = matrix.shape[1]
        score = [
            torch.stack([torch.dot(matrix[:, m], words[:, c]) for m in range(num_rows)]).max()
            for c in range(num_labels)
        ]
        positives = [c for c in range(num_labels) if target[c] == 1]
        negatives = [c for c in range(num_labels) if target[c] == 0 or (target[c] == -1 and unknown == "negative")]
        rank = omega = torch.zeros((), dtype=torch.float64)
        for p in positives:
            for n in negatives:
                rank = rank + torch.log(1 + torch.exp(score[n] - score[p]))
            if not negatives and normalization == "official":
                rank = rank + torch.log(1 + torch.exp(0 - score[p]))
        if positives:
            rank = rank / len(positives)
        if negatives and normalization == "paper":
            rank = rank / len(negatives)
        omega = 1 + (torch.var(words[:, positives], dim=1).sum() if len(positives) > 1 else 0)
        if weight is None or num_rows == 1:
            losses.append(omega * rank)
        else:
            loss = (1 - weight) * omega * rank + weight * torch.var(matrix, dim=1).sum()
            losses.append(2 * loss if normalization == "official" else loss)
    total = torch.stack(losses).sum()
    return total / len(losses) if reduction == "mean" else total


def value_and_gradient(criterion, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.detach().clone().requires_grad_()
    loss = criterion(leaf, y)
    loss.backward()
    return loss.detach(), leaf.grad


def assert_same(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], rtol: float = 1e-5) -> None:
    """Value, and gradient measured against its largest entry."""
    (value, gradient), (expected_value, expected_gradient) = ours, theirs
    torch.testing.assert_close(value.double(), expected_value.double(), rtol=rtol, atol=1e-7)
    scale = max(float(expected_gradient.abs().max()), 1e-2)
    torch.testing.assert_close(gradient.double(), expected_gradient.double(), rtol=0, atol=rtol * scale)


# --- against the released code ---


@pytest.mark.parametrize("case", ["c0", "c1", "c2", "c3", "c4"])
def test_value_and_gradient_of_the_released_code(case):
    golden = np.load(GOLDEN / "sdl_loss.npz")
    weight = float(golden[f"{case}_weight"])
    criterion = SDLLoss(
        weight=None if weight == -1 else weight,
        reduction=str(golden[f"{case}_reduction"]),
        wordvec_array=golden[f"{case}_wordvec"],
    )
    ours = value_and_gradient(criterion, torch.from_numpy(golden[f"{case}_x"]), torch.from_numpy(golden[f"{case}_y"]))
    expected = torch.from_numpy(golden[f"{case}_loss"]), torch.from_numpy(golden[f"{case}_grad"])
    assert_same(ours, expected)
    difference = torch.linalg.vector_norm((ours[1] - expected[1]).double())
    assert difference <= 1e-5 * torch.linalg.vector_norm(expected[1].double())


# --- against the plain loop ---


@pytest.mark.parametrize("normalization", ["official", "paper"])
@pytest.mark.parametrize("unknown", ["negative", "ignore"])
@pytest.mark.parametrize("weight", [None, 0.01, 0.3])
@pytest.mark.parametrize(("dim", "rows", "reduction"), [(5, 1, "mean"), (5, 2, "sum"), (16, 7, "mean")])
def test_value_and_gradient_of_the_plain_loop(normalization, unknown, weight, dim, rows, reduction):
    x, words = problem(dim, rows, seed=dim + rows)
    ours = SDLLoss(weight, reduction, words, normalization=normalization, unknown=unknown)
    assert_same(
        value_and_gradient(ours, x, TARGETS),
        value_and_gradient(
            lambda leaf, y: loop_loss(leaf, y, words, weight, reduction, normalization, unknown), x, TARGETS
        ),
    )


@pytest.mark.parametrize("normalization", ["official", "paper"])
def test_each_image_alone_equals_the_plain_loop(normalization):
    """Images are independent, although sums over the positives of the batch are scattered back to them."""
    x, words = problem(seed=1)
    criterion = SDLLoss(0.3, wordvec_array=words, normalization=normalization, unknown="ignore")
    for row in range(len(TARGETS)):
        alone = slice(row, row + 1)
        ours = value_and_gradient(criterion, x[alone], TARGETS[alone])
        theirs = value_and_gradient(
            lambda leaf, y: loop_loss(leaf, y, words, 0.3, "mean", normalization, "ignore"), x[alone], TARGETS[alone]
        )
        assert_same(ours, theirs)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int64, torch.uint8, torch.bool, torch.float16, torch.float32, torch.float64]
)
def test_targets_of_any_dtype(dtype):
    x, words = problem(seed=2)
    y = TARGETS.clamp(min=0)
    criterion = SDLLoss(0.3, wordvec_array=words)
    expected = value_and_gradient(criterion, x, y)
    assert_same(value_and_gradient(criterion, x, y.to(dtype)), expected)


def test_unknown_labels_are_negatives_or_take_no_part():
    x, words = problem(seed=3)
    as_negative = TARGETS.clamp(min=0)
    negative, ignore = (SDLLoss(0.3, wordvec_array=words, unknown=unknown) for unknown in ("negative", "ignore"))
    torch.testing.assert_close(negative(x, TARGETS), negative(x, as_negative))
    assert ignore(x, TARGETS) < negative(x, TARGETS)
    torch.testing.assert_close(ignore(x, as_negative), negative(x, as_negative))


# --- the special cases ---


@pytest.mark.parametrize(("normalization", "factor"), [("official", 2), ("paper", 1)])
def test_an_image_without_positives_contributes_its_regulariser_only(normalization, factor):
    x, words = problem(seed=4)
    x, y = x[:2], torch.tensor([[0] * 7, [-1, 0, 0, 0, 0, 0, -1]])
    value, gradient = value_and_gradient(SDLLoss(0.3, wordvec_array=words, normalization=normalization), x, y)
    leaf = x.clone().requires_grad_()
    expected = factor * 0.3 * leaf.view(2, 5, 3).var(dim=2).sum(dim=1).mean()
    expected.backward()
    assert_same((value, gradient), (expected.detach(), leaf.grad))
    assert value > 0


@pytest.mark.parametrize("normalization", ["official", "paper"])
@pytest.mark.parametrize(("weight", "rows"), [(None, 3), (None, 1), (0.3, 1)])
def test_without_positives_and_regulariser_loss_and_gradient_are_zero(normalization, weight, rows):
    x, words = problem(rows=rows, seed=5)
    value, gradient = value_and_gradient(
        SDLLoss(weight, wordvec_array=words, normalization=normalization), x, torch.zeros_like(TARGETS)
    )
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(x))


def test_an_image_without_positives_leaves_the_others_alone():
    x, words = problem(seed=6)
    criterion = SDLLoss(None, "sum", words)
    kept = [row for row in range(len(TARGETS)) if row != WITHOUT_POSITIVE]
    value, gradient = value_and_gradient(criterion, x, TARGETS)
    assert_same((value, gradient[kept]), value_and_gradient(criterion, x[kept], TARGETS[kept]), rtol=1e-6)
    assert torch.equal(gradient[WITHOUT_POSITIVE], torch.zeros(15))


@pytest.mark.parametrize("normalization", ["official", "paper"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_one_principal_vector_with_lambda_equals_none(normalization, weight):
    x, words = problem(rows=1, seed=7)
    expected = value_and_gradient(SDLLoss(None, wordvec_array=words, normalization=normalization), x, TARGETS)
    criterion = SDLLoss(weight, wordvec_array=words, normalization=normalization)
    assert_same(value_and_gradient(criterion, x, TARGETS), expected)


def test_every_label_positive_is_ranked_against_zero_by_official_and_is_zero_in_paper():
    x, words = problem(seed=8)
    x, y = x[:1], TARGETS[ALL_POSITIVE : ALL_POSITIVE + 1]
    scores = score_labels(x, words)[0]
    omega = 1 + words.var(dim=1).sum()
    official = SDLLoss(None, wordvec_array=words)(x, y)
    torch.testing.assert_close(official, omega * torch.log(1 + torch.exp(-scores)).mean())
    value, gradient = value_and_gradient(SDLLoss(None, wordvec_array=words, normalization="paper"), x, y)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(x))


def test_positives_and_unknown_labels_only_follow_the_same_rule_where_unknown_is_ignored():
    x, words = problem(seed=9)
    x, y = x[:1], torch.tensor([[1, -1, -1, 1, -1, -1, -1]])
    scores = score_labels(x, words)[0, [0, 3]]
    omega = 1 + words[:, [0, 3]].var(dim=1).sum()
    official = SDLLoss(None, wordvec_array=words, unknown="ignore")(x, y)
    torch.testing.assert_close(official, omega * torch.log(1 + torch.exp(-scores)).mean())
    assert SDLLoss(None, wordvec_array=words, unknown="ignore", normalization="paper")(x, y) == 0


def test_lambda_shares_the_loss_between_its_parts():
    x, words = problem(seed=10)
    loss, parts = SDLLoss(None, wordvec_array=words).with_parts(x, TARGETS)
    torch.testing.assert_close(SDLLoss(0.0, wordvec_array=words)(x, TARGETS), 2 * loss)  # the released code's factor
    torch.testing.assert_close(SDLLoss(0.0, wordvec_array=words, normalization="paper")(x, TARGETS), SDLLoss(
        None, wordvec_array=words, normalization="paper")(x, TARGETS))  # fmt: skip
    torch.testing.assert_close(SDLLoss(1.0, wordvec_array=words)(x, TARGETS), 2 * parts.regularizer)
    default = 2 * (0.7 * loss + 0.3 * parts.regularizer)
    torch.testing.assert_close(SDLLoss(wordvec_array=words)(x, TARGETS), default)


@pytest.mark.parametrize("normalization", ["official", "paper"])
@pytest.mark.parametrize("right", [True, False])
def test_scores_of_ten_thousand_stay_finite(normalization, right):
    """Past a gap of 88, exp overflows in float32."""
    words = torch.eye(3)
    x = torch.tensor([[1e4, -1e4, -1e4]]) * (1 if right else -1)
    criterion = SDLLoss(None, wordvec_array=words, normalization=normalization)
    value, gradient = value_and_gradient(criterion, x, torch.tensor([[1, 0, 0]]))
    share = 1 if normalization == "official" else 0.5  # 1/|N|
    assert value == (0 if right else 2 * share * 2e4)
    expected = torch.zeros(1, 3) if right else share * torch.tensor([[-2.0, 1.0, 1.0]])
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("normalization", ["official", "paper"])
@pytest.mark.parametrize("scale", [1e-4, 10.0, 100.0])  # at 100 most gaps are past 88
def test_value_and_gradient_are_right_at_any_scale(scale, normalization):
    x, words = problem(seed=11)
    assert_same(
        value_and_gradient(SDLLoss(0.3, wordvec_array=words, normalization=normalization), scale * x, TARGETS),
        value_and_gradient(
            lambda leaf, y: loop_loss(leaf, y, words, 0.3, "mean", normalization, "negative"), scale * x, TARGETS
        ),
    )


# --- precision, compilation, devices ---


def test_autocast_around_the_loss_changes_nothing():
    x, words = problem(seed=12)
    criterion = SDLLoss(0.3, wordvec_array=words)
    expected, expected_gradient = value_and_gradient(criterion, x, TARGETS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        leaf = x.clone().requires_grad_()
        assert torch.mm(x, x.T).dtype == torch.bfloat16  # autocast is on here
        loss = criterion(leaf, TARGETS)
    loss.backward()
    assert loss.dtype == torch.float32
    assert_same((loss.detach(), leaf.grad), (expected, expected_gradient))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_an_embedding_of_another_dtype_is_read_as_float32(dtype):
    x, words = problem(seed=13)
    x = x.to(dtype)
    criterion = SDLLoss(0.3, wordvec_array=words)
    value, gradient = value_and_gradient(criterion, x, TARGETS)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert value == criterion(x.float(), TARGETS)


def inductor_or_skip() -> None:
    try:
        compiled = torch.compile(lambda x: x.sin() + 1, backend="inductor")
        compiled(torch.ones(4))
    except RuntimeError as error:  # of PyTorch's compiler stack, or of the C++ compiler
        pytest.skip(f"torch.compile cannot build CPU code on this machine: {type(error).__name__}: {error}")


def test_compiled_loss_equals_the_eager_one():
    inductor_or_skip()
    x, words = problem(seed=14)
    criterion = SDLLoss(0.3, wordvec_array=words)
    compiled = torch.compile(criterion, backend="inductor")
    for y in (TARGETS, TARGETS.roll(1, dims=1)):  # other positives, same code
        assert_same(value_and_gradient(compiled, x, y), value_and_gradient(criterion, x, y))


def test_the_loss_has_no_parameters_and_its_word_vectors_stay_out_of_checkpoints():
    _, words = problem()
    criterion = SDLLoss(wordvec_array=words)
    assert list(criterion.parameters()) == []
    assert criterion.state_dict() == {}
    assert dict(criterion.named_buffers())["wordvec_array"].shape == words.shape


# --- what must not matter ---


@pytest.mark.parametrize("normalization", ["official", "paper"])
def test_order_of_labels_images_and_principal_vectors_changes_nothing(normalization):
    x, words = problem(dim=5, rows=3, seed=15)
    labels, images = torch.tensor([4, 0, 6, 2, 5, 1, 3]), torch.tensor([5, 2, 7, 0, 6, 3, 1, 4])
    places = torch.arange(15).view(5, 3)[:, [2, 0, 1]].flatten()  # the three vectors in another order
    criterion = SDLLoss(0.3, wordvec_array=words, normalization=normalization)
    value, gradient = value_and_gradient(criterion, x, TARGETS)
    other_labels = SDLLoss(0.3, wordvec_array=words[:, labels], normalization=normalization)
    assert_same(value_and_gradient(other_labels, x, TARGETS[:, labels]), (value, gradient), rtol=2e-6)
    assert_same(value_and_gradient(criterion, x[images], TARGETS[images]), (value, gradient[images]), rtol=2e-6)
    assert_same(value_and_gradient(criterion, x[:, places], TARGETS), (value, gradient[:, places]), rtol=2e-6)


@pytest.mark.parametrize(
    "form",
    [
        lambda words: words.unsqueeze(0),
        lambda words: words.numpy(),
        lambda words: words.unsqueeze(0).numpy(),
        lambda words: words.double().numpy(),
        lambda words: words.tolist(),
        lambda words: torch.nn.Parameter(words.clone()),
        lambda words: words.t().contiguous().t(),
    ],
    ids=["[1, D, C]", "array", "[1, D, C] array", "float64 array", "list", "parameter", "transposed"],
)
def test_word_vectors_in_any_form(form):
    x, words = problem(seed=16)
    criterion = SDLLoss(0.3, wordvec_array=form(words))
    assert criterion(x, TARGETS) == SDLLoss(0.3, wordvec_array=words)(x, TARGETS)
    assert not criterion.wordvec_array.requires_grad


def test_word_vectors_in_half_precision_are_read_as_float32():
    x, words = problem(seed=17)
    halves = words.half()
    assert SDLLoss(0.3, wordvec_array=halves.numpy())(x, TARGETS) == SDLLoss(0.3, wordvec_array=halves.float())(
        x, TARGETS
    )


def test_inputs_are_not_written_to():
    x, words = problem(seed=18)
    before = [tensor.clone() for tensor in (x, words, TARGETS)]
    value_and_gradient(SDLLoss(0.3, wordvec_array=words, unknown="ignore"), x, TARGETS)
    assert all(torch.equal(ours, copy) for ours, copy in zip((x, words, TARGETS), before, strict=True))


@pytest.mark.parametrize("as_array", [True, False])
def test_the_loss_keeps_its_word_vectors_when_the_caller_changes_its_own(as_array):
    x, words = problem(seed=25)
    given = words.numpy() if as_array else words
    criterion = SDLLoss(0.3, wordvec_array=given)
    before = criterion(x, TARGETS)
    given *= 2
    assert criterion(x, TARGETS) == before


def test_sum_is_batch_size_times_mean():
    x, words = problem(seed=19)
    mean, total = (SDLLoss(0.3, reduction, words)(x, TARGETS) for reduction in ("mean", "sum"))
    torch.testing.assert_close(total, len(TARGETS) * mean)


# --- the parts ---


@pytest.mark.parametrize("normalization", ["official", "paper"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_parts_are_the_means_of_the_three_functions(normalization, reduction):
    x, words = problem(seed=20)
    x.requires_grad_()
    criterion = SDLLoss(0.3, reduction, words, normalization=normalization)
    loss, parts = criterion.with_parts(x, TARGETS)
    positive = TARGETS == 1
    rank = ranking_term(score_labels(x, words), positive, ~positive, normalization)
    omega = diversity_weight(words, positive)
    regularizer = variance_regularizer(principal_vectors(x, 5))
    assert loss == criterion(x, TARGETS)
    assert loss.requires_grad
    for part, per_image in zip(parts, (rank, omega, regularizer), strict=True):
        assert not part.requires_grad
        torch.testing.assert_close(part, per_image.detach().mean())
    per_image = 0.7 * omega * rank + 0.3 * regularizer
    factor = (2 if normalization == "official" else 1) * (1 if reduction == "mean" else len(TARGETS))
    torch.testing.assert_close(loss, factor * per_image.mean())


def test_ranking_term_of_numbers_worked_by_hand():
    scores = torch.tensor([[1.0, 0.0, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0]])
    positive = torch.tensor([[True, True, False, False], [False] * 4])
    negative = torch.tensor([[False, False, True, False], [True] * 4])  # the last label of the first image: in neither
    expected = (math.log(1 + math.exp(3 - 1)) + math.log(1 + math.exp(3 - 0))) / 2
    assert ranking_term(scores, positive, negative).tolist() == pytest.approx([expected, 0.0])
    negative[0, 3] = True
    with_fourth = expected + (math.log(1 + math.exp(9 - 1)) + math.log(1 + math.exp(9 - 0))) / 2
    assert ranking_term(scores, positive, negative).tolist() == pytest.approx([with_fourth, 0.0])
    assert ranking_term(scores, positive, negative, "paper").tolist() == pytest.approx([with_fourth / 2, 0.0])


def test_label_neither_positive_nor_negative_has_no_gradient():
    scores = torch.tensor([[1.0, 0.0, 1e30]], requires_grad=True)
    positive, negative = torch.tensor([[True, False, False]]), torch.tensor([[False, True, False]])
    term = ranking_term(scores, positive, negative)
    term.sum().backward()
    torch.testing.assert_close(term, torch.tensor([math.log(1 + math.exp(-1))]))
    assert scores.grad[0, 2] == 0
    assert scores.grad[0, 1] == -scores.grad[0, 0] != 0


@pytest.mark.parametrize("normalization", ["official", "paper"])
def test_ranking_term_holds_positives_times_labels_numbers(normalization):
    """Not positives times negatives of every image padded to the widest one, nor labels times labels."""
    batch, labels = 6, 3000
    positive = torch.zeros(batch, labels, dtype=torch.bool)
    positive[0, :40] = True
    positive[1:, 7] = True
    scores = normal(batch, labels, seed=21).requires_grad_()
    total = 40 + 5
    largest = largest_tensor(lambda: ranking_term(scores, positive, ~positive, normalization).sum().backward())
    assert largest == total * labels  # padding would hold 6 * 40 * 3000


@pytest.mark.parametrize("count", [2, 3, 10])
def test_diversity_weight_is_two_minus_the_mean_pairwise_cosine_of_unit_vectors(count):
    words = unit_words(20, 12, seed=22) + 0.3
    words = torch.nn.functional.normalize(words.double(), dim=0)
    chosen = torch.randperm(12, generator=torch.Generator().manual_seed(23))[:count].tolist()
    positive = torch.zeros(1, 12, dtype=torch.bool)
    positive[0, chosen] = True
    cosines = [float(words[:, a] @ words[:, b]) for a in chosen for b in chosen if a != b]
    assert float(diversity_weight(words, positive)) == pytest.approx(2 - sum(cosines) / len(cosines), rel=1e-12)


def test_diversity_weight_of_synonyms_unrelated_words_one_and_none():
    words = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    positive = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    torch.testing.assert_close(diversity_weight(words, positive), torch.tensor([1.0, 2.0, 1.0, 1.0]))


@pytest.mark.parametrize("offset", [0.0, 10.0, 1000.0])
def test_diversity_weight_keeps_its_digits_beside_a_large_common_offset(offset):
    words = offset + 0.05 * normal(8, 30, seed=24)
    positive = torch.zeros(3, 30, dtype=torch.bool)
    positive[0, :2] = positive[1, 5:12] = positive[2] = True
    spread = diversity_weight(words, positive).double() - 1
    expected = torch.stack([words.double()[:, row].var(dim=1).sum() for row in positive])
    torch.testing.assert_close(spread, expected, rtol=3e-4, atol=1e-6)


def test_regulariser_is_the_summed_unbiased_variance_over_the_principal_vectors():
    vectors = torch.tensor([[[0.0, 1.0], [2.0, 1.0], [4.0, 7.0]], [[5.0, 5.0], [5.0, 5.0], [5.0, 5.0]]])  # [2, 3, 2]
    assert variance_regularizer(vectors).tolist() == pytest.approx([4.0 + 12.0, 0.0])
    assert variance_regularizer(vectors[:, :1]).tolist() == [0.0, 0.0]


# --- mistakes ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"wordvec_array is required: the word vectors of the training labels, \[D, C\] or \[1, D, C\]"),
        ({"wordvec_array": torch.ones(4)}, r"wordvec_array must be \[D, C\] or \[1, D, C\], got shape \(4,\)"),
        ({"wordvec_array": torch.ones(2, 3, 4)}, r"wordvec_array must be .*, got shape \(2, 3, 4\)"),
        ({"weight": -0.1}, r"weight \(lambda\) must be between 0 and 1, or None, got -0.1"),
        ({"weight": 1.5}, r"weight \(lambda\) must be between 0 and 1, or None, got 1.5"),
        ({"weight": math.nan}, r"weight \(lambda\) must be between 0 and 1, or None, got nan"),
        ({"reduction": "none"}, r"reduction must be one of \('mean', 'sum'\), got 'none'"),
        ({"normalization": "Paper"}, r"normalization must be one of \('official', 'paper'\), got 'Paper'"),
        ({"unknown": "positive"}, r"unknown must be one of \('negative', 'ignore'\), got 'positive'"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SDLLoss(**({"wordvec_array": torch.ones(3, 4)} | arguments if arguments else {}))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ((2, 6), (2, 5), r"targets must be \[B, C\] = \(2, 4\), got shape \(2, 5\)"),
        ((2, 6), (3, 4), r"targets must be \[B, C\] = \(2, 4\), got shape \(3, 4\)"),
        ((2, 6), (4,), r"targets must be \[B, C\] = \(2, 4\), got shape \(4,\)"),
        ((2, 6), (1, 4), r"targets must be \[B, C\] = \(2, 4\), got shape \(1, 4\)"),
        ((2, 7), (2, 4), "embedding length 7 is not a positive multiple of the word-vector length 3"),
        ((2, 2, 3), (2, 4), r"embedding must be \[B, D\*M\], got shape \(2, 2, 3\)"),
        ((0, 6), (0, 4), "the batch is empty"),
    ],
)
def test_tensors_that_do_not_fit_are_named(x, y, message):
    with pytest.raises(ValueError, match=message):
        SDLLoss(wordvec_array=torch.ones(3, 4))(torch.zeros(x), torch.zeros(y))
