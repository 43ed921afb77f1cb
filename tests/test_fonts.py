"""Tags in any script are drawn with a font that has them, and matplotlib takes its settings from nobody."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from src.tags import Explanation, Tag
from src.utils import fonts
from src.utils.fonts import drawable, drawn_width
from src.utils.plotting import font_manager, own_settings
from src.visualize import save_tagged_image
from tests.conftest import ROOT


def build_font(file: Path, family: str, letters: str) -> None:
    """Write a font in which every letter is a filled square."""
    names = [".notdef", *(f"u{ord(letter):x}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):x}" for letter in letters})
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (800, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(file)


@pytest.fixture
def only(monkeypatch, tmp_path):
    """Install the given fonts, and none but matplotlib's own beside them."""
    own = Path(matplotlib.get_data_path())
    listed = [entry for entry in font_manager.fontManager.ttflist if Path(entry.fname).is_relative_to(own)]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", listed)
    monkeypatch.setattr(fonts, "_FOLDERS", (str(tmp_path / "fonts"),))
    monkeypatch.setattr(fonts, "_reported", set())
    (tmp_path / "fonts").mkdir()

    def install(**families: str) -> None:
        for family, letters in families.items():
            build_font(tmp_path / "fonts" / f"{family}.ttf", family, letters)
        (tmp_path / "fonts" / "damaged.ttf").write_bytes(b"\x00\x01\x00\x00")

    caches = (fonts._cover, fonts._installed)
    for cache in caches:
        cache.cache_clear()
    yield install
    for cache in caches:
        cache.cache_clear()


@pytest.mark.filterwarnings("error")
def test_letters_come_from_the_fewest_installed_fonts_that_have_them(only, tmp_path, capsys):
    only(OneSans="日", BothSans="日本", Thai="ไทย")
    assert drawable("cat 日本") == ("cat 日本", ["DejaVu Sans", "BothSans"])
    assert drawable("日本 ไทย") == ("日本 ไทย", ["DejaVu Sans", "Thai", "BothSans"])
    assert drawable("кошка") == ("кошка", ["DejaVu Sans"])
    tags = [Tag("日本", 0.5, True), Tag("ไทย cat", 0.4, False)]
    save_tagged_image(Image.new("RGB", (60, 40)), tags, tmp_path / "x.png")
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("tag", "drawn", "package"),
    [
        ("日本", "U+65E5 U+672C", "fonts-noto-cjk"),
        ("한국 cat", "U+D55C U+AD6D cat", "fonts-noto-cjk"),
        ("ไทย", "U+0E44 U+0E17 U+0E22", "fonts-noto-core"),
        ("हि", "U+0939 U+093F", "fonts-noto-core"),
        ("🐈\ufe0f", "U+1F408", "fonts-symbola"),
        ("𐌰", "U+10330", "fonts-noto-core"),
    ],
)
def test_letters_of_no_installed_font_are_spelt_and_named_once(only, tmp_path, capsys, tag, drawn, package):
    only(Other="x")
    assert drawable(tag)[0] == drawn
    for _ in range(2):
        save_tagged_image(Image.new("RGB", (60, 40)), [Tag(tag, 0.5, True)], tmp_path / "x.png")
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert errors.startswith("no installed font has the characters ")
    assert f"install {package} " in errors


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("tag", "drawn"),
    [
        ("a\nb\x1b[1m\x00", "a\\nb\\x1b[1m\\x00"),
        ("a\u202eb", "a\\u202eb"),
        ("caf\udce9 \ud800", "caf\\xe9 \\ud800"),
        ("$a^2$ \\frac{1}{2}", "$a^2$ \\frac{1}{2}"),
    ],
)
def test_what_cannot_be_drawn_is_escaped(tmp_path, tag, drawn):
    assert drawable(tag) == (drawn, ["DejaVu Sans"])
    save_tagged_image(Image.new("RGB", (60, 40)), [Tag(tag, 0.5, True)], tmp_path / "x.png")


@pytest.mark.parametrize("tag", ["a" * 3_000, "a\u0301" * 2_000, "日" * 3_000, "ab " * 1_000])
def test_long_tags_are_shortened(only, tmp_path, tag):
    only(Wide="日…")
    save_tagged_image(Image.new("RGB", (60, 40)), [Tag(tag, 0.5, True)], tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as saved:
        assert max(saved.size) < 2500


def test_east_asian_letters_count_twice():
    assert [drawn_width(text) for text in ("ab", "日本", "e\u0301")] == [2, 4, 1]


def test_settings_of_a_program_around_this_one_stay_out_and_stay_as_they_are():
    with matplotlib.rc_context({"text.usetex": True, "font.size": 3}):
        with own_settings(**{"axes.grid": True}):
            assert matplotlib.rcParams["text.usetex"] is False
            assert matplotlib.rcParams["font.size"] == matplotlib.rcParamsDefault["font.size"]
            assert matplotlib.rcParams["axes.grid"] is True
        assert matplotlib.rcParams["font.size"] == 3


@pytest.mark.parametrize("content", [b"text.usetex: True\nsavefig.dpi: 9\n", b"\xff\xfe", b"font.size: -3\nnonsense\n"])
def test_settings_in_the_working_folder_and_the_environment_change_nothing(tmp_path, content):
    drawing = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from src.utils.plotting import Figure, own_settings;"
        "own_settings().__enter__(); figure = Figure(); figure.text(0.5, 0.5, 'tag'); figure.savefig(sys.argv[2]);"
        "print(os.environ['MPLBACKEND'], os.getcwd())"
    )
    images = []
    for name in ("plain", "set"):
        folder = tmp_path / name
        folder.mkdir()
        if name == "set":
            (folder / "matplotlibrc").write_bytes(content)
            (folder / "own").write_bytes(content)
        run = subprocess.run(
            [sys.executable, "-c", drawing, str(ROOT), str(folder / "c.png")],
            cwd=folder,
            env={**os.environ, "MPLBACKEND": "nonsense", "MATPLOTLIBRC": str(folder / "own")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.split() == ["nonsense", str(folder)]
        images.append((folder / "c.png").read_bytes())
    assert images[0] == images[1]


def test_explanations_of_odd_tags_can_be_drawn(tmp_path):
    import torch

    from src.visualize import save_explanation

    tags = [Tag("日本" * 500, 0.5, True), Tag("a\nb" * 30, 0.4, False)]
    explanation = Explanation(torch.tensor([0.5, 0.4]), torch.tensor([0, 1]), torch.rand(2, 3, 3), torch.tensor([1, 1]))
    save_explanation(Image.new("RGB", (60, 40)), tags, explanation, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as saved:
        assert max(saved.size) < 2500
