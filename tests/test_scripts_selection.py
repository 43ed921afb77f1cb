"""train.py --select-on: held-out images and labels, the best epoch, and early stopping."""

import json

import pytest
import torch

import validate
from src.checkpoint import load_checkpoint
from src.config.train import SelectionSettings, complete, train_settings
from src.config.train_flags import train_parser
from src.data.images import read_image
from src.data.metadata import load_metadata
from src.data.parts import load_training_set
from src.data.transforms import eval_transform
from src.training.model_selection import split_training_set
from src.training.run_summary import describe_choice
from tests.script_helpers import (
    attempt,
    call,
    copy_of,
    edit_json,
    log_of,
    same_weights,
    stored,
    succeeded,
    train_frozen,
    train_here,
    user_error,
    weights_of,
)

EPOCHS = 4
HELD = {
    name: (
        "--select-on",
        name,
        *labels,
        "--val-share",
        0.25,
        "--num-epochs",
        EPOCHS,
        "--lr",
        0.01,
    )  # 6 images, 5 labels
    for name, labels in {"seen": (), "held-out": ("--held-out-labels", 0.4)}.items()
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Features of one backbone for all runs here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", params=["seen", "held-out"])
def chosen(request, sample, cache, tmp_path_factory):
    """A run that selects on held-out images."""
    folder = tmp_path_factory.mktemp("chosen") / "out"
    finished = train_frozen(sample, folder, cache, 3, *HELD[request.param])
    return {"name": request.param, "folder": folder, "finished": finished, "entries": log_of(folder)}


@pytest.fixture(scope="module")
def division_of(sample):
    training = load_training_set(load_metadata(sample), None)
    return lambda name: split_training_set(training, SelectionSettings("positive-only", name, 0.25, 0.4, "F1@3"), 3)


def test_held_out_images_are_not_trained_on(chosen, division_of):
    division = division_of(chosen["name"])
    assert len(division.val_rows) == 6
    for entry in chosen["entries"]:
        assert entry["train"]["num_images"] == len(division.train_rows) <= 18
    out = chosen["finished"].stdout
    pseudo_unseen = " and 5 labels are pseudo-unseen" if chosen["name"] == "held-out" else ""
    assert f"to select an epoch 6 training images are held out{pseudo_unseen}\n" in out
    assert "(selected on the held-out training images)" in out


def test_best_epoch_has_the_largest_value(chosen):
    name, entries = chosen["name"], chosen["entries"]
    values = [entry["selection"]["value"] for entry in entries]
    assert {(entry["selection"]["name"], entry["selection"]["metric"]) for entry in entries} == {(name, "F1@3")}
    assert len(set(values)) > 1
    best = load_checkpoint(chosen["folder"] / f"model-best-{name}.ckpt")[1]
    assert best.settings["epoch"] == 1 + values.index(max(values))
    assert best.metrics == entries[best.settings["epoch"] - 1]["metrics"]
    assert f"best {name}.F1@3: {max(values):.2f} in epoch {best.settings['epoch']}" in chosen["finished"].stdout
    assert {path.name for path in chosen["folder"].glob("*.ckpt")} == {"model-last.ckpt", f"model-best-{name}.ckpt"}


def test_pseudo_unseen_labels_are_on_neither_side_of_the_checkpoint(chosen, division_of, sample):
    split = load_metadata(sample).split
    division = division_of(chosen["name"])
    stored_split = load_checkpoint(chosen["folder"] / "model-last.ckpt")[1].split
    assert stored_split.seen == tuple(split.seen[column] for column in division.val.split.seen)
    assert stored_split.unseen == split.unseen
    assert len(split.seen) - len(stored_split.seen) == (5 if chosen["name"] == "held-out" else 0)
    # The log counts the labels of training as seen, like validate.py
    settings = ("--model-path", chosen["folder"] / "model-last.ckpt", "-j", 0)
    report = chosen["folder"].parent / "report.json"
    succeeded(call(validate.main, *settings, "--json", report))
    metrics = json.loads(report.read_text(encoding="utf-8"))["metrics"]
    zero_shot = {key: value for key, value in metrics.items() if key.startswith("zero_shot")}
    assert zero_shot.items() <= chosen["entries"][-1]["metrics"].items()


@pytest.mark.parametrize("chosen", ["held-out"], indirect=True)
def test_value_is_the_metric_of_the_pseudo_unseen_labels(chosen, division_of, sample):
    """Compare with a plain loop over the weights of the last epoch."""
    division, metadata = division_of("held-out"), load_metadata(sample)
    training = load_training_set(metadata, None)
    model, info = load_checkpoint(chosen["folder"] / "model-last.ckpt")
    words = metadata.split.word_vectors[:, [metadata.split.seen[column] for column in division.val.split.unseen]]
    transform = eval_transform(info.config.image_size, info.config.interpolation)
    found = there = shown = 0
    for row in division.val_rows.tolist():
        targets = training.targets.dense(torch.tensor([row]))[0, list(division.val.split.unseen)]
        if not (targets == 1).any():
            continue  # positive-only
        with torch.inference_mode():
            matrix = model(transform(read_image(training.paths[row]))[None]).reshape(info.config.wordvec_dim, -1)
        scores = (words.T @ matrix).max(dim=1).values  # s_c = max_m <A[:, m], w_c>
        found += int((targets[scores.topk(3).indices] == 1).sum())
        there += int((targets == 1).sum())
        shown += 3
    assert chosen["entries"][-1]["selection"]["value"] == pytest.approx(100 * 2 * found / (there + shown))


def test_evaluation_images_do_not_affect_the_selection(chosen, cache, sample, tmp_path):
    """Shift the labels of the evaluation images: other metrics, the same selection and weights."""
    data = copy_of(sample, tmp_path / "data")

    def shifted(content):
        numbers = [image["id"] for image in content["images"]]
        follower = dict(zip(numbers, [*numbers[1:], numbers[0]], strict=True))
        marks = [{**mark, "image_id": follower[mark["image_id"]]} for mark in content["annotations"]]
        return {**content, "annotations": marks}

    edit_json(data / "val.json", shifted)
    name = chosen["name"]
    train_frozen(data, tmp_path / "out", cache, 3, *HELD[name])
    entries = log_of(tmp_path / "out")
    assert [entry["metrics"] for entry in entries] != [entry["metrics"] for entry in chosen["entries"]]
    assert [entry["selection"] for entry in entries] == [entry["selection"] for entry in chosen["entries"]]
    best = f"model-best-{name}.ckpt"
    assert stored(tmp_path / "out" / best)["settings"]["epoch"] == stored(chosen["folder"] / best)["settings"]["epoch"]
    assert same_weights(weights_of(tmp_path / "out" / best), weights_of(chosen["folder"] / best))


def test_select_on_test_holds_nothing_out(sample, cache, tmp_path):
    train_frozen(sample, tmp_path / "out", cache, 3, "--num-epochs", 1, "--select-on", "test")
    (entry,) = log_of(tmp_path / "out")
    assert "selection" not in entry
    assert entry["train"]["num_images"] == 24  # nothing is held back


def test_images_are_held_out_without_a_frozen_backbone_too(sample, tmp_path, division_of):
    train_here(sample, tmp_path / "out", *HELD["held-out"], "--num-epochs", 1)
    (entry,) = log_of(tmp_path / "out")
    assert entry["train"]["num_images"] == len(division_of("held-out").train_rows)
    assert 0 <= entry["selection"]["value"] <= 100


@pytest.mark.parametrize("select_on", ["test", "seen"])
def test_early_stopping(sample, cache, tmp_path, select_on):
    """Train at a learning rate near zero, where every epoch equals the first."""
    flags = ("--select-on", select_on, "--lr", 1e-20, "--num-epochs", 9, "--early-stopping", 2)
    finished = train_frozen(sample, tmp_path / "out", cache, 3, *flags)
    choice = "zero_shot" if select_on == "test" else select_on
    assert f"no better {choice} for 2 epochs: stopping early" in finished.stdout
    assert [entry["epoch"] for entry in log_of(tmp_path / "out")] == [1, 2, 3]
    again = train_frozen(sample, tmp_path / "out", cache, 3, *flags, "--resume")  # it is finished
    assert "best " in again.stdout
    assert len(log_of(tmp_path / "out")) == 3


def test_moving_average_is_evaluated_and_saved_and_may_be_the_best(sample, cache, tmp_path):
    """Train at a large learning rate, where the average is better than the weights."""
    flags = ("--ema", 0.9, "--select-on", "seen", "--val-share", 0.25, "--num-epochs", 6, "--lr", 1)
    train_frozen(sample, tmp_path / "out", cache, 3, *flags)
    entries = log_of(tmp_path / "out")
    last, average = (stored(tmp_path / "out" / f"model-last{suffix}.ckpt") for suffix in ("", "-ema"))
    assert last["metrics"] == entries[-1]["metrics"]
    assert average["metrics"] == entries[-1]["ema_metrics"] != last["metrics"]
    assert not same_weights(last["state_dict"], average["state_dict"])
    best = stored(tmp_path / "out" / "model-best-seen.ckpt")
    values = {
        (entry["epoch"], kind): entry[key]["value"]
        for entry in entries
        for kind, key in (("metrics", "selection"), ("ema_metrics", "ema_selection"))
    }
    epoch, kind = max(values, key=lambda one: values[one])
    assert kind == "ema_metrics"
    assert best["settings"]["epoch"] == epoch
    assert best["metrics"] == entries[epoch - 1]["ema_metrics"]


def test_too_few_labels_to_select_on_are_a_user_error(sample, tmp_path):
    flags = ("--select-on", "held-out", "--held-out-labels", 0.25, "--val-share", 0.25, "--best-metric", "F1@5")
    message = user_error(attempt(sample, tmp_path / "out", "--num-epochs", 1, *flags))
    for words in ("--best-metric F1@5", "too few labels to select on", "--held-out-labels"):
        assert words in message


def test_report_states_whether_early_stopping_selected_the_last_epoch():
    args = train_parser(None).parse_args(["--num-epochs", "9", "--select-on", "seen", "--best-metric", "mAP"])
    settings = train_settings(complete(args))
    assert describe_choice(settings, 9) == "The last epoch, 9 of 9: nothing was selected."
    stopped = describe_choice(settings, 4)
    assert stopped == "The last epoch, 4 of at most 9: --early-stopping ended the run by mAP, --select-on seen."
