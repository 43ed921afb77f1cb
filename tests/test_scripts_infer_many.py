"""infer.py on folders: every input and output, own words, going on after a stop, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import infer
from src.data.images import read_image
from src.inference.tagger import Tagger
from tests.conftest import ROOT
from tests.helpers import make_toy_split, save_tiny
from tests.script_helpers import call, child, snapshot, succeeded, user_error
from tests.test_contact_sheet import Elements

COUNT = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.ckpt"
    words = ("sea", "turtle", "sun")
    vectors = torch.nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(5)), dim=0)
    save_tiny(path, split=make_toy_split(num_labels=8), extra_words=words, extra_vectors=vectors)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Images in two folders, with names that repeat, and two that cannot be read."""
    root = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(1)
    for number in range(COUNT):
        folder = root / ("a" if number % 2 else "b/deep")
        folder.mkdir(parents=True, exist_ok=True)
        noise = torch.randint(0, 256, (30, 40, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(folder / f"{number // 2:02d}.png")
    (root / "a" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    (root / "b" / "text.jpg").write_text("no image")
    return root


def readable(photos: Path) -> list[Path]:
    return sorted(photos.rglob("*.png"), key=str)


def run(model: Path, *flags: object, status: int = 0):
    finished = call(infer.main, "--model_path", model, "--no_picture", "--top_k", 3, *flags)
    assert finished.returncode == status, finished.stderr
    return finished


def results(path: Path) -> dict[str, list[tuple[str, float]]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return {one["image"]: [(tag["label"], tag["score"]) for tag in one["tags"]] for one in content["results"]}


def assert_same(one: dict, other: dict) -> None:
    """The same images in the same order, with the same tags, and scores that differ by rounding at most."""
    assert list(one) == list(other)
    for image in one:
        assert [label for label, _ in one[image]] == [label for label, _ in other[image]]
        assert [score for _, score in one[image]] == pytest.approx([s for _, s in other[image]], abs=1e-5)


@pytest.fixture(scope="module")
def undisturbed(model, photos, tmp_path_factory) -> Path:
    """All outputs of a run over the folder."""
    folder = tmp_path_factory.mktemp("undisturbed")
    outputs = [part for form in ("json", "csv", "parquet") for part in (f"--{form}", folder / f"tags.{form}")]
    run(model, "--pic_path", photos, *outputs, "--html", folder / "tags.html", status=1)
    return folder


def test_all_readable_images_in_order_and_the_others_named(model, photos, tmp_path):
    finished = run(model, "--pic_path", photos, "--json", tmp_path / "t.json", "--batch_size", 5, status=1)
    assert list(results(tmp_path / "t.json")) == [str(path) for path in readable(photos)]
    lines = finished.stderr.splitlines()
    skipped = [line for line in lines if line.startswith("skipped: ")]
    assert [line.split(": ")[1] for line in skipped] == [str(photos / "a" / "cut.jpg"), str(photos / "b" / "text.jpg")]
    assert skipped[1].endswith("not an image that can be read")
    assert lines[-1] == f"2 of {COUNT + 2} images could not be read and have no tags"


def test_text_json_csv_parquet_and_tagger_agree(model, photos, undisturbed):
    expected = results(undisturbed / "tags.json")
    with open(undisturbed / "tags.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    by_image: dict[str, list[tuple[str, float]]] = {}
    for row in rows:
        by_image.setdefault(row["image"], []).append((row["tag"], float(row["score"])))
    assert by_image == expected
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    table = parquet.read_table(undisturbed / "tags.parquet").to_pylist()
    assert [(row["image"], row["tag"], row["score"]) for row in table] == [
        (row["image"], row["tag"], float(row["score"])) for row in rows
    ]
    tagger = Tagger.load(model)
    for path in readable(photos):
        tags = tagger.tag([read_image(path)], top_k=3)[0]
        assert [tag.label for tag in tags] == [label for label, _ in expected[str(path)]]
        assert [tag.score for tag in tags] == pytest.approx([score for _, score in expected[str(path)]], abs=1e-5)
    printed = run(model, "--pic_path", readable(photos)[0]).stdout
    assert [line.split()[1].strip("*") for line in printed.splitlines()[1:]] == [
        label for label, _ in expected[str(readable(photos)[0])]
    ]


@pytest.mark.parametrize(("batch", "workers"), [(1, 0), (64, 0), (7, 2)])
def test_batches_and_processes_change_nothing(model, photos, undisturbed, tmp_path, batch, workers):
    run(model, "--pic_path", photos, "--json", tmp_path / "t.json", "--batch_size", batch, "-j", workers, status=1)
    assert_same(results(tmp_path / "t.json"), results(undisturbed / "tags.json"))


def test_patterns_lists_and_standard_input_mean_the_same(model, photos, undisturbed, tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("\n".join(map(str, readable(photos))), encoding="utf-8")
    for number, value in enumerate((f"{photos}/**/*.png", tmp_path / "list.txt")):
        run(model, "--pic_path", value, "--json", tmp_path / f"{number}.json")
        assert_same(results(tmp_path / f"{number}.json"), results(undisturbed / "tags.json"))
    command = [sys.executable, str(ROOT / "infer.py"), "--model_path", str(model), "--pic_path", "-", "--top_k", "3"]
    finished = subprocess.run(
        [*command, "--no_picture", "--json", str(tmp_path / "stdin.json")],
        input=(tmp_path / "list.txt").read_text(), capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=200,
    )  # fmt: skip
    assert "Traceback" not in finished.stderr
    assert list(results(tmp_path / "stdin.json")) == list(results(undisturbed / "tags.json"))


def test_the_page_has_every_image_with_its_tags(photos, undisturbed):
    page = Elements((undisturbed / "tags.html").read_text(encoding="utf-8"))
    assert len(page.of("figure")) == COUNT
    shown = [button["data-tag"] for button in page.of("button")]
    assert shown == [label for tags in results(undisturbed / "tags.json").values() for label, _ in tags]


# --- going on


def test_resume_tags_only_what_is_left(model, photos, undisturbed, tmp_path, monkeypatch):
    half = readable(photos)[: COUNT // 2]
    run(model, "--pic_path", *half, "--json", tmp_path / "t.json")
    tagged = []
    original = Tagger.embed

    def counting(self, images):
        tagged.append(len(images))
        return original(self, images)

    monkeypatch.setattr(Tagger, "embed", counting)
    finished = run(model, "--pic_path", photos, "--json", tmp_path / "t.json", "--resume", status=1)
    assert sum(tagged) == COUNT - len(half)
    assert f"{len(half)} of {COUNT + 2} images are done already" in finished.stderr
    one, other = results(undisturbed / "tags.json"), results(tmp_path / "t.json")
    assert one.keys() == other.keys()
    for image in one:
        assert [score for _, score in one[image]] == pytest.approx([s for _, s in other[image]], abs=1e-5)


def test_a_killed_run_is_gone_on_with(model, photos, undisturbed, tmp_path):
    """kill -9 once the record has begun: nothing of it is lost, and the end is that of an undisturbed run."""
    output = tmp_path / "t.json"
    command = [sys.executable, str(ROOT / "infer.py"), "--model_path", str(model), "--pic_path", str(photos)]
    command += ["--no_picture", "--top_k", "3", "--json", str(output), "--batch_size", "1", "--quiet", "-j", "0"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    record = tmp_path / "t.json.record.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if record.exists() and record.read_bytes().count(b"\n") >= 5:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.001)
    process.wait(timeout=60)
    if process.returncode == -signal.SIGKILL:
        assert not output.exists()
        message = user_error(call(infer.main, *command[2:]))
        assert "--resume" in message
        run(model, "--pic_path", photos, "--json", output, "--resume", status=1)
    one, other = results(undisturbed / "tags.json"), results(output)
    assert one.keys() == other.keys()


@pytest.mark.parametrize("change", [("--tags", "sun"), ("--input_size", 64), ("--threshold", -5)])
def test_going_on_with_other_settings_is_refused(model, photos, tmp_path, change):
    output = tmp_path / "t.json"
    run(model, "--pic_path", *readable(photos)[:2], "--json", output)
    before = output.read_bytes()
    flags = ("--model_path", model, "--no_picture", "--top_k", 3, "--pic_path", photos, "--json", output)
    assert "was made with other settings" in user_error(call(infer.main, *flags, "--resume", *change))
    assert output.read_bytes() == before


# --- own words


def tags_of(model: Path, photos: Path, tmp_path: Path, *flags: object) -> set[str]:
    run(model, "--pic_path", *readable(photos)[:4], "--json", tmp_path / "t.json", *flags)
    return {label for tags in results(tmp_path / "t.json").values() for label, _ in tags}


def test_own_words_join_the_labels_or_replace_them(model, photos, tmp_path):
    (tmp_path / "words.txt").write_bytes("\ufeffsun\r\ntag1\r\n\r\n".encode())
    assert tags_of(model, photos, tmp_path, "--tags", "sea turtle, sun", "--only_tags", "--top_k", 2) == {
        "sea turtle", "sun",
    }  # fmt: skip
    file = ("--tags_file", tmp_path / "words.txt", "--only_tags", "--top_k", 2)
    assert tags_of(model, photos, tmp_path, *file) == {"sun", "tag1"}
    every = tags_of(model, photos, tmp_path, "--tags", "sea turtle", "--top_k", 9)
    assert every == {"sea turtle", *(f"tag{number}" for number in range(8))}
    default = call(infer.main, "--model_path", model, "--no_picture", "--pic_path", readable(photos)[0])
    assert len(succeeded(default).stdout.splitlines()) == 1 + 8  # fewer labels than the ten of the default


def test_word_vectors_of_another_space_are_refused(model, photos, tmp_path):
    (tmp_path / "other.txt").write_text("sea 1 2 3 4\nturtle -1 2 1 1\nsun 4 3 2 1\nwhale 1 1 1 1\n")
    flags = ("--model_path", model, "--pic_path", photos, "--tags", "whale")
    message = user_error(call(infer.main, *flags, "--word_vectors", tmp_path / "other.txt"))
    assert "--word_vectors other.txt" in message
    assert "probe words" in message


# --- what else is made of images


def test_explanations_and_drawings_are_saved_under_names_of_their_own(model, photos, tmp_path):
    flags = ("--model_path", model, "--top_k", 3, "--pic_path", photos / "a" / "00.png", photos / "b/deep/00.png")
    succeeded(call(infer.main, *flags, "--explain", 2, "--path_output", tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "00-2-why.png", "00-2.png", "00-why.png", "00.png",
    ]  # fmt: skip


def test_many_images_are_annotated_only_if_asked(model, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(infer, "MANY_IMAGES", 2)
    flags = ("--model_path", model, "--pic_path", *readable(photos)[:3], "--path_output", tmp_path / "out")
    finished = succeeded(call(infer.main, *flags, "--top_k", 1))
    assert "3 images: none is annotated unless you give --annotate" in finished.stderr
    assert not (tmp_path / "out").exists()
    succeeded(call(infer.main, *flags, "--top_k", 1, "--annotate"))
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_keywords_in_copies(model, photos, tmp_path):
    pyexiv2 = pytest.importorskip("pyexiv2", reason="needs pyexiv2")
    images = [photos / "a" / "00.png", photos / "b/deep/00.png", tmp_path / "x.gif"]
    Image.new("RGB", (40, 30), "red").save(images[2])
    before = [path.read_bytes() for path in images]
    flags = ("--pic_path", *images, "--write_keywords", tmp_path / "copies", "--json", tmp_path / "t.json")
    finished = run(model, *flags, status=1)
    assert "no keywords: " in finished.stderr
    assert "1 images can hold no keywords and have no copy" in finished.stderr
    assert sorted(path.name for path in (tmp_path / "copies").iterdir()) == ["00-2.png", "00.png"]
    expected = results(tmp_path / "t.json")
    for name, image in (("00.png", images[0]), ("00-2.png", images[1])):
        with pyexiv2.Image(str(tmp_path / "copies" / name)) as metadata:
            assert metadata.read_xmp()["Xmp.dc.subject"] == [label for label, _ in expected[str(image)]]
    assert [path.read_bytes() for path in images] == before


@pytest.mark.parametrize("flag", ["--path_output", "--write_keywords"])
def test_a_given_image_is_not_overwritten_whichever_comes_first(model, photos, tmp_path, flag):
    pytest.importorskip("pyexiv2", reason="needs pyexiv2")
    (tmp_path / "in").mkdir()
    shutil.copy(photos / "a" / "00.png", tmp_path / "in" / "00.png")
    before = snapshot(tmp_path)
    flags = ("--model_path", model, "--top_k", 1, "--pic_path", photos / "b/deep/00.png", photos / "a/00.png")
    message = user_error(call(infer.main, *flags, tmp_path / "in", flag, tmp_path / "in", *(
        ("--no_picture",) if flag == "--write_keywords" else ()
    )))  # fmt: skip
    assert f"{flag} {tmp_path / 'in'}: would overwrite the image" in message
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--resume", ["--resume", "--json"]),
        ("--resume --json t.json --html t.html", ["--resume and --html"]),
        ("--only_tags", ["--only_tags", "--tags"]),
        ("--word_vectors x.txt", ["--word_vectors", "--tags"]),
        ("--tags , --no_picture", ["--tags", "names no tag"]),
        ("--tags unicorn", ["--tags", "unicorn", "--word_vectors FILE"]),
        ("--threshold fitted", ["--threshold fitted", "--fit-thresholds"]),
        ("--threshold high", ["--threshold", "neither a number nor 'fitted'"]),
        ("--no_picture --annotate", ["--annotate", "--no_picture"]),
        ("--json t.out --csv t.out", ["--json and --csv"]),
        ("--json t.json --resume --overwrite", ["--resume and --overwrite"]),
        ("--top_k 99", ["--top_k 99", "8"]),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(model, photos, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    message = user_error(call(infer.main, "--model_path", model, "--pic_path", photos, *flags.split()))
    finished = call(infer.main, "--model_path", model, "--pic_path", photos, *flags.split())
    assert all(word in finished.stderr for word in words), message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
def test_a_image_beyond_pillows_limit_costs_no_memory(model, tmp_path):
    """20,000 x 20,000 pixels would be 1.2 GB as RGB."""
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    script = (
        "import re, sys, infer; status = infer.main(sys.argv[1:]);"
        "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1], status)"
    )
    command = ["-c", script, "--model_path", model, "--pic_path", tmp_path, "--no_picture", "--quiet", "--top_k", 1]
    finished = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, check=True, cwd=ROOT, timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    peak, status = map(int, finished.stdout.split())
    assert status == 1
    assert "huge.png" in finished.stderr
    assert peak < 1_100_000  # KiB, most of it PyTorch


def test_quiet_and_threads(model, photos):
    threads = torch.get_num_threads()
    try:
        assert run(model, "--pic_path", readable(photos)[0], "--quiet", "--num_threads", 2).stdout == ""
    finally:
        torch.set_num_threads(threads)


def test_child_process_on_a_folder(model, photos, undisturbed, tmp_path):
    flags = ("--top_k", 3, "--json", tmp_path / "t.json", "--no_picture")
    finished = child("infer.py", "--model_path", model, "--pic_path", photos, *flags)
    assert finished.returncode == 1
    assert results(tmp_path / "t.json").keys() == results(undisturbed / "tags.json").keys()
