"""Settings of each published data set that prepare_data.py reads; the docstrings are the descriptions of its help."""

# ruff: noqa: RUF009 -- flag() declares a dataclass field, as dataclasses.field() does
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from src.config.arguments import fraction, seed_number
from src.config.settings import flag

if TYPE_CHECKING:
    from pycocotools.coco import COCO


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """Settings of a data source.

    Attributes:
        summary: line for the list of sources.
        reader: module of ``src.prepare`` whose ``collect(settings)`` reads the source.
        vectors: where word vectors come from: ``flags`` name them; the source brings its ``own``; or ``either``, where
            the flags are optional.
    """

    summary: ClassVar[str]
    reader: ClassVar[str]
    vectors: ClassVar[Literal["flags", "own", "either"]] = "flags"


def optional_path(metavar: str, meaning: str, exclusive: str | None = None) -> Any:
    """Declare the flag of a file or folder that may be left out."""
    return flag(None, exclusive=exclusive, type=Path, metavar=metavar, help=meaning)


def missing_pictures_flag(*needs: str) -> str:
    """Declare ``--missing-pictures``; ``needs`` are flags that it has no effect without."""
    choice: str = flag(
        "error", needs=needs, choices=("error", "drop"), help="what to do with listed images that are not on disk"
    )
    return choice


@dataclass(frozen=True, kw_only=True)
class CocoSettings(SourceSettings):
    """MS-COCO, or your own data in COCO format: instances_*.json of training and validation images.

    --source takes COCO's own layout:

        annotations/instances_train2014.json, instances_val2014.json     or 2017
        train2014/, val2014/                                             images, in any sub-folders

    A label is positive where an image has an annotation of that category. Images are found by their name, however the
    tool that wrote it spells paths, or by COCO's id in it: annotations of 2014 go with images of 2017 and vice versa.
    Exports of other tools and LVIS are read too (docs/data.md).
    """

    summary = "MS-COCO 2014 or 2017, or your own data in COCO format"
    reader = "coco"

    train: Path | COCO | None = optional_path("FILE", "annotations of the training images, COCO format")
    val: Path | COCO | None = optional_path("FILE", "annotations of the validation images, COCO format")
    source: Path | None = optional_path("DIR", "folder in COCO's own layout, instead of --train and --val")
    year: str | None = flag(
        None, choices=("2014", "2017"), help="release in --source; needed where annotations/ has both"
    )
    images: Path | None = optional_path(
        "DIR", "image folder, searched with its sub-folders; the --source folder if left out and it holds images"
    )
    split: str = flag(
        "48_17", exclusive="split", choices=("48_17", "65_15"), help="seen and unseen labels among COCO's 80 classes"
    )
    unseen: Path | None = optional_path(
        "FILE", "labels to hold out of training, one per line, or none, instead of --split", exclusive="split"
    )
    seen: Path | None = optional_path("FILE", "seen labels, one per line; with --unseen, if not all others are seen")
    test_ids: Path | None = optional_path("FILE", "validate on these images only, one image id per line")
    crowd: str = flag(
        "keep",
        choices=("keep", "drop"),
        help="whether the annotation of a crowd makes a label; the released code keeps it",
    )
    missing_pictures: str = missing_pictures_flag()


@dataclass(frozen=True, kw_only=True)
class NusWideSettings(SourceSettings):
    r"""NUS-WIDE: 269,648 Flickr photographs; the zero-shot split of 925 seen tags and 81 unseen concepts.

    "NUS-WIDE: A Real-World Web Image Database from National University of Singapore" (CIVR 2009). --source holds the
    text files of its site, at any depth:

        TrainImagelist.txt, TestImagelist.txt    an image per line, its photo id last: ``actor\0001_2124494179.jpg``
        Train_Tags1k.dat, Test_Tags1k.dat        1,000 zeros and ones per line, a line for each image of that list
        TagList1k.txt                            the 1,000 tags, in the order of those columns
        Concepts81.txt                           the 81 concepts
        Labels_<concept>_{Train,Test}.txt        a zero or one per line: ground truth of a concept (TrainTestLabels/)

    75 of the concepts are tags too: their labels are the ground truth, as those of the other six, and not the tag. All
    1,006 labels are sorted by name, which is the column order of the released code's NUS-WIDE files.
    """

    summary = "NUS-WIDE: 269,648 photographs, 925 seen tags and 81 unseen concepts"
    reader = "nus_wide"

    source: Path = flag(
        type=Path,
        metavar="DIR",
        help="folder that holds the text files at any depth (ImageList, NUS_WID_Tags, ConceptsList, Groundtruth)",
    )
    images: Path | None = optional_path(
        "DIR",
        "folder that holds the images at any depth, found by the photo id in their names: <nnnn>_<id>.jpg, "
        "<id>.jpg or <concept>_<id>_<secret>_m.jpg; if left out, names are recorded as the lists have them",
    )
    unseen: Path | None = optional_path(
        "FILE", "labels to hold out of training, one per line, or none; default: the 81 concepts"
    )
    missing_pictures: str = missing_pictures_flag("--images")


@dataclass(frozen=True, kw_only=True)
class OpenImagesSettings(SourceSettings):
    """Open Images v4, image-level labels: 7,186 seen and 400 unseen classes.

    "The Open Images Dataset V4" (IJCV 2020), in the zero-shot split of LESA and BiAM. --source holds, at any depth:

        {train,validation,test}-annotations-human-imagelabels.csv      ImageID,Source,LabelName,Confidence: 1 or 0
        {train,validation,test}-annotations-machine-imagelabels.csv    with --machine-labels; Confidence from 0 to 1
        class-descriptions.csv                                         MID,name
        classes-trainable.txt                                          the seen classes, a MID per line
        unseen_labels.pkl, top_400_unseen.csv                          2,594 MIDs, and the indices of 400 of them

    Annotators verified some classes of each image as present or absent; all others are unknown. Columns are the seen
    classes in the order of their file, then the unseen classes in the order of theirs. A class is called by its name;
    names that several classes share get the MID appended, "Bat (/m/01h44)".
    """

    summary = "Open Images v4: 7,186 seen and 400 unseen classes"
    reader = "open_images"

    source: Path = flag(type=Path, metavar="DIR", help="folder that holds the files above, at any depth")
    val_part: str = flag("test", choices=("test", "validation"), help="images to validate on")
    images: Path | None = optional_path("DIR", "image folder: ImageID.jpg at any depth")
    machine_labels: float | None = flag(
        None,
        type=fraction,
        metavar="CONFIDENCE",
        help="for classes that nobody verified, take machine-generated labels of at least this confidence as present",
    )
    seen: Path | None = optional_path("FILE", "other seen classes, a MID or unique name per line")
    unseen: Path | None = optional_path("FILE", "other unseen classes, a MID or unique name per line, or none")
    missing_pictures: str = missing_pictures_flag("--images")


@dataclass(frozen=True, kw_only=True)
class VocSettings(SourceSettings):
    """Pascal VOC 2007 and 2012: photographs with 20 classes of objects.

    "The PASCAL Visual Object Classes (VOC) Challenge" (IJCV 2010). --source is VOC2007 or VOC2012, or any folder that
    holds them, such as VOCdevkit:

        VOC2007/ImageSets/Main/{train,val,trainval,test}.txt    an image id per line
        VOC2007/Annotations/000005.xml                          its objects: name, difficult
        VOC2007/JPEGImages/000005.jpg

    A year may also be spread over several folders, each with its own lists, annotations and images.

    Unless --train-set and --val-set say otherwise, 2007 is trained on trainval and validated on test; 2012, whose test
    set has no public annotations, is trained on train and validated on val. With --train-set trainval all of 2012 is
    for training, and validation is on test of 2007 alone.

    No division of the 20 classes into seen and unseen is a standard for tagging, so --unseen is needed.

    Annotations of your own in this form (LabelImg, CVAT, Roboflow, ...) are read too, with the classes that they name:
    in VOC's folders, with lists in ImageSets/Main, or as XML files beside their images at any depth, where the folders
    train, val (or valid) and test are the split, or --val-fraction makes one. <difficult> may be left out.
    """

    summary = "Pascal VOC 2007 and 2012: 20 classes of objects; or your own annotations in this form"
    reader = "voc"

    source: Path = flag(
        type=Path,
        metavar="DIR",
        help="VOCdevkit, VOC2007, VOC2012, or a folder that holds them or annotations of your own",
    )
    classes: str | None = flag(
        None,
        choices=("voc", "own"),
        help="the 20 classes of VOC, or those that the annotations name; default: own, unless the images are named as "
        "those of VOC and most classes are VOC's",
    )
    images: Path | None = optional_path(
        "DIR", "folder of the images, if annotations of your own lie elsewhere; default: --source"
    )
    year: list[int] | None = flag(
        None, type=int, nargs="+", choices=(2007, 2012), help="one year, or both as one data set; default: all present"
    )
    train_set: str | None = flag(
        None, choices=("trainval", "train"), help="list to train on; the default is described above"
    )
    val_set: str | None = flag(
        None, choices=("test", "val"), help="list to validate on; the default is described above"
    )
    val_fraction: float | None = flag(
        None,
        type=fraction,
        metavar="SHARE",
        help="share of your own images for validation, where neither lists nor folders say which; default: 0.2",
    )
    unseen: Path | None = optional_path(
        "FILE", "classes to hold out, one per line, or none; required for the 20 classes of VOC", exclusive="unseen"
    )
    unseen_fraction: float | None = flag(
        None,
        exclusive="unseen",
        type=fraction,
        metavar="SHARE",
        help="share of your own classes to hold out of training, 0 for none; default: 0.2",
    )
    seed: int | None = flag(
        None, type=seed_number, help="random seed of the chosen classes and images of your own; default: 0"
    )
    difficult: str = flag(
        "unknown",
        choices=("unknown", "positive", "negative"),
        help="label of a class whose objects in the image are all marked as difficult; VOC's own score ignores these",
    )
    missing_pictures: str = missing_pictures_flag()


@dataclass(frozen=True, kw_only=True)
class Corel5kSettings(SourceSettings):
    """Corel5k: 4,500 + 499 photographs with 1 to 5 tags each out of 374 words.

    "Object Recognition as Machine Translation" (ECCV 2002). The form in circulation:

        words                               a word per line; tag t is line t, from 1
        training_label, test_label          an image id and its tags per line: ``1000 1 2 3 4``
        images/<id // 1000 * 1000>/<id>.jpeg
    """

    summary = "Corel5k: 4,999 photographs, 374 tags"
    reader = "corel5k"

    source: Path = flag(type=Path, metavar="DIR", help="folder with words, training_label, test_label and images/")
    unseen: Path | None = optional_path(
        "FILE", "labels to hold out of training, one per line, or none; default: those among NUS-WIDE's 81 concepts"
    )
