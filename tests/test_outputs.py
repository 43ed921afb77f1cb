"""Outputs of one image, and the loop over the images: file names, refused targets, previews."""

import errno
from pathlib import Path

import pytest
import torch
from PIL import Image

import src.inference.run as run
from src.config.infer_outputs import OutputOptions
from src.data.transforms import eval_transform
from src.errors import UserError
from src.inference.contact_sheet import open_contact_sheet
from src.inference.outputs import Outputs, Summary, format_tags
from src.inference.pipeline import Loading
from src.inference.results import open_results
from src.inference.run import tag_images
from src.inference.tagger import Tagger
from src.inference.targets import OutputFolder, check_images, target_names
from src.options import TagRule
from src.tags import Tag
from tests.helpers import SIZE, make_toy_split, tiny_model, write_images

RULE = TagRule(top_k=3)


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger(tiny_model(), make_toy_split(), transform=eval_transform(SIZE))


def tag(tagger: Tagger, paths: list[Path], outputs: Outputs | None = None, *, batch_size=4, all_paths=None) -> Summary:
    return tag_images(tagger, RULE, paths, outputs or Outputs(), Loading(batch_size), target_names(all_paths or paths))


def check(options: OutputOptions, given: list[Path]) -> None:
    check_images(options, given, target_names(given))


def names(*paths: str) -> list[tuple[str, str, str]]:
    return [tuple(one) for one in target_names([Path(path) for path in paths]).values()]


def test_repeated_names_are_numbered_in_order():
    assert names("a/x.jpg", "b/x.jpg", "c/y.png", "d/X.JPG", "e/x.jpg") == [
        ("x.jpg", "x.jpg", "x-why.png"),
        ("x-2.jpg", "x-2.jpg", "x-2-why.png"),
        ("y.png", "y.png", "y-why.png"),
        ("X-3.JPG", "X-3.JPG", "X-3-why.png"),
        ("x-4.jpg", "x-4.jpg", "x-4-why.png"),
    ]


def test_number_in_an_images_own_name_is_not_reused():
    copies = [name[0] for name in names("a/x.jpg", "a/x-2.jpg", "b/x.jpg", "b/x-2.jpg", "c/x-2.jpg")]
    assert copies == ["x.jpg", "x-2.jpg", "x-3.jpg", "x-2-2.jpg", "x-2-3.jpg"]


def test_images_that_differ_in_format_only_have_a_drawing_each():
    made = names("a.gif", "a.png", "a.webp", "a.jpg", "a-why.png")
    assert [name[0] for name in made] == ["a.gif", "a.png", "a.webp", "a.jpg", "a-why.png"]
    assert [name[1] for name in made] == ["a.png", "a-2.png", "a-3.png", "a.jpg", "a-why.png"]
    in_one_folder = [name for one in made for name in one[1:]]
    assert len(set(in_one_folder)) == len(in_one_folder)


def test_many_images_of_one_name():
    made = target_names([Path(f"{number}/x.jpg") for number in range(5000)])  # a search from 2 each would take minutes
    assert len({one.copy for one in made.values()}) == 5000
    assert made[Path("4999/x.jpg")].copy == "x-5000.jpg"


class Keywords:
    """Stand-in for KeywordWriter, which needs pyexiv2."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.written = folder, []

    def write(self, image: Path, tags: list[str], name: str) -> None:
        self.written.append((image, tags, name))


def test_overwriting_an_image_is_refused(tmp_path):
    (path,) = paths = write_images(tmp_path, 1)
    before = path.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path)
    gif = path.with_suffix(".gif")  # its drawing is 0.png
    Image.new("L", (8, 8)).save(gif)
    out = tmp_path / "o"
    for options, given, message in (
        (
            {"path_output": tmp_path, "annotate": True},
            paths,
            f"--path_output {tmp_path}: would .* another folder",
        ),
        ({"path_output": tmp_path / "link", "annotate": True}, paths, "--path_output .*link: would overwrite .*0.png"),
        ({"path_output": tmp_path, "annotate": True}, [gif, path], "--path_output .*0.png"),
        ({"write_keywords": tmp_path}, paths, f"--write_keywords {tmp_path}: would .* choose another folder"),
        (
            {"path_output": out, "annotate": True, "html": out / "0.png"},
            paths,
            "--html .*0.png: an image of --path_out",
        ),
        ({"path_output": out, "annotate": True, "write_keywords": out}, paths, "--write_keywords .*: is --path"),
        ({"path_output": out, "explain": 2, "write_keywords": out}, paths, "--write_keywords .*: is"),
    ):
        with pytest.raises(UserError, match=message):
            check(OutputOptions(**options), given)
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["0.gif", "0.png", "link"]


def test_explanation_that_would_overwrite_an_image_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a-why.png").touch()
    (tmp_path / "link.png").symlink_to(tmp_path / "out" / "a-why.png")
    given = [tmp_path / "a.jpg", tmp_path / "link.png"]
    with pytest.raises(UserError, match=r"--path_output .*a-why\.png"):
        check(OutputOptions(path_output=tmp_path / "out", explain=2), given)
    check(OutputOptions(path_output=tmp_path / "other", annotate=True), given)


def test_images_done_before_a_resume_count_too(tagger, tmp_path):
    """A resumed run does not give a copy the name of a done image."""
    done, left = write_images(tmp_path / "a", 1)[0], write_images(tmp_path / "b", 1)[0]
    keywords = Keywords(tmp_path / "out")
    tag(tagger, [left], Outputs(keywords=keywords), all_paths=[done, left])
    assert [(image, name) for image, _, name in keywords.written] == [(left, "0-2.png")]


def test_unreadable_images_are_reported_and_skipped(tagger, tmp_path, capsys):
    paths = write_images(tmp_path, 7, broken=(0, 4, 5, 6))
    summary = tag(tagger, paths, batch_size=2)
    assert summary.tagged == 3
    assert [message.split(": ")[0] for message in summary.bad] == [str(paths[row]) for row in (0, 4, 5, 6)]
    output, errors = capsys.readouterr()
    assert errors.splitlines() == [f"skipped: {message}" for message in summary.bad]
    assert [line for line in output.splitlines() if not line.startswith(" ")] == [str(path) for path in paths[1:4]]


def test_model_is_called_in_batches_of_readable_images(tagger, tmp_path, monkeypatch):
    sizes = []
    original = Tagger.embed

    def counted(self, images):
        sizes.append(len(images))
        return original(self, images)

    monkeypatch.setattr(Tagger, "embed", counted)
    tag(tagger, write_images(tmp_path, 9, broken=(1, 3, 4, 5)), Outputs(OutputOptions(quiet=True)), batch_size=3)
    assert sizes == [2, 3]


def test_previews_are_read_only_if_an_output_shows_them(tmp_path, tagger, monkeypatch):
    asked = []
    original = run.read_and_embed

    def recorded(paths, transform, embed, loading):
        asked.append(loading.previews)
        return original(paths, transform, embed, loading)

    monkeypatch.setattr(run, "read_and_embed", recorded)
    monkeypatch.setattr("src.visualize.save_tagged_image", lambda *arguments, **options: None)
    monkeypatch.setattr("src.visualize.save_explanation", lambda *arguments, **options: None)
    paths = write_images(tmp_path, 1)
    with open_contact_sheet(tmp_path / "out.html", "x") as sheet:
        for outputs in (
            Outputs(), Outputs(keywords=Keywords(tmp_path / "k")), Outputs(sheet=sheet),
            Outputs(OutputOptions(annotate=True), drawings=OutputFolder(tmp_path / "o")),
            Outputs(OutputOptions(explain=1), drawings=OutputFolder(tmp_path / "o")),
        ):  # fmt: skip
            tag(tagger, paths, outputs)
    assert asked == [False, False, True, True, True]


def test_image_in_the_record_is_done_in_all_other_ways(tmp_path, tagger):
    """The keywords of the third image fail: it is not among the results, and will be tried again."""

    class Full(Keywords):
        def write(self, image, tags, name):
            super().write(image, tags, name)
            if len(self.written) == 3:
                raise UserError("cannot write x") from OSError(errno.ENOSPC, "No space left on device")

    paths = write_images(tmp_path, 5)
    with (
        pytest.raises(UserError, match=r"the keywords cannot be written: No space left .*; make room"),
        open_results(OutputOptions(json=tmp_path / "r.json"), model="m", settings={}) as results,
    ):
        tag(tagger, paths, Outputs(results=results, keywords=Full(tmp_path / "k")))
    with open_results(OutputOptions(json=tmp_path / "r.json", resume=True), model="m", settings={}) as results:
        assert results.done == {str(path) for path in paths[:2]}


def test_printed_tags():
    path = Path("a/caf\udce9.jpg")
    assert format_tags(path, [], "raw") == "a/caf\\xe9.jpg\n      no tag"
    tags = [Tag("sea turtle", 1.25, True, 0.5), Tag("sun", -0.5, False, 0.25)]
    assert format_tags(path, tags, "raw").splitlines() == [
        "a/caf\\xe9.jpg",
        "   1  *sea turtle*    1.2500",
        "   2  sun            -0.5000",
    ]
    assert [line.split()[-1] for line in format_tags(path, tags, "probability").splitlines()[1:]] == ["50.0%", "25.0%"]


def test_tags_are_those_of_the_tagger(tmp_path, tagger):
    paths = write_images(tmp_path, 5)
    with open_results(OutputOptions(json=tmp_path / "r.json"), model="m", settings={}) as results:
        tag(tagger, paths, Outputs(results=results), batch_size=2)
        found = {one.image: one.tags for one in results.results()}
    images = [Image.open(path).convert("RGB") for path in paths]
    assert list(found) == [str(path) for path in paths]
    for tags, expected in zip(found.values(), tagger.tag(images, rule=RULE), strict=True):
        assert [one.label for one in tags] == [one.label for one in expected]
        scores = torch.tensor([one.score for one in expected])
        torch.testing.assert_close(torch.tensor([one.score for one in tags]), scores, rtol=1e-5, atol=1e-5)
