"""The sparse label matrix against a plain matrix that does the same."""

import pytest
import torch

from src.data.labels import LabelledImages, LabelMatrix
from tests.test_scoring import largest_tensor


def matrix(rows: int = 12, columns: int = 7, seed: int = 0) -> tuple[LabelMatrix, torch.Tensor]:
    """Return rows with complete and partial labels, and the same as a plain matrix."""
    generator = torch.Generator().manual_seed(seed)
    unlisted = torch.randint(-1, 1, (rows,), generator=generator).to(torch.int8)
    values = torch.randint(-1, 2, (rows, columns), generator=generator).to(torch.int8)
    listed = torch.rand(rows, columns, generator=generator) < 0.5
    dense = torch.where(listed, values, unlisted[:, None])
    where = listed.nonzero()
    shuffled = where[torch.randperm(len(where), generator=generator)]
    sparse = LabelMatrix.from_entries(
        *shuffled.unbind(1), values[shuffled[:, 0], shuffled[:, 1]], unlisted=unlisted, num_labels=columns
    )
    return sparse, dense


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(12, 7), (1, 1), (5, 0), (0, 3), (0, 0)])
def test_dense_gives_the_plain_matrix(shape, seed):
    sparse, dense = matrix(*shape, seed)
    assert sparse.shape == shape
    assert torch.equal(sparse.dense(), dense)
    assert sparse.dense().dtype == torch.int8


def test_rows_in_any_order_and_more_than_once():
    sparse, dense = matrix()
    for rows in ([3, 0, 11], [5, 5], [], list(range(12))[::-1]):
        index = torch.tensor(rows, dtype=torch.int64)
        assert torch.equal(sparse.dense(index), dense[index])
        assert torch.equal(sparse.select_rows(index).dense(), dense[index])
        assert len(sparse.select_rows(index)) == len(rows)


@pytest.mark.parametrize("columns", [[6, 0, 3], [], list(range(7))])
def test_columns_in_any_order(columns):
    sparse, dense = matrix()
    assert torch.equal(sparse.select_columns(columns).dense(), dense[:, columns])


@pytest.mark.parametrize("columns", [[0, 3, 6], [2], [6, 0, 3], [1, 0]])
def test_selected_columns_are_stored_as_if_built_from_their_entries(columns):
    sparse, dense = matrix(40, 7, seed=5)
    chosen = sparse.select_columns(columns)
    rows, old, values = sparse.entries()
    kept = torch.isin(old, torch.tensor(columns))
    places = torch.tensor([columns.index(column) for column in old[kept].tolist()])
    again = LabelMatrix.from_entries(
        rows[kept], places, values[kept], unlisted=sparse.unlisted, num_labels=len(columns)
    )
    for name in ("offsets", "columns", "values", "unlisted"):
        assert torch.equal(getattr(chosen, name), getattr(again, name)), name
        assert getattr(chosen, name).dtype == getattr(sparse, name).dtype, name
    assert torch.equal(chosen.dense(), dense[:, columns])


def test_ascending_columns_are_selected_without_a_sort():
    """Selecting from 100,000 entries allocates no more than the entries themselves, and sorts nothing."""
    rows = torch.arange(100_000)
    sparse = LabelMatrix.from_positives(rows, rows % 50, num_rows=100_000, num_labels=50)
    assert largest_tensor(lambda: sparse.select_columns(range(0, 50, 2))) == 100_001  # the offsets
    assert largest_tensor(lambda: sparse.forget_columns(range(0, 50, 2))) == 100_001


def test_columns_then_rows_is_rows_then_columns():
    sparse, _ = matrix()
    rows = torch.tensor([9, 2, 2])
    one, other = sparse.select_rows(rows).select_columns([5, 1]), sparse.select_columns([5, 1]).select_rows(rows)
    assert torch.equal(one.dense(), other.dense())


def test_forgotten_columns_have_the_default_of_their_row():
    sparse, dense = matrix()
    expected = dense.clone()
    expected[:, [2, 4]] = sparse.unlisted[:, None]
    assert torch.equal(sparse.forget_columns([2, 4]).dense(), expected)
    assert torch.equal(sparse.forget_columns([]).dense(), dense)


def test_counts():
    sparse, dense = matrix(seed=3)
    assert torch.equal(sparse.positives_per_image(), (dense == 1).sum(1))
    assert torch.equal(sparse.positives_per_label(), (dense == 1).sum(0))
    assert sparse.num_unknown() == int((dense == -1).sum())
    assert torch.equal(torch.stack(sparse.positives()), (dense == 1).nonzero().t())


def test_entries_rebuild_the_same_matrix():
    sparse, dense = matrix()
    again = LabelMatrix.from_entries(*sparse.entries(), unlisted=sparse.unlisted, num_labels=7)
    assert torch.equal(again.dense(), dense)
    assert torch.equal(again.offsets, sparse.offsets)


def test_from_dense_and_from_positives():
    _, dense = matrix()
    assert torch.equal(LabelMatrix.from_dense(dense).dense(), dense)
    rows, columns = (dense == 1).nonzero(as_tuple=True)
    positives = LabelMatrix.from_positives(rows, columns, num_rows=12, num_labels=7)
    assert torch.equal(positives.dense(), (dense == 1).to(torch.int8))


def test_of_several_entries_for_a_label_the_largest_is_kept():
    values = torch.tensor([-1, 1, 0, 0, -1, -1])
    columns = torch.tensor([0, 0, 0, 1, 1, 2])
    for order in (torch.arange(6), torch.arange(6).flip(0)):
        sparse = LabelMatrix.from_entries(
            torch.zeros(6, dtype=torch.int64), columns[order], values[order], unlisted=torch.zeros(1), num_labels=3
        )
        assert sparse.dense().tolist() == [[1, 0, -1]]
        assert len(sparse.values) == 3


def test_memory_is_that_of_the_entries():
    """A million images with 7,586 labels would be 7.6 GB as a plain matrix."""
    rows = torch.arange(1_000_000)
    sparse = LabelMatrix.from_positives(rows, rows % 7586, num_rows=1_000_000, num_labels=7586)
    tensors = (sparse.offsets, sparse.columns, sparse.values, sparse.unlisted)
    assert sum(tensor.numel() * tensor.element_size() for tensor in tensors) < 20e6
    assert sparse.dense(torch.tensor([7586 * 3 + 5])).nonzero().tolist() == [[0, 5]]


def test_images_keep_ids_names_and_labels_together():
    sparse, dense = matrix(4)
    images = LabelledImages((10, "x", 30, 40), ("a", "b", "c", "d"), sparse)
    some = images.rows([3, 1])
    assert (some.image_ids, some.file_names) == ((40, "x"), ("d", "b"))
    assert torch.equal(some.targets.dense(), dense[[3, 1]])
    assert len(images.rows([])) == 0
    assert images.with_targets(sparse.select_columns([0])).targets.shape == (4, 1)
