"""The contact sheet: everything on it, nothing that a tag could break, and its filter in a real browser."""

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from src.errors import UserError
from src.inference.contact_sheet import open_contact_sheet
from src.tags import Tag

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
ODD = "<b>'\"&amp;</script>"


class Elements(HTMLParser):
    """The start tags of a page, with their attributes, and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


def sheet(folder: Path, title: str = "photos") -> Path:
    path = folder / "out" / "sheet.html"
    with open_contact_sheet(path, title) as page:
        for name, colour, tags in (
            ("a b#1.jpg", "red", [Tag("sea", 1.25, False), Tag("boat", 0.5, True)]),
            ("ü.png", "green", [Tag("seagull", 2.0, False), Tag(ODD, -1.0, True)]),
            ("c.jpg", "blue", []),
        ):
            image = Image.new("RGB", (800, 300), colour)
            image.save(folder / name)
            page.add(image, tags, folder / name)
    return path


def test_page_has_every_image_with_tags_and_link(tmp_path):
    path = sheet(tmp_path)
    page = Elements(path.read_text(encoding="utf-8"))
    assert len(page.of("figure")) == 3
    links = [path.parent / unquote(one["href"]) for one in page.of("a")]
    assert [link.resolve().name for link in links] == ["a b#1.jpg", "ü.png", "c.jpg"]
    assert all(link.is_file() for link in links)
    buttons = [(one["data-tag"], one.get("class"), one["title"]) for one in page.of("button")]
    assert buttons == [
        ("sea", None, "1.250"), ("boat", "unseen", "0.500"), ("seagull", None, "2.000"), (ODD, "unseen", "-1.000"),
    ]  # fmt: skip
    assert ODD in page.texts
    assert "a b#1.jpg" in page.texts


def test_thumbnails_are_small_and_embedded(tmp_path):
    page = Elements(sheet(tmp_path).read_text(encoding="utf-8"))
    for image, colour in zip(page.of("img"), ((254, 0, 0), (0, 128, 0), (0, 0, 254)), strict=True):
        data = base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))
        thumbnail = Image.open(io.BytesIO(data))
        assert thumbnail.size == (320, 120)
        assert all(abs(one - other) <= 3 for one, other in zip(thumbnail.getpixel((100, 60)), colour, strict=True))


def test_page_needs_no_network(tmp_path):
    text = sheet(tmp_path).read_text(encoding="utf-8")
    assert not re.findall(r"https?://|//[a-z]+\.", re.sub(r'src="data:[^"]*"', "", text))


def test_title_is_escaped(tmp_path):
    page = Elements(sheet(tmp_path, "a & <b>").read_text(encoding="utf-8"))
    assert page.of("b") == [{}] * 3  # the file names alone


def test_failed_run_keeps_the_existing_page(tmp_path):
    path = sheet(tmp_path)
    before = path.read_bytes()
    with pytest.raises(AttributeError), open_contact_sheet(path, "x") as page:
        page.add(None, [], tmp_path / "c.jpg")
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_unwritable_page_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"cannot write .*sheet\.html"),
        open_contact_sheet(tmp_path / "file" / "sheet.html", "x"),
    ):
        pass


def dom(path: Path, query: str) -> tuple[Elements, str]:
    """The page as a browser has it once its script has run."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"{path.as_uri()}#{query}"]
    text = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return Elements(text), text


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
@pytest.mark.parametrize(
    ("query", "shown"),
    [("", [0, 1, 2]), ("sea", [0, 1]), ("SEA,%20boat", [0]), ("whale", []), ("%3Cb%3E", [1])],
)
def test_filter_in_a_browser(tmp_path, query, shown):
    page, text = dom(sheet(tmp_path), query)
    assert [row for row, figure in enumerate(page.of("figure")) if "hidden" not in figure] == shown
    assert f"{len(shown)} of 3 images" in text
    counted = [text for text in page.texts if re.fullmatch(r".* \d+", text)]
    assert counted == [f"{ODD} 1", "boat 1", "sea 1", "seagull 1"]
    assert [one["data-tag"] for one in page.of("button") if "chosen" in (one.get("class") or "")].count("boat") == (
        2 if "boat" in query else 0
    )
