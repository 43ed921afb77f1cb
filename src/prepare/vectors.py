"""The vectors of labels, as the flags about word vectors ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from src.config.prepare import VectorSettings
from src.errors import UserError, name_some
from src.word_vectors.base import WordSource
from src.word_vectors.encoders import open_encoder
from src.word_vectors.lookup import LabelVectors, label_vectors, missing_message, read_aliases
from src.word_vectors.source import open_word_vectors


@dataclass(frozen=True)
class OpenVectors:
    """An open source of word vectors.

    Attributes:
        source: the words.
        alias: label -> text to look up instead.
        settings: how labels are looked up.
    """

    source: WordSource
    alias: Mapping[str, str]
    settings: VectorSettings


def open_vectors(settings: VectorSettings) -> OpenVectors:
    """Open the word vectors or the encoder.

    Raises:
        UserError: the vectors cannot be opened, or an alias is malformed.
    """
    alias = read_aliases(settings.alias or [], settings.alias_file)
    if settings.encoder is None:
        return OpenVectors(open_word_vectors(str(settings.word_vectors)), alias, settings)
    return OpenVectors(open_encoder(settings.encoder, prompt=settings.encoder_prompt), alias, settings)


def look_up(texts: Mapping[str, str], vectors: OpenVectors) -> LabelVectors:
    """Return the vectors of labels, given the text to look up for each.

    Raises:
        UserError: labels have no vector and may not be left out, or none has one.
    """
    settings = vectors.settings
    found = label_vectors(vectors.source, texts, alias=vectors.alias, loose=settings.forms == "all")
    if found.missing and (settings.missing == "error" or not found.labels):
        raise UserError(missing_message(found))
    return found


def vector_notes(found: LabelVectors) -> list[str]:
    """Report labels that were found under another form, that share a vector, or that were dropped."""
    notes = []
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
