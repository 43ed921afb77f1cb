"""Every flag of every script has an effect: a run with it differs from a run without it.

The tables name, for each flag, what changes. A flag without an entry, and an entry without a flag, fails. What a flag
does exactly is tested with the script that has it.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageOps

import export
import infer
import src.exported.graph
import src.inference.run
import train
import validate
from src.checkpoint import load_checkpoint, save_checkpoint
from src.config.export import export_parser
from src.config.infer import infer_parser
from src.config.train_flags import train_parser
from src.config.validate import validate_parser
from tests.conftest import ROOT
from tests.flag_helpers import Covered, Effect, observe
from tests.helpers import save_tiny, tiny_model, write_folder, write_images
from tests.prepare_helpers import prepare_sample
from tests.script_helpers import PLAIN, TINY, copy_of, edit_json, file_names, train_here
from tests.test_tag_rule import EXTRA, EXTRA_VECTORS, SPLIT, save_calibrated

BASE = {
    "train.py": ["--data", "{sample}", *TINY, *PLAIN, "--seed", "3", "--num-epochs", "1", "--path_output", "{out}"],
    "validate.py": ["--model-path", "{start}", "--metadata", "{sample}", "-j", "0", "--json", "{out}/v.json"],
    "infer.py": ["--model_path", "{tagger}", "--pic_path", "{photos}", "-j", "1"],
    "export.py": ["--model_path", "{tagger}", "--output", "{out}/m.onnx"],
}
MAINS = {"train.py": train.main, "validate.py": validate.main, "infer.py": infer.main, "export.py": export.main}
PARSERS = {
    "train.py": train_parser(None),
    "validate.py": validate_parser(None),
    "infer.py": infer_parser(None),
    "export.py": export_parser(None),
}

HELD_OUT = "--select-on held-out --best-metric mAP --val-share 0.5"
TRAIN = {
    "accumulate": Effect("--accumulate 2", "numbers"),
    "augmentation": Effect("--augmentation torchvision", "numbers"),
    "autocast-enabled": Effect("--autocast-enabled 0", "numbers", needs_gpu=True),
    "batch-size": Effect("-b 6", "numbers"),
    "best-metric": Effect("--best-metric mAP", "output"),
    "channels-last": Effect("--channels-last", "layout"),
    "class-words": Effect("--class-words 6", "status", base="--model-path {classifier}"),
    "clip-grad-norm": Effect("--clip-grad-norm 1e-3", "numbers"),
    "compile": Effect("--compile", "compiled"),
    "cutout": Effect("--cutout 0.5", "numbers"),
    "data": Effect("--data {inverted}/images", "numbers", base="--metadata {sample}"),
    "device": Effect("--device cuda", "status"),
    "dist-bn": Covered("tests/test_scripts_processes.py::test_distribute_bn_makes_buffers_equal"),
    "early-stopping": Effect("--early-stopping 1", "numbers", base="--num-epochs 3 --lr 1e-20 --freeze-bn"),
    "ema": Effect("--ema 0.9", "files"),
    "exact-pictures": Effect("--exact-pictures", "numbers"),
    "feature-cache": Effect("--feature-cache {out}/cache", "files", base="--freeze-backbone"),
    "freeze-backbone": Effect("--freeze-backbone", "numbers"),
    "freeze-bn": Effect("--freeze-bn", "numbers"),
    "grad-checkpointing": Effect("--grad-checkpointing", "numbers"),  # batch statistics move twice per step
    "half-weights": Effect("--half-weights", "numbers"),
    "held-out-labels": Effect("--held-out-labels 0.3", "numbers", base=HELD_OUT),
    "image-size": Effect("--image-size 48", "images"),
    "images": Effect("--images all-images", "numbers"),
    "inplace-abn": Effect("--inplace-abn", "status"),
    "keep": Effect("--keep 1", "files", base="--save-epochs 1 --num-epochs 2"),
    "lr": Effect("--lr 1e-2", "numbers"),
    "lr-backbone-scale": Effect("--lr-backbone-scale 0.1", "numbers"),
    "max-pixels": Effect("--max-pixels 9", "status"),
    "max_bad_images": Effect("--max_bad_images 1", "status", base="--data {damaged}"),
    "metadata": Effect("--metadata {other}", "numbers"),
    "model-name": Effect("--model-name test_resnet", "numbers"),
    "model-path": Effect("--model-path {start}", "numbers"),
    "normalization": Effect("--normalization paper", "numbers"),
    "num-classes": Effect("--num-classes 7", "status", base="--model-path {classifier}"),
    "num-epochs": Effect("--num-epochs 2", "numbers"),
    "num_rows": Effect("--num_rows 3", "numbers"),
    "optimizer": Effect("--optimizer adamw", "numbers"),
    "overwrite": Effect("--overwrite", "status", before=""),
    "path_output": Effect("--path_output {out}/deeper", "files"),
    "precision": Effect("--precision bf16", "numbers"),
    "pretrain-backbone": Effect("--pretrain-backbone 1", "numbers", base="--model-path {start}"),
    "recipe": Effect("--recipe corel5k", "numbers"),
    "resume": Effect("--resume", "status", before=""),
    "save-epochs": Effect("--save-epochs 1", "files"),
    "save-steps": Effect("--save-steps 1", "saves"),
    "schedule": Effect("--schedule cosine", "numbers"),
    "seed": Effect("--seed 4", "numbers"),
    "select-on": Effect("--select-on seen", "numbers"),
    "sync-bn": Effect("--sync-bn", "status"),
    "tensorboard": Effect("--tensorboard", "files"),
    "truncated": Effect("--truncated accept", "numbers", base="--data {cut}"),
    "unknown": Effect("--unknown ignore", "numbers", base="--metadata {unverified}"),
    "use-ema": Effect("--use-ema", "numbers", base="--model-path {averaged}"),
    "val-share": Effect("--val-share 0.4", "numbers", base="--select-on seen"),
    "var_weight": Effect("--var_weight 0.9", "numbers"),
    "warm-up": Effect("--warm-up 0.9", "numbers"),
    "weight-decay": Effect("--weight-decay 0.5", "numbers"),
    "wordvec_dim": Effect("--wordvec_dim 7", "status"),
    "workers": Effect("-j 1", "workers"),
}
VALIDATE = {
    "DATA": Effect("{inverted}/images", "content"),
    "autocast-enabled": Effect("--autocast-enabled 1", "content", base="--device cuda", needs_gpu=True),
    "batch-size": Effect("-b 3", "images"),
    "data": Effect("--data {inverted}/images", "content"),
    "device": Effect("--device cuda", "status"),
    "engine": Effect("--engine onnx", "status"),
    "exact-pictures": Effect("--exact-pictures", "images"),
    "fit-bias": Effect("--fit-bias gap", "content", base="--fit-thresholds {out}/f.ckpt"),
    "fit-share": Effect("--fit-share 0.3", "content", base="--fit-thresholds {out}/f.ckpt"),
    "fit-thresholds": Effect("--fit-thresholds {out}/f.ckpt", "files"),
    "image-size": Effect("--image-size 48", "images"),
    "images": Effect("--images all-images", "content"),
    "json": Effect("--json {out}/other.json", "files"),
    "max-pixels": Effect("--max-pixels 9", "status"),
    "metadata": Effect("--metadata {other}", "content"),
    "model-name": Effect("--model-name tresnet_m", "status"),
    "model-path": Effect("--model-path {better}", "content"),
    "num_rows": Effect("--num_rows 5", "status"),
    "overwrite": Effect("--overwrite", "status", leftover="v.json"),
    "print-freq": Effect("--print-freq 2", "bars"),
    "seed": Effect("--seed 2", "content", base="--fit-thresholds {out}/f.ckpt"),
    "thre": Effect("--thre 0.1", "content"),
    "top_k": Effect("--top_k 1", "content"),
    "truncated": Effect("--truncated accept", "status", base="--data {cut}/images"),
    "wordvec_dim": Effect("--wordvec_dim 7", "status"),
    "workers": Effect("-j 1", "workers"),
}
QUIET = "--no_picture --json {out}/tags.json"
INFER = {
    "annotate": Effect("--annotate", "files", base="--path_output {out}"),
    "batch_size": Effect("--batch_size 2", "images", base=QUIET),
    "csv": Effect("--csv {out}/tags.csv", "files", base=QUIET),
    "dataset_path": Effect("--dataset_path {labels}", "content", base=QUIET),
    "dataset_type": Effect("--dataset_type COCO", "status", base=f"{QUIET} --dataset_path {{labels}}"),
    "device": Effect("--device cuda", "status", base=QUIET),
    "engine": Effect("--engine onnx", "status", base=QUIET),
    "exact-pictures": Effect("--exact-pictures", "images", base=QUIET),
    "exclude": Effect("--exclude 0.*", "content", base=QUIET),
    "explain": Effect("--explain 1", "files", base="--no_picture --pic_path {photos}/0.jpg"),
    "html": Effect("--html {out}/page.html", "files", base=QUIET),
    "input_size": Effect("--input_size 48", "images", base=QUIET),
    "json": Effect("--json {out}/tags.json", "files", base="--no_picture"),
    "max-pixels": Effect("--max_pixels 9", "status", base=QUIET),
    "model_name": Effect("--model_name tresnet_m", "status", base=QUIET),
    "model_path": Effect("--model_path {other_tagger}", "output", base=QUIET),
    "no_default_exclude": Effect("--no_default_exclude", "content", base=f"{QUIET} --pic_path {{served}}"),
    "no_picture": Effect("--no_picture", "files", base="--pic_path {photos}/0.jpg"),
    "num_rows": Effect("--num_rows 5", "status", base=QUIET),
    "num_threads": Effect("--num_threads 3", "threads", base=QUIET),
    "only_tags": Effect("--only_tags", "content", base=f"{QUIET} --tags sea"),
    "overwrite": Effect("--overwrite", "status", base=QUIET, leftover="tags.json.record.jsonl"),
    "parquet": Effect("--parquet {out}/tags.parquet", "files", base=QUIET),
    "path_output": Effect("--path_output {out}/drawn", "files", base="--pic_path {photos}/0.jpg"),
    "pic_path": Effect("--pic_path {crowd}", "content", base=QUIET),
    "pretrain-backbone": Effect("--pretrain-backbone 1", "status", base=QUIET),
    "quiet": Effect("--quiet", "output", base=QUIET),
    "resume": Effect("--resume", "images", base=QUIET, before=""),
    "scores": Effect("--scores probability", "content", base=QUIET),
    "seen_bias": Effect("--seen_bias 5", "content", base=QUIET),
    "tags": Effect("--tags sea", "content", base=QUIET),
    "tags_file": Effect("--tags_file {words}", "content", base=QUIET),
    "threshold": Effect("--threshold 0.2", "content", base=QUIET),
    "top_k": Effect("--top_k 1", "content", base=QUIET),
    "truncated": Effect("--truncated accept", "status", base=f"{QUIET} --pic_path {{served}} {{cut}}/0.jpg"),
    "word_vectors": Effect("--word_vectors {vectors}", "status", base=f"{QUIET} --tags lake"),
    "wordvec_dim": Effect("--wordvec_dim 9", "status", base=QUIET),
    "workers": Covered(
        "tests/test_export_engines.py::test_many_images_are_embedded_by_each_thread_with_its_share_of_the_processor"
    ),
    "write_keywords": Effect("--write_keywords {out}/copies", "files", base=QUIET),
    "write_xmp": Covered("tests/test_sidecars.py::test_infer_writes_sidecars_and_leaves_the_images"),
}
INT8 = "--int8 --calibration {crowd} --calibration_size 4 -j 0"
EXPORT = {
    "calibration": Effect("--calibration {photos}", "content", base=INT8),
    "calibration_size": Effect("--calibration_size 2", "content", base=INT8),
    "dataset_path": Effect("--dataset_path {labels}", "status"),
    "dataset_type": Effect("--dataset_type COCO", "status"),
    "image_size": Effect("--image_size 48", "graphs"),
    "int8": Effect("--int8", "status", base="--calibration {crowd}"),
    "model_path": Effect("--model_path {other_tagger}", "graphs"),
    "num_threads": Effect("--num_threads 3", "threads"),
    "output": Effect("--output {out}/other.onnx", "files"),
    "overwrite": Effect("--overwrite", "status", leftover="m.onnx"),
    "scores": Effect("--scores", "graphs"),
    "seed": Effect("--seed 1", "content", base=INT8),
    "workers": Effect("-j 1", "workers", base=INT8),
}
TABLES = {"train.py": TRAIN, "validate.py": VALIDATE, "infer.py": INFER, "export.py": EXPORT}
CASES = [(script, flag) for script, table in TABLES.items() for flag in table]


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """Long flags without dashes, and the names of positional arguments."""
    return {
        next((option[2:] for option in action.option_strings if option.startswith("--")), str(action.metavar))
        for action in parser._actions
    } - {"help"}


@pytest.mark.parametrize("script", TABLES)
def test_every_flag_has_an_entry(script):
    assert set(TABLES[script]) == flags_of(PARSERS[script])


@pytest.mark.parametrize(("script", "flag"), CASES)
def test_entry_names_its_flag_or_an_existing_test(script, flag):
    entry = TABLES[script][flag]
    if isinstance(entry, Covered):
        file, _, name = entry.test.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        return
    action = PARSERS[script].long_flags().get(flag)
    first = entry.flags.split()[0]
    assert first.replace("_", "-") in ([o.replace("_", "-") for o in action.option_strings] if action else [first])


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """The files that the flags in the tables name."""
    home = tmp_path_factory.mktemp("places")
    places = {name: home / name for name in ("sample", "other", "photos", "crowd", "labels")}
    prepare_sample(places["sample"], num_train=24, num_val=16)
    prepare_sample(places["other"], num_train=24, num_val=16, seed=1)
    places["inverted"] = copy_of(places["sample"], home / "inverted")
    for path in (places["inverted"] / "images").rglob("*.jpg"):
        ImageOps.invert(Image.open(path)).save(path)
    places["damaged"] = copy_of(places["sample"], home / "damaged")
    for name in file_names(places["damaged"], "train")[:3]:
        (places["damaged"] / "images" / name).write_bytes(b"no image")
    places["cut"] = copy_of(places["sample"], home / "cut")
    for name in [*file_names(places["cut"], "train")[:3], *file_names(places["cut"], "val")[:3]]:
        path = places["cut"] / "images" / name
        path.write_bytes(path.read_bytes()[:-200])
    places["unverified"] = copy_of(places["sample"], home / "unverified")
    edit_json(
        places["unverified"] / "train.json",
        lambda content: {**content, "images": [{**image, "neg_category_ids": []} for image in content["images"]]},
    )
    for seed, name in enumerate(("start", "better"), 1):
        train_here(places["sample"], home / name, "--num-epochs", 4, "--lr", 3e-3, seed=seed)
        places[name] = home / name / "model-last.ckpt"
    places["classifier"] = home / "classifier.pth"
    torch.save(timm.create_model("test_efficientnet", num_classes=10).state_dict(), places["classifier"])
    state = timm.create_model("test_efficientnet").state_dict()
    averaged = {key: tensor / 2 if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    places["averaged"] = home / "averaged.pth"
    torch.save({"state_dict": state, "state_dict_ema": averaged}, places["averaged"])
    draw_photos(places["photos"], 3)
    write_images(places["crowd"], 51)
    places["served"] = home / "served"
    for folder in (places["served"], places["served"] / "@eaDir"):
        draw_photos(folder, 1)
    (places["cut"] / "0.jpg").write_bytes((places["photos"] / "0.jpg").read_bytes()[:5000])
    places["tagger"] = save_calibrated(home / "tagger.ckpt")
    for name in ("start", "tagger"):
        places[f"{name}_bicubic"] = home / f"{name}_bicubic.ckpt"
        model, info = load_checkpoint(places[name])
        info.config.interpolation = "bicubic"
        save_checkpoint(places[f"{name}_bicubic"], model, info)
    places["other_tagger"] = home / "other_tagger.ckpt"
    save_tiny(places["other_tagger"], tiny_model(seed=1))
    write_folder(places["labels"], SPLIT.select(range(5)))
    places["words"] = home / "words.txt"
    places["words"].write_text("sea\n")
    places["vectors"] = home / "vectors.txt"
    rows = [*zip(EXTRA, EXTRA_VECTORS.T.tolist(), strict=True), ("lake", [1.0, 0.0, 0.0, 0.0])]
    places["vectors"].write_text("".join(f"{word} {' '.join(map(repr, vector))}\n" for word, vector in rows))
    return places


def draw_photos(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        Image.fromarray(random.integers(0, 256, (130, 170, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")


@pytest.fixture(scope="module")
def run(places, tmp_path_factory):
    """Observe a run of a script with these flags; equal runs are made once."""
    seen: dict[tuple[str | None, ...], dict[str, Any]] = {}
    graphs: list[Any] = []  # export.py takes seconds to trace one
    asked: list[tuple[Any, ...]] = []
    trace = src.exported.graph.trace

    def trace_once(module: Any, outputs: Any, image_size: int) -> Any:
        asked.append((tuple(outputs), image_size, float(sum(tensor.sum() for tensor in module.state_dict().values()))))
        if not graphs:
            graphs.append(trace(module, outputs, image_size))
        return graphs[0]

    def observed(script: str, flags: str, before: str | None = None, leftover: str | None = None) -> dict[str, Any]:
        key = (script, flags, before, leftover)
        if key not in seen:
            out = tmp_path_factory.mktemp("out")
            if leftover is not None:
                (out / leftover).write_text("damaged\nand more\n")
            values = {**places, "out": out}
            earlier = [] if before is None else [before]
            for more in (*earlier, flags):
                words = [str(word).format(**values) for word in (*BASE[script], *more.split())]
                asked.clear()
                patch.chdir(out)
                seen[key] = {**observe(MAINS[script], words, out), "graphs": list(asked)}
        return seen[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(src.inference.run, "MANY_IMAGES", 2)  # more are drawn on request only
        patch.setattr(src.exported.graph, "trace", trace_once)
        patch.setattr(src.exported.graph, "check_parity", lambda *arguments: 0.0)
        yield observed


@pytest.mark.parametrize(("script", "flag"), [case for case in CASES if isinstance(TABLES[case[0]][case[1]], Effect)])
def test_flag_has_an_effect(script, flag, run):
    effect = TABLES[script][flag]
    if effect.needs_gpu and not torch.cuda.is_available():
        pytest.skip("has no effect on a CPU")
    before = None if effect.before is None else f"{effect.base} {effect.before}"
    without = run(script, effect.base, before, effect.leftover)
    with_flag = run(script, f"{effect.base} {effect.flags}", before, effect.leftover)
    if effect.changes != "status":
        assert with_flag["status"] == without["status"] == (0, [])
    assert with_flag[effect.changes] != without[effect.changes]


@pytest.mark.parametrize(
    ("script", "flags", "bicubic"),
    [
        ("validate.py", "", "--model-path {start_bicubic}"),
        ("infer.py", QUIET, "--model_path {tagger_bicubic}"),
    ],
)
def test_interpolation_of_the_checkpoint_is_used(script, flags, bicubic, run):
    """Save two checkpoints that differ in the interpolation only."""
    without, with_bicubic = run(script, flags), run(script, f"{flags} {bicubic}")
    assert without["status"] == with_bicubic["status"] == (0, [])
    assert with_bicubic["images"] != without["images"]


@pytest.mark.parametrize("script", TABLES)
def test_equal_runs_are_observed_alike(script, run):
    flags = QUIET if script == "infer.py" else ""
    run(script, flags)  # traces the graph of export.py
    assert run(script, f"{flags} ") == run(script, f"{flags}  ")
