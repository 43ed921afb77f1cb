"""Give a new head the classes of its backbone's own classifier, as words."""

from __future__ import annotations

import torch
from torch import Tensor

from src.data.metadata import Metadata
from src.errors import UserError
from src.models import SDLModel
from src.models.class_words import ClassWords
from src.word_vectors.arrays import ArrayVectors
from src.word_vectors.lookup import label_vectors

NUM_IMAGENET = 1000
_LEAST = 500  # classes with a vector; with fewer, the words say little about the image


def set_class_words(
    model: SDLModel, classifier: tuple[Tensor, Tensor], scale: float, metadata: Metadata
) -> tuple[int, int]:
    """Fill ``model.embedding.class_words``.

    Args:
        model: built with as many class words as the classifier has classes.
        classifier: (weight [K, F], bias [K]).
        scale: beta.
        metadata: its labels and further words give the classes their vectors.

    Returns:
        (number of classes with a vector, K).

    Raises:
        UserError: the classes are not the 1,000 of ImageNet, whose names are known, or too few have a vector.
    """
    weight, bias = classifier
    if len(weight) != NUM_IMAGENET:
        raise UserError(
            f"--class-words {scale:g}: the file's classifier has {len(weight):,} classes; names are known for the "
            f"{NUM_IMAGENET:,} of ImageNet only: leave the flag out, or give another --model-path"
        )
    vectors = _class_vectors(imagenet_names(), metadata)  # [K, D]
    found = int(vectors.any(dim=1).sum())
    if found < _LEAST:
        raise UserError(
            f"--class-words {scale:g}: {metadata.folder} has word vectors of {found:,} of the {NUM_IMAGENET:,} "
            "classes; make it anew with prepare_data.py --extra-words 20000, which stores further words"
        )
    words = model.embedding.class_words
    assert isinstance(words, ClassWords)
    for buffer, value in ((words.weight, weight), (words.bias, bias), (words.words, vectors)):
        buffer.copy_(value)
    words.scale.fill_(scale)
    return found, NUM_IMAGENET


def imagenet_names() -> list[list[str]]:
    """Return the names of each ImageNet-1k class, in the order of its number: ``["tench", "Tinca tinca"]``."""
    from timm.data import ImageNetInfo  # timm takes a second to import

    info = ImageNetInfo()
    return [[name.strip() for name in info.index_to_description(k).split(",")] for k in range(NUM_IMAGENET)]


def _class_vectors(names: list[list[str]], metadata: Metadata) -> Tensor:
    """Return the mean vector of each class's names that have one, of unit length, or zero: [K, D]."""
    split, extra = metadata.split, metadata.extra_words
    words, arrays = list(split.labels), [split.word_vectors]
    if extra is not None:
        words += extra.words
        arrays.append(extra.vectors)
    source = ArrayVectors(words, torch.cat(arrays, dim=1).t().numpy(), "the metadata folder's words", "--metadata")
    found = label_vectors(source, list(dict.fromkeys(name for several in names for name in several)), loose=False)
    column_of = {name: column for column, name in enumerate(found.labels)}
    pairs = [(k, column_of[name]) for k, several in enumerate(names) for name in several if name in column_of]
    classes, columns = torch.tensor(pairs, dtype=torch.int64).view(-1, 2).unbind(dim=1)
    total = torch.zeros(len(names), split.wordvec_dim).index_add(0, classes, found.vectors.t()[columns])
    return torch.nn.functional.normalize(total, dim=1)
