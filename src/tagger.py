"""Tags for pictures from Python: ``Tagger.load(path).tag(pictures)``. The scripts are thin layers over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from src.checkpoint import CheckpointInfo, load_checkpoint
from src.data.images import to_rgb
from src.data.metadata import load_metadata
from src.data.split import ZeroShotSplit
from src.data.transforms import eval_transform
from src.errors import UserError, name_some
from src.models import SDLModel
from src.scoring import score_labels, top_k_labels

# The released infer.py's default --dataset_path: its checkpoints hold no word vectors.
OFFICIAL_DATASET_PATH = Path("data/NUS_WIDE")


class Tag(NamedTuple):
    """A label, its score (see :func:`src.scoring.score_labels`), and whether it was unseen in training.

    Training sees the seen labels only: one on neither side of the split (15 of COCO's 80) is unseen too.
    """

    label: str
    score: float
    unseen: bool

    @property
    def marked(self) -> str:
        """The label as the released code shows it: unseen ones between asterisks."""
        return f"*{self.label}*" if self.unseen else self.label


class Tagger:
    """A model with the labels it can give.

    Args:
        model: maps pictures in [0, 1] to embeddings.
        split: the labels to choose from.
        image_size, interpolation: how pictures are brought to the model's input.
        device: where to compute.
    """

    def __init__(
        self,
        model: SDLModel,
        split: ZeroShotSplit,
        *,
        image_size: int,
        interpolation: str = "bilinear",
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.split = split
        self.transform = eval_transform(image_size, interpolation)
        self._seen = frozenset(split.seen)
        self._word_vectors = split.word_vectors.to(self.device)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        dataset_path: str | Path | None = None,
        dataset_type: str | None = None,
        model_name: str | None = None,
        num_rows: int | None = None,
        wordvec_dim: int | None = None,
        image_size: int | None = None,
        device: str | torch.device = "cpu",
    ) -> Tagger:
        """Load a checkpoint of this project or of the released code.

        Args:
            path: the checkpoint.
            dataset_path: a metadata folder whose labels are used instead of the checkpoint's; the released code's
                checkpoints need one (``data/NUS_WIDE`` if it is not given).
            dataset_type: which kind of folder that must be (``SDL``, ``COCO``, ``NUS_WIDE``); None recognises it.
            model_name, num_rows, wordvec_dim: what the checkpoint must hold; None takes what it says.
            image_size: side of the model's input in pixels; None takes what the checkpoint says.
            device: where to compute.

        Raises:
            UserError: a file cannot be read or does not fit.
        """
        model, info = load_checkpoint(path, model_name=model_name, num_rows=num_rows, wordvec_dim=wordvec_dim)
        split = labels_for(info, dataset_path, dataset_type)
        return cls(
            model,
            split,
            image_size=image_size or info.config.image_size,
            interpolation=info.config.interpolation,
            device=device,
        )

    @torch.inference_mode()
    def embed(self, pictures: Tensor) -> Tensor:
        """Transformed pictures [B, 3, S, S] -> embeddings [B, D*M]."""
        return self.model(pictures.to(self.device)).float()

    def tag(self, pictures: Sequence[Image.Image], top_k: int = 10) -> list[list[Tag]]:
        """The ``top_k`` best labels of every picture, best first.

        Args:
            pictures: Pillow pictures of any mode; see :func:`src.data.images.read_picture` for files.
            top_k: 1 to the number of labels.

        Raises:
            UserError: ``top_k`` is out of range.
        """
        if not pictures:
            return []
        return self.tag_tensors(torch.stack([self.transform(to_rgb(picture)) for picture in pictures]), top_k)

    @torch.inference_mode()
    def tag_tensors(self, pictures: Tensor, top_k: int = 10) -> list[list[Tag]]:
        """As :meth:`tag`, for pictures that :attr:`transform` has made into [B, 3, S, S]."""
        if not 1 <= top_k <= len(self.split.labels):
            raise UserError(f"--top_k {top_k}: must be from 1 to the number of labels, {len(self.split.labels)}")
        scores, columns = top_k_labels(score_labels(self.embed(pictures), self._word_vectors), top_k)
        return [
            [
                Tag(self.split.labels[column], score, column not in self._seen)
                for score, column in zip(row_scores, row_columns, strict=True)
            ]
            for row_scores, row_columns in zip(scores.tolist(), columns.tolist(), strict=True)
        ]


def labels_for(info: CheckpointInfo, dataset_path: str | Path | None, dataset_type: str | None = None) -> ZeroShotSplit:
    """The labels that a checkpoint is used with: those of ``dataset_path`` if it is given, else the checkpoint's own.

    Raises:
        UserError: the checkpoint holds no word vectors and there is no folder, or the folder's vectors are of another
            space than the model's.
    """
    if info.split is not None and dataset_path is None:
        if dataset_type is not None:
            raise UserError(f"--dataset_type {dataset_type} says of which kind --dataset_path is; give both or neither")
        return info.split
    if dataset_path is None and not OFFICIAL_DATASET_PATH.is_dir():
        raise UserError(
            "--dataset_path is needed: the checkpoint holds no word vectors, and there is no folder "
            f"{OFFICIAL_DATASET_PATH}"
        )
    folder = OFFICIAL_DATASET_PATH if dataset_path is None else dataset_path
    split = load_metadata(folder, dataset_type).split
    check_same_space(info, split, folder)
    return split


def check_same_space(info: CheckpointInfo, split: ZeroShotSplit, source: str | Path) -> None:
    """Refuse word vectors that the model was not trained against: scores would be meaningless and look like scores.

    The length must be the model's; labels that the checkpoint knows too must have the same vectors there (each a cosine
    above 0.99; half-precision storage stays far above).

    Raises:
        UserError: they are of another space.
    """
    if split.wordvec_dim != info.config.wordvec_dim:
        raise UserError(
            f"{source}: word vectors of length {split.wordvec_dim}, but the model was trained with length "
            f"{info.config.wordvec_dim}"
        )
    if info.split is None:
        return
    column_of = {label: column for column, label in enumerate(info.split.labels)}
    shared = [(column, column_of[label]) for column, label in enumerate(split.labels) if label in column_of]
    if not shared:
        return
    ours, theirs = zip(*shared, strict=True)
    cosine = torch.cosine_similarity(split.word_vectors[:, list(ours)], info.split.word_vectors[:, list(theirs)], dim=0)
    others = [split.labels[column] for (column, _), match in zip(shared, cosine.tolist(), strict=True) if match < 0.99]
    if others:
        raise UserError(
            f"{source}: {len(others)} of {len(shared)} labels have other word vectors than the model was trained with "
            f"({name_some(others)}); use a folder made with the same word vectors"
        )
