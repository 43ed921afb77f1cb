"""Folders of data sets and of the released code's metadata, of which one file at a time is damaged."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from src.config.data_sets import Corel5kSettings, VocSettings
from src.data.official import read_coco_split, read_nus_wide_split
from src.prepare import corel5k, voc
from src.prepare.files import read_label_names
from src.prepare.open_images import _read_names_of_mids
from tests.fuzz.harness import Target

_WORDS = b"sea\nboat\ncat\n"
_COREL = {
    "words": _WORDS,
    "training_label": b"1000 1 2  \n1001 3 \n",
    "test_label": b"1002 2 3\n\n",
    **{f"images/1000/{number}.jpeg": b"" for number in (1000, 1001, 1002)},
}
_OBJECT = b"<annotation><object><name>%b</name></object></annotation>"
_VOC = {
    **{f"Annotations/{name}.xml": _OBJECT % name.encode() for name in ("cat", "dog", "cow")},
    **{f"JPEGImages/{name}.jpg": b"" for name in ("cat", "dog", "cow")},
    "ImageSets/Main/train.txt": b"cat\ndog\n",
    "ImageSets/Main/val.txt": b"cow 1\n",
}
_VECTORS = np.linspace(-1, 1, 240, dtype=np.float32).reshape(3, 80)
_COCO = {"cls_ids.pickle": {"train": {0, 1}, "test": {2}}, "wordvec_array.pickle": {"wordvec_array": _VECTORS[None]}}
_NUS_WIDE = {
    "classes.pickle": {0: "sea", 1: "boat", 2: "cat"},
    "unseen_classes.pickle": ["cat"],
    "wordvec_array.pickle": _VECTORS[:, :3],
}
_DESCRIPTIONS = b'LabelName,DisplayName\n/m/0cmf2,"Aeroplane, large"\n/m/01x,Sea\n'


@cache
def _folder(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"sdl-fuzz-{name}-"))


def _damaged(content: Mapping[str, bytes], name: str, read: Callable[[Path], object]) -> Callable[[Path], object]:
    """Return a reader of a folder with ``content``, in which a file stands for ``name``."""

    def read_with(path: Path) -> object:
        folder = _folder(read.__module__.rpartition(".")[2])
        for file, whole in content.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(whole)
        shutil.copyfile(path, folder / name)
        return read(folder)

    return read_with


def _corel(folder: Path) -> object:
    return corel5k.collect(Corel5kSettings(source=folder))


def _voc(folder: Path) -> object:
    return voc.collect(VocSettings(source=folder, classes="own"))


def _of_official(content: Mapping[str, object], kind: str, read: Callable[[Path], object]) -> tuple[Target, ...]:
    files = {name: pickle.dumps(tree, 2) for name, tree in content.items()}
    return tuple(
        Target(
            f"official-{kind}-{name.partition('_')[0].partition('.')[0]}",
            "a.pickle",
            (tree,),
            _damaged(files, name, read),
            lambda tree: pickle.dumps(tree, 2),
        )
        for name, tree in content.items()
    )


def targets() -> tuple[Target, ...]:
    """Return the readers of the lists of data sets, and of the released code's folders."""
    lists = "ImageSets/Main/train.txt"
    return (
        Target("corel5k-words", "words", (_WORDS,), _damaged(_COREL, "words", _corel)),
        Target("corel5k-labels", "a", (_COREL["training_label"],), _damaged(_COREL, "training_label", _corel)),
        Target("voc-list", "a.txt", (_VOC[lists],), _damaged(_VOC, lists, _voc)),
        Target("open-images-names", "a.csv", (_DESCRIPTIONS,), _read_names_of_mids),
        Target(
            "label-names", "a.txt", (b"sea\ncat\n",), lambda path: read_label_names(path, "--unseen", ["sea", "cat"])
        ),
        *_of_official(_COCO, "coco", read_coco_split),
        *_of_official(_NUS_WIDE, "nus-wide", read_nus_wide_split),
    )
