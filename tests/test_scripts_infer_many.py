"""infer.py on folders: outputs agree, unreadable images are reported, resuming, own words, copies, explanations."""

import csv
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import infer
from src.data.images import read_image
from src.data.split import make_split
from src.inference.tagger import Tagger
from src.utils.manifest import NAME
from tests.conftest import ROOT
from tests.helpers import save_tiny, tiny_model, write_images
from tests.script_helpers import Finished, call, one_thread, snapshot, succeeded, user_error

LABELS = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "kite", "lion", "mole", "newt")
EXTRA = ("turtle", "sea", "sunset")
VECTORS = torch.nn.functional.normalize(torch.randn(8, 17, generator=torch.Generator().manual_seed(1)), dim=0)
BAD = ("album/broken.jpg", "album/huge.png", "album/text.jpg")
FORMS = ("json", "csv", "parquet") if importlib.util.find_spec("pyarrow") else ("json", "csv")
COUNT = 40


def png(width: int, height: int) -> bytes:
    """A black 1-bit PNG of any size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    packer = zlib.compressobj(1)
    row = bytes(1 + -(-width // 8))
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A working folder with checkpoints and ``album``: 37 noisy images, some in folders, and three bad ones."""
    folder = tmp_path_factory.mktemp("tagging")
    split = make_split(LABELS, range(10), range(10, 14), VECTORS[:, :14], name="x", source="x")
    facts = {"split": split, "extra_words": EXTRA, "extra_vectors": VECTORS[:, 14:]}
    save_tiny(folder / "m.ckpt", tiny_model(wordvec_dim=8), **facts)
    save_tiny(folder / "other.ckpt", tiny_model(wordvec_dim=8, seed=1), **facts)
    random = np.random.default_rng(0)
    for number in range(COUNT - len(BAD)):
        path = folder / "album" / ("", "x", "x/y")[number % 3] / f"p{number:02d}.{('jpg', 'png')[number % 2]}"
        path.parent.mkdir(exist_ok=True, parents=True)
        noise = random.integers(0, 256, (4, 6, 3)).astype(np.uint8)
        Image.fromarray(noise).resize((48, 36), Image.Resampling.NEAREST).save(path)
    broken, huge, text = (folder / name for name in BAD)
    broken.write_bytes((folder / "album" / "p00.jpg").read_bytes()[:400])
    huge.write_bytes(png(300, 200))
    text.write_text("no image\n")
    return folder


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)  # Pillow refuses twice as many


def tag(*flags: object, images: tuple[object, ...] = ("album",), model: str = "m.ckpt") -> Finished:
    """``infer.py`` in this process, without annotated images unless ``flags`` are about them."""
    drawn = {"--annotate", "--path_output", "--no_picture"} & set(flags)
    more = () if drawn else ("--no_picture",)
    speed = () if {"-j", "--workers"} & set(flags) else ("-j", 0)
    return call(infer.main, "--model_path", model, "--pic_path", *images, *speed, *more, *flags)


def to(folder: Path, *forms: str) -> list[object]:
    return [value for form in forms or FORMS for value in (f"--{form}", folder / f"tags.{form}")]


def found(folder: Path) -> dict:
    return json.loads((folder / "tags.json").read_text(encoding="utf-8"))


def tags_of(folder: Path) -> dict[str, list[tuple[str, float, bool]]]:
    """Image -> (label, score, unseen), of the JSON output."""
    return {
        one["image"]: [(tag["label"], tag["score"], tag["unseen"]) for tag in one["tags"]]
        for one in found(folder)["results"]
    }


def printed(text: str) -> dict[str, list[tuple[str, str, bool]]]:
    """Image -> (label, score as shown, unseen), of the printed text."""
    tables: dict[str, list[tuple[str, str, bool]]] = {}
    for line in text.splitlines():
        match = re.fullmatch(r" *\d+  (\*?)(.+?)\1 +(-?\d+\.\d{4})", line)
        if match:
            tables[list(tables)[-1]].append((match[2], match[3], match[1] == "*"))
        elif not line.startswith("      saved "):
            tables[line] = []
    return tables


def rows_of(path: Path) -> list[dict[str, object]]:
    """The rows of a CSV or Parquet output, or those that a JSON output stands for."""
    if path.suffix == ".parquet":
        from pyarrow.parquet import read_table

        return read_table(path).to_pylist()
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as stream:
            return [
                {
                    **row, "rank": int(row["rank"]), "score": float(row["score"]),
                    "probability": float(row["probability"]) if row["probability"] else None,
                    "unseen": {"true": True, "false": False}[row["unseen"]],
                }
                for row in csv.DictReader(stream)
            ]  # fmt: skip
    return [
        {"image": image, "rank": rank, "tag": label, "score": score, "probability": None, "unseen": unseen}
        for image, tags in tags_of(path.parent).items()
        for rank, (label, score, unseen) in enumerate(tags, start=1)
    ]


def assert_same_tags(one: dict[str, list], other: dict[str, list]) -> None:
    """The same images in the same order with the same tags; scores to 1e-5, which batches may change them by."""
    assert list(one) == list(other)
    for image, tags in one.items():
        assert [(label, unseen) for label, _, unseen in tags] == [(tag[0], tag[2]) for tag in other[image]]
        scores = [[score for _, score, _ in tags], [score for _, score, _ in other[image]]]
        np.testing.assert_allclose(*scores, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory) -> SimpleNamespace:
    """An uninterrupted run over the album."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
        finished = tag(*to(folder))
    return SimpleNamespace(folder=folder, finished=finished, tags=tags_of(folder))


def album() -> list[str]:
    return sorted(str(path) for path in Path("album").rglob("*.*"))


def good() -> list[str]:
    return [path for path in album() if path not in BAD]


def test_unreadable_images_are_reported_and_the_others_tagged(whole):
    assert whole.finished.returncode == 1
    *skipped, summary = whole.finished.stderr.splitlines()
    assert summary == "3 of 40 images could not be read and have no tags"
    assert [line.split(": ")[:2] for line in skipped] == [["skipped", name] for name in BAD]
    reasons = [line.split(": ", 2)[2] for line in skipped]
    assert "truncated" in reasons[0].lower()
    assert "60000 pixels" in reasons[1]
    assert reasons[2] == "not an image that can be read"
    assert list(whole.tags) == good()
    assert len(whole.tags) == COUNT - len(BAD)
    assert [f"skipped: {message}" for message in found(whole.folder)["skipped"]] == skipped
    assert found(whole.folder)["skipped_images"] == list(BAD)


def test_text_json_csv_and_parquet_equal_the_tagger(whole):
    tagger = Tagger.load("m.ckpt")
    with one_thread():
        expected = dict(zip(good(), tagger.tag([read_image(path) for path in good()]), strict=True))
    assert (
        len({tuple(label for label, *_ in tags) for tags in whole.tags.values()}) > 5
    )  # else the comparison says little
    assert_same_tags(
        whole.tags, {path: [(tag.label, tag.score, tag.unseen) for tag in tags] for path, tags in expected.items()}
    )
    assert printed(whole.finished.stdout) == {
        image: [(label, f"{score:.4f}", unseen) for label, score, unseen in tags] for image, tags in whole.tags.items()
    }
    rows = rows_of(whole.folder / "tags.json")
    assert len(rows) == 10 * (COUNT - len(BAD))
    for form in FORMS:
        assert rows_of(whole.folder / f"tags.{form}") == rows


@pytest.mark.parametrize(
    ("batch_size", "workers"), [(1, 0), (16, 2), (7, 2), pytest.param(1000, 0, id="all at once"), (1, 2)]
)
def test_order_and_scores_do_not_depend_on_batches_and_workers(whole, tmp_path, batch_size, workers):
    finished = tag(*to(tmp_path, "json"), "--batch_size", batch_size, "-j", workers)
    assert finished.returncode == 1
    assert finished.stderr == whole.finished.stderr
    assert_same_tags(tags_of(tmp_path), whole.tags)
    assert list(printed(finished.stdout)) == list(whole.tags)


@pytest.mark.parametrize("way", ["pattern", "list", "@list", "stdin", "null stdin", "files"])
def test_every_form_of_pic_path_gives_the_same(whole, tmp_path, monkeypatch, way):
    text = "\n".join(album())
    (tmp_path / "list.txt").write_text(text)
    (tmp_path / "list.m3u").write_text(text)
    given = text.replace("\n", "\0") if way == "null stdin" else text
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
    images = {
        "pattern": ["album/**/*.*"], "list": [tmp_path / "list.txt"], "@list": [f"@{tmp_path / 'list.m3u'}"],
        "stdin": ["-"], "null stdin": ["-"], "files": album(),
    }[way]  # fmt: skip
    finished = tag(*to(tmp_path, "json", "csv"), images=tuple(images))
    assert (finished.returncode, finished.stdout) == (1, whole.finished.stdout)
    for name in ("tags.json", "tags.csv"):
        assert (tmp_path / name).read_bytes() == (whole.folder / name).read_bytes()


SCRIPT = """
import os, re, signal, sys
from pathlib import Path
from PIL import Image
import infer
from src.inference.results import Record

how, after = sys.argv[1], int(sys.argv[2])
write = Record.write

def dying(record, result):
    write(record, result)
    if len(record.done) == after:
        os.kill(os.getpid(), signal.SIGKILL) if how == "kill" else os.killpg(0, signal.SIGINT)

if how != "whole":
    Record.write = dying
    Image.MAX_IMAGE_PIXELS = 20_000
status = infer.main(sys.argv[3:])
facts = Path("/proc/self/status")  # resource.getrusage gives a child the peak of its parent
print("peak", re.search("VmHWM:\\s*(\\d+)", facts.read_text())[1] if facts.exists() else 0, file=sys.stderr)
sys.exit(status)
"""


def disturbed(how: str, after: int, *flags: object) -> Finished:
    """Run infer.py in a process that gets a signal once it has tagged that many images."""
    flags = ("--model_path", "m.ckpt", "--pic_path", "album", "--no_picture", "-j", 2, *flags)
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, how, str(after), *map(str, flags)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=300, start_new_session=True,
    )  # fmt: skip


def count_model(monkeypatch) -> list[int]:
    """The sizes of the batches that go through the model from now on."""
    sizes: list[int] = []
    original = Tagger.embed

    def counted(self, images):
        sizes.append(len(images))
        return original(self, images)

    monkeypatch.setattr(Tagger, "embed", counted)
    return sizes


def assert_is_whole(whole, folder: Path) -> None:
    """Check that all outputs equal those of the uninterrupted run."""
    assert_same_tags(tags_of(folder), whole.tags)
    assert {**found(folder), "results": []} == {**found(whole.folder), "results": []}
    for form in FORMS:
        assert rows_of(folder / f"tags.{form}") == rows_of(folder / "tags.json")


def resumes(whole, folder: Path, done: int, monkeypatch) -> None:
    """Resume after ``done`` images, and compare with the uninterrupted run."""
    sizes = count_model(monkeypatch)
    finished = tag(*to(folder), "--resume")
    assert finished.returncode == 1, finished.stderr
    assert sum(sizes) == COUNT - len(BAD) - done
    lines = finished.stderr.splitlines()
    assert f"{done} of 40 images are done already" in lines
    assert lines[-1] == "3 of 40 images could not be read and have no tags"
    assert_is_whole(whole, folder)
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.folder.iterdir()}


def test_finished_run_resumes_with_more_images(whole, tmp_path, monkeypatch):
    tag(*to(tmp_path), images=tuple(album()[:20]))
    resumes(whole, tmp_path, 20 - sum(name in BAD for name in album()[:20]), monkeypatch)
    sizes = count_model(monkeypatch)
    assert tag(*to(tmp_path), "--resume").returncode == 1  # the bad ones are tried again, and nothing else
    assert sizes == []
    assert_is_whole(whole, tmp_path)


def test_killed_run_resumes(whole, tmp_path, monkeypatch):
    after = 1 + os.getpid() % 36  # any moment will do
    assert disturbed("kill", after, "-j", 0, *to(tmp_path)).returncode == -signal.SIGKILL
    assert not (tmp_path / "tags.json").exists()
    message = user_error(tag(*to(tmp_path)))
    assert f"holds {after} images of a run that was interrupted; give --resume" in message
    resumes(whole, tmp_path, after, monkeypatch)


def test_interrupted_run_ends_in_one_line_and_resumes(whole, tmp_path, monkeypatch):
    finished = disturbed("interrupt", 9, *to(tmp_path), "--html", tmp_path / "sheet.html")
    assert finished.returncode == 130, finished.stderr
    assert "Traceback" not in finished.stderr
    lines = [line for line in finished.stderr.splitlines() if not line.startswith(("skipped: ", "peak "))]
    assert lines == ["infer.py: interrupted"]
    assert [path.name for path in tmp_path.iterdir()] == ["tags.json.record.jsonl"]
    resumes(whole, tmp_path, 9, monkeypatch)


def test_image_of_400_megapixels_is_refused_in_little_memory(tmp_path):
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png(20_000, 20_000))
    assert bomb.stat().st_size < 1_000_000
    flags = ("--html", tmp_path / "a.html", "-j", 0, *to(tmp_path, "json"))
    finished = disturbed("whole", 0, "--pic_path", "album", bomb, *flags)
    assert finished.returncode == 1
    lines = finished.stderr.splitlines()
    assert any(line.startswith(f"skipped: {bomb}: Image size (400000000 pixels) exceeds limit") for line in lines)
    assert int(lines[-1].removeprefix("peak ")) < 1_200_000  # KiB; 400 megapixels of RGB are 1,200,000 by themselves
    assert len(found(tmp_path)["results"]) == 38  # album/huge.png is not beyond Pillow's own limit


def test_overwrite_starts_over(whole, tmp_path):
    for form in ("json", "csv"):
        (tmp_path / f"tags.{form}").write_text("something else")
    (tmp_path / "tags.json.record.jsonl").write_text("damaged\nand more\n")
    assert "--json" in user_error(tag(*to(tmp_path, "json", "csv")))
    for form in ("json", "csv"):
        (tmp_path / f"tags.{form}").unlink()
    assert "its record" in user_error(tag(*to(tmp_path, "json", "csv")))
    assert tag(*to(tmp_path), "--overwrite").returncode == 1
    assert_is_whole(whole, tmp_path)


def test_resume_with_other_settings_is_refused(place, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("".join(f"{word} {' '.join(map(str, VECTORS[:, row].tolist()))}\n" for row, word in
                             enumerate((*LABELS, *EXTRA))) + "whale 0 0 1 0 0 0 0 0\n")  # fmt: skip
    two = tuple(good()[:2])
    own = ("--tags", "whale", "--word_vectors", words)
    succeeded(tag(*to(tmp_path), images=two))
    before = snapshot(tmp_path)
    for flags, model, named in (
        (("--top_k", 3), "m.ckpt", "top_k: 10 then, 3 now"),
        (("--threshold", 0), "m.ckpt", "threshold: null then, 0.0 now"),
        (("--input_size", 64), "m.ckpt", "image_size: 32 then, 64 now"),
        (("--tags", "sea"), "m.ckpt", "num_labels: 14 then, 15 now"),
        ((), "other.ckpt", "checkpoint_sha256"),
    ):
        message = user_error(tag(*to(tmp_path), "--resume", *flags, images=two, model=model))
        assert named in message
        assert "--overwrite" in message
    assert snapshot(tmp_path) == before
    succeeded(tag(*to(tmp_path), "--resume", "--top_k", 10, images=two))  # the default, spelt out
    succeeded(tag(*to(tmp_path), *own, images=two))
    words.write_text(words.read_text().replace("whale 0 0 1", "whale 0 1 1"))
    assert "labels_sha256" in user_error(tag(*to(tmp_path), *own, "--resume", images=two))


def test_run_without_a_readable_image_leaves_no_record(tmp_path):
    assert "none of the 2 images" in user_error(tag(*to(tmp_path), images=BAD[::2]))
    assert list(tmp_path.iterdir()) == []
    succeeded(tag(*to(tmp_path), images=(good()[0],)))


FLAGS = [
    ("--resume", "--resume needs an output: give --json, --csv or --parquet"),
    ("--overwrite", "--overwrite needs an output: give --json, --csv, --parquet or --html"),
    ("--resume --json {out}/r.json --html {out}/r.html", "--resume and --html: the page"),
    ("--resume --overwrite --json {out}/r.json", "--resume and --overwrite contradict each other"),
    ("--only_tags", "--only_tags needs own words: give --tags or --tags_file too"),
    ("--word_vectors x.txt", "--word_vectors needs own words: give --tags or --tags_file too"),
    ("--no_picture --annotate", "not allowed with argument"),
    ("--tags ,", "--tags: no word given"),
    ("--threshold fitted", "--threshold fitted: the checkpoint has no calibration; add one with validate.py"),
    ("--tags_file {out}/gone.txt", "--tags_file {out}/gone.txt: cannot be read"),
    ("--tags_file {empty}", "--tags_file {empty}: holds no word; write one per line"),
    ("--top_k 15", "--top_k 15: must be from 1 to the number of labels, 14"),
    ("--only_tags --tags cat,dog --top_k 3", "--top_k 3: must be from 1 to the number of labels, 2"),
    ("--threshold high", "'high' is neither 'fitted' nor a number"),
    ("--explain 0", "--explain: '0' is not a whole number from 1"),
    ("--num_threads 0", "--num_threads: '0' is not a whole number from 1"),
    ("--json {out}/r.html --html {out}/r.html", "--json and --html {out}/r.html: the same file"),
    ("--json {out}/r --csv {out}/r", "--json and --csv {out}/r: the same file"),
    ("--html {out}", "--html {out}: is a folder"),
    ("--html album/p00.jpg", "--html album/p00.jpg: would overwrite the image"),
    ("--json album/p00.jpg", "--json album/p00.jpg: would overwrite the image"),
]


@pytest.mark.parametrize(("flags", "message"), FLAGS, ids=[flags for flags, _ in FLAGS])
def test_contradicting_flags_are_refused(place, tmp_path, flags, message):
    (tmp_path / "empty.txt").write_text("\ufeff\r\n  \r\n", encoding="utf-8")
    (tmp_path / "out").mkdir()
    values = {"out": tmp_path / "out", "empty": tmp_path / "empty.txt"}
    before = snapshot(place)
    assert message.format(**values) in user_error(tag(*flags.format(**values).split(), images=("album/p00.jpg",)))
    assert snapshot(place) == before
    assert list((tmp_path / "out").iterdir()) == []


def vector_file(path: Path, matrix: torch.Tensor = VECTORS) -> Path:
    words = {**{word: matrix[:, row] for row, word in enumerate((*LABELS, *EXTRA))}, "whale": matrix[:, 0]}
    path.write_text("".join(f"{word} {' '.join(map(str, vector.tolist()))}\n" for word, vector in words.items()))
    return path


def test_own_words_join_or_replace_the_labels(whole, tmp_path):
    (tmp_path / "mine.txt").write_bytes("\ufeffcat\r\n sunset \r\n\r\nsea turtle\r\n".encode())
    words = vector_file(tmp_path / "words.txt")
    image = good()[0]

    def tags(*flags: object) -> dict[str, tuple[float, bool]]:
        succeeded(tag(*to(tmp_path, "json"), *flags, images=(image,)))
        return {label: (score, unseen) for label, score, unseen in tags_of(tmp_path)[image]}

    every = tags("--top_k", 14)
    for given in (("--tags", "cat, sunset,sea turtle"), ("--tags_file", tmp_path / "mine.txt"),
                  ("--tags", "cat,sunset", "--tags_file", tmp_path / "mine.txt")):  # fmt: skip
        alone = tags(*given, "--only_tags")  # fewer than 10: all of them
        assert alone.keys() == {"cat", "sunset", "sea turtle"}
        assert [unseen for _, (_, unseen) in sorted(alone.items())] == [False, True, True]
        both = tags(*given, "--top_k", 16)
        assert both.keys() == {*LABELS, "sunset", "sea turtle"}
        for label, (score, unseen) in {**every, **alone}.items():
            assert both[label] == (pytest.approx(score, abs=1e-5), unseen)
    from_file = tags("--tags", "whale, sea", "--word_vectors", words, "--only_tags")
    assert from_file["whale"] == (pytest.approx(every["ant"][0], abs=1e-5), True)
    assert from_file["sea"][0] == pytest.approx(tags("--tags", "sea", "--only_tags")["sea"][0], abs=1e-5)


def test_unusable_own_words_are_refused(tmp_path):
    other = vector_file(tmp_path / "other.txt", -VECTORS)
    message = user_error(tag("--tags", "whale", "--word_vectors", other, images=(good()[0],)))
    assert f"--word_vectors {other}: " in message
    assert "probe words" in message
    gone = user_error(tag("--tags", "whale", "--word_vectors", tmp_path / "gone.txt", images=(good()[0],)))
    assert str(tmp_path / "gone.txt") in gone
    finished = tag("--tags", "turtel, cat, zzz", images=(good()[0],))
    assert "--tags: no word vector for turtel, zzz" in user_error(finished)
    assert "turtel: did you mean turtle?" in finished.stderr
    assert "--word_vectors FILE" in finished.stderr


def test_fewer_labels_than_ten(tmp_path):
    save_tiny(tmp_path / "six.ckpt")
    image = good()[0]
    succeeded(tag(*to(tmp_path, "json"), images=(image,), model=str(tmp_path / "six.ckpt")))
    assert len(tags_of(tmp_path)[image]) == 6


def test_the_page_has_every_image(whole, tmp_path):
    finished = tag("--html", tmp_path / "sheet.html", "--quiet", "-j", 2)
    assert finished.returncode == 1
    assert finished.stdout == ""
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert re.findall(r"<figcaption><b>(.*?)</b>", page) == [Path(path).name for path in whole.tags]
    buttons = re.findall(r'<button data-tag="(.*?)"', page)
    assert buttons == [label for tags in whole.tags.values() for label, *_ in tags]
    links = [(tmp_path / link).resolve() for link in re.findall(r'<a href="(.*?)"', page)]
    assert links == [Path(path).resolve() for path in whole.tags]


def keywords_of(path: Path) -> list[str]:
    import pyexiv2

    with pyexiv2.Image(str(path)) as image:
        return image.read_xmp().get("Xmp.dc.subject", [])


def test_copies_have_keywords_and_keep_their_names_after_a_resume(tmp_path):
    pytest.importorskip("pyexiv2", reason="needs pyexiv2 (pip install pyexiv2)")
    images = []
    for number, name in enumerate(("a/p.png", "b/p.png", "c/p.png", "c/q.gif")):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.open(good()[number]).convert("RGB").save(path)
        images.append(path)
    before = snapshot(tmp_path / "in")
    flags = ("--write_keywords", tmp_path / "out", *to(tmp_path, "json"), "--top_k", 3)
    succeeded(tag(*flags, images=(tmp_path / "in" / "a",)))
    kept = snapshot(tmp_path / "out")
    del kept[NAME]
    finished = tag(*flags, "--resume", images=(tmp_path / "in",))
    assert finished.returncode == 1
    first, *others, summary = finished.stderr.splitlines()
    assert first == "1 of 4 images are done already"
    assert [line.split(": ")[:2] for line in others] == [["no keywords", str(images[3])]]
    assert summary == "1 images have no keywords, which could not be written"
    assert {*os.listdir(tmp_path / "out")} == {NAME, "p.png", "p-2.png", "p-3.png"}
    assert kept.items() <= snapshot(tmp_path / "out").items()
    assert snapshot(tmp_path / "in") == before
    tags = tags_of(tmp_path)
    assert list(tags) == [str(path) for path in images]
    for image, copy in zip(images, ("p.png", "p-2.png", "p-3.png"), strict=False):
        assert keywords_of(tmp_path / "out" / copy) == [label for label, *_ in tags[str(image)]]
        with Image.open(image) as one, Image.open(tmp_path / "out" / copy) as other:
            assert one.tobytes() == other.tobytes()


def test_folders_that_hold_a_given_image_are_refused(place):
    before = snapshot(place)
    flags = [("--path_output", "album", "--annotate"), ("--path_output", "album/x", "--annotate")]
    if importlib.util.find_spec("pyexiv2"):
        flags += [("--write_keywords", "album"), ("--write_keywords", "album/x/../x")]
    for given in flags:
        message = user_error(tag(*given, *to(place, "json")))
        assert f"{given[0]} {given[1]}" in message
        assert "choose another folder" in message
        assert snapshot(place) == before


def test_n_maps_are_saved_and_impossible_explanations_refused(tmp_path, monkeypatch):
    from src import visualize

    drawn = []
    original = visualize.save_explanation

    def recorded(image, tags, explanation, path):
        drawn.append((len(tags), len(explanation.maps)))
        original(image, tags, explanation, path)

    monkeypatch.setattr(visualize, "save_explanation", recorded)
    images = ("album/p00.jpg", "album/p12.jpg")
    flags = ("--path_output", tmp_path / "out", "--no_picture", "--top_k", 7)
    finished = succeeded(tag(*flags, "--explain", 3, images=images[:1]))
    assert drawn.pop() == (3, 3)
    assert f"      saved {tmp_path / 'out' / 'p00-why.png'}" in finished.stdout.splitlines()
    assert {*os.listdir(tmp_path / "out")} == {NAME, "p00-why.png"}
    monkeypatch.setattr(visualize, "save_explanation", lambda *given: drawn.append((len(given[1]), *given[3:])))
    succeeded(tag(*flags, "--explain", 9, images=images))  # more than there are tags
    assert drawn == [(7, tmp_path / "out" / "p00-why.png"), (7, tmp_path / "out" / "p12-why.png")]
    drawn.clear()
    succeeded(tag(*flags, "--explain", "--input_size", 64, images=images[:1]))
    assert drawn[0][0] == 6
    save_tiny(tmp_path / "vit.ckpt", tiny_model("test_vit"), name="test_vit")
    place = (*to(tmp_path, "json"), "--path_output", tmp_path / "vit", "--annotate")
    message = user_error(tag("--explain", *place, images=images[:1], model=str(tmp_path / "vit.ckpt")))
    assert "--explain: this backbone" in message
    assert {path.name for path in tmp_path.iterdir()} == {"out", "vit.ckpt", "vit.ckpt.sha256"}


def test_many_images_are_annotated_on_demand_only(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("src.visualize.save_tagged_image", lambda *given, **options: saved.append(given[2].name))
    monkeypatch.setattr("src.inference.run.MANY_IMAGES", 2)
    images = ("album/p00.jpg", "album/p03.png", "album/p06.jpg")
    out = ("--path_output", tmp_path / "out")
    assert succeeded(tag(*out, images=images[:2])).stderr == ""
    assert saved == ["p00.jpg", "p03.png"]
    saved.clear()
    finished = succeeded(tag(*out, *to(tmp_path, "json"), images=images))
    assert finished.stderr == "3 images: none is annotated unless you give --annotate\n"
    assert saved == []
    assert "saved" not in finished.stdout
    assert succeeded(tag("--no_picture", images=images)).stderr == ""
    finished = succeeded(tag(*out, "--annotate", *to(tmp_path, "json"), images=images))
    assert finished.stderr == ""
    assert saved == ["p00.jpg", "p03.png", "p06.jpg"]
    assert [one["annotated"] for one in found(tmp_path)["results"]] == [str(tmp_path / "out" / name) for name in saved]


def test_exact_pictures_reaches_the_tagger(tmp_path):
    """Scores are those of a tagger with the exact resize, which differ from the default's by little."""
    image = tmp_path / "noise.png"
    Image.effect_noise((160, 100), 80).convert("RGB").save(image)
    scores = {}
    for flags in ((), ("--exact-pictures",)):
        succeeded(tag(*to(tmp_path, "json"), *flags, images=(image,)))
        scores[bool(flags)] = [score for _, score, _ in tags_of(tmp_path)[str(image)]]
        with one_thread():
            (expected,) = Tagger.load("m.ckpt", exact=bool(flags)).tag([read_image(image)])
        assert scores[bool(flags)] == pytest.approx([one.score for one in expected], abs=1e-6)
        assert found(tmp_path)["settings"]["exact_pictures"] == bool(flags)
    assert scores[True] != pytest.approx(scores[False], abs=1e-6)


def test_threads_and_quiet(whole, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    finished = succeeded(tag("--num_threads", 3, "--quiet", *to(tmp_path, "json"), images=(good()[0],)))
    assert asked.count(3) == 1
    assert (finished.stdout, finished.stderr) == ("", "")
    assert list(tags_of(tmp_path)) == [good()[0]]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="needs a file system that takes any bytes as a name")
def test_a_name_that_is_not_utf8_goes_through_all_outputs(tmp_path):
    has_keywords = importlib.util.find_spec("pyexiv2") is not None
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xc3\xbc.png")
    written = f"{tmp_path}/caf\\xe9 ü.png"
    Image.open(good()[0]).convert("RGB").save(odd)
    out = tmp_path / "out"
    flags = (*to(out), "--html", out / "a.html", "--explain", 2, "--path_output", out / "drawn")
    flags += ("--write_keywords", out / "copies") if has_keywords else ()
    finished = tag(*flags, images=(odd,))
    succeeded(finished)
    assert list(printed(finished.stdout)) == [written]
    assert list(tags_of(out)) == [written]
    page = (out / "a.html").read_text(encoding="utf-8")
    assert 'href="../caf%E9%20%C3%BC.png"' in page
    assert "<b>caf\\xe9 ü.png</b>" in page
    assert {*os.listdir(os.fsencode(out / "drawn"))} - {NAME.encode()} == {
        b"caf\xe9 \xc3\xbc-why.png",
        b"caf\xe9 \xc3\xbc.png",
    }
    if has_keywords:
        assert {*os.listdir(os.fsencode(out / "copies"))} == {NAME.encode(), b"caf\xe9 \xc3\xbc.png"}
    finished = succeeded(tag(*to(out), "--resume", images=(odd,)))
    assert "1 of 1 images are done already" in finished.stderr
    os.unlink(odd)
    finished = tag(images=(odd, good()[0]))
    assert finished.returncode == 1
    assert f"skipped: {written}: " in finished.stderr


def test_resume_keeps_images_that_are_not_given_again(tmp_path):
    """Unreadable images that are not given again stay listed, with their messages."""
    tag(*to(tmp_path, "json"), images=(BAD[0], good()[5]))
    finished = succeeded(tag(*to(tmp_path, "json"), "--resume", images=(good()[1], good()[5])))
    assert finished.stderr.splitlines() == ["1 of 2 images are done already"]
    assert list(tags_of(tmp_path)) == [good()[5], good()[1]]
    assert found(tmp_path)["skipped_images"] == [BAD[0]]


def test_images_named_twice_are_tagged_once(tmp_path):
    two = write_images(tmp_path / "in", 2)
    succeeded(tag(*to(tmp_path, "json"), images=(two[1], tmp_path / "in", two[0])))
    assert list(tags_of(tmp_path)) == [str(two[1]), str(two[0])]
