"""Images of every kind come out as upright 8-bit RGB with the right colours, and broken ones say what they are."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from src.data.images import BadImageError, read_image, to_rgb

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_grey_is_repeated_in_all_channels(tmp_path):
    grey = np.array([[0, 7, 128], [200, 254, 255]], dtype=np.uint8)
    read = pixels(read_image(saved(Image.fromarray(grey), tmp_path / "grey.png")))
    np.testing.assert_array_equal(read, np.repeat(grey[..., None], 3, axis=2))


def test_grey_with_alpha_is_laid_on_white(tmp_path):
    image = Image.fromarray(np.array([[[0, 0], [0, 255], [100, 255], [0, 128]]], dtype=np.uint8), "LA")
    read = pixels(read_image(saved(image, tmp_path / "la.png")))[0]
    assert [tuple(pixel) for pixel in read[:3].tolist()] == [WHITE, BLACK, (100, 100, 100)]
    np.testing.assert_allclose(read[3], 127, atol=1)  # half black, half white


def test_transparent_parts_of_rgba_become_white(tmp_path):
    image = Image.fromarray(
        np.array([[[255, 0, 0, 0], [255, 0, 0, 255], [0, 0, 255, 128], [0, 255, 0, 64]]], dtype=np.uint8)
    )
    read = pixels(read_image(saved(image, tmp_path / "rgba.png")))[0]
    assert [tuple(pixel) for pixel in read[:2].tolist()] == [WHITE, RED]
    np.testing.assert_allclose(read[2], (127, 127, 255), atol=1)
    np.testing.assert_allclose(read[3], (191, 255, 191), atol=1)


def palette_image() -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    for x in range(3):
        image.putpixel((x, 0), x)
    return image


@pytest.mark.parametrize("name", ["palette.png", "palette.gif", "palette.bmp"])
def test_palette_colours_are_looked_up(tmp_path, name):
    read = pixels(read_image(saved(palette_image(), tmp_path / name)))
    assert read.tolist() == [[list(RED), list(GREEN), list(BLUE)]]


@pytest.mark.parametrize("name", ["transparent.png", "transparent.gif"])
def test_the_transparent_palette_entry_is_white(tmp_path, name):
    read = pixels(read_image(saved(palette_image(), tmp_path / name, transparency=1)))
    assert read.tolist() == [[list(RED), list(WHITE), list(BLUE)]]


def test_the_transparent_colour_of_an_rgb_png_is_white(tmp_path):
    image = Image.fromarray(np.array([[RED, GREEN]], dtype=np.uint8))
    read = pixels(read_image(saved(image, tmp_path / "trns.png", transparency=GREEN)))
    assert read.tolist() == [[list(RED), list(WHITE)]]


@pytest.mark.parametrize("name", ["bits.png", "bits.tif", "bits.bmp"])
def test_one_bit_becomes_black_and_white(tmp_path, name):
    bits = np.array([[True, False, True], [False, False, True]])
    path = saved(Image.fromarray(bits), tmp_path / name)
    with Image.open(path) as opened:
        assert opened.mode == "1"  # or the test says nothing
    np.testing.assert_array_equal(pixels(read_image(path)), np.repeat(bits[..., None], 3, axis=2) * 255)


@pytest.mark.parametrize(
    ("ink", "colour"),
    [
        ((0, 0, 0, 0), WHITE),
        ((0, 0, 0, 255), BLACK),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 0, 0), (255, 0, 255)),
        ((0, 0, 255, 0), (255, 255, 0)),
    ],
)
def test_cmyk_jpeg_is_not_inverted(tmp_path, ink, colour):
    read = pixels(read_image(saved(Image.new("CMYK", (16, 16), ink), tmp_path / "print.jpg", quality=100)))
    np.testing.assert_allclose(read, np.broadcast_to(colour, read.shape), atol=3)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bit_grey_keeps_its_shades(tmp_path, name):
    deep = np.array([[0, 255, 257, 32768, 65535]], dtype=np.uint16)
    path = saved(Image.fromarray(deep), tmp_path / name)
    with Image.open(path) as opened:
        assert opened.mode == "I;16"  # or the test says nothing
    assert pixels(read_image(path))[0, :, 0].tolist() == [0, 1, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 100, 255], [0, 100, 255]), ([0, 32768, 65535], [0, 128, 255]), ([-5, 300, 70000], [0, 1, 255])],
    ids=["8-bit", "16-bit", "out of range"],
)
def test_thirty_two_bit_grey(tmp_path, values, expected):
    path = saved(Image.fromarray(np.array([values], dtype=np.int32)), tmp_path / "wide.tif")
    with Image.open(path) as opened:
        assert opened.mode == "I"  # or the test says nothing
    read = pixels(read_image(path))
    assert read[0].tolist() == [[value] * 3 for value in expected]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 127.6, 255.0], [0, 128, 255]),
        ([-1.0, np.nan, 0.2], [0, 0, 51]),
    ],
    ids=["0..1", "0..255", "out of range"],
)
def test_float_grey(tmp_path, values, expected):
    path = saved(Image.fromarray(np.array([values], dtype=np.float32)), tmp_path / "float.tif")
    assert pixels(read_image(path))[0].tolist() == [[value] * 3 for value in expected]


# What a camera stores for an upright scene: EXIF orientation -> how the stored pixels differ from the scene.
STORED = {
    1: lambda scene: scene,
    2: np.fliplr,
    3: lambda scene: np.rot90(scene, 2),
    4: np.flipud,
    5: lambda scene: scene.transpose(1, 0, 2),
    6: lambda scene: np.rot90(scene, 1),
    7: lambda scene: np.rot90(scene.transpose(1, 0, 2), 2),
    8: lambda scene: np.rot90(scene, -1),
}


@pytest.mark.parametrize("orientation", list(STORED))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_every_exif_orientation_lands_upright(tmp_path, orientation, suffix):
    scene = np.zeros((32, 48, 3), dtype=np.uint8)
    scene[:16, :24], scene[:16, 24:], scene[16:, :24] = RED, GREEN, BLUE  # the fourth quarter is black
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](scene)))
    path = tmp_path / f"turned.{suffix}"
    stored.save(path, exif=exif, **({"quality": 100, "subsampling": 0} if suffix == "jpg" else {}))
    read = read_image(path)
    assert read.size == (48, 32)
    difference = np.abs(pixels(read).astype(int) - scene)
    assert difference.max() <= (4 if suffix == "jpg" else 0)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_of_an_animation_the_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 6), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as opened:
        assert opened.n_frames == 3  # or the test says nothing
    assert (pixels(read_image(path)) == RED).all()


def test_an_rgb_image_is_read_as_it_is(tmp_path):
    values = np.random.RandomState(0).randint(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pixels(read_image(saved(Image.fromarray(values), tmp_path / "as_is.png"))), values)


def test_an_upright_rgb_image_is_not_copied():
    image = Image.new("RGB", (4, 4), RED)
    assert to_rgb(image) is image


@pytest.mark.parametrize(
    ("at_least", "expected"),
    [(None, (200, 120)), (121, (200, 120)), (61, (200, 120)), (60, (100, 60)), (31, (100, 60)), (16, (50, 30)),
     (15, (25, 15)), (1, (25, 15))],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_jpeg_may_come_smaller_but_never_smaller_than_was_asked_for(tmp_path, suffix, at_least, expected):
    path = saved(Image.new("RGB", (200, 120), RED), tmp_path / f"a.{suffix}")
    image = read_image(path, at_least=at_least)
    assert image.size == (expected if suffix == "jpg" else (200, 120))
    np.testing.assert_allclose(pixels(image)[3, 3], RED, atol=3)


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
def test_a_smaller_jpeg_keeps_its_colours_and_is_turned(tmp_path, mode):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(Image.new("RGB", (160, 80), (90, 90, 90)).convert(mode), tmp_path / "a.jpg", exif=exif)
    image = read_image(path, at_least=20)
    assert image.size == (20, 40)
    np.testing.assert_allclose(pixels(image), 90, atol=3)


def jpeg_bytes() -> bytes:
    stream = io.BytesIO()
    noise = np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (jpeg_bytes()[:2000], "truncated"),
        (b"This is no image at all.\n" * 20, "not an image"),
        (b"", "not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 50, ""),
    ],
    ids=["truncated", "text", "empty", "only a signature"],
)
def test_a_broken_file_is_named_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(BadImageError) as scaled:
        read_image(path, at_least=8)
    with pytest.raises(BadImageError) as caught:
        read_image(path)
    assert reason in str(scaled.value)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    assert len(str(caught.value)) > len(str(path)) + 5  # more than the name


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(BadImageError, match=r"gone\.jpg: No such file"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(BadImageError, match=f"{tmp_path.name}: .*directory"):
        read_image(tmp_path)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    path = saved(Image.new("RGB", (40, 40)), tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)  # Pillow refuses from twice as many
    with pytest.raises(BadImageError, match=r"bomb\.png: .*decompression bomb"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tif", "bmp", "avif"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_bytes_never_raise_anything_else(tmp_path, suffix, capfd, monkeypatch):
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = np.random.RandomState(0).randint(0, 256, (24, 32, 3), dtype=np.uint8)
    options = {} if suffix in ("gif", "bmp") else {"exif": exif}
    Image.fromarray(noise).save(stream, Image.registered_extensions()[f".{suffix}"], **options)
    generator = random.Random(suffix)
    path = tmp_path / f"damaged.{suffix}"
    reasons = []
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)  # a damaged size shall not fill the memory
    for _ in range(60):
        damaged = bytearray(stream.getvalue())
        for _ in range(generator.choice([1, 2, 5])):
            damaged[generator.randrange(min(len(damaged), 300))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            assert read_image(path).mode == "RGB"
        except BadImageError as error:
            reasons.append(str(error))
    assert reasons
    assert all(str(path) in reason for reason in reasons)
    capfd.readouterr()  # libtiff prints its own complaints


def test_earlier_name_of_the_error():
    """Outside programs import it."""
    from src.data.images import BadPictureError

    assert BadPictureError is BadImageError
