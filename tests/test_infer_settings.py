"""infer.py's flags: each changes the settings, and reading them needs no PyTorch."""

import subprocess
import sys

import pytest

from src.config.infer import infer_parser, infer_settings
from src.errors import UserError
from tests.conftest import ROOT

# For every flag, values that must change the settings, with the flags that it needs.
EXAMPLES = {
    "pic_path": "--pic_path b.jpg",
    "model_path": "--model_path other.ckpt",
    "dataset_path": "--dataset_path data",
    "dataset_type": "--dataset_type COCO",
    "model_name": "--model_name tresnet_m",
    "num_rows": "--num_rows 2",
    "wordvec_dim": "--wordvec_dim 50",
    "input_size": "--input_size 64",
    "top_k": "--top_k 3",
    "threshold": "--threshold fitted",
    "scores": "--scores probability",
    "seen_bias": "--seen_bias 0.5",
    "tags": "--tags sea,sun",
    "tags_file": "--tags_file {words}",
    "only_tags": "--tags sea --only_tags",
    "word_vectors": "--tags sea --word_vectors words.txt",
    "json": "--json a.json",
    "csv": "--csv a.csv",
    "parquet": "--parquet a.parquet",
    "resume": "--json a.json --resume",
    "overwrite": "--json a.json --overwrite",
    "html": "--html a.html",
    "write_keywords": "--write_keywords copies",
    "path_output": "--path_output drawings",
    "no_picture": "--no_picture",
    "annotate": "--annotate",
    "explain": "--explain",
    "quiet": "--quiet",
    "batch_size": "--batch_size 3",
    "num_threads": "--num_threads 1",
    "engine": "--engine torch",
    "exact_pictures": "--exact-pictures",
    "exclude": "--exclude *.gif",
    "max_pixels": "--max_pixels 1000000",
    "no_default_exclude": "--no_default_exclude",
    "truncated": "--truncated accept",
    "write_xmp": "--write_xmp",
    "workers": "-j 5",
    "device": "--device cpu",
}


def settings(flags: str):
    given = flags.split()
    images = [] if "--pic_path" in given else ["--pic_path", "a.jpg"]
    return infer_settings(infer_parser(None).parse_args([*images, *given]))


@pytest.mark.parametrize("name", [action.dest for action in infer_parser(None)._actions if action.dest != "help"])
def test_every_flag_changes_the_settings(tmp_path, name):
    (tmp_path / "words.txt").write_text("sea\n")
    if name == "pretrain_backbone":
        with pytest.raises(UserError, match=r"--pretrain-backbone 1: .* cannot tag"):
            settings("--pretrain-backbone 1")
        return
    *others, last = EXAMPLES[name].format(words=tmp_path / "words.txt").split(" --")
    assert settings(" --".join([*others, last])) != settings(" --".join(others) if others else "")


def test_help_and_mistakes_need_no_torch():
    script = (
        "import sys, infer\n"
        "try:\n    infer.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert infer.main(['--pic_path', 'a.jpg', '--resume']) == 2\n"
        "print(sorted({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert finished.stdout.splitlines()[-1] == "[]"
