"""The user's own words: the right vectors, refused where they are of another space, explained where unknown."""

from pathlib import Path

import pytest
import torch

from src.checkpoint import CheckpointInfo, ModelConfig, load_checkpoint
from src.data.split import ZeroShotSplit, make_split
from src.errors import UserError
from src.inference.vocabulary import add_own_tags
from src.word_vectors.source import open_word_vectors
from src.word_vectors.space import MAX_PROBES, check_space, space_of
from tests.helpers import save_tiny, tiny_model

LABELS = ("ant", "bee", "cat", "traffic light")
EXTRA = ("turtle", "sea", "sun")


def vectors(count: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(4, count, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=0)


ALL = vectors(len(LABELS) + len(EXTRA))


@pytest.fixture
def split() -> ZeroShotSplit:
    return make_split(LABELS, [0, 1], [3], ALL[:, :4], name="x", source="x")


@pytest.fixture
def info(split, tmp_path) -> CheckpointInfo:
    save_tiny(tmp_path / "m.ckpt", tiny_model(), split=split, extra_words=EXTRA, extra_vectors=ALL[:, 4:])
    return load_checkpoint(tmp_path / "m.ckpt")[1]


def file(folder: Path, words: dict[str, torch.Tensor]) -> Path:
    path = folder / "vectors.txt"
    path.write_text("".join(f"{word} {' '.join(map(str, vector.tolist()))}\n" for word, vector in words.items()))
    return path


def same_space(scale: float = 3.0) -> dict[str, torch.Tensor]:
    """Word vectors of all words in the checkpoint, with another norm, and of a new one."""
    known = {word: scale * ALL[:, column] for column, word in enumerate((*LABELS, *EXTRA)) if " " not in word}
    return {**known, "whale": torch.tensor([0.0, 0.0, 2.0, 0.0])}


def test_own_tags_are_added_as_unseen_labels(split, info):
    own = add_own_tags(split, info, ["sun", "cat", "sea turtle", "ant", " sun "], source=None, only=False)
    assert own.labels == (*LABELS, "sun", "sea turtle")
    assert own.seen == split.seen
    assert own.unseen == (3, 4, 5)
    assert torch.equal(own.word_vectors[:, :4], split.word_vectors)
    torch.testing.assert_close(own.word_vectors[:, 4], ALL[:, 6])
    mean = torch.nn.functional.normalize(ALL[:, 4] + ALL[:, 5], dim=0)
    torch.testing.assert_close(own.word_vectors[:, 5], mean)


def test_only_own_tags_in_their_order_and_on_their_sides(split, info):
    own = add_own_tags(split, info, ["sun", "traffic light", "bee", "cat"], source=None, only=True)
    assert own.labels == ("sun", "traffic light", "bee", "cat")
    assert own.names(own.seen) == ["bee"]
    assert own.names(own.unseen) == ["sun", "traffic light"]  # cat is on neither side, as in the checkpoint
    torch.testing.assert_close(own.word_vectors, ALL[:, [6, 3, 1, 2]])


def test_vectors_from_a_file_of_the_same_space(split, info, tmp_path):
    source = open_word_vectors(file(tmp_path, same_space()))
    own = add_own_tags(split, info, ["whale", "bee"], source=source, only=False)
    assert own.labels == (*LABELS, "whale")
    assert own.word_vectors[:, 4].tolist() == [0, 0, 1, 0]
    assert torch.equal(own.word_vectors[:, 1], split.word_vectors[:, 1])  # a label keeps the vector it was trained with


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda words: {word: -vector for word, vector in words.items()}, "0 of 6 probe words"),
        (lambda words: {word: torch.cat([vector, vector]) for word, vector in words.items()}, "length 8.*length 4"),
        (lambda words: {"whale": words["whale"]}, "0 of 6 probe words"),
    ],
)
def test_another_space_is_refused(split, info, tmp_path, change, message):
    source = open_word_vectors(file(tmp_path, change(same_space())), flag="--word_vectors")
    with pytest.raises(UserError, match=rf"--word_vectors .*vectors\.txt: .*{message}"):
        add_own_tags(split, info, ["whale"], source=source, only=False)


def test_label_with_another_words_vector_is_tolerated(split, info, tmp_path):
    """Prepared with --alias ant=bee, say: the other probes still agree."""
    words = same_space()
    words["ant"] = -words["ant"]
    own = add_own_tags(split, info, ["whale"], source=open_word_vectors(file(tmp_path, words)), only=True)
    assert own.labels == ("whale",)


def test_released_checkpoint_is_compared_with_its_folder(split, tmp_path):
    bare = CheckpointInfo("bare", ModelConfig("tresnet_m", 7, 4, 224))
    good, bad = file(tmp_path, same_space()), file(tmp_path / "..", same_space(-1.0))
    assert add_own_tags(split, bare, ["whale"], source=open_word_vectors(good), only=True).labels == ("whale",)
    with pytest.raises(UserError, match="probe words"):
        add_own_tags(split, bare, ["whale"], source=open_word_vectors(bad), only=True)


def test_unknown_words_are_listed_with_suggestions(split, info, tmp_path):
    with pytest.raises(UserError) as caught:
        add_own_tags(split, info, ["turtel", "bee", "zzz"], source=None, only=False)
    message = str(caught.value)
    assert "--tags: no word vector for turtel, zzz in the checkpoint" in message
    assert "turtel: did you mean turtle?" in message
    assert "--word_vectors FILE" in message
    source = open_word_vectors(file(tmp_path, same_space()))
    with pytest.raises(UserError, match=r"--tags: no word vector for wale in vectors\.txt\n  wale: did you mean whale"):
        add_own_tags(split, info, ["wale"], source=source, only=False)


@pytest.mark.parametrize("tags", [[], ["", "  "]])
def test_no_tags(split, info, tags):
    with pytest.raises(UserError, match="--tags: no word given"):
        add_own_tags(split, info, tags, source=None, only=False)


def test_the_fingerprint_is_stored_and_survives_half_precision(split, tmp_path):
    for half in (False, True):
        model = tiny_model()
        from src.checkpoint import save_checkpoint

        facts = CheckpointInfo(
            "sdl", ModelConfig("test_resnet", 2, 4, 32), split, extra_words=EXTRA, extra_vectors=ALL[:, 4:]
        )
        save_checkpoint(tmp_path / "m.ckpt", model, facts, half=half)
        space = load_checkpoint(tmp_path / "m.ckpt")[1].space
        assert torch.load(tmp_path / "m.ckpt", weights_only=True)["space"] == {"dim": 4, "probes": dict(space.probes)}
        assert list(space.probes) == ["turtle", "sea", "sun", "ant", "bee", "cat"]
        check_space(space, open_word_vectors(file(tmp_path, same_space())))


def test_old_checkpoint_gets_a_fingerprint(split, tmp_path):
    save_tiny(tmp_path / "m.ckpt", tiny_model(), split=split)
    content = torch.load(tmp_path / "m.ckpt", weights_only=True)
    stored = content.pop("space")
    torch.save(content, tmp_path / "old.ckpt")
    space = load_checkpoint(tmp_path / "old.ckpt")[1].space
    assert {"dim": space.dim, "probes": dict(space.probes)} == stored


def test_the_fingerprint_is_of_single_words_and_bounded():
    words = [f"w{'a' * row}" for row in range(200)] + ["two words", "3d"]
    space = space_of(words[::-1], vectors(202))
    assert len(space.probes) == MAX_PROBES
    assert not {"two words", "3d"} & space.probes.keys()


class Encoder:
    """A source that computes vectors and lists no words."""

    name, where, dim, has_word_list = "an encoder", "--encoder an encoder", 0, False

    def __init__(self, words: dict[str, torch.Tensor]) -> None:
        self._words = words

    def scan(self, wanted):
        return iter(())

    def lookup(self, words):
        return [self._words[word].numpy() if word in self._words else None for word in words]


def test_space_of_an_encoder_is_that_of_its_vectors():
    space = space_of(("ant", "bee", "cat"), ALL[:, :3])
    check_space(space, Encoder(same_space()))
    with pytest.raises(UserError, match="--encoder an encoder: 0 of 3"):
        check_space(space, Encoder(same_space(-1.0)))


@pytest.mark.parametrize("tag", ["a\x1b[31mb", "sea\x00", "sea\nsun", "caf\udce9", "a\x9b"])
def test_control_characters_are_no_word(split, info, tag):
    with pytest.raises(UserError) as caught:
        add_own_tags(split, info, ["sun", tag], source=None, only=False)
    text = str(caught.value)
    assert text.startswith("--tags: control characters, which no word has: ")
    assert text.isprintable()


@pytest.mark.parametrize("tag", ["x" * 3000, "ab " * 1000, "sun " * 1000 + "x", "é-" * 1500, "s" * 3000])
def test_very_long_tags_get_a_short_message_without_suggestions(split, info, tag):
    with pytest.raises(UserError) as caught:
        add_own_tags(split, info, [tag], source=None, only=False)
    assert len(str(caught.value)) < 400
    assert "did you mean" not in str(caught.value)


def test_letters_of_any_script_and_joined_ones_are_words(tmp_path, split, info):
    words = same_space() | {"می‌خواهم": ALL[:, 4], "👩‍🚀": ALL[:, 5], "日本": ALL[:, 6]}
    own = add_own_tags(split, info, list(words)[-3:], source=open_word_vectors(file(tmp_path, words)), only=True)
    assert own.labels == tuple(words)[-3:]


def test_flaws_of_the_file_are_reported(tmp_path, split, info, capsys):
    path = file(tmp_path, same_space())
    path.write_text("99 4\n\n" + path.read_text())
    add_own_tags(split, info, ["whale"], source=open_word_vectors(path), only=True)
    assert "vectors.txt: the first line promises 99 words, but there are " in capsys.readouterr().err
