"""XMP sidecars: keywords are added, and everything else stays as it is; what is damaged or hostile is left alone."""

import os
import re

import pytest
from PIL import Image

import infer
from src.errors import UserError
from src.inference import xmp
from src.inference.keywords import KeywordsError, SidecarWriter
from src.inference.xmp import BadPacketError, with_keywords
from tests.helpers import save_tiny, tiny_model
from tests.script_helpers import call

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"
HEAD = f'<rdf:RDF xmlns:rdf="{RDF}" xmlns:dc="{DC}">'
DIGIKAM = '<d:TagsList xmlns:d="http://www.digikam.org/ns/1.0/"><rdf:Seq><rdf:li>A/sea</rdf:li></rdf:Seq></d:TagsList>'
LIGHTROOM = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk='Adobe XMP Core 7.0'>
 <!-- a comment; a > in an attribute -->
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" crs:Look="a > b"
     xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4">
   <dc:subject xmlns:dc="http://purl.org/dc/elements/1.1/"><rdf:Bag>
     <rdf:li>Sky</rdf:li>
     <rdf:li>Caf\u00e9 &amp; bar</rdf:li>
   </rdf:Bag></dc:subject>
   <mine:own xmlns:mine="http://mine.example/"><![CDATA[<kept>]]></mine:own>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""


def subjects(packet: bytes) -> list[str]:
    return xmp._Packet(xmp._SUBJECT, xmp._decoded(packet)[2].encode()).items


def body(inner: str) -> str:
    return f'{HEAD}<rdf:Description rdf:about="">{inner}</rdf:Description></rdf:RDF>'


def test_only_missing_keywords_are_inserted_into_a_sidecar_of_another_program():
    packet = LIGHTROOM.encode()
    new = with_keywords(packet, ["sky", "sea", "SEA", "cafe\u0301 & bar", "<b>"])  # a decomposed accent
    added = b"<rdf:li>sea</rdf:li><rdf:li>&lt;b&gt;</rdf:li>"
    assert new == packet.replace(b"   </rdf:Bag>", b"   " + added + b"</rdf:Bag>")
    assert with_keywords(new, ["sea", "<B>"]) == new


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (xmp.NEW_PACKET.decode(), ["Sky", "sea"]),
        (HEAD + "</rdf:RDF>", ["Sky", "sea"]),
        (f'<RDF xmlns="{RDF}"/>', ["Sky", "sea"]),
        (body(""), ["Sky", "sea"]),
        (body("<dc:subject/>"), ["Sky", "sea"]),
        (body("<dc:subject></dc:subject>"), ["Sky", "sea"]),
        (body("<dc:subject>sky</dc:subject>"), ["sky", "sea"]),
        (body("<dc:subject><rdf:Bag/></dc:subject>"), ["Sky", "sea"]),
        (body("<dc:subject><rdf:Seq><rdf:li>sky</rdf:li></rdf:Seq></dc:subject>"), ["sky", "sea"]),
        (body("<dc:subject><rdf:Alt><rdf:li a='>'>x</rdf:li></rdf:Alt></dc:subject>"), ["x", "Sky", "sea"]),
        (f'<r:RDF xmlns:r="{RDF}"><r:Description><s:subject xmlns:s="{DC}"><r:Bag/></s:subject></r:Description>'
         "</r:RDF>", ["Sky", "sea"]),
    ],
)  # fmt: skip
def test_every_form_of_the_list_takes_keywords(packet, expected):
    new = with_keywords(packet.encode(), ["Sky", "sea"])
    assert subjects(new) == expected
    assert with_keywords(new, ["sea", "sky"]) == new


def test_lists_of_tag_paths_are_extended_where_there_are_some():
    new = with_keywords(body(DIGIKAM).encode(), ["sea", "sky"]).decode()
    assert "<rdf:li>A/sea</rdf:li><rdf:li>sky</rdf:li></rdf:Seq>" in new
    assert subjects(new.encode()) == ["sea", "sky"]
    assert "TagsList" not in with_keywords(body("").encode(), ["sea"]).decode()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_encodings_are_kept(encoding):
    declared = {"utf-8-sig": "UTF-8", "utf-16": "UTF-16", "latin-1": "ISO-8859-1"}[encoding]
    packet = f'<?xml version="1.0" encoding="{declared}"?>{body("<dc:title>é</dc:title>")}'.encode(encoding)
    new = with_keywords(packet, ["naïve", "日本"])
    assert subjects(new) == ["naïve", "日本"]
    assert re.sub("<dc:subject.*</dc:subject>", "", new.decode(encoding)) == packet.decode(encoding)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"", "not well-formed"),
        (b"no XML", "not well-formed"),
        (LIGHTROOM.encode()[:-80], "not well-formed"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no XMP"),
        (b'<!DOCTYPE r [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + body("&b;").encode(), "document type"),
        (b'<!DOCTYPE r SYSTEM "file:///etc/passwd">' + body("").encode(), "document type"),
        (b"<a>" * 300 + b"</a>" * 300, "nested"),
        (body("").encode() + b"\xff", "utf-8"),
        (b'<?xml version="1.0" encoding="klingon"?>' + body("").encode(), "klingon"),
        (body("").replace('rdf:about=""', 'rdf:about="" dc:subject="x"').encode(), "attribute"),
        (body('<dc:subject rdf:parseType="Resource"><rdf:value>x</rdf:value></dc:subject>').encode(), "no list"),
        (body('<dc:subject rdf:resource="http://a/"/>').encode(), "no list"),
        (b'<?xml version="1.0" encoding="punycode"?>' + body("").encode(), "no encoding of XML"),
    ],
)
def test_damaged_and_hostile_sidecars_are_refused_and_kept(tmp_path, packet, reason):
    with pytest.raises(BadPacketError, match=reason):
        with_keywords(packet, ["sea"])
    (tmp_path / "a.jpg.xmp").write_bytes(packet)
    with pytest.raises(KeywordsError, match=rf"a\.jpg: a\.jpg\.xmp cannot take keywords: .*{reason}"):
        SidecarWriter().write(tmp_path / "a.jpg", ["sea"])
    assert (tmp_path / "a.jpg.xmp").read_bytes() == packet
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("keyword", ["a\x01b", "\ud83d", "\ufffe"])
def test_keywords_that_xml_cannot_hold_are_refused(keyword):
    with pytest.raises(BadPacketError, match="cannot hold"):
        with_keywords(xmp.NEW_PACKET, [keyword])


def test_sidecar_is_found_in_capitals_and_through_a_link(tmp_path):
    (tmp_path / "a.jpg.XMP").write_text(LIGHTROOM)
    assert SidecarWriter().write(tmp_path / "a.jpg", ["sea"]).name == "a.jpg.XMP"
    (tmp_path / "real.xmp").write_text(LIGHTROOM)
    (tmp_path / "b.jpg.xmp").symlink_to("real.xmp")
    SidecarWriter().write(tmp_path / "b.jpg", ["sea"])
    assert (tmp_path / "b.jpg.xmp").is_symlink()
    assert subjects((tmp_path / "real.xmp").read_bytes())[-1] == "sea"


@pytest.mark.parametrize("name", ["a.jpg", "A B.c.JPG", "ü.png"])
@pytest.mark.parametrize("suffix", [".xmp", ".XMP"])
def test_what_a_sidecar_of_adobe_holds_goes_into_the_new_one(tmp_path, name, suffix):
    image = tmp_path / name
    image.touch()
    image.with_suffix(".txt").write_text("a caption")
    adobe = image.with_suffix(suffix)
    adobe.write_text(LIGHTROOM)
    adobe.chmod(0o444)  # it is not written to
    target = SidecarWriter().write(image, ["sea"])
    assert target.name == f"{name}.xmp"
    assert target.read_bytes() == with_keywords(LIGHTROOM.encode(), ["sea"])
    assert adobe.read_text() == LIGHTROOM
    SidecarWriter().write(image, ["boat"])
    assert subjects(target.read_bytes()) == ["Sky", "Caf\u00e9 & bar", "sea", "boat"]
    assert adobe.read_text() == LIGHTROOM


@pytest.mark.parametrize("other", ["a.CR2", "A.png", "a.mp4", "a.x3f"])
def test_a_sidecar_that_may_be_of_another_file_is_left_out(tmp_path, other):
    for name in ("a.jpg", other):
        (tmp_path / name).touch()
    (tmp_path / "a.xmp").write_text(LIGHTROOM)
    assert subjects(SidecarWriter().write(tmp_path / "a.jpg", ["sea"]).read_bytes()) == ["sea"]


@pytest.mark.parametrize(("extension", "expected"), [("NEF", ["sea"]), ("JPG", ["Sky", "Caf\u00e9 & bar", "sea"])])
def test_a_sidecar_says_which_file_it_is_of(tmp_path, extension, expected):
    packet = LIGHTROOM.replace("crs:Look=", f'photoshop:SidecarForExtension="{extension}" crs:Look=', 1)
    (tmp_path / "a.xmp").write_text(packet.replace("xmlns:crs", 'xmlns:photoshop="p" xmlns:crs', 1))
    (tmp_path / "a.jpg").touch()
    assert subjects(SidecarWriter().write(tmp_path / "a.jpg", ["sea"]).read_bytes()) == expected


def test_a_damaged_sidecar_of_adobe_is_named_and_not_hidden(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "a.xmp").write_text("damaged")
    with pytest.raises(KeywordsError, match=r"a\.jpg: a\.xmp cannot take keywords"):
        SidecarWriter().write(tmp_path / "a.jpg", ["sea"])
    assert not (tmp_path / "a.jpg.xmp").exists()
    (tmp_path / "b.xmp").mkdir()  # no sidecar
    assert subjects(SidecarWriter().write(tmp_path / "b.jpg", ["sea"]).read_bytes()) == ["sea"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "a.jpg.xmp")
    (tmp_path / "b.jpg.xmp").mkdir()
    (tmp_path / "c.jpg.xmp").symlink_to("nowhere")
    for name in ("a.jpg", "b.jpg", "c.jpg", "x" * 252 + ".jpg"):
        with pytest.raises(KeywordsError, match=name):
            SidecarWriter().write(tmp_path / name, ["sea"])
    assert len(list(tmp_path.iterdir())) == 3


def test_a_full_disk_ends_the_run(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        SidecarWriter().write(tmp_path / "a.jpg", ["sea"])
    assert list(tmp_path.iterdir()) == []


def test_sidecars_are_read_by_another_library(tmp_path):
    pyexiv2 = pytest.importorskip("pyexiv2", reason="needs pyexiv2 (pip install pyexiv2)")
    (tmp_path / "old.jpg.xmp").write_text(LIGHTROOM)
    for name, expected in (("new.jpg", ["sea", "日本"]), ("old.jpg", ["Sky", "Café & bar", "sea", "日本"])):
        target = SidecarWriter().write(tmp_path / name, ["sea", "日本"])
        with pyexiv2.Image(str(target)) as metadata:
            assert metadata.read_xmp()["Xmp.dc.subject"] == expected


def test_an_image_without_place_for_keywords_gets_its_sidecar(tmp_path):
    pytest.importorskip("pyexiv2", reason="needs pyexiv2 (pip install pyexiv2)")
    save_tiny(tmp_path / "m.ckpt", tiny_model())
    Image.radial_gradient("L").save(tmp_path / "a.bmp")
    flags = ("--no_picture", "--write_xmp", "--write_keywords", tmp_path / "out", "-j", 0)
    finished = call(infer.main, "--model_path", tmp_path / "m.ckpt", "--pic_path", tmp_path / "a.bmp", *flags)
    assert finished.returncode == 1
    assert "a.bmp: cannot hold keywords" in finished.stderr
    assert subjects((tmp_path / "a.bmp.xmp").read_bytes())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_sidecar_that_is_read_only_stays(tmp_path):
    (tmp_path / "a.jpg.xmp").write_text(LIGHTROOM)
    (tmp_path / "a.jpg.xmp").chmod(0o444)
    with pytest.raises(KeywordsError, match="Permission denied"):
        SidecarWriter().write(tmp_path / "a.jpg", ["sea"])
    assert (tmp_path / "a.jpg.xmp").read_text() == LIGHTROOM


def test_infer_writes_sidecars_and_leaves_the_images(tmp_path):
    model = tmp_path / "model.ckpt"
    save_tiny(model, tiny_model())
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.jpg", "b.png", "c.jpg"):
        Image.radial_gradient("L").save(photos / name)
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    (photos / "c.jpg.xmp").write_text("damaged")
    command = ("--model_path", model, "--pic_path", photos, "--no_picture", "--top_k", 2, "--write_xmp", "-j", 0)
    finished = call(infer.main, *command)
    assert finished.returncode == 1
    assert "no keywords: " in finished.stderr
    assert "1 images have no keywords" in finished.stderr
    assert {name: (photos / name).read_bytes() for name in before} == before
    assert len(subjects((photos / "a.jpg.xmp").read_bytes())) == 2
    assert sorted(path.name for path in photos.iterdir()) == sorted([*before, *(f"{name}.xmp" for name in before)])
    written = (photos / "b.png.xmp").read_bytes()
    (photos / "c.jpg.xmp").unlink()
    assert call(infer.main, *command).returncode == 0
    assert (photos / "b.png.xmp").read_bytes() == written
