"""The two feeds: images and targets stay together, features are cached, evaluation names its rows."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from src.data.images import read_image
from src.data.labels import LabelMatrix
from src.data.order import Portion
from src.data.parts import EvaluationSet, TrainingSet
from src.data.split import make_split
from src.data.transforms import eval_transform, train_transform
from src.embedding import Reading
from src.errors import UserError
from src.loss_functions.SDL_loss import SDLLoss
from src.models import SDLModel
from src.training.batches import FeatureFeed, Feed, ImageFeed
from src.training.engine import EpochSums, TrainBatch, Trained, train_epoch
from src.training.feature_cache import FeatureSettings
from src.training.model_selection import Division
from src.training.optim import MovingAverage, parameter_groups
from src.utils.progress import progress, warn_about_bad_images
from tests.helpers import make_toy_split, tiny_model, write_images

CPU = torch.device("cpu")
READING = Reading(batch_size=2, workers=0, device=CPU)

# Image i has target row i, whatever the order and whichever images cannot be read

COUNT = 7
SIDE = 64  # pixels
BROKEN = 3  # in the middle: a shift of the later rows would show
GOOD = [row for row in range(COUNT) if row != BROKEN]


def data_sets(folder: Path, broken: tuple[int, ...] = (BROKEN,)) -> tuple[TrainingSet, EvaluationSet]:
    """Seven images, one of them broken; target row i is the number i in binary."""
    paths = sorted(folder.glob("*.png")) or write_images(folder, COUNT, broken)
    targets = torch.tensor([[number >> bit & 1 for bit in range(3)] for number in range(COUNT)], dtype=torch.int8)
    wide = torch.cat([targets, 1 - targets], dim=1)
    in_zero_shot = torch.arange(COUNT) % 2 == 1
    seen, every = LabelMatrix.from_dense(targets), LabelMatrix.from_dense(wide)
    split = make_split("abc", range(3), (), torch.eye(3), name="bits", source="test")
    return TrainingSet(paths, seen, split), EvaluationSet(
        paths, every, in_zero_shot, torch.ones(COUNT, dtype=torch.bool)
    )


def everything(held: tuple[int, ...] = ()) -> Division:
    """Train on all images but those that are held back."""
    rows = torch.arange(COUNT)
    is_held = torch.isin(rows, torch.tensor(held, dtype=torch.int64))
    return Division("seen" if held else "test", rows[~is_held], rows[is_held], (0, 1, 2))


def image_feed(folder: Path, model: SDLModel, broken: tuple[int, ...] = (BROKEN,), **options: Any) -> ImageFeed:
    division = options.pop("division", everything())
    transforms = options.pop("transforms", (eval_transform(SIDE), eval_transform(SIDE)))
    return ImageFeed(model, *data_sets(folder, broken), division, transforms, READING, seed=0, **options)


def feature_feed(folder: Path, model: SDLModel, broken: tuple[int, ...] = (BROKEN,), **options: Any) -> FeatureFeed:
    division = options.pop("division", everything())
    sets = data_sets(folder, broken)
    return FeatureFeed(
        model,
        *sets,
        division,
        eval_transform(SIDE),
        READING,
        cache=folder / "cache",
        settings=FeatureSettings("tiny", SIDE),
    )


FEEDS = pytest.mark.parametrize("make_feed", [image_feed, feature_feed])


def tensors(folder: Path) -> Tensor:
    """The readable images as the model sees them, in order."""
    transform = eval_transform(SIDE)
    return torch.stack([transform(read_image(folder / f"{row}.png")) for row in GOOD])


def an_epoch(feed: Feed) -> list[TrainBatch]:
    """Batches of two in ascending order."""
    rows = list(range(feed.count))
    return list(feed.batches(1, [Portion(rows[start : start + 2], 1.0, True) for start in range(0, feed.count, 2)]))


def numbers_of(batches: list[TrainBatch]) -> list[int]:
    """What the targets say in binary: which images these are."""
    return (torch.cat([batch.targets for batch in batches]) * torch.tensor([1, 2, 4])).sum(dim=1).tolist()


@FEEDS
def test_training_batches_keep_images_and_targets_together(make_feed, tmp_path):
    model = tiny_model()
    feed = make_feed(tmp_path, model)
    with torch.inference_mode():
        features = isinstance(feed, FeatureFeed)
        expected = (model.forward_features(tensors(tmp_path)) if features else tensors(tmp_path)).flatten(1)
    batches = an_epoch(feed)
    inputs = torch.cat([batch.inputs for batch in batches]).flatten(1)
    nearest = torch.cdist(inputs, expected).argmin(dim=1)
    torch.testing.assert_close(inputs, expected[nearest], rtol=1e-4, atol=1e-5)
    assert numbers_of(batches) == [GOOD[index] for index in nearest.tolist()]
    names = [name for batch in batches for name in feed.names(batch.rows)]
    assert [Path(name).stem for name in names] == [str(number) for number in numbers_of(batches)]
    assert all((batch.weight, batch.ends_step) == (1.0, True) for batch in batches)


def test_an_unreadable_training_image_is_replaced_and_named(tmp_path):
    feed = image_feed(tmp_path, tiny_model())
    batches = an_epoch(feed)
    assert feed.count == COUNT
    numbers = numbers_of(batches)
    assert numbers[BROKEN] in GOOD
    assert [number for row, number in enumerate(numbers) if row != BROKEN] == GOOD
    bad = [message for batch in batches for message in batch.bad]
    assert bad
    assert all(f"{BROKEN}.png" in message for message in bad)
    assert feed.bad == ()


def test_an_unreadable_image_has_no_features(tmp_path):
    feed = feature_feed(tmp_path, tiny_model())
    assert feed.count == len(GOOD)
    assert numbers_of(an_epoch(feed)) == GOOD
    assert len(feed.bad) == 1
    assert f"{BROKEN}.png" in feed.bad[0]


@FEEDS
def test_evaluation_embeddings_are_the_models_and_name_their_rows(make_feed, tmp_path):
    model = tiny_model()
    feed = make_feed(tmp_path, model)
    feed.set_training()
    embedded = feed.embeddings("test", feed.module)
    assert embedded.rows.tolist() == GOOD
    with torch.inference_mode():
        torch.testing.assert_close(embedded.outputs, model.eval()(tensors(tmp_path)), rtol=1e-4, atol=1e-5)
    assert len(embedded.bad) == 1
    _, evaluation = data_sets(tmp_path)
    truth = evaluation.ground_truth(embedded.rows)
    assert isinstance(truth.targets, LabelMatrix)
    assert torch.equal(truth.targets.dense(), evaluation.targets.dense()[GOOD])
    assert [GOOD[row] for row in truth.zero_shot_rows.tolist()] == [1, 5]  # row 3 is broken
    assert truth.generalized_rows.tolist() == list(range(len(GOOD)))


@FEEDS
def test_held_back_images_are_evaluated_and_not_trained_on(make_feed, tmp_path):
    held = (1, BROKEN, 5)
    model = tiny_model()
    feed = make_feed(tmp_path, model, division=everything(held))
    batches = an_epoch(feed)
    assert numbers_of(batches) == [0, 2, 4, 6]
    assert [Path(name).stem for batch in batches for name in feed.names(batch.rows)] == ["0", "2", "4", "6"]
    embedded = feed.embeddings("held", feed.module)
    assert [held[row] for row in embedded.rows.tolist()] == [1, 5]
    with torch.inference_mode():
        expected = model.eval()(tensors(tmp_path))[[GOOD.index(1), GOOD.index(5)]]
    torch.testing.assert_close(embedded.outputs, expected, rtol=1e-4, atol=1e-5)


@FEEDS
def test_labels_that_pose_as_unseen_are_no_targets(make_feed, tmp_path):
    division = Division("held-out", torch.arange(COUNT), torch.empty(0, dtype=torch.int64), (0, 2), (1,))
    for batch in an_epoch(make_feed(tmp_path, tiny_model(), broken=(), division=division)):
        assert batch.targets.shape[1] == 2
        numbers = [int(Path(name).stem) for name in make_feed(tmp_path, tiny_model()).names(batch.rows)]
        assert batch.targets.tolist() == [[number & 1, number >> 2 & 1] for number in numbers]


@FEEDS
def test_a_moving_average_is_evaluated_with_its_own_weights(make_feed, tmp_path):
    model = tiny_model()
    feed = make_feed(tmp_path, model)
    average = MovingAverage(feed.module, 0.5)
    before = feed.embeddings("test", average.module).outputs
    with torch.no_grad():
        model.embedding.weight.mul_(3)
    torch.testing.assert_close(feed.embeddings("test", feed.module).outputs, 3 * before)
    torch.testing.assert_close(feed.embeddings("test", average.module).outputs, before)


def train(feed: Feed) -> None:
    loss = SDLLoss(weight=0.1, wordvec_array=make_toy_split(num_labels=3, num_unseen=1).word_vectors)
    optimizer = torch.optim.Adam(parameter_groups(feed.module, 1e-3, 3e-4))
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    feed.set_training()
    train_epoch(Trained(feed.module, loss, optimizer, schedule, CPU), an_epoch(feed), EpochSums())


def test_frozen_features_are_the_eval_features_whatever_the_mode(tmp_path):
    model = tiny_model().train()
    feed = feature_feed(tmp_path, model)
    before = copy.deepcopy(model.backbone.state_dict())
    train(feed)
    assert feed.module is model.embedding
    with torch.inference_mode():
        expected = model.embedding(model.eval().forward_features(tensors(tmp_path)))
    torch.testing.assert_close(feed.embeddings("test", feed.module).outputs, expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())


def test_a_second_frozen_run_takes_the_features_from_the_cache(tmp_path, monkeypatch):
    model = tiny_model()
    first = feature_feed(tmp_path, model).embeddings("test", model.embedding)
    monkeypatch.setattr(SDLModel, "forward_features", lambda self, images: pytest.fail("computed again"))
    again = feature_feed(tmp_path, model, division=everything((1, 2))).embeddings("test", model.embedding)
    assert torch.equal(again.outputs, first.outputs)
    assert (again.rows.tolist(), again.bad) == (GOOD, first.bad)


def test_training_images_are_augmented_and_evaluation_images_are_not(tmp_path):
    transforms = (train_transform(SIDE, augmentation="none"), eval_transform(SIDE))
    feed = image_feed(tmp_path, tiny_model(), broken=(), transforms=transforms)
    plain = image_feed(tmp_path, tiny_model(), broken=())
    first, again = an_epoch(feed), an_epoch(feed)
    assert all(torch.equal(one.inputs, other.inputs) for one, other in zip(first, again, strict=True))
    assert not any(torch.equal(one.inputs, other.inputs) for one, other in zip(first, an_epoch(plain), strict=True))
    model = feed.module
    torch.testing.assert_close(feed.embeddings("test", model).outputs, plain.embeddings("test", model).outputs)


@pytest.mark.parametrize("freeze_bn", [False, True])
def test_frozen_batch_norms_keep_their_statistics(freeze_bn, tmp_path):
    model = tiny_model()
    feed = image_feed(tmp_path, model, broken=(), freeze_bn=freeze_bn)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items() if "running_" in key}
    feed.set_training()
    with torch.no_grad():
        images = an_epoch(feed)[0].inputs
        output = model(images)
    after = model.state_dict()
    assert before
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items()) == freeze_bn
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(images), output, atol=1e-5) == freeze_bn
    feed.set_training()
    assert model.training


def test_no_readable_evaluation_image_is_a_user_error(tmp_path):
    feed = image_feed(tmp_path, tiny_model(), broken=tuple(range(COUNT)))
    with pytest.raises(UserError, match=f"--data: none of the {COUNT} evaluation images can be read"):
        feed.embeddings("test", feed.module)
    with pytest.raises(UserError, match=r"--data: none of the \d+ training images tried for a batch can be read"):
        an_epoch(feed)


def test_no_readable_image_has_features(tmp_path):
    with pytest.raises(UserError, match=f"--data: none of the {COUNT} training images can be read"):
        feature_feed(tmp_path, tiny_model(), broken=tuple(range(COUNT)))


def test_bad_images_are_named_once_a_run(capsys):
    known: set[str] = set()
    warn_about_bad_images(("a.jpg: broken", "b.jpg: broken"), known)
    warn_about_bad_images(("b.jpg: broken", "c.jpg: broken", "c.jpg: broken"), known)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [f"skipped: {name}.jpg: broken" for name in "abc"]
    assert captured.out == ""


def test_progress_is_silent_where_there_is_no_terminal(capsys):
    with progress(3, "reading") as advance:
        advance(2)
    assert capsys.readouterr() == ("", "")
