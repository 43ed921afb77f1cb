"""Vectors of labels, as the flags about word vectors ask for them; other vectors for a folder or a list of tags."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.config.prepare import OutputSettings, VectorSettings
from src.config.sources import WordVectorsSettings
from src.data.coco import read_coco_labels
from src.data.labels import LabelledImages
from src.data.metadata import ExtraWords, Metadata, load_metadata
from src.data.metadata_folder import is_hidden_part
from src.errors import UserError, name_some, prefix_errors
from src.prepare.collected import Collected
from src.prepare.files import read_names
from src.prepare.word_list import WordList, read_word_list
from src.utils.digest import is_side_file, side_file, side_line, written_digest
from src.utils.files import atomic_write
from src.utils.outputs import Output, check_outputs
from src.utils.temporary import turn_to_write
from src.word_vectors.base import WordSource
from src.word_vectors.encoders import open_encoder
from src.word_vectors.further import frequent_words, joined_words, listed_words
from src.word_vectors.lookup import LabelVectors, label_vectors, missing_message, read_aliases
from src.word_vectors.source import open_word_vectors


@dataclass(frozen=True)
class OpenVectors:
    """An open source of word vectors.

    Attributes:
        source: the words.
        alias: label -> text to look up instead.
        settings: how labels are looked up.
        further: the list of words to store beyond the labels, or None.
    """

    source: WordSource
    alias: Mapping[str, str]
    settings: VectorSettings
    further: WordList | None = None


def open_vectors(settings: VectorSettings) -> OpenVectors:
    """Open the word vectors or the encoder, and read the list of further words.

    Raises:
        UserError: the vectors cannot be opened, an alias is malformed, or the list cannot be read or holds no words.
    """
    further = None if settings.extra_words_file is None else read_word_list(settings.extra_words_file)
    alias = read_aliases(settings.alias or [], settings.alias_file)
    if settings.encoder is None:
        return OpenVectors(open_word_vectors(str(settings.word_vectors)), alias, settings, further)
    return OpenVectors(open_encoder(settings.encoder, prompt=settings.encoder_prompt), alias, settings, further)


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


def further_words(vectors: OpenVectors, labels: Iterable[str]) -> tuple[ExtraWords | None, list[str]]:
    """Return the words to store beyond the labels: those of the list, then the most frequent ones; and notes.

    Raises:
        UserError: the source has no list of words.
    """
    settings, taken = vectors.settings, set(labels)
    parts: list[ExtraWords] = []
    notes: list[str] = []
    if (listed := vectors.further) is not None:
        kept = listed_words(vectors.source, listed.words, settings.extra_words_limit, taken)
        notes += [
            *listed.notes,
            f"--extra-words-file: kept {len(kept.words):,} words for a list of {len(listed.words):,}",
        ]
        parts.append(kept)
        taken.update(kept.words)
    frequent = frequent_words(vectors.source, settings.extra_words, taken)
    return joined_words([*parts, *([] if frequent is None else [frequent])]), notes


def vector_notes(found: LabelVectors) -> list[str]:
    """Report flaws of the source, and labels found under another form, that share a vector, or that were dropped."""
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


def collect(settings: WordVectorsSettings) -> Collected:
    """Read a metadata folder that prepare_data.py made; raise :class:`UserError` if it is of another form."""
    assert settings.metadata is not None
    with prefix_errors(f"--metadata {settings.metadata}"):
        metadata, parts = read_made_folder(settings.metadata)
    split, root = metadata.split, metadata.image_root
    return Collected(
        split.name.removesuffix(f"_{len(split.seen)}_{len(split.unseen)}"),
        split.labels,
        parts,
        image_root=None if root is None else os.path.abspath(root),
        seen=split.names(split.seen),
        unseen=split.names(split.unseen),
    )


def read_made_folder(folder: Path) -> tuple[Metadata, dict[str, LabelledImages]]:
    """Read a metadata folder and the label files in it.

    Raises:
        UserError: prepare_data.py did not make it, a file is missing or wrong, or its images were left half-way.
    """
    metadata = load_metadata(folder, kind="SDL")
    files = {"train": metadata.train, "val": metadata.val}
    parts = {part: read_coco_labels(path, metadata.split.labels) for part, path in files.items() if path is not None}
    if metadata.image_root is not None and is_hidden_part(metadata.image_root):
        raise UserError(
            f"{folder}: a run of prepare_data.py that was killed left its images half-way; run it again first"
        )
    return metadata, parts


def write_tag_vectors(
    tag_file: Path, vectors: VectorSettings, settings: OutputSettings, inputs: Iterable[tuple[str, Path]]
) -> list[str]:
    """Write the vectors of a list of tags and return the report.

    Args:
        tag_file: the tags, one per line.
        vectors: source of the vectors.
        settings: the file to write; its words get the same name with ``.txt``.
        inputs: flags and files that the run reads, which are never replaced.

    Raises:
        UserError: a tag has no vector, a flag makes no sense with a list of tags, or a file is in the way.
    """
    output = settings.output
    words = output.with_suffix(".txt")
    if output.suffix != ".npy":
        raise UserError(f"--output {output}: with --tags, give the name of a .npy file")
    of_folders = (vectors.extra_words, vectors.extra_words_file, settings.official)
    if any(of_folders) or settings.train_with_unseen != "keep":
        raise UserError(
            "--extra-words, --extra-words-file, --official and --train-with-unseen are about metadata folders; leave "
            "them out"
        )
    if os.path.lexists(other := output.with_suffix(".json")):
        raise UserError(
            f"--output {output}: {other.name} beside it would be taken for the list of its words; remove it, or choose "
            "another name"
        )
    targets = {"--output": output, "--output with .txt": words}
    outputs = {name: Output(path, lambda _: False) for name, path in targets.items()}  # any file may be a user's
    outputs["--output with .npy.sha256"] = Output(side_file(output), is_side_file)
    check_outputs(outputs, inputs, overwrite=settings.overwrite)
    tags = read_names(tag_file, "--tags")
    found = look_up({tag: tag for tag in tags}, open_vectors(vectors))
    with (
        ExitStack() as turn,
        atomic_write(words, "w") as text,
        atomic_write(side_file(output)) as side,
        atomic_write(output) as binary,
    ):
        text.writelines(f"{label}\n" for label in found.labels)
        np.save(binary, found.vectors.t().contiguous().numpy(), allow_pickle=False)
        for path, stream in ((output, binary), (words, text)):
            side.write(side_line(written_digest(stream), path))
        # Vectors and words of two runs never lie together: one run waits for the other, and the words go first and
        # come last, so that a run that is killed leaves no list of words
        turn.enter_context(turn_to_write(output))
        Path(os.path.realpath(words)).unlink(missing_ok=True)
    dim, count = found.vectors.shape
    return [f"{count:,} vectors of length {dim} from {found.source}, words in {words}", *vector_notes(found)]
