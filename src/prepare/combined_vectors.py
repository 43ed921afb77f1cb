"""The word vectors of several metadata folders as one set, if they are of one space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from src.data.metadata import ExtraWords, Metadata
from src.errors import UserError, name_some
from src.prepare.combined_labels import CombinedLabels
from src.word_vectors.lookup import LabelVectors

_REMEDY = "name one source for all labels with --word-vectors PATH"
_SAME = 0.99  # cosine of two vectors of a word: half precision stays far above


def combine_vectors(sources: Sequence[Metadata], labels: CombinedLabels) -> tuple[LabelVectors, ExtraWords | None]:
    """Return the vectors of the labels, each of the first folder that writes it so, and the words of all folders.

    Raises:
        UserError: the folders have vectors of other lengths, or of other spaces as far as common words show.
    """
    first = sources[0]
    for number, metadata in enumerate(sources):
        if metadata.split.wordvec_dim != first.split.wordvec_dim:
            raise UserError(
                f"combine {metadata.folder}: word vectors of length {metadata.split.wordvec_dim}, but {first.folder} "
                f"has length {first.split.wordvec_dim}; {_REMEDY}"
            )
        for earlier in sources[:number]:
            _check_agree(earlier, metadata)
    vectors: dict[str, Tensor] = {}
    words: dict[str, Tensor] = {}
    for metadata in sources:
        vectors = {**_by_name(metadata.split.labels, metadata.split.word_vectors), **vectors}
        words = {**words, **{word: v for word, v in _words_of(metadata).items() if word not in words}}
    origins = list(dict.fromkeys(metadata.word_vector_source for metadata in sources))
    names = set(labels.names)
    further = {word: vector for word, vector in words.items() if word not in names}
    found = LabelVectors(
        labels=list(labels.names),
        vectors=torch.stack([vectors[name] for name in labels.names], dim=1),
        missing=[],
        found_as={},
        suggestions={},
        notes=[],
        source=" and ".join(filter(None, origins)),
        where=f"combine {first.folder}",
    )
    return found, ExtraWords(tuple(further), torch.stack(list(further.values()), dim=1)) if further else None


def _check_agree(one: Metadata, other: Metadata) -> None:
    """Raise :class:`UserError` where common labels or words have different vectors, or nothing shows that they agree.

    Labels are compared with labels only: one may have the vector of another word (``--alias``).
    """
    pairs = (
        (_by_name(one.split.labels, one.split.word_vectors), _by_name(other.split.labels, other.split.word_vectors)),
        (_words_of(one), _words_of(other)),
    )
    common = [(name, ours[name], theirs[name]) for ours, theirs in pairs for name in ours if name in theirs]
    if not common and one.word_vector_source != other.word_vector_source:
        raise UserError(
            f"combine {other.folder}: shares no label with {one.folder} that would show whether their word vectors are "
            f"of one kind ({one.word_vector_source}; {other.word_vector_source}); {_REMEDY}"
        )
    if not common:
        return
    names, ours, theirs = zip(*common, strict=True)
    cosines = torch.cosine_similarity(torch.stack(ours), torch.stack(theirs), dim=1).tolist()
    differing = [name for name, cosine in zip(names, cosines, strict=True) if not cosine >= _SAME]
    if differing:
        raise UserError(
            f"combine {other.folder}: {len(differing):,} of {len(names):,} common labels and words have other word "
            f"vectors than in {one.folder} ({name_some(differing)}); {_REMEDY}"
        )


def _by_name(names: Sequence[str], vectors: Tensor) -> Mapping[str, Tensor]:
    return dict(zip(names, vectors.t(), strict=True))


def _words_of(metadata: Metadata) -> Mapping[str, Tensor]:
    extra = metadata.extra_words
    return {} if extra is None else _by_name(extra.words, extra.vectors)
