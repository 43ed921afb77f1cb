"""The checkpoint and the photographs that the project ships."""

import json

import pytest

import infer
from src.checkpoint import load_checkpoint
from src.config.infer import QUICK_START
from tests.conftest import ROOT

IMAGES = sorted((ROOT / "pics").glob("*.jpg"))


@pytest.fixture(scope="module")
def info():
    return load_checkpoint(QUICK_START)[1]


def test_it_is_small_and_describes_itself(info):
    assert QUICK_START.stat().st_size <= 16e6
    assert (info.kind, info.config.model_name, info.config.num_rows, info.config.wordvec_dim) == (
        "sdl", "tf_efficientnet_lite0", 7, 100,
    )  # fmt: skip
    assert (len(info.split.seen), len(info.split.unseen)) == (315, 59)
    assert (len(info.extra_words), tuple(info.extra_vectors.shape)) == (20_000, (100, 20_000))
    assert not set(info.extra_words) & set(info.labels)


def test_metrics_are_those_of_the_documents(info):
    zero_shot, generalized = (info.metrics[f"{setting}.F1@3"] for setting in ("zero_shot", "generalized"))
    assert (round(zero_shot, 2), round(generalized, 2)) == (26.25, 27.95)  # 27.89 after rounding to half precision


def test_settings_hold_no_absolute_paths(info):
    assert not [value for value in info.settings.values() if isinstance(value, str) and value.startswith("/")]


def test_infer_uses_it_by_default(tmp_path, capsys):
    flags = ["--pic_path", str(ROOT / "pics" / "rocket.jpg"), "--path_output", str(tmp_path)]
    assert infer.main([*flags, "--json", str(tmp_path / "r.json")]) == 0
    tags = [tag["label"] for tag in json.loads((tmp_path / "r.json").read_text())["results"][0]["tags"]]
    # The image in the README; close scores may change places with another JPEG decoder.
    assert tags[:3] == ["light", "people", "steel"]
    assert set(tags[3:7]) == {"flag", "bridge", "sky", "pillar"}
    assert "*sky*" in capsys.readouterr().out
    assert (tmp_path / "rocket.jpg").is_file()


def test_every_photograph_has_a_source():
    sources = (ROOT / "pics" / "SOURCES.md").read_text(encoding="utf-8")
    assert len(IMAGES) == 4
    assert [path.name for path in IMAGES if f"`{path.name}`" not in sources] == []
