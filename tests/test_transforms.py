"""Transforms of images: geometry, range, filters, cutout, augmentation; fast ways against exact ones."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from src.data import transforms as module_under_test
from src.data.images import BadImageError, read_image
from src.data.transforms import (
    SPARE,
    Cutout,
    as_floats,
    eval_transform,
    packaged_randaugment,
    read_transformed,
    train_transform,
)
from src.options import AUGMENTATIONS
from src.utils.device import seed_everything

PILLOW_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8))


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Something with large shapes, edges, a fine pattern and a little noise, as photographs have."""
    random_state = np.random.RandomState(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    shapes = [
        np.sin(x / random_state.uniform(5, 60) + y / random_state.uniform(5, 60) + random_state.uniform(0, 6)) > 0.3
        for _ in range(3)
    ]
    shade = 60 * np.stack(shapes, axis=-1) + 90 * (x / width)[..., None] + 20 * (np.sin(x * y / width) > 0)[..., None]
    grain = random_state.normal(0, 3, (height, width, 1))
    return Image.fromarray(np.clip(30 + shade + grain, 0, 255).astype(np.uint8))


def psnr(result: torch.Tensor, oracle: torch.Tensor) -> float:
    """-10 log10 of the mean squared difference of images in [0, 1]."""
    return -10 * float(torch.log10((result.double() - oracle.double()).square().mean()))


@pytest.mark.parametrize("interpolation", list(PILLOW_FILTERS))
@pytest.mark.parametrize("size", [(70, 30), (30, 70), (20, 20), (8, 100), (60, 80), (32, 32)])
def test_the_exact_way_is_pillows_own_resize_to_a_square(size, interpolation):
    image = noise(*size)
    expected = as_tensor(image.resize((32, 32), PILLOW_FILTERS[interpolation]))
    assert torch.equal(eval_transform(32, interpolation, exact=True)(image), expected)
    assert torch.equal(
        eval_transform(32, interpolation, exact=True)(image),
        transforms.ToTensor()(transforms.Resize((32, 32), interpolation=InterpolationMode(interpolation))(image)),
    )


@pytest.mark.parametrize("interpolation", list(PILLOW_FILTERS))
@pytest.mark.parametrize("size", [(192, 128), (128, 192), (224, 224), (300, 200), (200, 300), (1, 1), (224, 500)])
def test_image_that_does_not_shrink_on_both_sides_has_pillows_bits(size, interpolation):
    image = photograph(*size)
    expected = eval_transform(224, interpolation, exact=True)(image)
    assert torch.equal(eval_transform(224, interpolation)(image), expected)


@pytest.mark.parametrize("interpolation", list(PILLOW_FILTERS))
@pytest.mark.parametrize("size", [(33, 33), (40, 1000), (120, 90), (640, 480)])
def test_image_that_shrinks_is_pillows_resize_up_to_the_last_bits(size, interpolation):
    image = photograph(*size)
    exact = eval_transform(32, interpolation, exact=True)(image)
    fast = eval_transform(32, interpolation)(image)
    assert psnr(fast, exact) > 50
    if interpolation == "bilinear":  # no overshoot that could be clipped at another place
        assert 255 * (fast - exact).abs().max() < 2.5


@pytest.mark.parametrize("size", [(40, 30), (20, 16), (90, 20)])
def test_training_may_differ_in_the_last_bits_unless_it_is_exact(size, monkeypatch):
    monkeypatch.setattr(module_under_test, "packaged_randaugment", lambda: lambda image: image)
    image = photograph(*size)
    expected = eval_transform(32, exact=True)(image)
    assert torch.equal(train_transform(32, cutout=0, exact=True)(image), expected)
    assert psnr(train_transform(32, cutout=0)(image), expected) > 45


@pytest.mark.parametrize("interpolation", list(PILLOW_FILTERS))
@pytest.mark.parametrize(("size", "is_scaled"), [((255, 400), False), ((400, 255), False), ((256, 256), True)])
def test_a_large_jpeg_is_decoded_in_part_and_looks_the_same(tmp_path, size, is_scaled, interpolation):
    path = tmp_path / "photo.jpg"
    photograph(*size).save(path, quality=90)
    whole = read_image(path)
    transform, exact = eval_transform(32, interpolation), eval_transform(32, interpolation, exact=True)
    assert min(size) // 2 >= SPARE * 32 if is_scaled else min(size) // 2 < SPARE * 32
    assert transform.reads_less_of(whole) == is_scaled
    assert not exact.reads_less_of(whole)
    assert torch.equal(transform.read(path), transform(whole)) != is_scaled
    assert psnr(transform.read(path), exact(whole)) > 35
    assert torch.equal(exact.read(path), exact(whole))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_turned_jpeg_is_as_upright_as_a_whole_one(tmp_path, orientation):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph(300, 260).save(path, exif=exif, quality=95)
    assert psnr(eval_transform(32).read(path), eval_transform(32, exact=True).read(path)) > 35


@pytest.mark.parametrize("transform", [eval_transform(32), train_transform(32, augmentation="none", cutout=0.5)])
def test_bytes_are_the_floats_of_reading_and_of_calling(tmp_path, transform):
    path = tmp_path / "a.png"
    photograph(60, 50).save(path)
    results = []
    for run in (transform.read_bytes, transform.read, lambda path: transform(read_image(path))):
        seed_everything(0)
        results.append(run(path))
    assert results[0].dtype == torch.uint8
    assert results[0].shape == (3, 32, 32)
    assert torch.equal(as_floats(results[0]), results[1])
    assert torch.equal(results[1], results[2])
    floats = as_floats(torch.arange(256, dtype=torch.uint8))
    assert torch.equal(floats, torch.arange(256, dtype=torch.float32) / 255)  # ToTensor's numbers
    assert as_floats(floats) is floats


def test_a_file_goes_through_any_transform(tmp_path):
    path = tmp_path / "a.png"
    noise(20, 10).save(path)
    assert torch.equal(read_transformed(path, lambda image: torch.tensor(image.size)), torch.tensor([20, 10]))
    assert torch.equal(read_transformed(path, eval_transform(8)), eval_transform(8).read_bytes(path))
    for transform in (eval_transform(8), lambda image: torch.zeros(1)):
        with pytest.raises(BadImageError, match=r"gone\.jpg: No such file"):
            read_transformed(tmp_path / "gone.jpg", transform)


def test_the_image_that_is_transformed_stays_as_it_is():
    for size in ((60, 50), (10, 10), (32, 32)):
        image = noise(*size)
        before = image.tobytes()
        for transform in (eval_transform(32), eval_transform(32, exact=True), train_transform(32)):
            transform(image)
            assert image.tobytes() == before


def test_squashes_and_crops_nothing():
    image = Image.new("RGB", (200, 40), "black")  # five times as wide as high, with marked ends
    image.paste((255, 0, 0), (0, 0, 20, 40))
    image.paste((0, 0, 255), (180, 0, 200, 40))
    tensor = eval_transform(40)(image)
    assert tensor.shape == (3, 40, 40)
    assert tensor.dtype == torch.float32
    assert (tensor[0, :, :3] == 1).all()  # 20 of 200 columns are 4 of 40; the filter softens the last
    assert (tensor[2, :, -3:] == 1).all()
    assert (tensor[:, :, 6:-6] == 0).all()


def test_values_are_in_0_1_and_not_normalised():
    tensor = eval_transform(16)(Image.new("RGB", (5, 9), (0, 128, 255)))
    assert torch.equal(tensor[0], torch.zeros(16, 16))
    torch.testing.assert_close(tensor[1], torch.full((16, 16), 128 / 255))
    assert torch.equal(tensor[2], torch.ones(16, 16))


def test_an_unknown_filter_is_refused():
    with pytest.raises(ValueError, match="interpolation must be one of bilinear, bicubic, got 'lanczos9'"):
        eval_transform(8, "lanczos9")


def painted_box(before: Image.Image, after: Image.Image) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (exclusive) of what changed."""
    rows, columns = np.nonzero((np.asarray(before) != np.asarray(after)).any(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def painted(side: float, width: int, height: int, seed: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
    torch.manual_seed(seed)
    image = Image.new("RGB", (width, height), (1, 2, 3))
    result = Cutout(side)(image)
    assert image.tobytes() == Image.new("RGB", (width, height), (1, 2, 3)).tobytes()  # the input is left alone
    return result, painted_box(image, result)


@pytest.mark.parametrize("seed", range(8))
def test_cutout_paints_one_colour_and_nothing_else(seed):
    result, (left, top, right, bottom) = painted(0.5, 40, 40, seed)
    values = np.asarray(result)
    inside = values[top:bottom, left:right].reshape(-1, 3)
    assert len(np.unique(inside, axis=0)) == 1
    values = values.copy()
    values[top:bottom, left:right] = (1, 2, 3)
    assert (values == (1, 2, 3)).all()


def test_cutout_has_the_right_size_and_may_hang_over_every_edge():
    boxes = [painted(0.5, 60, 40, seed)[1] for seed in range(150)]
    assert max(right - left for left, _, right, _ in boxes) == 30
    assert max(bottom - top for _, top, _, bottom in boxes) == 20
    inner = [box for box in boxes if box[0] > 0 and box[1] > 0 and box[2] < 60 and box[3] < 40]
    assert {(right - left, bottom - top) for left, top, right, bottom in inner} == {(30, 20)}
    for edge, at in ((0, 0), (1, 0), (2, 60), (3, 40)):
        hanging = [box for box in boxes if box[edge] == at]
        lengths = {box[2] - box[0] if edge % 2 == 0 else box[3] - box[1] for box in hanging}
        assert min(lengths) < (30 if edge % 2 == 0 else 20)  # cut off at that edge, not pushed inside


@pytest.mark.parametrize("cutout", [0.5, 0])
def test_augmentation_sees_the_squashed_and_cut_out_image(monkeypatch, cutout):
    seen = []

    def augment(image: Image.Image) -> Image.Image:
        seen.append(image.copy())
        return Image.new("RGB", image.size, (255, 0, 0))

    monkeypatch.setattr(module_under_test, "packaged_randaugment", lambda: augment)
    result = train_transform(16, cutout=cutout)(Image.new("RGB", (40, 20), (1, 2, 3)))
    assert [image.size for image in seen] == [(16, 16)]
    colours = {colour for _, colour in seen[0].getcolors()}
    assert len(colours) == (2 if cutout else 1)
    assert torch.equal(result[0], torch.ones(16, 16))  # nothing is painted after it


def test_torchvisions_augmentation_is_torchvisions():
    assert isinstance(train_transform(16, augmentation="torchvision").steps[1], transforms.RandAugment)


def test_without_cutout_and_augmentation_training_equals_evaluation():
    image = noise(50, 20)
    plain = train_transform(24, cutout=0, augmentation="none")(image)
    assert torch.equal(plain, eval_transform(24)(image))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_equal_seeds_give_equal_images_and_stay_in_range(augmentation):
    transform = train_transform(32, augmentation=augmentation)
    images = [noise(40, 30, seed) for seed in range(20)]
    runs = []
    for seed in (3, 3, 4):
        seed_everything(seed)
        runs.append(torch.stack([transform(image) for image in images]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert runs[0].shape == (20, 3, 32, 32)
    assert runs[0].min() >= 0
    assert runs[0].max() <= 1


def test_randaugment_is_the_packages_own_draw_for_draw():
    """The package builds both operations anew for each image; here they are built once."""
    ours = packaged_randaugment()
    from randaugment import RandAugment

    theirs = RandAugment()
    image = noise(24, 20)
    for seed in range(600):
        results = []
        for augment in (ours, theirs):
            random.seed(seed)
            np.random.seed(seed)
            results.append((augment(image).tobytes(), random.random(), np.random.rand()))
        assert results[0] == results[1]


def test_numpy_itself_is_left_alone():
    packaged_randaugment()
    from randaugment import randaugment as module

    assert "int" not in vars(np)
    stand_in = module.np
    assert stand_in is not np
    assert stand_in.int is int
    assert stand_in.linspace is np.linspace
    packaged_randaugment()
    assert module.np is stand_in  # mended once


def test_the_repair_travels_to_a_worker_that_imports_the_package_anew(monkeypatch):
    """A spawned loader worker (macOS, Windows) unpickles the transform in a fresh interpreter."""
    sent = pickle.dumps(train_transform(16))
    from randaugment import randaugment as module

    monkeypatch.setattr(module, "np", np)  # as a fresh import has it
    received = pickle.loads(sent)
    seed_everything(0)
    assert received(noise(20, 20)).shape == (3, 16, 16)
