"""The released command lines on the released file formats: an ImageNet TResNet, a COCO metadata folder, COCO images.

The images are real ones, which are not part of the project (see ``shared_data``).
"""

import json
import pickle
import shutil

import pytest
import torch

import infer
import validate
from src.checkpoint import load_checkpoint
from src.data.coco import COCO_CLASSES
from src.models.converters import INPLACE_ABN_EPS
from tests.conftest import GOLDEN
from tests.golden.fill_weights import fill
from tests.script_helpers import call, child, log_of, stored, succeeded, weights_of


@pytest.fixture(scope="module")
def metadata(shared_data, tmp_path_factory):
    """The folder that the released train.py reads, with the three label files that it expects and never shipped."""
    folder = tmp_path_factory.mktemp("original") / "COCO"
    (folder / "zs_split").mkdir(parents=True)
    for name in ("cls_ids.pickle", "wordvec_array.pickle"):
        shutil.copy(shared_data / "coco" / name, folder / name)
    annotations = shared_data / "coco_tiny" / "annotations"
    shutil.copy(annotations / "instances_train2017.json", folder / "zs_split" / "train_17_48.json")
    shutil.copy(annotations / "instances_val2017.json", folder / "zs_split" / "val_17_48.json")
    content = json.loads((annotations / "instances_val2017.json").read_text(encoding="utf-8"))
    unseen = class_names(folder, "test")
    listed = {image for image, names in labels_by_image(content).items() if names & unseen}
    content["images"] = [image for image in content["images"] if image["id"] in listed]
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in listed]
    (folder / "zs_split" / "val_unseen.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A file like the released ImageNet tresnet_m: its keys and shapes, filled with sane random numbers."""
    keys = json.loads((GOLDEN / "tresnet_m_imagenet_keys.json").read_text(encoding="utf-8"))
    path = tmp_path_factory.mktemp("backbone") / "tresnet_m.pth"
    torch.save({"model": fill({key: torch.empty(shape) for key, shape in keys.items()}, seed=1)}, path)
    return path


@pytest.fixture(scope="module")
def trained(shared_data, metadata, backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    finished = child(
        "train.py", f"--data={shared_data / 'coco_tiny'}", f"--metadata={metadata}", f"--model-path={backbone}",
        "--image-size=64", "--pretrain-backbone=1", "--num-classes=1000", "--num-epochs=1", "--batch-size=24",
        "--seed=0", "--workers=2", cwd=folder,
    )  # fmt: skip
    succeeded(finished)
    return folder / "outputs", finished.stdout


def class_names(folder, side) -> set[str]:
    """The seen (``train``) or unseen (``test``) classes, read without the project's code."""
    with open(folder / "cls_ids.pickle", "rb") as stream:
        return {COCO_CLASSES[column] for column in pickle.load(stream)[side]}


def labels_by_image(content) -> dict[int, set[str]]:
    """Image id -> names of its classes, for every image of an ``instances_*.json``."""
    name_of = {category["id"]: category["name"] for category in content["categories"]}
    found: dict[int, set[str]] = {image["id"]: set() for image in content["images"]}
    for item in content["annotations"]:
        found[item["image_id"]].add(name_of[item["category_id"]])
    return found


def test_training_uses_the_images_with_a_seen_label(trained, metadata):
    content = json.loads((metadata / "zs_split" / "train_17_48.json").read_text(encoding="utf-8"))
    seen = class_names(metadata, "train")
    expected = sum(bool(names & seen) for names in labels_by_image(content).values())
    entry = log_of(trained[0])[0]
    assert entry["train"]["num_images"] == expected
    assert f"{expected} training images ({50 - expected} without a seen label left out)" in trained[1]
    assert "48 seen and 17 unseen labels" in trained[1]


def test_both_settings_count_the_images_of_the_label_files(trained, metadata):
    content = json.loads((metadata / "zs_split" / "val_17_48.json").read_text(encoding="utf-8"))
    unseen, seen = class_names(metadata, "test"), class_names(metadata, "train")
    metrics = log_of(trained[0])[0]["metrics"]
    for setting, relevant in (("zero_shot", unseen), ("generalized", seen | unseen)):
        counts = [len(names & relevant) for names in labels_by_image(content).values() if names & relevant]
        assert metrics[f"{setting}.num_labels"] == len(relevant)
        assert metrics[f"{setting}.num_images"] == len(counts)
        assert metrics[f"{setting}.num_positives"] == sum(counts)
        assert metrics[f"{setting}.labels_per_image"] == pytest.approx(sum(counts) / len(counts))
        best = 100 * sum(min(count, 3) for count in counts) / (3 * len(counts))
        assert metrics[f"{setting}.ceiling.P@3"] == pytest.approx(best)


def test_training_starts_from_the_converted_backbone(trained, backbone):
    """One epoch at 2.5e-5 moves a weight by no more than its learning rates: the file's values must shine through."""
    released = stored(backbone)["model"]
    state = weights_of(trained[0] / "model-last.ckpt")
    first = released["body.conv1.0.weight"]
    torch.testing.assert_close(state["backbone.body.conv1.conv.weight"], first, rtol=0, atol=2e-4)
    scale = released["body.conv1.1.weight"].abs() + INPLACE_ABN_EPS
    assert (released["body.conv1.1.weight"] < 0).any()  # else the conversion would not show
    torch.testing.assert_close(state["backbone.body.conv1.bn.weight"], scale, rtol=0, atol=2e-4)
    assert not torch.equal(state["backbone.body.conv1.conv.weight"], first)  # and it was trained
    assert not any("head.fc" in key for key in state)
    config = load_checkpoint(trained[0] / "model-last.ckpt")[1].config
    assert (config.model_name, config.num_rows, config.wordvec_dim, config.image_size) == ("tresnet_m", 2, 300, 64)


def test_validate_repeats_the_numbers_from_the_checkpoint_alone(trained, tmp_path):
    report = tmp_path / "r.json"
    checkpoint = trained[0] / "model-last.ckpt"
    succeeded(call(validate.main, "--model-path", checkpoint, "-b", 24, "-j", 0, "--json", report))
    metrics = json.loads(report.read_text(encoding="utf-8"))["metrics"]
    assert metrics == pytest.approx(log_of(trained[0])[0]["metrics"], abs=1e-6)


def test_all_images_counts_the_listed_images_of_each_setting(trained, metadata, tmp_path):
    report = tmp_path / "r.json"
    checkpoint = trained[0] / "model-last.ckpt"
    flags = ("--model-path", checkpoint, "--images", "all-images", "-j", 0, "--json", report)
    succeeded(call(validate.main, *flags))
    metrics = json.loads(report.read_text(encoding="utf-8"))["metrics"]
    listed = len(json.loads((metadata / "zs_split" / "val_unseen.json").read_text(encoding="utf-8"))["images"])
    assert (metrics["zero_shot.num_images"], metrics["generalized.num_images"]) == (listed, 50)
    assert listed < 50


def test_infer_tags_a_coco_image(trained, shared_data, metadata, tmp_path):
    image = sorted((shared_data / "coco_tiny" / "val2017").iterdir())[0]
    report = tmp_path / "r.json"
    flags = (f"--model_path={trained[0] / 'model-last.ckpt'}", f"--pic_path={image}", "--top_k=80")
    succeeded(call(infer.main, *flags, f"--path_output={tmp_path / 'tagged'}", "--json", report))
    tags = json.loads(report.read_text(encoding="utf-8"))["results"][0]["tags"]
    assert {tag["label"] for tag in tags} == set(COCO_CLASSES)
    # training saw neither the 17 unseen labels nor the 15 that are on neither side of the split
    assert {tag["label"] for tag in tags if not tag["unseen"]} == class_names(metadata, "train")
    assert sum(tag["unseen"] for tag in tags) == 17 + 15
    assert (tmp_path / "tagged" / image.name).is_file()
