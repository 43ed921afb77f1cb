"""Annotated images are legible at any size of the photo, and curves show the values of the log."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from src.errors import UserError
from src.inference.targets import target_names
from src.tags import Explanation, Tag
from src.visualize import save_curves, save_explanation, save_tagged_image, tagged_image
from tests.conftest import ROOT

TAGS = [Tag("cat", 0.912, False), Tag("tiger", -0.25, True)]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, in order."""
    saved = []
    real = Figure.savefig

    def savefig(self, *arguments, **options):
        saved.append(self)
        return real(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return saved


def texts(figure: Figure) -> dict[str, str]:
    """Text -> colour."""
    return {text.get_text(): to_hex(text.get_color()) for axis in figure.axes for text in axis.texts}


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("size", [(1, 1), (20, 20), (40, 400), (4000, 300), (640, 480)])
def test_photo_and_text_are_legible_at_every_size(tmp_path, size, suffix):
    path = tmp_path / f"tagged.{suffix}"
    save_tagged_image(Image.new("RGB", size, (220, 20, 20)), TAGS, path)
    with Image.open(path) as saved:
        assert saved.format == {"png": "PNG", "jpg": "JPEG"}[suffix]
        pixels = np.asarray(saved.convert("RGB")).astype(int)
    height, width = pixels.shape[:2]
    assert 400 <= height <= 600
    assert 400 <= width <= 2000
    red = (np.abs(pixels - (220, 20, 20)) < 40).all(axis=2)
    columns = np.nonzero(red.sum(axis=0) > 20)[0]  # a letter of the unseen tag is smaller
    assert columns.min() < width // 3
    panel = pixels[:, columns.max() + 20 :]
    assert panel.shape[1] >= 200
    assert (panel.min(axis=2) > 240).mean() > 0.9  # a white panel
    assert (panel.max(axis=2) < 120).sum() > 30  # with dark letters
    photo = red[:, columns.min() : columns.max() + 1]
    shown = (columns.max() - columns.min() + 1) / max(photo.sum(axis=0))
    assert shown == pytest.approx(size[0] / size[1], rel=0.1)  # not distorted


def test_unseen_tags_are_between_asterisks_in_another_colour(tmp_path, figures):
    save_tagged_image(Image.new("RGB", (60, 40)), TAGS, tmp_path / "x.png")
    shown = texts(figures[0])
    assert {"cat", "*tiger*", "0.91", "-0.25"} <= shown.keys()
    assert shown["cat"] != shown["*tiger*"]
    assert any("unseen" in text for text in shown)


def test_tags_are_listed_best_first_from_the_top(tmp_path, figures):
    tags = [Tag(f"tag{number}", 1 - number / 10, False) for number in range(9)]
    save_tagged_image(Image.new("RGB", (60, 40)), tags, tmp_path / "x.png")
    panel = figures[0].axes[1]
    heights = [panel.transData.transform(text.get_position())[1] for text in panel.texts if "tag" in text.get_text()]
    names = [text.get_text() for text in panel.texts if text.get_text().startswith("tag")]
    assert names == [tag.label for tag in tags]
    assert heights == sorted(heights, reverse=True)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "label",
    ["$5", "$a$ and $b$", r"$\frac$", "50%", "{x}_^", "кошка", "قطة", "naïve", "", " ", "x" * 54],
)
def test_any_label_can_be_drawn_as_it_is(tmp_path, figures, label):
    save_tagged_image(Image.new("RGB", (60, 40)), [Tag(label, 0.5, True)], tmp_path / "x.png")
    assert f"*{label}*" in texts(figures[0])
    with Image.open(tmp_path / "x.png") as saved:
        saved.load()
        assert max(saved.size) < 2500


def test_many_tags_make_a_taller_image_up_to_a_limit(tmp_path, monkeypatch):
    heights = []
    for count, most in ((1, None), (30, None), (30, 1000)):
        if most is not None:
            monkeypatch.setattr("src.visualize._MAX_PIXELS", most)  # the true limit is reached by 1,600 tags
        save_tagged_image(Image.new("RGB", (60, 40)), TAGS[:1] * count, tmp_path / "x.jpg")
        with Image.open(tmp_path / "x.jpg") as saved:
            heights.append(saved.size[1])
    assert heights[0] < 600
    assert heights[1] > 1200
    assert 950 <= heights[2] <= 1000


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/photo.jpg", "photo.jpg"),
        ("photo.JPEG", "photo.JPEG"),
        ("photo.png", "photo.png"),
        ("photo.webp", "photo.png"),
        ("photo.tar.gif", "photo.tar.png"),
        ("photo", "photo.png"),
        ("/absolute/folder/photo.tif", "photo.png"),
        (Path("a") / "b c.bmp", "b c.png"),
    ],
)
def test_file_name_of_a_tagged_image(source, name):
    assert target_names([Path(source)])[Path(source)].drawing == name


@pytest.mark.parametrize("name", ["x.JPG", "x.PNG", "deeper/down/x.jpeg"])
def test_format_follows_the_suffix_and_folders_are_made(tmp_path, name):
    save_tagged_image(Image.new("RGB", (60, 40)), TAGS, tmp_path / name)
    with Image.open(tmp_path / name) as saved:
        assert saved.format == ("PNG" if name.lower().endswith("png") else "JPEG")


def test_a_file_in_the_way_of_the_folder_is_a_user_error(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(UserError, match="cannot write"):
        save_tagged_image(Image.new("RGB", (60, 40)), TAGS, tmp_path / "out" / "x.png")


def test_a_failing_save_leaves_the_earlier_image(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    save_tagged_image(Image.new("RGB", (60, 40)), TAGS, path)
    before = path.read_bytes()

    class FullDisk(io.BytesIO):
        def getvalue(self) -> bytes:
            raise OSError("disk full")

    monkeypatch.setattr("src.visualize.io.BytesIO", FullDisk)
    with pytest.raises(UserError, match=r"cannot write .*x\.png: disk full"):
        save_tagged_image(Image.new("RGB", (60, 40), "red"), TAGS, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.png"]


@pytest.mark.parametrize("size", [(1, 1), (40, 400), (640, 480)])
def test_a_tagged_image_in_memory_is_the_one_that_is_saved(tmp_path, size):
    image = Image.new("RGB", size, (220, 20, 20))
    save_tagged_image(image, TAGS, tmp_path / "x.png")
    drawn = tagged_image(image, TAGS)
    assert drawn.mode == "RGB"
    with Image.open(tmp_path / "x.png") as saved:
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(saved.convert("RGB")))


def test_matplotlib_is_imported_in_one_place():
    importing = re.compile(r"^\s*(import|from) matplotlib\b", re.MULTILINE)
    files = [*ROOT.glob("*.py"), *(ROOT / "src").rglob("*.py")]
    found = [path.relative_to(ROOT).as_posix() for path in files if importing.search(path.read_text(encoding="utf-8"))]
    assert sorted(found) == ["src/utils/plotting.py"]


def epochs(count: int, *without: str) -> list[dict]:
    metrics = {f"{setting}.{metric}": 10.0 for setting in ("zero_shot", "generalized") for metric in ("F1@3", "mAP")}
    return [
        {
            "epoch": number,
            "train": {"loss": 3.0 / number, "rank": 2.0, "regularizer": 1.0},
            "metrics": {key: value * number for key, value in metrics.items() if key not in without},
        }
        for number in range(1, count + 1)
    ]


@pytest.mark.parametrize("count", [1, 2, 12, 13, 100])
def test_curves_show_the_values_of_the_log(tmp_path, figures, count):
    save_curves(epochs(count), tmp_path / "curves.png")
    losses, f1, mean_ap = figures[0].axes
    lines = {line.get_label(): line for line in losses.lines}
    assert lines.keys() == {"loss", "rank", "regularizer"}
    np.testing.assert_allclose(lines["loss"].get_ydata(), [3.0 / number for number in range(1, count + 1)])
    for axis in (f1, mean_ap):
        assert {line.get_label() for line in axis.lines} == {"zero-shot", "generalized"}
        np.testing.assert_allclose(axis.lines[0].get_xdata(), range(1, count + 1))
        np.testing.assert_allclose(axis.lines[0].get_ydata(), [10.0 * number for number in range(1, count + 1)])
        assert len(axis.get_xticks()) <= 14
    with Image.open(tmp_path / "curves.png") as saved:
        saved.load()
        assert saved.format == "PNG"


def test_curves_without_unseen_labels(tmp_path, figures):
    save_curves(epochs(3, "zero_shot.F1@3", "zero_shot.mAP"), tmp_path / "curves.png")
    assert [line.get_label() for line in figures[0].axes[1].lines] == ["generalized"]


def test_curves_without_any_metric_and_with_an_undefined_loss(tmp_path):
    log = epochs(2, "zero_shot.F1@3", "zero_shot.mAP", "generalized.F1@3", "generalized.mAP")
    log[1]["train"]["loss"] = float("nan")
    save_curves(log, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as saved:
        saved.load()


def explanation_of(maps: np.ndarray, winners: list[int], rows: int = 3) -> Explanation:
    tensor = torch.tensor(maps, dtype=torch.float32)
    chosen = torch.tensor(winners)
    return Explanation(tensor.mean(dim=(1, 2)), chosen, tensor, torch.bincount(chosen, minlength=rows))


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_an_explanation_has_a_panel_for_each_tag(tmp_path, count):
    tags = [Tag(f"tag $x_{number}$", 1.0, number % 2 == 1) for number in range(count)]
    maps = np.random.default_rng(0).normal(size=(count, 4, 4))
    found = explanation_of(maps, [number % 3 for number in range(count)])
    save_explanation(Image.new("RGB", (60, 40), "grey"), tags, found, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as saved:
        width, height = saved.size
    assert width == 330 * min(count + 2, 4)
    assert (height > 400) == (count > 2)  # a second row of panels


def test_positive_contributions_are_warm_and_negative_ones_cold(tmp_path):
    maps = np.zeros((1, 4, 4))
    maps[0, :, :2], maps[0, :, 2:] = 1, -1
    save_explanation(
        Image.new("RGB", (60, 60), "grey"), [Tag("x", 0, False)], explanation_of(maps, [0]), tmp_path / "x.png"
    )
    with Image.open(tmp_path / "x.png") as saved:
        pixels = np.asarray(saved.convert("RGB")).astype(int)
    panel = pixels[:, pixels.shape[1] // 3 : 2 * pixels.shape[1] // 3]  # the second of three panels
    middle = panel[panel.shape[0] // 2]
    left, right = middle[: len(middle) // 3], middle[-len(middle) // 3 :]
    assert (left[:, 0] - left[:, 2]).max() > 30
    assert (right[:, 2] - right[:, 0]).max() > 30
    assert (left[:, 2] - left[:, 0]).max() < 30


def test_maps_of_zeros_are_drawn(tmp_path):
    found = explanation_of(np.zeros((1, 2, 2)), [0])
    save_explanation(Image.new("RGB", (60, 60)), [Tag("x", 0, False)], found, tmp_path / "x.jpg")
    assert (tmp_path / "x.jpg").stat().st_size > 0
