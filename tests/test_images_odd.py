"""Odd, damaged and hostile image files: only pixels and orientation count, nothing else runs, memory is bounded."""

import io
import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, features

from src.data.image_formats import FORMATS, SUFFIXES
from src.data.images import BadImageError, read_image, to_rgb
from src.data.orientation import exif_orientation
from src.data.pixels import as_array, as_rgb
from src.options import Reading
from tests.conftest import ROOT

NOISE = np.random.RandomState(0).randint(0, 256, (48, 64, 3), dtype=np.uint8)


def scene() -> Image.Image:
    """24 x 16 pixels, blue on the left and red on the right."""
    image = Image.new("RGB", (24, 16), (255, 0, 0))
    image.paste((0, 0, 255), (0, 0, 12, 16))
    return image


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def read(path: Path, content: bytes, **options: object) -> Image.Image:
    path.write_bytes(content)
    return read_image(path, **options)


def is_upright(image: Image.Image) -> bool:
    left, right = image.getpixel((3, 8)), image.getpixel((20, 8))
    return image.size == (24, 16) and left[2] > 150 > left[0] and right[0] > 150 > right[2]


STORED = encoded(scene().transpose(Image.Transpose.ROTATE_90), "PNG")  # as orientation 6 has it
STORED_JPEG = encoded(Image.open(io.BytesIO(STORED)), "JPEG", quality=95)


def exif_with(tag: int, kind: int, count: int, order: str, value: int) -> bytes:
    """Orientation 6 beside an entry of any tag, type, count and place of the value."""
    entries = [(0x112, struct.pack(f"{order}HHIHH", 0x112, 3, 1, 6, 0))]
    entries = sorted([*entries, (tag, struct.pack(f"{order}HHII", tag, kind, count, value))])
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IH", 8, 2) + b"".join(entry for _, entry in entries) + bytes(100)


def with_chunk(png: bytes, name: bytes, data: bytes, crc: int | None = None) -> bytes:
    """Insert a chunk behind the header."""
    crc = zlib.crc32(name + data) if crc is None else crc
    return png[:33] + struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc) + png[33:]


def with_segment(jpeg: bytes, marker: int, data: bytes) -> bytes:
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data + jpeg[2:]


@pytest.mark.parametrize("tag", [0x100, 0x11A, 0x132, 0x14A, 0x8769, 0x8825])
def test_only_the_orientation_of_exif_counts(tmp_path, tag):
    for kind in (0, 1, 2, 3, 5, 7, 12, 99):
        for count in (0, 1, 2**32 - 1):
            for order, value in (("<", 38), (">", 0xFFFFFFF0)):
                exif = exif_with(tag, kind, count, order, value)
                assert is_upright(read(tmp_path / "a.jpg", with_segment(STORED_JPEG, 0xE1, b"Exif\0\0" + exif)))
        assert is_upright(read(tmp_path / "a.png", with_chunk(STORED, b"eXIf", exif)))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (1, b"\6"),
        (3, b"\6\0"),
        (4, b"\6\0\0\0"),
        (6, b"\6"),
        (8, b"\6\0"),
        (9, b"\6\0\0\0"),
        (11, struct.pack("<f", 6)),
    ],
)
def test_orientation_of_any_numeric_type(kind, value):
    exif = b"II*\0\x08\0\0\0\1\0" + struct.pack("<HHI", 0x112, kind, 1) + value.ljust(4, b"\0") + bytes(4)
    assert exif_orientation(exif) == exif_orientation(b"Exif\0\0" + exif) == 6
    assert exif_orientation(exif[:18]) is None
    assert exif_orientation(b"") is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [0, 1, 2, 5, 6, 7, 8, 9])
def test_orientation_is_that_of_pillow(tmp_path, kind, orientation):
    if kind in ("WEBP", "AVIF") and not features.check(kind.lower()):
        pytest.skip(f"this Pillow reads no {kind}")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "someone"
    content = encoded(Image.fromarray(NOISE), kind, exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        expected = ImageOps.exif_transpose(image).convert("RGB")
        np.testing.assert_array_equal(to_rgb(image), expected)
    np.testing.assert_array_equal(read(tmp_path / "a", content), expected)


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
RAW_EXIF = f"\nexif\n{26:8}\n{(b'MM' + struct.pack('>HIHHHIHHI', 42, 8, 1, 0x112, 3, 1, 6, 0, 0)).hex()}\n"


@pytest.mark.parametrize(
    "content",
    [
        with_segment(STORED_JPEG, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP.encode()),
        with_segment(STORED_JPEG, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP.replace('="6"', ">6<").encode()),
        with_chunk(STORED, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP.encode()),
        with_chunk(STORED, b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP.encode())),
        with_chunk(STORED, b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_EXIF.encode())),
        encoded(Image.open(io.BytesIO(STORED)), "TIFF", tiffinfo={700: XMP.encode()}),
    ],
)
def test_orientation_in_other_places(tmp_path, content):
    assert is_upright(read(tmp_path / "a", content))


BOMB = zlib.compress(bytes(100 << 20))  # 100 kB that unpack to 100 MB
SIDE_DATA = {
    "text": (b"zTXt", b"Comment\0\0" + BOMB),
    "compressed XMP": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "profile": (b"iCCP", b"icc\0\0" + BOMB),
    "damaged profile": (b"iCCP", b"icc\0\0odd"),
    "resolution": (b"pHYs", b"odd"),
    "time": (b"tIME", b""),
    "gamma": (b"gAMA", b"\0"),
    "EXIF": (b"eXIf", b"odd"),
    "animation": (b"acTL", b"odd"),
}


@pytest.mark.parametrize("name", SIDE_DATA)
def test_side_data_of_a_png_does_not_count(tmp_path, name):
    chunk, data = SIDE_DATA[name]
    png = encoded(scene(), "PNG")
    assert is_upright(read(tmp_path / "a.png", with_chunk(png, chunk, data)))
    assert is_upright(read(tmp_path / "a.png", with_chunk(png, chunk, data[:100], crc=0)))
    late = png[:-12] + with_chunk(bytes(33), chunk, data)[33:] + png[-12:]
    assert is_upright(read(tmp_path / "a.png", late))


@pytest.mark.parametrize("marker", [*range(0xE0, 0xF0), 0xFE])
@pytest.mark.parametrize(
    "data", [b"", b"J", b"JFIF\0", b"Exif\0\0", b"MPF\0odd", b"ICC_PROFILE\0\1", b"Photoshop 3.0\0x"]
)
def test_side_data_of_a_jpeg_does_not_count(tmp_path, marker, data):
    jpeg = encoded(scene(), "JPEG", quality=95)
    assert is_upright(read(tmp_path / "a.jpg", with_segment(jpeg, marker, data)))


def tiff(extra: list[tuple[int, int, int, int]], *, big: bool = False) -> bytes:
    """An uncompressed TIFF of the scene, turned, with further entries (tag, type, count, value)."""
    pixels = Image.open(io.BytesIO(STORED)).tobytes()
    start = 16 if big else 8
    bits = start + len(pixels)
    entries = sorted(
        [(256, 3, 1, 16), (257, 3, 1, 24), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, start),
         (274, 3, 1, 6), (277, 3, 1, 3), (278, 3, 1, 24), (279, 4, 1, len(pixels)), *extra]
    )  # fmt: skip
    if big:
        entries = [
            (tag, kind, count, 8 | 8 << 16 | 8 << 32 if tag == 258 else value) for tag, kind, count, value in entries
        ]
    table = b"".join(struct.pack("<HHQQ" if big else "<HHII", *entry) for entry in entries)
    at = bits + 6
    head = struct.pack("<2sHHHQ", b"II", 43, 8, 0, at) if big else struct.pack("<2sHI", b"II", 42, at)
    count = struct.pack("<Q" if big else "<H", len(entries))
    return head + pixels + struct.pack("<3H", 8, 8, 8) + count + table + bytes(8)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("tag", [270, 282, 296, 305, 330, 34665, 34675, 40000])
def test_side_data_of_a_tiff_does_not_count(tmp_path, tag, big):
    for kind in (1, 2, 3, 5, 12, 13, 99):
        for count, value in ((1, 5), (1000, 2**31), (2**32 - 1, 8)):
            assert is_upright(read(tmp_path / "a.tif", tiff([(tag, kind, count, value)], big=big)))


def test_tiff_with_the_same_megabytes_in_every_tag_is_read(tmp_path):
    content = tiff([(40000 + tag, 7, 1 << 20, 8) for tag in range(20_000)])  # 20 GB if each were read
    assert is_upright(read(tmp_path / "a.tif", content + bytes(1 << 20)))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"])
def test_compressed_tiff(tmp_path, compression):
    image = Image.fromarray(NOISE).convert("1" if compression == "group4" else "RGB")
    content = encoded(image, "TIFF", compression=compression, dpi=(300, 300))
    with Image.open(io.BytesIO(content)) as opened:
        np.testing.assert_array_equal(read(tmp_path / "a.tif", content), opened.convert("RGB"))


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_avif_and_heic_with_odd_exif(tmp_path, kind):
    image = scene().resize((96, 64))
    exif = b"Exif\0\0" + exif_with(0x11A, 5, 1, "<", 38)
    if kind == "AVIF":
        if not features.check("avif"):
            pytest.skip("this Pillow reads no AVIF")
        content = encoded(image, "AVIF", exif=exif)
    else:
        heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif")
        stream = io.BytesIO()
        heif.from_pillow(image).save(stream, exif=exif)
        content = stream.getvalue()
    good, odd = struct.pack("<HHI", 0x11A, 5, 1), struct.pack("<HHI", 0x11A, 1, 1)
    assert content.count(good) == 1
    expected = np.asarray(read(tmp_path / "good", content))
    np.testing.assert_array_equal(read(tmp_path / "odd", content.replace(good, odd)), expected)
    assert expected.shape == (96, 64, 3)  # turned


SAVED = {"AVIF", "BMP", "DIB", "GIF", "ICNS", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA"} | {
    "TIFF", "WEBP", "MPO", "XBM"
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(SAVED))
def test_every_format_is_read(tmp_path, kind):
    Image.init()
    if kind not in Image.SAVE or (kind != "MPO" and kind not in Image.OPEN):
        pytest.skip(f"this Pillow writes no {kind}")
    image = Image.fromarray(NOISE).resize((64, 64)).convert("1" if kind == "XBM" else "RGB")
    options = {"quality": 100} if kind == "JPEG2000" else {"lossless": True} if kind == "WEBP" else {}
    assert read(tmp_path / "picture", encoded(image, kind, **options)).size[0] >= 64
    suffixes = {suffix for suffix, name in Image.EXTENSION.items() if name == kind}
    assert suffixes <= SUFFIXES
    assert kind in (*FORMATS, "MPO")


def test_heic_is_read_or_the_package_is_named(tmp_path, monkeypatch):
    assert {".heic", ".heif", ".avif", ".jp2", ".jfif"} <= SUFFIXES
    start = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic")
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    with pytest.raises(BadImageError, match=r"HEIC.*pip install pillow-heif"):
        read(tmp_path / "a.heic", start + bytes(100))


def test_heic(tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif")
    stream = io.BytesIO()
    heif.from_pillow(scene().resize((64, 64))).save(stream, quality=-1)
    image = read(tmp_path / "a.heic", stream.getvalue())
    assert image.size == (64, 64)
    np.testing.assert_allclose(np.asarray(image)[32, [5, 60]], [[0, 0, 255], [255, 0, 0]], atol=6)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n"
IPTC_OF_EPS = (
    b"\x1c\x03\x14\0\1\1\x1c\x03\x15\0\1\1\x1c\x03\x3c\0\2\1\1\x1c\x08\x0a" + struct.pack(">H", len(EPS)) + EPS
)


@pytest.mark.skipif(sys.platform == "win32", reason="plants a shell script")
@pytest.mark.parametrize("name", ["photo.jpg", "photo.eps", "photo.png"])
@pytest.mark.parametrize(
    "content", [EPS, b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(EPS)) + bytes(20) + EPS, IPTC_OF_EPS]
)
def test_no_image_starts_a_program(tmp_path, monkeypatch, name, content):
    mark = tmp_path / "mark"
    for program in ("gs", "djpeg", "dvips", "hpcdtoppm"):
        (tmp_path / program).write_text(f"#!/bin/sh\necho run >>{mark}\necho 10.0\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(BadImageError, match="not an image that can be read"):
        read(tmp_path / name, content)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"<!DOCTYPE html><html><body>Not found</body></html>", "a web page"),
        (b"\n <HTML>", "a web page"),
        (b"%PDF-1.7", "a PDF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"PK\3\4", "archive"),
        (bytes(5000), "zero bytes"),
        (b"", "empty"),
    ],
)
def test_other_files_are_called_what_they_are(tmp_path, content, hint):
    with pytest.raises(BadImageError, match=rf"a\.jpg: not an image.*{hint}"):
        read(tmp_path / "a.jpg", content)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_what_is_no_file_is_refused_without_opening_it(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.jpg"))
    for name, reason in (("fifo", "a FIFO"), ("zero", "a device"), ("loop", "oo many"), ("s", "a socket")):
        with pytest.raises(BadImageError, match=rf"{name}\.jpg: .*{reason}"):
            read_image(tmp_path / f"{name}.jpg")


JPEGS = {
    "baseline": encoded(Image.fromarray(NOISE), "JPEG"),
    "progressive": encoded(Image.fromarray(NOISE), "JPEG", progressive=True),
    "grey": encoded(Image.fromarray(NOISE).convert("L"), "JPEG"),
    "restarts": encoded(Image.fromarray(NOISE), "JPEG", restart_marker_blocks=2),
    "CMYK": encoded(Image.fromarray(NOISE).convert("CMYK"), "JPEG"),
}


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("end", [b"", b"\xff", bytes(300), b"\xff" + bytes(300)])
def test_jpeg_without_its_end_marker_is_whole(tmp_path, name, end):
    expected = np.asarray(read(tmp_path / "a.jpg", JPEGS[name]))
    np.testing.assert_array_equal(read(tmp_path / "b.jpg", JPEGS[name][:-2] + end), expected)


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("cut", [6, 40, 400])
@pytest.mark.parametrize("end", [b"", bytes(500)])
def test_jpeg_cut_short_is_refused_or_accepted(tmp_path, name, cut, end):
    expected = np.asarray(read(tmp_path / "a.jpg", JPEGS[name])).astype(int)
    path = tmp_path / "b.jpg"
    with pytest.raises(BadImageError, match=r"truncated.*--truncated accept"):
        read(path, JPEGS[name][:-cut] + end)
    part = np.asarray(read_image(path, reading=Reading(truncated="accept"))).astype(int)
    if name != "progressive":
        assert np.abs(part - expected)[:16].max() == 0  # the beginning
    if cut == 400:
        assert np.abs(part - expected).max() > 50


def test_progressive_jpeg_without_its_last_scans_is_cut_short(tmp_path):
    jpeg = JPEGS["progressive"]
    with pytest.raises(BadImageError, match="truncated"):
        read(tmp_path / "a.jpg", jpeg[: jpeg.rindex(b"\xff\xc4")])


def of_many_scans(size: tuple[int, int], number: int, between: bytes = b"", **options: object) -> bytes:
    """A progressive JPEG whose last scan is repeated, which changes nothing but the time that decoding takes."""
    jpeg = encoded(Image.new("RGB", size, "red"), "JPEG", progressive=True, **options)[:-2]
    last = jpeg[jpeg.rindex(b"\xff\xda") :]
    return jpeg + (between + last) * (number - jpeg.count(b"\xff\xda")) + b"\xff\xd9"


@pytest.mark.parametrize("between", [b"", b"\xff" * 5, b"\xff\xfe\x00\x06\xff\xd9\xff\xd9", b"\xff\xe1\x00\x02"])
def test_jpeg_of_very_many_scans_is_refused(tmp_path, between):
    assert read(tmp_path / "a.jpg", of_many_scans((64, 48), 200, between)).size == (64, 48)
    for at_least in (None, 6):
        with pytest.raises(BadImageError, match="a JPEG of more than 200 scans"):
            read(tmp_path / "a.jpg", of_many_scans((64, 48), 201, between), at_least=at_least)
    with pytest.raises(BadImageError, match="more than 200 scans"):  # without its end marker
        read(tmp_path / "a.jpg", of_many_scans((64, 48), 5000, between)[:-2], reading=Reading(truncated="accept"))


def test_scans_of_a_large_jpeg_are_limited_by_its_pixels(tmp_path):
    limit = Reading(max_pixels=4 * 64 * 48)
    for number in (11, 64):
        read(tmp_path / "a.jpg", of_many_scans((64, 48), number), reading=limit)
    with pytest.raises(BadImageError, match=r"3072 pixels in 65 scans.*--max_pixels 12480 admits it"):
        read(tmp_path / "a.jpg", of_many_scans((64, 48), 65), reading=limit)
    read(tmp_path / "a.jpg", of_many_scans((64, 48), 65), reading=Reading(max_pixels=12480))


def test_only_the_scans_of_the_image_itself_count(tmp_path):
    more = of_many_scans((64, 48), 300)  # a preview of a camera, or the film of a moving photograph
    for jpeg in (JPEGS["progressive"], encoded(Image.fromarray(NOISE), "JPEG")):
        assert read(tmp_path / "a.jpg", jpeg + more).size == (64, 48)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TGA", "PPM", "TIFF"])
def test_other_formats_cut_short(tmp_path, kind):
    content = encoded(Image.fromarray(NOISE), kind)
    path = tmp_path / "a"
    with pytest.raises(BadImageError, match="--truncated accept"):
        read(path, content[: len(content) * 2 // 3])
    part = np.asarray(read_image(path, reading=Reading(truncated="accept")))
    whole = np.asarray(read(tmp_path / "b", content))
    rows = slice(38, 44) if kind in ("TGA", "BMP") else slice(0, 8)  # these begin with the last row
    np.testing.assert_array_equal(part[rows], whole[rows])
    with pytest.raises(BadImageError):
        read(path, content[:60], reading=Reading(truncated="accept"))


def test_size_limit_counts_what_is_decoded(tmp_path):
    limit = Reading(max_pixels=64 * 48 - 1)
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"):
        with pytest.raises(BadImageError, match=r"(?i)bomb.*--max_pixels [0-9]+ admits it"):
            read(tmp_path / "a", encoded(Image.fromarray(NOISE), kind), reading=limit)
    assert read_image(tmp_path / "a", reading=Reading(max_pixels=10**9)).size == (64, 48)
    assert read(tmp_path / "a", JPEGS["baseline"], reading=limit, at_least=20).size == (32, 24)
    panorama = encoded(Image.new("L", (4000, 1000)), "JPEG")
    assert read(tmp_path / "a", panorama, at_least=100, reading=Reading(max_pixels=70_000)).size == (500, 125)
    progressive = encoded(Image.new("RGB", (4000, 1000)), "JPEG", progressive=True)
    with pytest.raises(BadImageError, match="bomb"):  # the coefficients of all pixels are held
        read(tmp_path / "a", progressive, at_least=100, reading=Reading(max_pixels=70_000))


def test_sparse_file_is_not_read_into_memory(tmp_path):
    with open(tmp_path / "a.png", "wb") as file:
        file.write(encoded(scene(), "PNG")[:20])
        file.truncate(1 << 40)
    with pytest.raises(BadImageError, match="File size"):
        read_image(tmp_path / "a.png")


MODES = ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B", "La", "RGBa"]


def old_rgb(image: Image.Image) -> Image.Image:
    """Convert as a whole: the plain form of what is done by strips."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = np.nan_to_num(np.asarray(image).astype(np.float64))
        deep = 65535.0 if image.mode.startswith("I;16") or grey.max() > 255 else 255.0
        full = (1.0 if grey.max() <= 1 else 255.0) if image.mode == "F" else deep
        return Image.fromarray(np.clip(np.rint(grey * 255 / full), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        colours = image.convert("RGBA")
        canvas = Image.new("RGBA", colours.size, "white")
        canvas.alpha_composite(colours)
        return canvas.convert("RGB")
    return image.convert("RGB")


@pytest.mark.parametrize("mode", MODES)
def test_strips_give_the_values_of_the_whole(mode, monkeypatch):
    monkeypatch.setattr("src.data.pixels._STRIP", 64 * 5)
    random = np.random.RandomState(1)
    size = (64, 48)
    if mode in ("I", "F", "I;16", "I;16B"):
        values = random.uniform(-100, 70_000, size[::-1])
        kind = {"I": "<i4", "F": "<f4", "I;16": "<u2", "I;16B": ">u2"}[mode]
        image = Image.frombytes(mode, size, values.clip(0 if "16" in mode else -100, 65_535).astype(kind).tobytes())
    elif mode == "PA":
        image = Image.fromarray(NOISE).quantize(16).convert("PA")
    elif mode in ("La", "RGBa"):
        values = random.randint(0, 256, (48, 64, 4), dtype=np.uint8)
        image = Image.fromarray(values).convert("LA" if mode == "La" else "RGBA").convert(mode)
    else:
        length = len(Image.new(mode, size).tobytes())
        image = Image.frombytes(mode, size, random.randint(0, 256, length, dtype=np.uint8).tobytes())
        if mode == "P":
            image.putpalette(random.randint(0, 256, 768, dtype=np.uint8).tobytes())
            image.info["transparency"] = bytes(range(256))
    try:
        expected = old_rgb(image)
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)):
            as_rgb(image)
        return
    np.testing.assert_array_equal(as_rgb(image), expected)
    np.testing.assert_array_equal(as_array(expected), np.asarray(expected))


MEMORY = """
import resource, sys
from src.data.images import BadImageError, read_image
from src.options import Reading
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    read_image(path)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measures in Linux's units")
def test_memory_and_messages_of_large_and_odd_images(tmp_path):
    side = 4000
    row = zlib.compressobj(1)
    data = b"".join(row.compress(b"\0" * (2 * side + 1)) for _ in range(side)) + row.flush()
    header = struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(with_chunk(bytes(33), name, content)[33:] for name, content in chunks)
    (tmp_path / "deep.png").write_bytes(png)
    floats = np.full((2000, 2000), np.inf, np.float32)
    Image.fromarray(floats).save(tmp_path / "float.tif")
    exif = exif_with(0x11A, 5, 2**31, "<", 2**31)
    (tmp_path / "odd.jpg").write_bytes(with_segment(STORED_JPEG, 0xE1, b"Exif\0\0" + exif))
    paths = [tmp_path / name for name in ("deep.png", "float.tif", "odd.jpg")]
    finished = subprocess.run(
        [sys.executable, "-W", "default", "-c", MEMORY, *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert finished.stderr == ""
    assert int(finished.stdout) * 1024 < 11 * side * side  # bytes; float64 alone would be 8 for each pixel
