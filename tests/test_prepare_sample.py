"""The drawn data set: repeatable, complete, and labelled with what is in the images."""

import numpy as np
import torch

import prepare_data
from src.data.coco import read_coco_labels
from src.data.images import read_image
from src.data.metadata import load_metadata
from src.data.parts import load_evaluation_set, load_training_set
from src.prepare.sample import HORIZON, LABELS, UNSEEN, draw_image
from src.utils.manifest import NAME
from tests.prepare_helpers import prepare_sample


def everything_below(folder):
    """The content of all files but the record of those written, which grows."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def test_seed_determines_the_drawing(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        prepare_sample(tmp_path / name, num_train=6, num_val=3, seed=seed)
    first, again, other = (everything_below(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    assert first != other


def test_split_and_vectors(sample):
    split = load_metadata(sample).split
    assert split.labels == LABELS
    assert sorted(split.names(split.unseen)) == sorted(UNSEEN)
    assert (len(split.seen), len(split.unseen), split.name) == (12, 6, "sample_12_6")
    torch.testing.assert_close(split.word_vectors.norm(dim=0), torch.ones(18))
    cosine = split.word_vectors.t() @ split.word_vectors
    assert cosine.fill_diagonal_(0).max() < 0.95  # the vectors distinguish the labels


def test_numbers_of_images_and_the_recorded_folder(sample):
    metadata = load_metadata(sample)
    training, evaluation = load_training_set(metadata, None), load_evaluation_set(metadata, None)
    assert (len(training.paths) + training.num_without_label, len(evaluation.paths)) == (24, 16)
    assert not set(training.paths) & set(evaluation.paths)
    assert len(list((sample / "images").iterdir())) == 40
    assert {read_image(path).size for path in evaluation.paths} == {(160, 120)}


def test_every_label_occurs_in_both_parts_at_the_default_size():
    random = np.random.default_rng(0)
    drawn = [set(draw_image(random)[1]) for _ in range(300)]
    for part in (drawn[:200], drawn[200:]):
        assert set().union(*part) == set(LABELS)


def test_images_show_their_labels(sample):
    metadata = load_metadata(sample)
    column = {label: number for number, label in enumerate(metadata.split.labels)}
    ground = {"grass": (70, 150, 60), "water": (40, 95, 165), "sand": (222, 196, 140), "snow": (238, 242, 248)}
    checked = set()
    for path in (metadata.train, metadata.val):
        images = read_coco_labels(path, metadata.split.labels)
        for name, row in zip(images.file_names, images.targets.dense(), strict=True):
            pixels = np.asarray(read_image(sample / "images" / name)).astype(float)
            upper = "sky" if row[column["sky"]] else "night"
            assert row[column["sky"]] + row[column["night"]] == 1
            assert (np.median(pixels[:10]) > 100) == (upper == "sky"), name
            # train.json hides unseen labels, of which snow is one
            lower = next((label for label in ground if row[column[label]]), "snow")
            assert lower != "snow" or path == metadata.train or row[column["snow"]]
            middle = np.median(pixels[HORIZON + 2 :].reshape(-1, 3), axis=0)
            assert min(ground, key=lambda label: np.abs(np.array(ground[label]) - middle).sum()) == lower, name
            checked |= {upper, lower}
    assert checked == {"sky", "night", *ground}


def test_the_output_folder_is_protected(tmp_path, capsys):
    (tmp_path / "photo.jpg").touch()
    for flags in ([], ["--overwrite"]):
        assert prepare_data.main(["sample", "--output", str(tmp_path), *flags]) == 2
        assert str(tmp_path) in capsys.readouterr().err
    assert prepare_data.main(["sample", "--output", str(tmp_path / "photo.jpg" / "m")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_sub_command(tmp_path, capsys):
    flags = ["sample", "--output", str(tmp_path / "new" / "m"), "--train_images", "3", "--val-images", "2"]
    assert prepare_data.main([*flags, "--seed", "8"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "sample_12_6: 12 seen and 6 unseen labels"
    assert printed[2].startswith("train: 3 images")
    assert printed[-1] == f"written to {tmp_path / 'new' / 'm'}"
    before = everything_below(tmp_path)
    assert prepare_data.main([*flags, "--seed", "8", "--overwrite"]) == 0
    assert everything_below(tmp_path) == before
