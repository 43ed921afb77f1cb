"""From what a source holds to a metadata folder: word vectors, the split, hidden labels, and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from src.data.labels import LabelledImages
from src.data.metadata import ExtraWords
from src.data.metadata_writer import write_metadata
from src.data.split import ZeroShotSplit, columns_of, make_split
from src.errors import UserError, name_some, raise_collected
from src.word_vectors.lookup import LabelVectors, frequent_words, label_vectors, missing_message
from src.word_vectors.source import WordSource


@dataclass
class Collected:
    """What a source was found to hold, read whole and checked, before word vectors.

    Attributes:
        name: of the data set, for reports.
        labels: C names, in the order of the parts' columns.
        seen, unseen: which of them are which; a label may be on neither side. ``seen`` of None: all that are not
            unseen.
        choose_unseen: used where ``unseen`` is None: (labels, their vectors [D, C]) -> the unseen ones.
        parts: ``train`` and ``val`` images with all their labels.
        image_root: the image folder, or None.
        texts: what to look up for labels whose vector is not found under their own name.
        notes: what was found, repaired and dropped, a line each, for the report.
        missing_pictures: images that the labels name and the image folder lacks.
    """

    name: str
    labels: Sequence[str]
    parts: dict[str, LabelledImages]
    image_root: str | Path | None
    unseen: Sequence[str] | None = None
    seen: Sequence[str] | None = None
    choose_unseen: Callable[[Sequence[str], Tensor], Sequence[str]] | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missing_pictures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class VectorOptions:
    """Where word vectors come from.

    Attributes:
        source: the words.
        alias: label -> what to look up instead.
        drop_missing: leave out labels without a vector, which is otherwise an error.
        extra_words: store this many of the source's most frequent words too.
        loose: let plurals, singulars and words run together stand in for what the source does not have.
    """

    source: WordSource
    alias: Mapping[str, str] = field(default_factory=dict)
    drop_missing: bool = False
    extra_words: int = 0
    loose: bool = True


def prepare(
    collected: Collected,
    vectors: VectorOptions,
    output: str | Path,
    *,
    keep_train_with_unseen: bool = True,
    official: bool = False,
    overwrite: bool = False,
    move_in: Sequence[Path] = (),
) -> list[str]:
    """Make a metadata folder.

    Unseen labels of training images are hidden: ``train.json`` does not have them.

    Args:
        collected: what a source holds.
        vectors: where the labels' vectors come from.
        output: the metadata folder to make.
        keep_train_with_unseen: keep training images that show an unseen label; else they are left out.
        official: also write the released code's files, into the sub-folder ``official``.
        overwrite: replace an earlier folder.
        move_in: finished folders that become part of it.

    Returns:
        The report, a line each.

    Raises:
        UserError: labels have no vector, the split is wrong, or the folder cannot be written. Nothing is written then.
    """
    _check_names(collected)
    found = look_up({label: collected.texts.get(label, label) for label in collected.labels}, vectors)
    split = _split(collected, found)
    notes = vector_notes(found)
    parts = {
        name: part.with_targets(part.targets.select_columns(columns_of(split.labels, collected.labels, collected.name)))
        for name, part in collected.parts.items()
    }
    if "train" in parts:
        parts["train"], train_notes = _hide_unseen(parts["train"], split, keep_train_with_unseen)
        notes += train_notes
    extra = frequent_words(vectors.source, vectors.extra_words, split.labels)
    report = [*describe(split, parts, extra, found.source), *collected.notes, *notes]
    text_files = {"report.txt": report}
    if collected.missing_pictures:
        text_files["missing_pictures.txt"] = collected.missing_pictures
    write_metadata(
        output,
        split,
        parts,
        image_root=collected.image_root,
        word_vector_source=found.source,
        extra_words=extra,
        overwrite=overwrite,
        text_files=text_files,
        official=official,
        move_in=move_in,
    )
    return report


def look_up(texts: Mapping[str, str], vectors: VectorOptions) -> LabelVectors:
    """The vectors of labels, given the text to look up for each.

    Raises:
        UserError: labels have no vector and may not be left out, or none has one.
    """
    found = label_vectors(vectors.source, texts, alias=vectors.alias, loose=vectors.loose)
    if found.missing and not (vectors.drop_missing and found.labels):
        raise UserError(missing_message(found))
    return found


def _check_names(collected: Collected) -> None:
    repeated = sorted(label for label, count in Counter(collected.labels).items() if count > 1)
    seen, unseen = (side or () for side in (collected.seen, collected.unseen))
    both = sorted(set(seen) & set(unseen))
    problems = [f"{collected.name}: repeated labels: {name_some(repeated)}"] if repeated else []
    problems += [f"{collected.name}: labels both seen and unseen: {name_some(both)}"] if both else []
    raise_collected(problems)
    for side, names in (("seen", seen), ("unseen", unseen)):
        columns_of(names, collected.labels, f"{collected.name}, {side}")


def _split(collected: Collected, found: LabelVectors) -> ZeroShotSplit:
    """The labels that have a vector, and their sides."""
    if collected.unseen is not None:
        unseen = collected.unseen
    elif collected.choose_unseen is not None:
        unseen = collected.choose_unseen(found.labels, found.vectors)
    else:
        unseen = ()
    held_out, has_vector = set(unseen), set(found.labels)
    seen = [label for label in found.labels if label not in held_out] if collected.seen is None else collected.seen
    seen_columns, unseen_columns = (
        columns_of([label for label in side if label in has_vector], found.labels, collected.name)
        for side in (seen, unseen)
    )
    return make_split(
        found.labels,
        seen_columns,
        unseen_columns,
        found.vectors,
        name=f"{collected.name}_{len(seen_columns)}_{len(unseen_columns)}",
        source=collected.name,
    )


def _hide_unseen(images: LabelledImages, split: ZeroShotSplit, keep: bool) -> tuple[LabelledImages, list[str]]:
    """Training images without their unseen labels, and what that did."""
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


def vector_notes(found: LabelVectors) -> list[str]:
    """Which labels were found under another form, and which were dropped, a line each."""
    notes = list(found.notes)
    twins = [" = ".join(labels) for labels in _same_vector(found) if len(labels) > 1]
    if twins:
        notes.append(f"labels with one and the same word vector, which no model can tell apart: {name_some(twins, 20)}")
    if found.found_as:
        spelled = [f"{label} ({how})" for label, how in found.found_as.items()]
        notes.append(f"word vectors found under another form for {len(spelled)} labels: {name_some(spelled, 20)}")
    if found.missing:
        notes.append(f"dropped {len(found.missing)} labels without a word vector: {name_some(found.missing, 20)}")
    return notes


def _same_vector(found: LabelVectors) -> list[list[str]]:
    labels_of: dict[bytes, list[str]] = {}
    for label, vector in zip(found.labels, found.vectors.t().contiguous().numpy(), strict=True):
        labels_of.setdefault(vector.tobytes(), []).append(label)
    return list(labels_of.values())


def describe(
    split: ZeroShotSplit, parts: Mapping[str, LabelledImages], extra: ExtraWords | None, vector_source: str
) -> list[str]:
    """What a metadata folder holds, a line each."""
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
    lines = [f"{name}: {len(images):,} images, {total:,} labels ({mean:.4f} an image), {without:,} images without any"]
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
