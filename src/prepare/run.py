"""Build a metadata folder from the settings of prepare_data.py: word vectors, split, hidden labels, and report."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import torch

from src.config.data_sets import SourceSettings
from src.config.prepare import OutputSettings, VectorSettings
from src.config.sources import WordVectorsSettings
from src.data.labels import LabelledImages
from src.data.metadata import ExtraWords
from src.data.metadata_folder import open_output
from src.data.metadata_writer import MetadataContent, write_into
from src.data.split import ZeroShotSplit, columns_of, make_split
from src.errors import UserError, name_some
from src.prepare.collected import Collected
from src.prepare.inputs import named_inputs, refuse_replaced_inputs
from src.prepare.word_vectors import OpenVectors, further_words, look_up, open_vectors, vector_notes, write_tag_vectors
from src.text import printable
from src.word_vectors.lookup import LabelVectors


def prepare(settings: SourceSettings, vectors: VectorSettings | None, output: OutputSettings) -> list[str]:
    """Make the metadata folder of a data source.

    Args:
        settings: the source, and how to read it.
        vectors: source of the word vectors; None: the data source brings its own.
        output: the folder to make.

    Returns:
        The report, one line per finding.

    Raises:
        UserError: something is missing, malformed or contradictory; nothing is written then.
    """
    if isinstance(settings, WordVectorsSettings) and settings.tags is not None:
        assert vectors is not None
        return write_tag_vectors(settings.tags, vectors, output, named_inputs(settings, vectors))
    refuse_replaced_inputs(settings, vectors, output.output)
    with open_output(output.output, output.overwrite) as folder:
        # Before the source is read, so that a misspelt path does not cost minutes.
        opened = None if vectors is None else open_vectors(vectors)
        collected: Collected = import_module(f"src.prepare.{settings.reader}").collect(settings)
        content, report = content_of(collected, opened, output)
        write_into(folder, content, official=output.official)
    return report


def content_of(
    collected: Collected, vectors: OpenVectors | None, output: OutputSettings
) -> tuple[MetadataContent, list[str]]:
    """Return the content of the metadata folder, and the report, one line per finding.

    Unseen labels of training images are hidden: ``train.json`` does not have them.

    Raises:
        UserError: labels have no vector, or the split is wrong.
    """
    repeated = [label for label, count in Counter(collected.labels).items() if count > 1]
    if repeated:
        raise UserError(f"{collected.name}: repeated labels: {name_some(repeated)}")
    found, own_words = _vectors(collected, vectors)
    split = _split(collected, found)
    notes = vector_notes(found)
    columns = columns_of(split.labels, collected.labels, collected.name)
    parts = {
        name: images.with_targets(images.targets.select_columns(columns)) for name, images in collected.parts.items()
    }
    if "train" in parts:
        parts["train"], train_notes = _hide_unseen(parts["train"], split, output.train_with_unseen == "keep")
        notes += train_notes
    extra, extra_notes = (own_words, []) if vectors is None else further_words(vectors, split.labels)
    report = [*_describe(split, parts, extra, found.source), *collected.notes, *notes, *extra_notes]
    texts = {"report.txt": report, "missing_pictures.txt": collected.missing_pictures}
    files = {name: printable("".join(f"{line}\n" for line in lines)).encode() for name, lines in texts.items() if lines}
    content = MetadataContent(
        split,
        parts,
        image_root=_recorded_root(collected.image_root, output.output),
        word_vector_source=found.source,
        extra_words=extra,
        files={**collected.files, **files},
    )
    return content, report


def _vectors(collected: Collected, vectors: OpenVectors | None) -> tuple[LabelVectors, ExtraWords | None]:
    """Return the vectors of the labels, from the flags or else the source's own, and the words that these bring."""
    if vectors is not None:
        return look_up({label: collected.texts.get(label, label) for label in collected.labels}, vectors), None
    assert collected.own_vectors is not None
    return collected.own_vectors()


def _recorded_root(root: str | Path | None, output: Path) -> str | Path | None:
    """Return the image folder relative to the output folder if it is inside, so that both can be moved."""
    if root is not None and os.path.isabs(root):
        inside = os.path.relpath(os.path.realpath(root), os.path.realpath(output))
        return root if inside.startswith(os.pardir) else inside
    return root


def _split(collected: Collected, found: LabelVectors) -> ZeroShotSplit:
    """Return the split of the labels that have a vector."""
    unseen = collected.unseen or ()
    if collected.unseen is None and collected.choose_unseen is not None:
        unseen = collected.choose_unseen(found.labels, found.vectors)
    held_out = set(unseen)
    seen = [label for label in found.labels if label not in held_out] if collected.seen is None else collected.seen
    columns_of((*seen, *unseen), collected.labels, collected.name)
    column_of = {label: column for column, label in enumerate(found.labels)}
    seen_columns, unseen_columns = (
        [column_of[label] for label in side if label in column_of] for side in (seen, unseen)
    )
    name = f"{collected.name}_{len(seen_columns)}_{len(unseen_columns)}"
    return make_split(found.labels, seen_columns, unseen_columns, found.vectors, name=name, source=collected.name)


def _hide_unseen(images: LabelledImages, split: ZeroShotSplit, keep: bool) -> tuple[LabelledImages, list[str]]:
    """Hide the unseen labels of training images, or leave out the images that show one; add what to report."""
    shows_unseen = images.targets.select_columns(split.unseen).positives_per_image() > 0
    has_seen = images.targets.select_columns(split.seen).positives_per_image() > 0
    notes = [
        f"train: {int(has_seen.sum()):,} images with a seen label, {int((has_seen & ~shows_unseen).sum()):,} of them "
        "without any unseen label"
    ]
    hidden = images.with_targets(images.targets.forget_columns(split.unseen))
    if not keep:
        notes.append(f"train: left out {int(shows_unseen.sum()):,} images with an unseen label")
        return hidden.rows((~shows_unseen).nonzero()[:, 0]), notes
    if shows_unseen.any():
        notes.append(f"train: hid the unseen labels of {int(shows_unseen.sum()):,} images")
    return hidden, notes


def _describe(
    split: ZeroShotSplit, parts: Mapping[str, LabelledImages], extra: ExtraWords | None, vector_source: str
) -> list[str]:
    """Describe a metadata folder, one line per fact."""
    neither = len(split.labels) - len(split.seen) - len(split.unseen)
    aside = f" ({neither} more on neither side)" if neither else ""
    more = "" if extra is None else f", and of {len(extra.words):,} further words"
    lines = [
        f"{split.name}: {len(split.seen):,} seen and {len(split.unseen):,} unseen labels{aside}",
        f"word vectors of length {split.wordvec_dim} from {vector_source}{more}",
    ]
    for name, images in parts.items():
        lines += _describe_part(name, images, split)
    return lines


def _describe_part(name: str, images: LabelledImages, split: ZeroShotSplit) -> list[str]:
    targets = images.targets
    counts = targets.positives_per_image()
    total, without = int(counts.sum()), int((counts == 0).sum())
    mean = total / max(len(images), 1)
    lines = [f"{name}: {len(images):,} images, {total:,} labels ({mean:.4f} per image), {without:,} images without any"]
    if targets.num_unknown():
        lines.append(f"{name}: {targets.num_unknown():,} unknown labels")
    expected = torch.tensor(split.seen if name == "train" else (*split.seen, *split.unseen), dtype=torch.int64)
    empty = expected[targets.positives_per_label()[expected] == 0].tolist()
    if empty:
        lines.append(f"{name}: {len(empty)} labels without any image: {name_some(split.names(empty))}")
    if name != "train" and split.unseen:
        counts = targets.select_columns(split.unseen).positives_per_image()
        lines.append(
            f"{name}: {int((counts > 0).sum()):,} images with an unseen label, {int(counts.sum()):,} unseen labels"
        )
    return lines
