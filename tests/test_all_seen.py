"""A folder without unseen labels: every script works, and nothing speaks of zero-shot results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import export
import infer
import validate
from src.checkpoint import __main__ as checkpoint
from src.data.metadata import load_metadata
from src.training.epoch_evaluation import _value
from tests.prepare_helpers import prepare_sample, prepare_source
from tests.script_helpers import Finished, call, log_of, succeeded, train_here


@pytest.fixture(scope="module")
def run(sample, tmp_path_factory) -> tuple[Path, Path, Finished]:
    """A run on two drawn data sets as one, all labels seen: metadata folder, run folder, and what training printed."""
    home = tmp_path_factory.mktemp("all_seen")
    prepare_sample(home / "other", num_train=6, num_val=4, seed=1)
    prepare_source("combine", sample, home / "other", "--unseen", "none", "--output", home / "both")
    flags = ("--num-epochs", 2, "--unknown", "ignore", "--early-stopping", 5, "--best-metric", "mAP_verified")
    return home / "both", home / "run", train_here(home / "both", home / "run", *flags)


def test_training_selects_by_the_labels_there_are(run):
    folder, out, trained = run
    split = load_metadata(folder).split
    assert (len(split.seen), split.unseen) == (18, ())
    assert "labels of training images are unknown: left out" in trained.stdout
    assert "zero-shot" not in trained.stdout
    verified = max(entry["metrics"]["generalized.mAP_skip"] for entry in log_of(out))  # val knows all labels
    assert f"best generalized.mAP_verified: {verified:.2f} in epoch" in trained.stdout
    assert sorted(path.name for path in out.glob("*.ckpt")) == ["model-best-generalized.ckpt", "model-last.ckpt"]
    assert not any(key.startswith("zero_shot") for entry in log_of(out) for key in entry["metrics"])
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "all labels" in report
    assert "unseen in training" not in report


def test_verified_mean_selects_where_labels_are_unknown():
    metrics = {"generalized.mAP_skip": 1.0, "generalized.mAP_verified": 2.0}
    assert _value(metrics, "generalized", "mAP_verified") == 2
    assert _value(metrics, "generalized", "mAP_skip") == 1
    assert _value(metrics, "zero_shot", "mAP_verified") is None


def test_validation_and_calibration_leave_out_what_is_about_unseen_labels(run, tmp_path):
    folder, out, _ = run
    model = ("--model-path", out / "model-last.ckpt", "--metadata", folder, "-j", 0)
    for bias in ("labels", "gap"):
        flags = ("--json", tmp_path / f"{bias}.json", "--fit-thresholds", tmp_path / f"{bias}.ckpt", "--fit-bias", bias)
        finished = succeeded(call(validate.main, *model, *flags))
        assert "generalised" in finished.stdout
        assert not any(word in finished.stdout for word in ("zero-shot", "stacked", "stacking"))
        found = json.loads((tmp_path / f"{bias}.json").read_text(encoding="utf-8"))
        assert not any(name.startswith("zero_shot") for name in found["metrics"])
    shown = succeeded(call(checkpoint.main, "inspect", tmp_path / "gap.ckpt")).stdout
    assert "unseen 0" in shown
    assert "seen_bias 0" in shown


def test_tags_are_not_marked_as_unseen_before_and_after_export(run, tmp_path):
    folder, out, _ = run
    model, exported = out / "model-last.ckpt", tmp_path / "model.onnx"
    succeeded(call(export.main, "--model_path", model, "--output", exported))
    picture = next((load_metadata(folder).image_root or folder).rglob("*.jpg"))
    for path in (model, exported):
        records = tmp_path / f"{path.suffix[1:]}.json"
        flags = ("--pic_path", picture, "--no_picture", "-j", 0, "--json", records)
        finished = succeeded(call(infer.main, "--model_path", path, *flags))
        assert "unseen" not in finished.stdout
        tags = json.loads(records.read_text(encoding="utf-8"))["results"][0]["tags"]
        assert len(tags) == 10
        assert not any(tag["unseen"] for tag in tags)
