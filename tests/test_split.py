"""A split keeps its columns ascending, and refuses what cannot be right, all faults at once."""

import pytest
import torch

from src.data.split import columns_of, make_split
from src.errors import UserError
from src.prepare.nus_wide import CONCEPTS_81

LABELS = ("cat", "dog", "bird", "fish")


def vectors(columns: int = 4, dim: int = 3) -> torch.Tensor:
    return torch.arange(1.0, 1 + dim * columns).view(dim, columns)


def test_columns_are_ascending_and_labels_may_be_on_neither_side():
    split = make_split(LABELS, [3, 0, 3], [1], vectors(), name="tiny", source="here")
    assert split.labels == LABELS
    assert (split.seen, split.unseen) == ((0, 3), (1,))
    assert split.names(split.seen) == ["cat", "fish"]
    assert split.names([2, 0]) == ["bird", "cat"]
    assert (split.name, split.wordvec_dim) == ("tiny", 3)
    assert torch.equal(split.word_vectors, vectors())


def test_a_selection_keeps_names_sides_and_word_vectors_together():
    split = make_split(LABELS, [0, 3], [1], vectors(), name="tiny", source="here")
    chosen = split.select([3, 1, 2])
    assert (chosen.labels, chosen.seen, chosen.unseen) == (("fish", "dog", "bird"), (0,), (1,))
    assert torch.equal(chosen.word_vectors, vectors()[:, [3, 1, 2]])
    assert chosen.name == "tiny"


def test_without_unseen_labels():
    assert make_split(LABELS, [0, 1, 2, 3], [], vectors(), name="x", source="x").unseen == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64])
def test_vectors_become_contiguous_float32(dtype):
    split = make_split(LABELS, [0], [1], vectors(3, 4).t().to(dtype), name="x", source="x")
    assert split.word_vectors.dtype == torch.float32
    assert split.word_vectors.is_contiguous()
    assert torch.equal(split.word_vectors, vectors(3, 4).t())


def bad_column(value: float) -> torch.Tensor:
    changed = vectors()
    changed[:, 2] = value
    return changed


FAULTS = {
    "repeated": ((("cat", "dog", "cat", "dog"), [0], [1], vectors()), "repeated labels: cat, dog"),
    "too high": ((LABELS, [0, 4], [1], vectors()), "label columns outside 0..3: 4"),
    "negative": ((LABELS, [0], [-1], vectors()), "label columns outside 0..3: -1"),
    "both": ((LABELS, [0, 1], [2, 1], vectors()), "labels both seen and unseen: dog"),
    "none seen": ((LABELS, [], [1], vectors()), "no seen label, nothing to train on"),
    "too few vectors": ((LABELS, [0], [1], vectors(3)), "word vectors have shape (3, 3), not [D, 4]"),
    "one axis": ((LABELS, [0], [1], torch.ones(4)), "word vectors have shape (4,), not [D, 4]"),
    "zero": ((LABELS, [0], [1], bad_column(0)), "zero or not finite: bird"),
    "nan": ((LABELS, [0], [1], bad_column(float("nan"))), "zero or not finite: bird"),
    "infinite": ((LABELS, [0], [1], bad_column(float("inf"))), "zero or not finite: bird"),
}


@pytest.mark.parametrize(("arguments", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_each_fault_is_named_with_its_source_alone(arguments, message):
    with pytest.raises(UserError) as caught:
        make_split(*arguments, name="x", source="some/folder")
    [line] = str(caught.value).splitlines()
    assert line.startswith("some/folder: ")
    assert line.endswith(message)


def test_one_zero_component_is_no_fault():
    one_zero = vectors()
    one_zero[0, 2] = 0
    make_split(LABELS, [0], [1], one_zero, name="x", source="x")


def test_all_faults_are_reported_together():
    with pytest.raises(UserError) as caught:
        make_split(("cat", "cat", "dog"), [], [7], torch.zeros(2, 3), name="x", source="here")
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert len(lines) == 4
    for words in ("repeated labels: cat", "outside 0..2: 7", "no seen label", "not finite: cat, cat, dog"):
        assert any(line.startswith("here: ") and words in line for line in lines)


def test_the_81_concepts_are_those_of_nus_wide(shared_data):
    assert tuple((shared_data / "nus_wide" / "concepts81.txt").read_text().split()) == CONCEPTS_81


def test_columns_of_names():
    labels = ["cat", "tree", "naïve", "fish"]
    assert columns_of(["fish", "cat"], labels, "here") == [3, 0]
    with pytest.raises(UserError, match="here: no such label: dog, bird"):
        columns_of(["cat", "dog", "bird"], labels, "here")
