"""Images of all formats that Pillow writes here."""

from __future__ import annotations

import io

from PIL import Image, features

from src.data.images import read_image
from tests.fuzz.harness import Target


def _drawn(mode: str = "RGB") -> Image.Image:
    return Image.linear_gradient("L").resize((24, 16)).convert(mode)


def _saved(form: str, mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    _drawn(mode).save(stream, form, **options)
    return stream.getvalue()


def targets() -> tuple[Target, ...]:
    """Return the reader of images, once per group of formats."""
    exif = Image.Exif()
    exif[0x0112] = 6
    lossy = [_saved("JPEG", exif=exif), _saved("JPEG", "CMYK"), _saved("JPEG", progressive=True)]
    lossy += [_saved("WEBP")] if features.check("webp") else []
    lossy += [_saved("AVIF")] if features.check("avif") else []
    lossless = [_saved("PNG"), _saved("PNG", "P"), _saved("PNG", "I;16"), _saved("GIF", "P"), _saved("BMP")]
    deep = [_saved("TIFF"), _saved("TIFF", "F"), _saved("TIFF", "I;16"), _saved("PPM"), _saved("TGA"), _saved("ICO")]
    rare = [_saved("PCX"), _saved("SGI"), _saved("XBM", "1"), _saved("ICNS"), _saved("DIB"), _saved("GIF", "P")]
    rare += [_saved("JPEG2000")] if features.check("jpg_2000") else []
    return (
        Target("jpeg", "a.jpg", tuple(lossy), read_image),
        Target("png", "a.png", tuple(lossless), read_image),
        Target("tiff", "a.tif", tuple(deep), read_image),
        Target("rare-images", "a.pcx", tuple(rare), read_image),
    )
