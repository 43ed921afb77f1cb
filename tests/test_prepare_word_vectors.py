"""prepare_data.py word-vectors: a folder with other vectors, and vectors for a list of tags."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import prepare_data
from src.data.coco import read_coco_labels
from src.data.metadata import load_metadata
from src.data.parts import load_evaluation_set, load_training_set
from src.errors import UserError
from src.prepare.sample import LABELS
from src.utils.digest import file_digest
from src.word_vectors.source import open_word_vectors
from tests.prepare_helpers import prepare_source


def words_file(folder: Path, words: tuple[str, ...], name: str = "words.txt") -> Path:
    generator = np.random.default_rng(0)
    path = folder / name
    path.write_text("".join(f"{word} {' '.join(f'{x:.4f}' for x in generator.normal(size=6))}\n" for word in words))
    return path


def run(*arguments: object) -> list[str]:
    return prepare_source("word-vectors", *arguments)


def test_new_vectors_keep_all_else(sample, tmp_path):
    report = run("--metadata", sample, "--word-vectors", words_file(tmp_path, LABELS), "--output", tmp_path / "m")
    old, new = load_metadata(sample), load_metadata(tmp_path / "m")
    assert (new.split.labels, new.split.seen, new.split.unseen) == (old.split.labels, old.split.seen, old.split.unseen)
    assert new.split.name == old.split.name == "sample_12_6"
    expected = [dict(open_word_vectors(tmp_path / "words.txt").scan(lambda word: True))[label] for label in LABELS]
    expected = torch.nn.functional.normalize(torch.tensor(np.stack(expected)), dim=1).t()
    torch.testing.assert_close(new.split.word_vectors, expected)
    for part in ("train", "val"):
        one, other = (read_coco_labels(getattr(each, part), old.split.labels) for each in (old, new))
        assert (one.image_ids, one.file_names) == (other.image_ids, other.file_names)
        assert torch.equal(one.targets.dense(), other.targets.dense())
    assert load_training_set(new, None).paths == load_training_set(old, None).paths
    assert len(load_evaluation_set(new, None).paths) == 16
    assert report[0] == "sample_12_6: 12 seen and 6 unseen labels"


def test_labels_without_a_vector_stop_it_or_are_dropped(sample, tmp_path):
    path = words_file(tmp_path, LABELS[1:])
    with pytest.raises(UserError, match=f"no vector for 1 of the 18 labels:\n  {LABELS[0]}"):
        run("--metadata", sample, "--word-vectors", path, "--output", tmp_path / "m")
    assert not (tmp_path / "m").exists()
    run("--metadata", sample, "--word-vectors", path, "--output", tmp_path / "m", "--missing", "drop")
    assert load_metadata(tmp_path / "m").split.labels == LABELS[1:]


def test_vectors_of_a_list_of_tags_are_read_as_word_vectors(tmp_path):
    path = words_file(tmp_path, ("sea", "turtle", "sun"))
    (tmp_path / "tags.txt").write_bytes("\ufeffsea turtle\r\n\r\nSun\r\n".encode())
    output = tmp_path / "new" / "mine.npy"
    report = run("--tags", tmp_path / "tags.txt", "--word-vectors", path, "--output", output)
    assert report[0] == f"2 vectors of length 6 from words.txt, words in {tmp_path / 'new' / 'mine.txt'}"
    assert "sea turtle (mean of sea, turtle)" in report[1]
    found = dict(open_word_vectors(output).scan(lambda word: True))
    assert list(found) == ["sea turtle", "Sun"]
    assert np.load(output).shape == (2, 6)
    np.testing.assert_allclose(np.linalg.norm(np.load(output), axis=1), 1, rtol=1e-6)
    vectors = {
        word: vector / np.linalg.norm(vector) for word, vector in open_word_vectors(path).scan(lambda word: True)
    }
    mean = vectors["sea"] + vectors["turtle"]
    np.testing.assert_allclose(found["sea turtle"], mean / np.linalg.norm(mean), rtol=1e-5)
    np.testing.assert_allclose(found["Sun"], vectors["sun"], rtol=1e-5)


def test_inputs_are_not_replaced_by_the_vectors_of_tags(tmp_path):
    path = words_file(tmp_path, ("sea", "sun"), "vectors.txt")
    (tmp_path / "tags.txt").write_text("sea\n")
    (tmp_path / "link.txt").symlink_to("vectors.txt")
    for name in ("tags", "vectors", "link"):
        flags = ["--output", tmp_path / f"{name}.npy", "--overwrite"]
        with pytest.raises(UserError, match=r"would overwrite --(tags|word-vectors)"):
            run("--tags", tmp_path / "tags.txt", "--word-vectors", path, *flags)
    assert (tmp_path / "tags.txt").read_text() == "sea\n"
    assert not list(tmp_path.glob("*.npy"))


def test_vectors_and_words_of_two_runs_never_lie_together(tmp_path, monkeypatch):
    """Interrupted between the two files, there is no list of words rather than that of other vectors."""
    path = words_file(tmp_path, ("sea", "sun"), "vectors.txt")
    output, real = tmp_path / "mine.npy", os.replace
    arguments = ["--tags", tmp_path / "tags.txt", "--word-vectors", path, "--output", output, "--overwrite"]
    (tmp_path / "tags.txt").write_text("sea\n")
    run(*arguments)
    (tmp_path / "tags.txt").write_text("sun\n")

    def interrupted(source: str, target: Path) -> None:
        if str(target).endswith(".txt"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(*arguments)
    with pytest.raises(UserError, match=r"mine\.npy"):
        open_word_vectors(output)
    monkeypatch.undo()
    run(*arguments)
    assert [word for word, _ in open_word_vectors(output).scan(lambda word: True)] == ["sun"]


@pytest.mark.parametrize("name", ["mine.txt", "mine.npy"])
def test_words_or_vectors_of_another_run_are_noticed(tmp_path, name):
    path = words_file(tmp_path, ("sea", "sun"), "vectors.txt")
    arguments = ["--tags", tmp_path / "tags.txt", "--word-vectors", path, "--output", tmp_path / "mine.npy"]
    (tmp_path / "tags.txt").write_text("sea\n")
    run(*arguments)
    stale = (tmp_path / name).read_bytes()
    (tmp_path / "tags.txt").write_text("sun\n")
    run(*arguments, "--overwrite")
    (tmp_path / name).write_bytes(stale)
    with pytest.raises(UserError, match=rf"{name} is not the file that mine\.npy\.sha256 names"):
        open_word_vectors(tmp_path / "mine.npy")
    (tmp_path / "mine.npy.sha256").unlink()
    open_word_vectors(tmp_path / "mine.npy")
    run(*arguments, "--overwrite")
    digests = [f"{file_digest(tmp_path / one)}  {one}\n" for one in ("mine.npy", "mine.txt")]
    assert (tmp_path / "mine.npy.sha256").read_text() == "".join(digests)


def test_list_of_words_in_json_is_never_taken_for_that_of_new_vectors(tmp_path):
    path = words_file(tmp_path, ("sea", "sun"), "vectors.txt")
    (tmp_path / "tags.txt").write_text("sea\n")
    (tmp_path / "mine.json").write_text('["sun"]')
    arguments = ["--tags", tmp_path / "tags.txt", "--word-vectors", path, "--output", tmp_path / "mine.npy"]
    with pytest.raises(UserError, match=r"--output .*mine\.npy: mine\.json beside it would be taken for the list"):
        run(*arguments, "--overwrite")
    assert not (tmp_path / "mine.npy").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "{tmp}/words.txt"], r"--output .*words\.txt: with --tags, give the name of a \.npy file"),
        (["--output", "{tmp}/there.npy"], r"--output .*there\.npy: exists.*--overwrite"),
        (["--output", "{tmp}/beside.npy"], r"--output with \.txt .*beside\.txt: exists"),
        (["--output", "{tmp}/x.npy", "--extra-words", "3"], "are about metadata folders; leave them out"),
        (["--output", "{tmp}/x.npy", "--official"], "are about metadata folders; leave them out"),
        (["--output", "{tmp}/x.npy", "--train-with-unseen", "drop"], "are about metadata folders; leave them out"),
        (["--output", "{tmp}/x.npy", "--alias", "moon=sun"], "--alias: no such label: moon"),
    ],
)
def test_mistakes_with_a_list_of_tags(tmp_path, flags, message):
    path = words_file(tmp_path, ("sea", "sun"), "vectors.txt")
    (tmp_path / "tags.txt").write_text("sea\n")
    (tmp_path / "there.npy").write_bytes(b"mine")
    (tmp_path / "beside.txt").write_bytes(b"mine")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        run("--tags", tmp_path / "tags.txt", "--word-vectors", path, *(flag.format(tmp=tmp_path) for flag in flags))
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("tags", "message"),
    [("", "names nothing"), ("sea\nsun\nsea\n", "named more than once: sea"), ("whale\n", "no|none of the labels has")],
)
def test_faulty_lists_of_tags(tmp_path, tags, message):
    (tmp_path / "tags.txt").write_text(tags)
    path = words_file(tmp_path, ("sea", "sun"), "vectors.txt")
    with pytest.raises(UserError, match=message):
        run("--tags", tmp_path / "tags.txt", "--word-vectors", path, "--output", tmp_path / "x.npy")
    assert not (tmp_path / "x.npy").exists()


def test_a_released_folder_is_refused(tmp_path, sample):
    run("--metadata", sample, "--word-vectors", words_file(tmp_path, LABELS), "--output", tmp_path / "m", "--official")
    flags = ("--word-vectors", tmp_path / "words.txt", "--output", tmp_path / "n")
    with pytest.raises(UserError, match=r"--metadata .*official: .* of kind NUS_WIDE, not SDL"):
        run("--metadata", tmp_path / "m" / "official", *flags)
    with pytest.raises(UserError, match=r"--metadata .*gone: .* no metadata folder"):
        run("--metadata", tmp_path / "gone", *flags)


def test_metadata_or_tags_is_required(tmp_path):
    with pytest.raises(UserError, match="give --metadata DIR or --tags FILE"):
        run("--word-vectors", "x", "--output", tmp_path / "x")


def test_sub_command(tmp_path, capsys):
    path = words_file(tmp_path, ("sea",), "vectors.txt")
    (tmp_path / "tags.txt").write_text("sea\n")
    flags = ["--tags", tmp_path / "tags.txt", "--word_vectors", path, "--output", tmp_path / "x.npy"]
    assert prepare_data.main(["word-vectors", *map(str, flags)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"written to {tmp_path / 'x.npy'}"
    assert json.dumps(np.load(tmp_path / "x.npy").shape) == "[1, 6]"
