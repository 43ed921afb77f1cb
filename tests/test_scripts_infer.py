"""infer.py: text, JSON and annotated image agree, the released checkpoint's tags come out, and mistakes are named."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

import infer
import train
from src.checkpoint import load_checkpoint
from src.data.images import read_image
from src.data.transforms import eval_transform
from src.utils.manifest import NAME
from src.utils.outputs import NAME as OUTPUTS
from tests.conftest import GOLDEN
from tests.golden.fill_weights import fill
from tests.script_helpers import (
    PLAIN,
    TINY,
    call,
    child,
    copy_of,
    edit_split,
    one_thread,
    succeeded,
    user_error,
    without_curves,
)

LINE = re.compile(r" *(\d+)  (\*?)(.+?)\2 +(-?\d+\.\d{4})")


@pytest.fixture(scope="module")
def model(sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("infer") / "out"
    flags = ("--data", sample, *TINY, *PLAIN, "--num-epochs", 2, "--seed", 2, "--lr", 3e-3)
    with without_curves():
        succeeded(call(train.main, *flags, "--path_output", folder))
    return folder / "model-last.ckpt"


@pytest.fixture(scope="module")
def images(sample):
    return sorted((sample / "images").iterdir())[-3:]


@pytest.fixture(scope="module")
def released(shared_data, tmp_path_factory):
    """A release-format checkpoint with the weights of the golden run, and the folder of its labels and vectors."""
    keys = json.loads((GOLDEN / "tresnet_m_sdl_keys.json").read_text(encoding="utf-8"))
    state = fill({key: torch.empty(shape) for key, shape in keys.items()}, seed=0)
    labels = [str(number) for number in range(1006)]  # the names come from the folder
    path = tmp_path_factory.mktemp("released") / "tresnet_m_nus.pth"
    torch.save({"model": state, "num_classes": 1006, "idx_to_class": dict(enumerate(labels))}, path)
    return path, shared_data / "nus_wide"


def tags_in(text: str) -> dict[str, list[tuple[str, float, bool]]]:
    """Image -> (label, score, unseen) in the order of the text."""
    found: dict[str, list[tuple[str, float, bool]]] = {}
    image = ""
    for line in text.splitlines():
        match = LINE.fullmatch(line)
        if match:
            assert int(match[1]) == len(found[image]) + 1
            found[image].append((match[3], float(match[4]), match[2] == "*"))
        elif not line.startswith(" "):
            image = line
            found[image] = []
    return found


def infer_json(folder: Path, *flags: object, status: int = 0) -> dict:
    """Run ``infer.py --json`` without annotated images, and read its output."""
    path = folder / "tags.json"
    finished = call(infer.main, *flags, "--no_picture", "--json", path)
    assert finished.returncode == status, finished.stderr
    return json.loads(path.read_text(encoding="utf-8"))


def names(result: dict) -> list[str]:
    return [tag["label"] for tag in result["tags"]]


def plain_tags(path: Path, image: Path, size: int) -> list[tuple[str, float]]:
    """Compute all labels with their scores from the equation, best first."""
    network, info = load_checkpoint(path)
    with torch.no_grad(), one_thread():
        embedding = network(eval_transform(size)(read_image(image))[None])[0]
    matrix = embedding.view(info.config.wordvec_dim, info.config.num_rows)
    scores = (matrix.T @ info.split.word_vectors).amax(dim=0).tolist()
    return sorted(zip(info.split.labels, scores, strict=True), key=lambda pair: -pair[1])


def test_child_process_prints_saves_and_writes_the_same_tags(model, images, tmp_path):
    finished = child(
        "infer.py", "--model_path", model, "--pic_path", *images[:2], "--top_k", 4, "--path_output", "tagged",
        "--json", "tags.json", cwd=tmp_path,
    )  # fmt: skip
    succeeded(finished)
    assert finished.stderr == ""
    content = json.loads((tmp_path / "tags.json").read_text(encoding="utf-8"))
    assert content["model"] == str(model)
    assert content["skipped"] == []
    text = tags_in(finished.stdout)
    assert list(text) == [str(path) for path in images[:2]] == [result["image"] for result in content["results"]]
    for result in content["results"]:
        written = [(tag["label"], round(tag["score"], 4), tag["unseen"]) for tag in result["tags"]]
        assert written == text[result["image"]]
        assert len(written) == 4
        with Image.open(tmp_path / result["annotated"]) as annotated, Image.open(result["image"]) as image:
            assert annotated.width > image.width
            annotated.load()
        assert f"saved {result['annotated']}" in finished.stdout
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == {
        OUTPUTS, "tags.json", "tags.json.record.jsonl",
        f"tagged/{NAME}", *(f"tagged/{path.name}" for path in images[:2]),
    }  # fmt: skip


def test_annotated_image_shows_the_tags_and_scores(model, images, tmp_path, monkeypatch):
    drawn = []
    original = Axes.text

    def recorded(axes, x, y, text, *arguments, **options):
        drawn.append(text)
        return original(axes, x, y, text, *arguments, **options)

    monkeypatch.setattr(Axes, "text", recorded)
    report = tmp_path / "r.json"
    flags = ("--model_path", model, "--pic_path", images[0], "--path_output", tmp_path / "tagged", "--json", report)
    succeeded(call(infer.main, *flags, "--top_k", 18))
    tags = json.loads(report.read_text(encoding="utf-8"))["results"][0]["tags"]
    assert drawn[: 2 * len(tags)] == [
        text for tag in tags for text in (f"*{tag['label']}*" if tag["unseen"] else tag["label"], f"{tag['score']:.2f}")
    ]
    assert any(text.startswith("*tag*") for text in drawn[2 * len(tags) :])  # what the asterisks mean


def test_tags_equal_the_equation(model, images, tmp_path):
    content = infer_json(tmp_path, "--model_path", model, "--pic_path", *images, "--top_k", 18, "--batch_size", 2)
    assert len(content["results"]) == 3
    for result, image in zip(content["results"], images, strict=True):
        expected = plain_tags(model, image, 32)
        assert names(result) == [label for label, _ in expected]
        assert [tag["score"] for tag in result["tags"]] == pytest.approx([score for _, score in expected], abs=1e-4)
        assert "annotated" not in result


def test_unseen_labels_are_marked(sample, model, images, tmp_path):
    unseen = json.loads((sample / "split.json").read_text(encoding="utf-8"))["unseen"]
    finished = call(infer.main, "--model_path", model, "--pic_path", images[0], "--top_k", 18, "--no_picture")
    tags = tags_in(succeeded(finished).stdout)[str(images[0])]
    assert {label for label, _, marked in tags if marked} == set(unseen)
    assert len(tags) == 18


@pytest.mark.parametrize("top_k", [1, 5, 10])
def test_top_k_cuts_the_same_ranking(model, images, tmp_path, top_k):
    flags = ("--model_path", model, "--pic_path", images[0])
    every = names(infer_json(tmp_path, *flags, "--top_k", 18)["results"][0])
    default = ("--top_k", top_k) if top_k != 10 else ()
    assert names(infer_json(tmp_path, *flags, *default)["results"][0]) == every[:top_k]


def test_no_image_writes_nothing(model, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    succeeded(call(infer.main, "--model_path", model, "--pic_path", *images, "--no_picture"))
    assert list(tmp_path.iterdir()) == []


def test_broken_image_among_several_is_named_and_status_1(model, images, tmp_path):
    broken, text, missing = (tmp_path / f"{name}.jpg" for name in ("broken", "text", "missing"))
    text.write_text("no image")
    broken.write_bytes(images[0].read_bytes()[:300])
    report = tmp_path / "r.json"
    finished = call(
        infer.main, "--model_path", model, "--pic_path", images[0], broken, text, missing, images[1],
        "--no_picture", "--json", report,
    )  # fmt: skip
    assert finished.returncode == 1
    lines = finished.stderr.splitlines()
    assert lines.pop() == "3 of 5 images could not be read and have no tags"
    for line, path in zip(lines, (broken, text, missing), strict=True):
        assert line.startswith(f"skipped: {path}: ")
    assert list(tags_in(finished.stdout)) == [str(path) for path in images[:2]]
    content = json.loads(report.read_text(encoding="utf-8"))
    assert [result["image"] for result in content["results"]] == [str(path) for path in images[:2]]
    assert [f"skipped: {message}" for message in content["skipped"]] == lines


def test_no_readable_image_is_an_error(model, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    for paths in ((broken,), (broken, tmp_path / "missing.jpg")):
        finished = call(infer.main, "--model_path", model, "--pic_path", *paths, "--no_picture")
        assert "--pic_path" in user_error(finished)
        for path in paths:
            assert finished.stderr.count(f"skipped: {path}") == 1
    assert str(tmp_path / "missing.jpg") in user_error(
        call(infer.main, "--model_path", model, "--pic_path", tmp_path / "missing.jpg")
    )
    (tmp_path / "empty").mkdir()
    message = user_error(call(infer.main, "--model_path", model, "--pic_path", tmp_path / "empty"))
    assert "no image in this folder" in message


def test_images_of_one_name_are_all_saved(model, images, tmp_path):
    copies = []
    for number, source in enumerate(images):
        (tmp_path / str(number)).mkdir()
        copies.append(Path(shutil.copy(source, tmp_path / str(number) / "photo.jpg")))
    report = tmp_path / "r.json"
    flags = ("--model_path", model, "--path_output", tmp_path / "tagged", "--json", report)
    succeeded(call(infer.main, *flags, "--pic_path", *copies))
    saved = [Path(r["annotated"]) for r in json.loads(report.read_text(encoding="utf-8"))["results"]]
    assert len(set(saved)) == 3
    assert len({path.read_bytes() for path in saved}) == 3
    assert set((tmp_path / "tagged").iterdir()) == {*saved, tmp_path / "tagged" / NAME}


@pytest.mark.parametrize("order", [1, -1])
def test_input_image_is_never_overwritten(model, images, tmp_path, order):
    """Tag two images of the same name, one of them in the output folder, in either order."""
    for name, source in zip(("in", "out"), images, strict=False):
        (tmp_path / name).mkdir()
        shutil.copy(source, tmp_path / name / "photo.jpg")
    given = [tmp_path / "in" / "photo.jpg", tmp_path / "out" / "photo.jpg"][::order]
    before = [path.read_bytes() for path in given]
    finished = call(infer.main, "--model_path", model, "--pic_path", *given, "--path_output", tmp_path / "out")
    message = user_error(finished)
    assert f"--path_output {tmp_path / 'out'}" in message
    assert "choose another folder" in message
    assert [path.read_bytes() for path in given] == before


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_images_of_every_kind_are_tagged_and_saved(model, images, tmp_path, mode):
    suffix = ".tiff" if mode == "CMYK" else ".png"
    path = tmp_path / f"image{suffix}"
    with Image.open(images[0]) as image:
        image.convert(mode).save(path)
    flags = ("--model_path", model, "--pic_path", path, "--path_output", tmp_path / "tagged")
    assert len(tags_in(succeeded(call(infer.main, *flags)).stdout)[str(path)]) == 10
    with Image.open(tmp_path / "tagged" / "image.png") as annotated:
        annotated.load()


def test_input_size_replaces_the_checkpoints(model, images, tmp_path):
    flags = ("--model_path", model, "--pic_path", images[0], "--top_k", 18)
    default, same, other = (
        infer_json(tmp_path, *flags, *more)["results"][0] for more in ((), ("--input_size", 32), ("--input_size", 64))
    )
    assert default == same
    expected = plain_tags(model, images[0], 64)
    assert names(other) == [label for label, _ in expected]
    assert [tag["score"] for tag in other["tags"]] == pytest.approx([score for _, score in expected], abs=1e-4)
    assert [tag["score"] for tag in default["tags"]] != [tag["score"] for tag in other["tags"]]


def test_labels_of_another_folder(sample, model, images, tmp_path):
    """--dataset_path chooses the labels: here some of the model's own and one that it has no word for."""
    data = copy_of(sample, tmp_path / "data")
    labels = json.loads((data / "split.json").read_text(encoding="utf-8"))["labels"]
    vectors = np.load(data / "word_vectors.npy")
    midpoint = vectors[:, [0]] + vectors[:, [1]]
    np.save(data / "word_vectors.npy", np.concatenate([vectors[:, :4], midpoint], axis=1))
    edit_split(data, labels=[*labels[:4], "between"], seen=labels[:4], unseen=["between"], train=None, val=None)
    flags = ("--model_path", model, "--pic_path", images[0])
    own = {tag["label"]: tag for tag in infer_json(tmp_path, *flags, "--top_k", 18)["results"][0]["tags"]}
    for kind in ((), ("--dataset_type", "SDL")):
        result = infer_json(tmp_path, *flags, "--dataset_path", data, *kind, "--top_k", 5)["results"][0]
        found = {tag["label"]: tag for tag in result["tags"]}
        assert found.keys() == {*labels[:4], "between"}
        assert all(found[label]["score"] == pytest.approx(own[label]["score"], abs=1e-5) for label in labels[:4])
        assert found["between"]["unseen"]


def test_released_checkpoint_gives_the_released_tags(released, tmp_path):
    """Tags, order and scores of the original implementation on six photographs, with its own command line."""
    checkpoint, folder = released
    golden = json.loads((GOLDEN / "infer_nus_top10.json").read_text(encoding="utf-8"))
    report = tmp_path / "tags.json"
    finished = call(
        infer.main, f"--model_path={checkpoint}", "--pic_path", *(folder / "pics" / name for name in golden),
        "--model_name=tresnet_m", "--num_rows=7", "--pretrain-backbone=0", "--wordvec_dim=300", "--input_size=224",
        f"--dataset_path={folder}", "--dataset_type=NUS_WIDE", f"--path_output={tmp_path / 'outputs'}", "--top_k=10",
        "--json", report,
    )  # fmt: skip
    succeeded(finished)
    content = json.loads(report.read_text(encoding="utf-8"))
    assert len(golden) == len(content["results"]) == 6
    for result, (name, expected) in zip(content["results"], golden.items(), strict=True):
        assert Path(result["image"]).name == name
        assert names(result) == [label for label, _ in expected]
        assert [tag["score"] for tag in result["tags"]] == pytest.approx([score for _, score in expected], abs=1e-3)
        assert (tmp_path / "outputs" / name).is_file()


def test_released_checkpoint_needs_a_folder_with_its_vectors(released, sample, tmp_path, monkeypatch):
    checkpoint, folder = released
    image = next((folder / "pics").iterdir())
    monkeypatch.chdir(tmp_path)
    flags = ("--model_path", checkpoint, "--pic_path", image)
    assert "--dataset_path is required" in user_error(call(infer.main, *flags))
    message = user_error(call(infer.main, *flags, "--dataset_path", sample))
    assert "length 100" in message
    assert "length 300" in message
    assert "--num_rows 2" in user_error(call(infer.main, *flags, "--num_rows", 2, "--wordvec_dim", 300))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "NUS_WIDE").symlink_to(folder)  # where the released command looks
    found = infer_json(tmp_path, *flags, "--top_k", 3)["results"][0]
    golden = json.loads((GOLDEN / "infer_nus_top10.json").read_text(encoding="utf-8"))
    assert names(found) == [label for label, _ in golden[image.name][:3]]


MISTAKES = [
    ("--model_path {model}", ["--pic_path", "--help"]),
    ("--pic_path {image} --model_path nothing.ckpt", ["nothing.ckpt", "no such file", "give the path"]),
    ("--pic_path {image} --model_path {image}", ["{image}", "no PyTorch file"]),
    ("{both} --top_k 19", ["--top_k 19", "from 1 to", "18"]),
    ("{both} --top_k 0", ["--top_k", "'0'", "from 1"]),
    ("{both} --num_rows 9", ["--num_rows 9", "with 2", "leave the flag out"]),
    ("{both} --wordvec_dim 300", ["--wordvec_dim 300", "with 100", "leave the flag out"]),
    ("{both} --model_name tresnet_m", ["tresnet_m", "test_efficientnet", "leave the flag out"]),
    ("{both} --pretrain-backbone 1", ["--pretrain-backbone 1", "cannot tag", "train.py"]),
    ("{both} --pretrain_backbone 2", ["--pretrain-backbone", "2"]),
    ("{both} --dataset_type SDL", ["--dataset_type SDL", "--dataset_path", "give both or neither"]),
    ("{both} --dataset_path {sample} --dataset_type NUS_WIDE", ["{sample}", "SDL", "not NUS_WIDE"]),
    ("{both} --dataset_type OpenImages", ["--dataset_type", "'OpenImages'", "NUS_WIDE"]),
    ("{both} --dataset_path nowhere", ["nowhere", "split.json", "prepare_data.py"]),
    ("{both} --input_size none", ["--input_size", "'none'"]),
    ("{both} --batch_size 0", ["--batch_size", "'0'"]),
    ("{both} --path_output {sample}/split.json", ["{sample}/split.json", "choose an output folder"]),
    ("{both} --path_output {sample}/images", ["--path_output {sample}/images", "overwrite", "choose another folder"]),
    (
        "{both} --no_picture --json {sample}/split.json/r.json",
        ["{sample}/split.json/r.json", "choose another place"],
    ),
    ("{both} --top 3", ["--top", "--help"]),
]


@pytest.mark.parametrize(("flags", "named"), MISTAKES, ids=[flags for flags, _ in MISTAKES])
def test_mistake_is_one_line_with_flag_value_and_remedy(sample, model, images, tmp_path, monkeypatch, flags, named):
    monkeypatch.chdir(tmp_path)
    values = {"sample": sample, "model": model, "image": images[0]}
    values["both"] = f"--model_path {model} --pic_path {images[0]}"
    message = user_error(call(infer.main, *flags.format(**values).split()))
    for words in named:
        assert words.format(**values) in message
    assert list(tmp_path.iterdir()) == []


def test_input_size_unsupported_by_the_backbone_is_refused(sample, images, tmp_path):
    flags = ("--data", sample, *PLAIN, "-b", 24, "--num-epochs", 1, "--model-name", "test_vit", "--model-path", "none")
    with without_curves():
        succeeded(call(train.main, *flags, "--image-size", 32, "--path_output", tmp_path / "out"))
    model = tmp_path / "out" / "model-last.ckpt"
    succeeded(call(infer.main, "--model_path", model, "--pic_path", images[0], "--no_picture"))
    message = user_error(call(infer.main, "--model_path", model, "--pic_path", images[0], "--input_size", 50))
    assert "--input_size 50" in message
    assert "leave the flag out" in message


def test_missing_default_model_is_an_error(images, tmp_path, monkeypatch):
    monkeypatch.setattr("src.config.infer.QUICK_START", tmp_path / "quick_start.pth")
    message = user_error(call(infer.main, "--pic_path", images[0]))
    assert str(tmp_path / "quick_start.pth") in message
    assert "give the path" in message


def test_bare_backbone_cannot_tag(images, tmp_path):
    keys = json.loads((GOLDEN / "tresnet_m_imagenet_keys.json").read_text(encoding="utf-8"))
    torch.save({"model": {key: torch.zeros(shape) for key, shape in keys.items()}}, tmp_path / "backbone.pth")
    message = user_error(call(infer.main, "--model_path", tmp_path / "backbone.pth", "--pic_path", images[0]))
    assert str(tmp_path / "backbone.pth") in message
    assert "--pretrain-backbone 1" in message
