"""Keywords in copies of images: read back by another program's library, pixels and other metadata untouched."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from src.errors import UserError
from src.inference.keywords import KeywordsError, KeywordWriter

pyexiv2 = pytest.importorskip("pyexiv2", reason="needs pyexiv2 (pip install pyexiv2)")
TAGS = ["sea turtle", "café", "日本"]


def image(path: Path) -> Path:
    Image.radial_gradient("L").convert("RGB").resize((64, 48)).save(path)
    return path


def read(path: Path) -> tuple[list[str], list[str]]:
    """(XMP subjects, IPTC keywords)."""
    with pyexiv2.Image(str(path)) as metadata:
        xmp, iptc = metadata.read_xmp(), metadata.read_iptc()
    return xmp.get("Xmp.dc.subject", []), iptc.get("Iptc.Application2.Keywords", [])


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp"])
def test_copy_has_tags_and_the_same_pixels(tmp_path, suffix):
    source = image(tmp_path / f"a.{suffix}")
    before = source.read_bytes()
    copy = KeywordWriter(tmp_path / "out").write(source, TAGS)
    assert copy == tmp_path / "out" / f"a.{suffix}"
    assert read(copy)[0] == TAGS
    if suffix != "webp":  # has no place for IPTC
        assert read(copy)[1] == TAGS
    assert source.read_bytes() == before
    with Image.open(source) as one, Image.open(copy) as other:
        assert ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getbbox() is None


def test_existing_keywords_and_metadata_are_kept(tmp_path):
    source = image(tmp_path / "a.jpg")
    with pyexiv2.Image(str(source)) as metadata:
        metadata.modify_exif({"Exif.Image.Artist": "someone"})
        metadata.modify_xmp({"Xmp.dc.subject": ["holiday", "café"]})
        metadata.modify_iptc({"Iptc.Application2.Keywords": ["holiday"]})
    copy = KeywordWriter(tmp_path / "out").write(source, TAGS)
    assert read(copy) == (["holiday", "café", "sea turtle", "日本"], ["holiday", *TAGS])
    with pyexiv2.Image(str(copy)) as metadata:
        assert metadata.read_exif()["Exif.Image.Artist"] == "someone"
    again = KeywordWriter(tmp_path / "again").write(copy, TAGS)
    assert read(again) == read(copy)


def test_tag_too_long_for_iptc_is_in_xmp_only(tmp_path):
    copy = KeywordWriter(tmp_path / "out").write(image(tmp_path / "a.jpg"), ["short", "long" * 20])
    assert read(copy) == (["short", "long" * 20], ["short"])


def test_iptc_in_another_character_set_is_left_alone(tmp_path):
    source = image(tmp_path / "a.jpg")
    with pyexiv2.Image(str(source)) as metadata:
        metadata.modify_iptc({"Iptc.Application2.Caption": "Übersee"})
    copy = KeywordWriter(tmp_path / "out").write(source, ["sea"])
    assert read(copy) == (["sea"], [])


@pytest.mark.parametrize("charset", [None, "\x1b%G"], ids=["undeclared", "declared as UTF-8"])
def test_iptc_in_latin_1_is_left_as_it_is(tmp_path, charset):
    source = image(tmp_path / "a.jpg")
    with pyexiv2.Image(str(source)) as metadata:
        declared = {} if charset is None else {"Iptc.Envelope.CharacterSet": charset}
        texts = {"Iptc.Application2.Caption": "Größe", "Iptc.Application2.Keywords": ["Café"]}
        metadata.modify_iptc({**declared, **texts}, encoding="latin-1")
    copy = KeywordWriter(tmp_path / "out").write(source, ["sea"])
    with pyexiv2.Image(str(copy)) as metadata:
        assert metadata.read_xmp()["Xmp.dc.subject"] == ["sea"]
        assert metadata.read_iptc(encoding="latin-1") == {**declared, **texts}


def test_keywords_that_differ_in_case_only_are_written_once(tmp_path):
    source = image(tmp_path / "a.jpg")
    with pyexiv2.Image(str(source)) as metadata:
        metadata.modify_xmp({"Xmp.dc.subject": ["Sea Turtle", "sea turtle"]})  # of the user
        metadata.modify_iptc({"Iptc.Application2.Keywords": ["CAFE"]})
    copy = KeywordWriter(tmp_path / "out").write(source, ["sea turtle", "Café", "CAFÉ", "cafe"])
    assert read(copy) == (["Sea Turtle", "sea turtle", "Café", "cafe"], ["CAFE", "sea turtle", "Café"])


@pytest.mark.parametrize("error", [RuntimeError, ValueError, TypeError, MemoryError, KeyError, RecursionError])
def test_whatever_the_library_raises_is_about_one_image(tmp_path, monkeypatch, error):
    writer = KeywordWriter(tmp_path / "out")

    def fail(*arguments):
        raise error("odd")

    monkeypatch.setattr(writer._exiv2, "ImageData", fail)
    with pytest.raises(KeywordsError, match=r"a\.jpg: cannot hold keywords: .*odd"):
        writer.write(image(tmp_path / "a.jpg"), TAGS)
    assert list((tmp_path / "out").iterdir()) == []


def test_copy_that_cannot_be_written_is_named(tmp_path):
    writer = KeywordWriter(tmp_path / "out")
    (tmp_path / "out" / "a.jpg").mkdir()
    with pytest.raises(KeywordsError, match=r"a\.jpg: "):
        writer.write(image(tmp_path / "a.jpg"), TAGS)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool")
def test_exiftool_reads_them(tmp_path):
    copy = KeywordWriter(tmp_path / "out").write(image(tmp_path / "a.jpg"), TAGS)
    command = ["exiftool", "-s3", "-Subject", "-Keywords", str(copy)]
    assert (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines() == [", ".join(TAGS)] * 2
    )


def test_another_name_for_the_copy(tmp_path):
    assert KeywordWriter(tmp_path / "out").write(image(tmp_path / "a.jpg"), TAGS, "b.jpg").name == "b.jpg"


@pytest.mark.parametrize("suffix", ["gif", "bmp"])
def test_formats_without_keywords_are_named_and_leave_nothing(tmp_path, suffix):
    source = image(tmp_path / f"a.{suffix}")
    with pytest.raises(KeywordsError, match=rf"a\.{suffix}: cannot hold keywords"):
        KeywordWriter(tmp_path / "out").write(source, TAGS)
    assert list((tmp_path / "out").iterdir()) == []


def test_image_is_never_overwritten(tmp_path):
    source = image(tmp_path / "a.jpg")
    before = source.read_bytes()
    with pytest.raises(UserError, match=r"--write_keywords .*would overwrite"):
        KeywordWriter(tmp_path).write(source, TAGS)
    assert source.read_bytes() == before


def test_unusable_folder_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--write_keywords .*cannot be made"):
        KeywordWriter(tmp_path / "file" / "out")


def test_missing_pyexiv2_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyexiv2", None)
    with pytest.raises(UserError, match=r"--write_keywords .*pip install pyexiv2"):
        KeywordWriter(tmp_path / "out")
    assert not (tmp_path / "out").exists()
