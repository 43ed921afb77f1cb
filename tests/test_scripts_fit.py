"""validate.py --fit-thresholds: the stored calibration is the measured one, infer.py uses it, mistakes are named."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import infer
import src.validation
import train
import validate
from src.calibration.fit import FittedCalibration, fit_and_measure
from src.calibration.platt import Reliability, reliability
from src.calibration.thresholds import Calibration
from src.checkpoint import load_checkpoint
from src.data.images import read_image
from src.data.metadata import load_metadata
from src.data.parts import load_evaluation_set
from src.data.transforms import eval_transform
from src.inference.tagger import Tagger
from src.metrics import DEFAULT_PROTOCOL
from src.options import FitOptions
from src.utils.outputs import NAME as OUTPUTS
from src.visualize import save_reliability
from tests.script_helpers import (
    PLAIN,
    TINY,
    call,
    child,
    colour_wheel,
    copy_of,
    edit_json,
    edit_split,
    file_names,
    one_thread,
    stored,
    succeeded,
    user_error,
    without_curves,
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return colour_wheel(tmp_path_factory.mktemp("data") / "wheel")


@pytest.fixture(scope="module")
def trained(wheel, tmp_path_factory) -> Path:
    """A model of 12 seen and 4 unseen hues; 48 images to validate on."""
    folder = tmp_path_factory.mktemp("trained")
    flags = ("--data", wheel, *TINY, *PLAIN, "--seed", 3, "-b", 12, "--num-epochs", 6, "--lr", 3e-3)
    with without_curves():
        succeeded(call(train.main, *flags, "--path_output", folder))
    return folder / "model-last.ckpt"


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """The checkpoint with a calibration, what was printed, and the JSON report."""
    folder = tmp_path_factory.mktemp("fitted")
    flags = ("--model-path", trained, "--fit-thresholds", folder / "fitted.ckpt", "--json", folder / "report.json")
    finished = succeeded(call(validate.main, *flags, "-j", 0, "--seed", 4, "--fit-share", 0.6))
    return folder / "fitted.ckpt", finished, json.loads((folder / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def fitted(run) -> Path:
    return run[0]


@pytest.fixture(scope="module")
def gap(trained, tmp_path_factory) -> Path:
    """The same with a bias that no ground truth decides."""
    path = tmp_path_factory.mktemp("gap") / "fitted.ckpt"
    flags = ("--model-path", trained, "--fit-thresholds", path, "--fit-bias", "gap")
    succeeded(call(validate.main, *flags, "-j", 0, "--seed", 4, "--fit-share", 0.6))
    return path


def by_hand(checkpoint: Path, data: Path, options: FitOptions) -> FittedCalibration:
    """Compute the scores from the images, without validate.py."""
    model, info = load_checkpoint(checkpoint)
    evaluation = load_evaluation_set(load_metadata(data), None)
    transform = eval_transform(info.config.image_size)
    with one_thread(), torch.no_grad():
        embeddings = model(torch.stack([transform(read_image(path)) for path in evaluation.paths]))
    truth = evaluation.ground_truth(torch.arange(len(evaluation.paths)))
    return fit_and_measure(embeddings, info.split, truth, options, DEFAULT_PROTOCOL)


def calibration_of(path: Path) -> Calibration:
    calibration = load_checkpoint(path)[1].calibration
    assert calibration is not None
    return calibration


def close(one: Calibration, other: Calibration) -> bool:
    """Equal but for rounding, which may differ from run to run."""
    left, right = one.to_dict(), other.to_dict()
    thresholds = pytest.approx(right.pop("thresholds").tolist(), abs=1e-5, nan_ok=True)
    if left.pop("level_quantile") != right.pop("level_quantile") or left.pop("thresholds").tolist() != thresholds:
        return False
    return left == pytest.approx(right, rel=1e-4, abs=1e-5)


def same_tags(one: list[dict], other: list[dict]) -> bool:
    """The same labels in the same order, with the same numbers but for rounding."""
    return one == [pytest.approx(tag, abs=1e-5) for tag in other]


def tags_of(folder: Path, *flags: object) -> list[dict]:
    """Return the tags of each image from ``infer.py --json``."""
    path = folder / "tags.json"
    succeeded(call(infer.main, *flags, "--no_picture", "--quiet", "--json", path))
    return json.loads(path.read_text(encoding="utf-8"))["results"]


def images_of(data: Path) -> list[Path]:
    return [data / "images" / name for name in file_names(data, "val")]


# What is written


def test_report_and_checkpoint_are_those_of_a_fit_by_hand(wheel, trained, run):
    path, _, report = run
    expected = by_hand(trained, wheel, FitOptions(share=0.6, seed=4))
    metrics = dict(report["calibration"])
    assert metrics.pop("protocol") == {"images": "positive-only", "ECE": "all-images"}
    assert metrics == pytest.approx(expected.metrics, abs=1e-3)
    assert (metrics["num_fitted_on"], metrics["num_measured_on"]) == (29, 19)
    found = calibration_of(path)
    assert found.thresholds.tolist() == pytest.approx(expected.calibration.thresholds.tolist(), abs=1e-4, nan_ok=True)
    assert found.level_quantile == expected.calibration.level_quantile
    for name in ("shared_threshold", "seen_bias", "slope", "offset"):
        assert getattr(found, name) == pytest.approx(getattr(expected.calibration, name), rel=1e-3)


def test_the_rest_of_the_checkpoint_stays(trained, run):
    old, new = stored(trained), stored(run[0])
    assert old.pop("calibration") is None
    assert new.pop("calibration").keys() == calibration_of(run[0]).to_dict().keys()
    assert list(old) == list(new)
    weights = old.pop("state_dict"), new.pop("state_dict")
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0] | weights[1])
    vectors = old["split"].pop("word_vectors"), new["split"].pop("word_vectors")
    assert torch.equal(*vectors)
    assert old.pop("extra_vectors") is new.pop("extra_vectors") is None
    assert old == new


def test_the_other_metrics_are_those_without_fitting(trained, run, tmp_path):
    succeeded(call(validate.main, "--model-path", trained, "-j", 0, "--json", tmp_path / "r.json"))
    plain = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert "calibration" not in plain
    others = {key: value for key, value in run[2].items() if key != "calibration"}
    assert others.pop("metrics") == pytest.approx(plain.pop("metrics"))
    assert others == plain


def test_written_files_are_printed_and_no_other_exists(run):
    path, finished, report = run
    plot = path.with_name("fitted-reliability.png")
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        OUTPUTS,
        plot.name,
        path.name,
        f"{path.name}.sha256",
        "report.json",
    ]
    assert f"written to {path}; plot: {plot}" in finished.stdout
    assert "protocol: positive-only; micro-F1 in percent" in finished.stdout
    for name in ("seen.F1@5", "unseen.F1@fitted", "generalized.stacked_F1@3", "seen.ECE"):
        assert f"{report['calibration'][name]:.2f}" in finished.stdout
    assert "fitted on 29 images, measured on the other 19" in finished.stdout
    assert finished.stderr == ""
    with Image.open(plot) as saved:
        saved.load()
        assert saved.format == "PNG"


def test_seed_and_share_decide(trained, run, tmp_path):
    def fit(name: str, *flags: object) -> Calibration:
        target = tmp_path / name
        succeeded(call(validate.main, "--model-path", trained, "-j", 0, "--fit-thresholds", target, *flags))
        return calibration_of(target)

    first = calibration_of(run[0])
    assert close(fit("same.ckpt", "--seed", 4, "--fit-share", 0.6), first)
    assert not close(fit("seed.ckpt", "--seed", 5, "--fit-share", 0.6), first)
    assert fit("share.ckpt", "--seed", 4, "--fit_share", 0.5).num_images == 24


def test_the_calibration_table_follows_the_protocol_of_the_main_table(trained, run, tmp_path):
    flags = ("--fit-thresholds", tmp_path / "x.ckpt", "--json", tmp_path / "r.json", "--images", "all-images")
    finished = succeeded(call(validate.main, "--model-path", trained, "-j", 0, "--seed", 4, "--fit-share", 0.6, *flags))
    assert "protocol: all-images; micro-F1 in percent" in finished.stdout
    every, some = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["calibration"], run[2]["calibration"]
    assert every["protocol"]["images"] == "all-images"
    assert every["unseen.num_images"] == every["num_measured_on"] > some["unseen.num_images"]
    assert every["unseen.F1@3"] < some["unseen.F1@3"]
    assert every["unseen.ECE"] == pytest.approx(some["unseen.ECE"])
    assert close(calibration_of(tmp_path / "x.ckpt"), calibration_of(run[0]))  # what is fitted stays


def test_a_fitted_checkpoint_can_be_validated_and_fitted_again(fitted, tmp_path):
    target = tmp_path / "deeper" / "again.ckpt"
    finished = call(
        validate.main, "--model-path", fitted, "-j", 0, "--fit-thresholds", target, "--seed", 4, "--fit-share", 0.6
    )
    succeeded(finished)
    assert close(calibration_of(target), calibration_of(fitted))


def test_a_child_process_fits_beside_its_own_folder(trained, tmp_path):
    finished = succeeded(
        child("validate.py", "--model-path", trained, "-j", 0, "--fit-thresholds", "new.ckpt", cwd=tmp_path)
    )
    assert finished.stderr == ""
    names = [OUTPUTS, "new-reliability.png", "new.ckpt", "new.ckpt.sha256"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert "written to new.ckpt; plot: new-reliability.png" in finished.stdout
    assert calibration_of(tmp_path / "new.ckpt").num_images == 24


def test_broken_images_are_left_out(wheel, trained, tmp_path):
    data = copy_of(wheel, tmp_path / "data")
    names = file_names(data, "val")
    for name in names[:3]:
        (data / "images" / name).write_bytes(b"")
    flags = ("--model-path", trained, data, "-j", 0, "--json", tmp_path / "broken.json")
    assert call(validate.main, *flags, "--fit-thresholds", tmp_path / "x.ckpt").returncode == 1
    broken = json.loads((tmp_path / "broken.json").read_text(encoding="utf-8"))["calibration"]
    assert (broken["num_fitted_on"], broken["num_measured_on"]) == (22, 23)

    def without(content: dict) -> dict:
        images = [image for image in content["images"] if image["file_name"] not in names[:3]]
        kept = {image["id"] for image in images}
        left = [entry for entry in content["annotations"] if entry["image_id"] in kept]
        return {**content, "images": images, "annotations": left}

    edit_json(data / "val.json", without)
    flags = ("--model-path", trained, data, "-j", 0, "--json", tmp_path / "left_out.json")
    succeeded(call(validate.main, *flags, "--fit-thresholds", tmp_path / "y.ckpt"))
    left_out = json.loads((tmp_path / "left_out.json").read_text(encoding="utf-8"))["calibration"]
    assert left_out.pop("protocol") == broken.pop("protocol")
    assert left_out == pytest.approx(broken, abs=1e-4)


def test_ground_truth_of_unseen_labels_changes_no_threshold(wheel, trained, run, gap, tmp_path):
    """The zero-shot promise, end to end: with --fit-bias gap no unseen annotation is looked at."""
    data = copy_of(wheel, tmp_path / "data")
    unseen = load_metadata(data).split
    names = unseen.names(unseen.unseen)

    def without(content: dict) -> dict:
        hidden = {category["id"] for category in content["categories"] if category["name"] in names}
        assert len(hidden) == 4
        return {**content, "annotations": [a for a in content["annotations"] if a["category_id"] not in hidden]}

    edit_json(data / "val.json", without)
    flags = ("--model-path", trained, data, "-j", 0, "--seed", 4, "--fit-share", 0.6)
    flags = (*flags, "--fit-thresholds", tmp_path / "x.ckpt")
    assert "--fit-bias labels: the images to fit on have no unseen label" in user_error(call(validate.main, *flags))
    assert not (tmp_path / "x.ckpt").exists()
    succeeded(call(validate.main, *flags, "--fit-bias", "gap", "--json", tmp_path / "r.json"))
    by_gap, by_labels = calibration_of(gap), calibration_of(run[0])
    assert close(calibration_of(tmp_path / "x.ckpt"), by_gap)
    assert by_labels.seen_bias != pytest.approx(by_gap.seen_bias)
    assert close(replace(by_labels, seen_bias=by_gap.seen_bias), by_gap)
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["calibration"]
    assert not any(name.startswith("unseen") for name in report)


# infer.py with it


def test_infer_keeps_tags_above_the_fitted_thresholds(wheel, fitted, tmp_path):
    images = images_of(wheel)[:20]
    flags = ("--model_path", fitted, "--pic_path", *images, "--threshold", "fitted")
    results = tags_of(tmp_path, *flags)
    assert [result["image"] for result in results] == [str(path) for path in images]
    made, split = calibration_of(fitted), load_checkpoint(fitted)[1].split
    everything = tags_of(tmp_path, "--model_path", fitted, "--pic_path", *images, "--top_k", 16)
    limits = made.thresholds.nan_to_num(nan=made.shared_threshold).tolist()
    for kept, result in zip(results, everything, strict=True):
        ordered = sorted(tag["score"] for tag in result["tags"] if not tag["unseen"])
        level = 0.0 if made.level_quantile is None else ordered[math.floor(made.level_quantile * 11)]
        above = [
            tag["label"]
            for tag in result["tags"]
            if tag["score"] - level + made.seen_bias * tag["unseen"] > limits[split.labels.index(tag["label"])]
        ]
        assert [tag["label"] for tag in kept["tags"]] == above
    numbers = {len(result["tags"]) for result in results}
    assert len(numbers) > 1
    assert max(numbers) < 10
    first = tags_of(tmp_path, *flags, "--top_k", 1)
    assert all(same_tags(one["tags"], result["tags"][:1]) for one, result in zip(first, results, strict=True))


def test_infer_shows_probabilities(wheel, fitted, tmp_path):
    images = images_of(wheel)[:4]
    flags = ("--model_path", fitted, "--pic_path", *images, "--scores", "probability", "--no_picture")
    finished = succeeded(call(infer.main, *flags, "--top_k", 3, "--json", tmp_path / "tags.json"))
    results = json.loads((tmp_path / "tags.json").read_text(encoding="utf-8"))["results"]
    made = calibration_of(fitted)
    shown = [line.split()[-1] for line in finished.stdout.splitlines() if line.endswith("%")]
    assert shown == [f"{100 * tag['probability']:.1f}%" for result in results for tag in result["tags"]]
    for result in results:
        probabilities = [tag["probability"] for tag in result["tags"]]
        assert probabilities == sorted(probabilities, reverse=True)
    likely = tags_of(tmp_path, *flags[:-1], "--threshold", 0.3, "--overwrite")
    assert all(tag["probability"] > 0.3 for result in likely for tag in result["tags"])
    tagger = Tagger.load(fitted)
    assert tagger.calibration is not None
    assert tagger.calibration.slope == made.slope  # the same file


def test_infer_takes_the_bias_off_seen_labels(wheel, gap, tmp_path):
    flags = ("--model_path", gap, "--pic_path", *images_of(wheel)[:6], "--top_k", 16)
    bias = calibration_of(gap).seen_bias
    assert bias != 0
    by_name = tags_of(tmp_path, *flags, "--seen_bias", "fitted")
    by_number = tags_of(tmp_path, *flags, "--seen_bias", repr(bias))
    assert all(same_tags(one["tags"], other["tags"]) for one, other in zip(by_name, by_number, strict=True))
    for result in by_name:
        ranked = [tag["score"] - bias * (not tag["unseen"]) for tag in result["tags"]]
        assert ranked == sorted(ranked, reverse=True)


def test_infer_with_own_words_only(wheel, fitted, tmp_path):
    flags = ("--model_path", fitted, "--pic_path", *images_of(wheel), "--threshold", "fitted")
    among_all = tags_of(tmp_path, *flags)
    alone = tags_of(tmp_path, *flags, "--tags", "hue 2,hue 5,hue 9", "--only_tags")
    kept = [[t["label"] for t in result["tags"] if t["label"] in ("hue 2", "hue 5", "hue 9")] for result in among_all]
    assert [[tag["label"] for tag in result["tags"]] for result in alone] == kept
    assert any(kept)


@pytest.mark.parametrize("flags", ["--threshold fitted", "--scores probability", "--seen_bias fitted"])
def test_infer_names_the_flag_that_needs_a_calibration(wheel, trained, flags):
    message = user_error(
        call(infer.main, "--model_path", trained, "--pic_path", images_of(wheel)[0], *flags.split(), "--no_picture")
    )
    assert f"{flags}: the checkpoint has no calibration" in message
    assert "validate.py --fit-thresholds" in message


# Mistakes


MISTAKES = [
    ("--fit-share 0", ["--fit-share 0:", "to fit on and to measure on", "0.5"]),
    ("--fit-share 1", ["--fit-share 1:", "to fit on and to measure on", "0.5"]),
    ("--fit-share 1.5", ["--fit-share", "'1.5'", "from 0 to 1"]),
    ("--fit-share nan", ["--fit-share", "'nan'"]),
    ("--fit-bias both", ["--fit-bias", "'both'", "gap"]),
    ("--seed -1", ["--seed", "'-1'"]),
    ("--seed 99999999999999999999", ["--seed", "99999999999999999999"]),
    ("--fit-thresholds {trained}", ["--fit-thresholds {trained}", "is the checkpoint itself", "another name"]),
    ("--fit-thresholds {link}", ["--fit-thresholds {link}", "is the checkpoint itself"]),
    ("--fit-thresholds {tmp}", ["--fit-thresholds {tmp}", "is a folder"]),
    ("--fit-thresholds {trained}/x.ckpt", ["--fit-thresholds {trained}/x.ckpt", "cannot be written"]),
    ("--fit-thresholds {there}", ["--fit-thresholds", "no longer, an earlier output of this kind", "--overwrite"]),
    ("--model-path gone.ckpt --fit-thresholds {there} --overwrite", ["--model-path", "gone.ckpt", "No such file"]),
    ("--json {tmp}/x.ckpt", ["--json", "--fit-thresholds", "the same file"]),
]


@pytest.mark.parametrize(("flags", "named"), MISTAKES, ids=[flags for flags, _ in MISTAKES])
def test_a_mistake_is_named_before_images_are_read(trained, tmp_path, monkeypatch, flags, named):
    monkeypatch.setattr(src.validation, "embed_images", lambda *arguments: pytest.fail("the images were read"))
    link, there = tmp_path / "link.ckpt", tmp_path / "there.ckpt"
    os.symlink(trained, link)
    there.write_bytes(b"as it was")
    before = trained.read_bytes()
    values = {"trained": trained, "tmp": tmp_path, "link": link, "there": there}
    given = ["--model-path", trained, "--fit-thresholds", tmp_path / "x.ckpt", *flags.format(**values).split()]
    message = user_error(call(validate.main, *given))
    for words in named:
        assert words.format(**values) in message
    assert trained.read_bytes() == before
    assert there.read_bytes() == b"as it was"
    assert not (tmp_path / "x.ckpt").exists()


def reordered(data: Path) -> None:
    labels = json.loads((data / "split.json").read_text(encoding="utf-8"))["labels"]
    vectors = np.load(data / "word_vectors.npy")
    np.save(data / "word_vectors.npy", vectors[:, ::-1].copy())
    edit_split(data, labels=labels[::-1])


def another_seen(data: Path) -> None:
    content = json.loads((data / "split.json").read_text(encoding="utf-8"))
    edit_split(data, seen=content["seen"][1:])


@pytest.mark.parametrize("change", [reordered, another_seen])
def test_labels_that_are_not_the_checkpoints_are_refused(wheel, trained, tmp_path, monkeypatch, change):
    monkeypatch.setattr(src.validation, "embed_images", lambda *arguments: pytest.fail("the images were read"))
    data = copy_of(wheel, tmp_path / "data")
    change(data)
    message = user_error(
        call(validate.main, "--model-path", trained, data, "-j", 0, "--fit-thresholds", tmp_path / "x.ckpt")
    )
    assert f"--fit-thresholds: the labels of {data} are not those of the checkpoint" in message
    assert not (tmp_path / "x.ckpt").exists()


def test_nothing_to_fit_is_one_line_and_leaves_no_file(wheel, trained, tmp_path):
    data = copy_of(wheel, tmp_path / "data")
    shutil.copy(trained, tmp_path / "x.ckpt")
    before = (tmp_path / "x.ckpt").read_bytes()
    names = load_metadata(data).split
    seen = names.names(names.seen)

    def only_unseen(content: dict) -> dict:
        shown = {category["id"] for category in content["categories"] if category["name"] not in seen}
        return {**content, "annotations": [a for a in content["annotations"] if a["category_id"] in shown]}

    edit_json(data / "val.json", only_unseen)
    message = user_error(
        call(
            validate.main,
            "--model-path",
            trained,
            data,
            "-j",
            0,
            "--fit-thresholds",
            tmp_path / "x.ckpt",
            "--overwrite",
        )
    )
    assert "--fit-thresholds: none of the 24 images to fit on has a seen label" in message
    assert (tmp_path / "x.ckpt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "x.ckpt"]


# The plot


@pytest.fixture
def figures(monkeypatch) -> list[Figure]:
    saved = []
    real = Figure.savefig

    def savefig(self, *arguments, **options):
        saved.append(self)
        return real(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


def test_the_plot_shows_the_curve(tmp_path, figures):
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(500, generator=generator)
    curve = reliability(probabilities, (torch.rand(500, generator=generator) < probabilities).int())
    save_reliability(curve, tmp_path / "new" / "curve.png")
    shares, counts = figures[0].axes
    diagonal, line = shares.lines
    np.testing.assert_array_equal(diagonal.get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_allclose(line.get_xdata(), curve.predicted)
    np.testing.assert_allclose(line.get_ydata(), curve.observed)
    assert [bar.get_height() for bar in counts.patches] == curve.counts.tolist()
    assert f"{100 * curve.error:.2f} points" in shares.get_title()
    with Image.open(tmp_path / "new" / "curve.png") as saved:
        saved.load()
        assert saved.format == "PNG"


def test_a_curve_of_one_bin_is_drawn(tmp_path):
    one = torch.tensor([0.5], dtype=torch.float64)
    save_reliability(Reliability(one, one, torch.tensor([1]), 0.0), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 0
