"""The vectors of labels, as the flags about word vectors ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from src.config.prepare import VectorSettings
from src.errors import UserError, name_some
from src.word_vectors.encoders import open_encoder
from src.word_vectors.lookup import LabelVectors, label_vectors, missing_message, read_aliases
from src.word_vectors.source import WordSource, open_word_vectors


@dataclass(frozen=True)
class OpenVectors:
    """An open source of word vectors, and how labels are looked up in it.

    Attributes:
        source: the words.
        alias: label -> text to look up instead.
        drop_missing: leave out labels without a vector, which is otherwise an error.
        extra_words: how many of the most frequent words to store beside the labels.
        loose: let plurals, singulars and words run together stand in for words that the source lacks.
    """

    source: WordSource
    alias: Mapping[str, str] = field(default_factory=dict)
    drop_missing: bool = False
    extra_words: int = 0
    loose: bool = True


def open_vectors(settings: VectorSettings) -> OpenVectors:
    """Open the word vectors or the encoder.

    Raises:
        UserError: the vectors cannot be opened, or an alias is malformed.
    """
    alias = read_aliases(settings.alias or [], settings.alias_file)
    if settings.encoder is not None:
        source = open_encoder(settings.encoder, prompt=settings.encoder_prompt)
    else:
        source = open_word_vectors(str(settings.word_vectors))
    return OpenVectors(source, alias, settings.missing == "drop", settings.extra_words, settings.forms == "all")


def look_up(texts: Mapping[str, str], vectors: OpenVectors) -> LabelVectors:
    """Return the vectors of labels, given the text to look up for each.

    Raises:
        UserError: labels have no vector and may not be left out, or none has one.
    """
    found = label_vectors(vectors.source, texts, alias=vectors.alias, loose=vectors.loose)
    if found.missing and not (vectors.drop_missing and found.labels):
        raise UserError(missing_message(found))
    return found


def vector_notes(found: LabelVectors) -> list[str]:
    """Report labels that were found under another form, that share a vector, or that were dropped."""
    notes = list(found.notes)
    labels_of: dict[bytes, list[str]] = {}
    for label, vector in zip(found.labels, found.vectors.t().contiguous().numpy(), strict=True):
        labels_of.setdefault(vector.tobytes(), []).append(label)
    twins = [" = ".join(labels) for labels in labels_of.values() if len(labels) > 1]
    if twins:
        notes.append(f"labels with one and the same word vector, which no model can tell apart: {name_some(twins, 20)}")
    if found.found_as:
        spelled = [f"{label} ({how})" for label, how in found.found_as.items()]
        notes.append(f"word vectors found under another form for {len(spelled)} labels: {name_some(spelled, 20)}")
    if found.missing:
        notes.append(f"dropped {len(found.missing)} labels without a word vector: {name_some(found.missing, 20)}")
    return notes
