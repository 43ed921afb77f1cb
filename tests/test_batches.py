"""Sources of batches: images with their targets, cached features, rows of evaluation images."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from src.data.images import read_image
from src.data.labels import LabelMatrix
from src.data.order import MicroBatch
from src.data.parts import EvaluationSet, TrainingSet
from src.data.split import make_split
from src.data.transforms import eval_transform, train_transform
from src.embedding import LoaderConfig
from src.errors import UserError
from src.loss_functions.SDL_loss import SDLLoss
from src.models import SDLModel
from src.training.batches import BatchSource, FeatureBatches, FeatureOptions, ImageBatches, ImageOptions
from src.training.engine import EpochSums, Learner, TrainBatch, train_epoch
from src.training.feature_cache import FeatureSettings
from src.training.model_selection import TrainValSplit
from src.training.optim import MovingAverage, parameter_groups
from src.utils.progress import progress, warn_about_bad_images
from tests.helpers import make_toy_split, tiny_model, write_images

CPU = torch.device("cpu")
LOADER = LoaderConfig(batch_size=2, workers=0, device=CPU)

# Image i has target row i, whatever the order and whichever images cannot be read

COUNT = 7
SIDE = 64  # pixels
BROKEN = 3  # in the middle: a shift of the later rows would show
PLAIN = ImageOptions(eval_transform(SIDE), eval_transform(SIDE))
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


def split_of(training: TrainingSet, val: tuple[int, ...] = (), labels: tuple[int, ...] = (0, 1, 2)) -> TrainValSplit:
    """Train on all images but those of ``val``, and on these labels."""
    rows = torch.arange(COUNT)
    is_val = torch.isin(rows, torch.tensor(val, dtype=torch.int64))
    train = training.select_labels(labels).select_rows(rows[~is_val])
    held_out = training.select_rows(rows[is_val])
    return TrainValSplit(training, rows[~is_val], rows[is_val], train, held_out)


def image_batches(
    folder: Path, model: SDLModel, broken: tuple[int, ...] = (BROKEN,), options: ImageOptions = PLAIN, **split: Any
) -> ImageBatches:
    training, evaluation = data_sets(folder, broken)
    return ImageBatches(model, split_of(training, **split), evaluation, options, LOADER)


def feature_batches(folder: Path, model: SDLModel, broken: tuple[int, ...] = (BROKEN,), **split: Any) -> FeatureBatches:
    training, evaluation = data_sets(folder, broken)
    options = FeatureOptions(eval_transform(SIDE), folder / "cache", FeatureSettings("tiny", SIDE))
    return FeatureBatches(model, split_of(training, **split), evaluation, options, LOADER)


SOURCES = pytest.mark.parametrize("make_source", [image_batches, feature_batches])


def tensors(folder: Path) -> Tensor:
    """The readable images as the model sees them, in order."""
    transform = eval_transform(SIDE)
    return torch.stack([transform(read_image(folder / f"{row}.png")) for row in GOOD])


def an_epoch(source: BatchSource) -> list[TrainBatch]:
    """Load batches of two in ascending order."""
    rows = list(range(source.count))
    return list(
        source.batches(1, [MicroBatch(rows[start : start + 2], 1.0, True) for start in range(0, source.count, 2)])
    )


def numbers_of(batches: list[TrainBatch]) -> list[int]:
    """Decode the numbers of the images from their targets."""
    return (torch.cat([batch.targets for batch in batches]) * torch.tensor([1, 2, 4])).sum(dim=1).tolist()


@SOURCES
def test_training_batches_keep_images_and_targets_together(make_source, tmp_path):
    model = tiny_model()
    source = make_source(tmp_path, model)
    with torch.inference_mode():
        features = isinstance(source, FeatureBatches)
        expected = (model.forward_features(tensors(tmp_path)) if features else tensors(tmp_path)).flatten(1)
    batches = an_epoch(source)
    inputs = torch.cat([batch.inputs for batch in batches]).flatten(1)
    nearest = torch.cdist(inputs, expected).argmin(dim=1)
    torch.testing.assert_close(inputs, expected[nearest], rtol=1e-4, atol=1e-5)
    assert numbers_of(batches) == [GOOD[index] for index in nearest.tolist()]
    names = [name for batch in batches for name in source.names(batch.rows)]
    assert [Path(name).stem for name in names] == [str(number) for number in numbers_of(batches)]
    assert all((batch.weight, batch.ends_step) == (1.0, True) for batch in batches)


def test_unreadable_training_image_is_replaced_and_named(tmp_path):
    source = image_batches(tmp_path, tiny_model())
    batches = an_epoch(source)
    assert source.count == COUNT
    numbers = numbers_of(batches)
    assert numbers[BROKEN] in GOOD
    assert [number for row, number in enumerate(numbers) if row != BROKEN] == GOOD
    bad = [message for batch in batches for message in batch.bad]
    assert bad
    assert all(f"{BROKEN}.png" in message for message in bad)
    assert source.bad == ()


def test_unreadable_image_has_no_features(tmp_path):
    source = feature_batches(tmp_path, tiny_model())
    assert source.count == len(GOOD)
    assert numbers_of(an_epoch(source)) == GOOD
    assert len(source.bad) == 1
    assert f"{BROKEN}.png" in source.bad[0]


@SOURCES
def test_evaluation_embeds_readable_images_and_returns_their_rows(make_source, tmp_path):
    model = tiny_model()
    source = make_source(tmp_path, model)
    source.set_training()
    embedded = source.embeddings("test", source.module)
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


@SOURCES
def test_held_out_images_are_evaluated_but_not_trained_on(make_source, tmp_path):
    val = (1, BROKEN, 5)
    model = tiny_model()
    source = make_source(tmp_path, model, val=val)
    batches = an_epoch(source)
    assert numbers_of(batches) == [0, 2, 4, 6]
    assert [Path(name).stem for batch in batches for name in source.names(batch.rows)] == ["0", "2", "4", "6"]
    embedded = source.embeddings("val", source.module)
    assert [val[row] for row in embedded.rows.tolist()] == [1, 5]
    with torch.inference_mode():
        expected = model.eval()(tensors(tmp_path))[[GOOD.index(1), GOOD.index(5)]]
    torch.testing.assert_close(embedded.outputs, expected, rtol=1e-4, atol=1e-5)


@SOURCES
def test_pseudo_unseen_labels_are_not_among_the_targets(make_source, tmp_path):
    for batch in an_epoch(make_source(tmp_path, tiny_model(), broken=(), labels=(0, 2))):
        assert batch.targets.shape[1] == 2
        numbers = [int(Path(name).stem) for name in make_source(tmp_path, tiny_model()).names(batch.rows)]
        assert batch.targets.tolist() == [[number & 1, number >> 2 & 1] for number in numbers]


@SOURCES
def test_moving_average_is_evaluated_with_its_own_weights(make_source, tmp_path):
    model = tiny_model()
    source = make_source(tmp_path, model)
    average = MovingAverage(source.module, 0.5)
    before = source.embeddings("test", average.module).outputs
    with torch.no_grad():
        model.embedding.weight.mul_(3)
    torch.testing.assert_close(source.embeddings("test", source.module).outputs, 3 * before)
    torch.testing.assert_close(source.embeddings("test", average.module).outputs, before)


def train(source: BatchSource) -> None:
    loss = SDLLoss(weight=0.1, wordvec_array=make_toy_split(num_labels=3, num_unseen=1).word_vectors)
    optimizer = torch.optim.Adam(parameter_groups(source.module, 1e-3, 3e-4))
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    source.set_training()
    train_epoch(Learner(source.module, loss, optimizer, schedule, CPU), an_epoch(source), EpochSums())


def test_frozen_features_are_computed_in_eval_mode(tmp_path):
    model = tiny_model().train()
    source = feature_batches(tmp_path, model)
    before = copy.deepcopy(model.backbone.state_dict())
    train(source)
    assert source.module is model.embedding
    with torch.inference_mode():
        expected = model.embedding(model.eval().forward_features(tensors(tmp_path)))
    torch.testing.assert_close(source.embeddings("test", source.module).outputs, expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())


def test_second_frozen_run_reads_features_from_the_cache(tmp_path, monkeypatch):
    model = tiny_model()
    first = feature_batches(tmp_path, model).embeddings("test", model.embedding)
    monkeypatch.setattr(SDLModel, "forward_features", lambda self, images: pytest.fail("computed again"))
    again = feature_batches(tmp_path, model, val=(1, 2)).embeddings("test", model.embedding)
    assert torch.equal(again.outputs, first.outputs)
    assert (again.rows.tolist(), again.bad) == (GOOD, first.bad)


def test_training_images_are_augmented_and_evaluation_images_are_not(tmp_path):
    options = ImageOptions(train_transform(SIDE, augmentation="none"), eval_transform(SIDE))
    source = image_batches(tmp_path, tiny_model(), broken=(), options=options)
    plain = image_batches(tmp_path, tiny_model(), broken=())
    first, again = an_epoch(source), an_epoch(source)
    assert all(torch.equal(one.inputs, other.inputs) for one, other in zip(first, again, strict=True))
    assert not any(torch.equal(one.inputs, other.inputs) for one, other in zip(first, an_epoch(plain), strict=True))
    model = source.module
    torch.testing.assert_close(source.embeddings("test", model).outputs, plain.embeddings("test", model).outputs)


@pytest.mark.parametrize("freeze_bn", [False, True])
def test_frozen_batch_norms_keep_their_statistics(freeze_bn, tmp_path):
    model = tiny_model()
    source = image_batches(tmp_path, model, broken=(), options=replace(PLAIN, freeze_bn=freeze_bn))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items() if "running_" in key}
    source.set_training()
    with torch.no_grad():
        images = an_epoch(source)[0].inputs
        output = model(images)
    after = model.state_dict()
    assert before
    assert all(torch.equal(tensor, after[key]) for key, tensor in before.items()) == freeze_bn
    model.eval()
    with torch.no_grad():
        assert torch.allclose(model(images), output, atol=1e-5) == freeze_bn
    source.set_training()
    assert model.training


def test_no_readable_evaluation_image_is_a_user_error(tmp_path):
    source = image_batches(tmp_path, tiny_model(), broken=tuple(range(COUNT)))
    with pytest.raises(UserError, match=f"--data: none of the {COUNT} evaluation images can be read"):
        source.embeddings("test", source.module)
    with pytest.raises(UserError, match=r"--data: none of the \d+ training images tried for a batch can be read"):
        an_epoch(source)


def test_no_readable_training_image_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=f"--data: none of the {COUNT} training images can be read"):
        feature_batches(tmp_path, tiny_model(), broken=tuple(range(COUNT)))


def test_bad_images_are_printed_once(capsys):
    known: set[str] = set()
    warn_about_bad_images(("a.jpg: broken", "b.jpg: broken"), known)
    warn_about_bad_images(("b.jpg: broken", "c.jpg: broken", "c.jpg: broken"), known)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [f"skipped: {name}.jpg: broken" for name in "abc"]
    assert captured.out == ""


def test_progress_is_silent_without_a_terminal(capsys):
    with progress(3, "reading") as advance:
        advance(2)
    assert capsys.readouterr() == ("", "")
