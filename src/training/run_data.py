"""Find and load the labels and images that a run trains on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from src.config.train import DataSettings
from src.data.metadata import Metadata, detect_kind, load_metadata
from src.data.parts import EvaluationSet, TrainingSet, load_evaluation_set, load_training_set
from src.errors import UserError, prefix_errors

OFFICIAL_METADATA = Path("data/COCO")


@dataclass(frozen=True)
class Data:
    """Labels and images of a run.

    Attributes:
        metadata: the metadata folder.
        training, evaluation: the images of both parts.
    """

    metadata: Metadata
    training: TrainingSet
    evaluation: EvaluationSet


def load_data(settings: DataSettings) -> Data:
    """Load the labels, and find the images of both parts.

    Raises:
        UserError: something is missing or does not fit.
    """
    with prefix_errors("--metadata"):
        metadata = load_metadata(_find_metadata(settings))
        if settings.wordvec_dim not in (None, metadata.split.wordvec_dim):
            raise UserError(
                f"--wordvec_dim {settings.wordvec_dim}: the word vectors in {metadata.folder} have length "
                f"{metadata.split.wordvec_dim}; leave the flag out"
            )
        return Data(metadata, load_training_set(metadata, settings.data), load_evaluation_set(metadata, settings.data))


def _find_metadata(settings: DataSettings) -> Path:
    """Find the metadata folder: ``--metadata``, else ``--data`` if it is one, else the released script's default.

    Raises:
        UserError: there is none.
    """
    if settings.metadata is not None:
        return Path(settings.metadata)
    if settings.data is not None and detect_kind(Path(settings.data)) is not None:
        return Path(settings.data)
    if detect_kind(OFFICIAL_METADATA) is None:
        given = "" if settings.data is None else f"--data {settings.data} is no metadata folder, and "
        raise UserError(
            f"--metadata is needed: {given}there is none at ./{OFFICIAL_METADATA}; make one with prepare_data.py and "
            "give --metadata DIR"
        )
    return OFFICIAL_METADATA
