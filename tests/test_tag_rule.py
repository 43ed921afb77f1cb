"""TagRule: the choice of tags against a plain loop under every rule, with own words, and what a rule needs."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from src.calibration.thresholds import Calibration
from src.data.split import ZeroShotSplit, make_split
from src.data.transforms import eval_transform
from src.errors import UserError
from src.inference.tagger import Tagger
from src.options import LabelOptions, TagRule
from src.scoring import score_labels
from src.tags import Tag
from tests.helpers import SIZE, make_toy_split, save_tiny, tiny_model, write_folder

# Seen are tag0 to tag4 (tag3 is rare), unseen tag5 and tag6; tag7 is on neither side.
SPLIT = replace(make_toy_split(num_labels=8, num_unseen=2), seen=(0, 1, 2, 3, 4), unseen=(5, 6))
NAN = math.nan
CALIBRATION = Calibration(
    thresholds=torch.tensor([0.6, -0.3, 0.9, NAN, 0.1, NAN, NAN, NAN], dtype=torch.float64),
    shared_threshold=0.4,
    level_quantile=0.5,
    seen_bias=0.35,
    slope=1.7,
    offset=-0.8,
    num_images=40,
    num_positives=60,
)
EXTRA = ("sea", "sun")
EXTRA_VECTORS = torch.nn.functional.normalize(torch.randn(4, 2, generator=torch.Generator().manual_seed(3)), dim=0)
RULES = [
    TagRule(top_k, threshold, scores, seen_bias)
    for top_k, threshold, scores, seen_bias in itertools.product(
        (None, 1, 3), (None, 0.45, -5.0, "fitted"), ("raw", "probability"), (None, 0.0, 0.8, -0.5, "fitted")
    )
]


def embeddings(count: int = 7, seed: int = 0) -> Tensor:
    """[N, D*M] with D = 4 and M = 2; small ones too, of which no label is above a threshold."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 8, generator=generator) * torch.linspace(0.05, 1.5, count)[:, None]


def drawn(count: int = 7) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (30 + number, 50, 3), dtype=np.uint8)) for number in range(count)]


def save_calibrated(path: Path, calibration: Calibration | None = CALIBRATION) -> Path:
    save_tiny(path, split=SPLIT, calibration=calibration, extra_words=EXTRA, extra_vectors=EXTRA_VECTORS)
    return path


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return save_calibrated(tmp_path / "fitted.ckpt")


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return Tagger(tiny_model(), SPLIT, transform=eval_transform(SIZE), calibration=CALIBRATION)


@pytest.fixture(scope="module")
def uncalibrated() -> Tagger:
    return Tagger(tiny_model(), SPLIT, transform=eval_transform(SIZE))


def dot_scores(embedding: list[float], vectors: Tensor) -> list[float]:
    """s_c = max_m <A[:, m], w_c> of one image."""
    return [max(sum(embedding[2 * d + m] * word[d] for d in range(4)) for m in range(2)) for word in vectors.T.tolist()]


def plain_tags(
    embedding: list[float], split: ZeroShotSplit, rule: TagRule, calibration: Calibration | None, fitted_on=SPLIT
) -> list[Tag]:
    """The docstrings of src/inference/tagger.py and src/calibration/thresholds.py, label by label."""
    scores = dot_scores(embedding, split.word_vectors)
    fitted_scores = sorted(dot_scores(embedding, fitted_on.word_vectors[:, list(fitted_on.seen)]))
    candidates = []
    for column, (label, score) in enumerate(zip(split.labels, scores, strict=True)):
        seen, probability, above, bias = column in split.seen, None, True, 0.0
        if calibration is not None:
            quantile = calibration.level_quantile
            level = 0.0 if quantile is None else fitted_scores[math.floor(quantile * (len(fitted_scores) - 1))]
            r = score - level + (0.0 if seen else calibration.seen_bias)
            probability = 1 / (1 + math.exp(-(calibration.slope * r + calibration.offset)))
            own = float(calibration.thresholds[fitted_on.labels.index(label)]) if label in fitted_on.labels else NAN
            least = calibration.shared_threshold if math.isnan(own) else own
        if rule.threshold == "fitted":
            above = r > least
        elif rule.threshold is not None:
            above = (probability if rule.scores == "probability" else score) > rule.threshold
        if rule.seen_bias == "fitted" or (rule.seen_bias is None and rule.scores == "probability"):
            bias = calibration.seen_bias
        elif rule.seen_bias is not None:
            bias = rule.seen_bias
        if above:
            candidates.append((score - (bias if seen else 0.0), Tag(label, score, not seen, probability)))
    candidates.sort(key=lambda candidate: -candidate[0])
    return [tag for _, tag in candidates[: rule.top_k]]


def assert_same_tags(found: list[list[Tag]], expected: list[list[Tag]]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert [(tag.label, tag.unseen) for tag in ours] == [(tag.label, tag.unseen) for tag in theirs]
        assert [tag.score for tag in ours] == pytest.approx([tag.score for tag in theirs], abs=1e-5)
        assert [tag.probability is None for tag in ours] == [tag.probability is None for tag in theirs]
        if ours and ours[0].probability is not None:
            assert [tag.probability for tag in ours] == pytest.approx([tag.probability for tag in theirs], abs=1e-5)


# The choice


@pytest.mark.parametrize("quantile", [None, 0.5, 0.97])
def test_every_rule_equals_a_plain_loop(quantile):
    calibration = replace(CALIBRATION, level_quantile=quantile)
    tagger = Tagger(tiny_model(), SPLIT, transform=eval_transform(SIZE), calibration=calibration)
    for rule in RULES:
        tagger.check(rule)
        expected = [plain_tags(row, SPLIT, rule, calibration) for row in embeddings().tolist()]
        assert_same_tags(tagger.choose(embeddings(), rule), expected)


def test_rules_differ_from_each_other(tagger):
    """Else the comparison above would say little."""
    numbers = {
        rule.threshold: [len(tags) for tags in tagger.choose(embeddings(), rule)]
        for rule in RULES
        if rule.top_k is None and rule.scores == "raw" and rule.seen_bias is None
    }
    assert numbers[None] == numbers[-5.0] == [8] * 7
    for threshold in (0.45, "fitted"):
        assert len(set(numbers[threshold])) > 2
    orders = [
        [[tag.label for tag in tags] for tags in tagger.choose(embeddings(), TagRule(None, seen_bias=bias))]
        for bias in (None, "fitted", 0.8, -0.5)
    ]
    assert all(one != other for one, other in itertools.combinations(orders, 2))


def test_without_a_calibration_tags_have_no_probability(uncalibrated):
    rules = [rule for rule in RULES if rule.needs_calibration is None]
    assert len(rules) > 20
    for rule in rules:
        expected = [plain_tags(row, SPLIT, rule, None) for row in embeddings().tolist()]
        found = uncalibrated.choose(embeddings(), rule)
        assert_same_tags(found, expected)
        assert all(tag.probability is None for tags in found for tag in tags)


def test_image_without_a_label_above_the_threshold_has_no_tag(tagger):
    rules = [
        TagRule(None, 1e6),
        TagRule(3, 1e6),
        TagRule(3, 1.0, "probability"),
        TagRule(None, 1e6, seen_bias="fitted"),
    ]
    for rule in rules:
        assert tagger.choose(embeddings(), rule) == [[]] * 7
    scores = score_labels(embeddings(), SPLIT.word_vectors)
    between = float(scores.amax(dim=1).sort().values[2:4].mean())
    found = tagger.choose(embeddings(), TagRule(None, between))
    assert [bool(tags) for tags in found] == (scores.amax(dim=1) > between).tolist()
    assert sum(not tags for tags in found) == 3


def test_score_equal_to_the_threshold_is_dropped(uncalibrated):
    scores = score_labels(embeddings(1), SPLIT.word_vectors)[0]
    third = float(scores.sort(descending=True).values[2])
    assert len(uncalibrated.choose(embeddings(1), TagRule(None, third))[0]) == 2


def test_fitted_threshold_is_compared_in_double_precision():
    """A label that every image has: its threshold is just below the lowest score, closer than float32 can tell."""
    scores = score_labels(embeddings(), SPLIT.word_vectors)
    lowest = scores.double().amin(dim=0)
    for thresholds, kept in ((lowest.nextafter(torch.tensor(-math.inf).double()), 7), (lowest, 6)):
        calibration = replace(CALIBRATION, thresholds=thresholds, level_quantile=None, seen_bias=0.0)
        tagger = Tagger(tiny_model(), SPLIT, transform=eval_transform(SIZE), calibration=calibration)
        found = tagger.choose(embeddings(), TagRule(None, "fitted"))
        for label in SPLIT.labels:
            assert sum(label in [tag.label for tag in tags] for tags in found) == kept


def test_equal_labels_come_in_the_order_of_the_split():
    split = replace(SPLIT, word_vectors=SPLIT.word_vectors[:, [0] * 8])
    tagger = Tagger(tiny_model(), split, transform=eval_transform(SIZE), calibration=CALIBRATION)
    for rule in (TagRule(None), TagRule(None, -1e6), TagRule(3, -1e6), TagRule(None, seen_bias=0.0)):
        for tags in tagger.choose(embeddings(), rule):
            assert [tag.label for tag in tags] == list(SPLIT.labels)[: rule.top_k]
    first = [tag.label for tag in tagger.choose(embeddings(1), TagRule(None, seen_bias="fitted"))[0]]
    assert first == ["tag5", "tag6", "tag7", "tag0", "tag1", "tag2", "tag3", "tag4"]


def test_ranking_by_probability_is_by_falling_probability(tagger):
    for tags in tagger.choose(embeddings(), TagRule(None, scores="probability")):
        probabilities = [tag.probability for tag in tags]
        assert probabilities == sorted(probabilities, reverse=True)
    for tags in tagger.choose(embeddings(), TagRule(None)):
        scores = [tag.score for tag in tags]
        assert scores == sorted(scores, reverse=True)


def test_top_k_cuts_the_ranking_above_the_threshold(tagger):
    for threshold, bias in itertools.product((0.2, "fitted"), (None, "fitted")):
        everything = tagger.choose(embeddings(), TagRule(None, threshold, seen_bias=bias))
        for top_k in (1, 2, 8):
            rule = TagRule(top_k, threshold, seen_bias=bias)
            assert_same_tags(tagger.choose(embeddings(), rule), [tags[:top_k] for tags in everything])


def test_probability_of_a_label_does_not_depend_on_the_selection():
    """The same bits for every top_k and threshold; between batches up to rounding."""
    labels = 61  # no multiple of a vector register's width
    split = make_toy_split(num_labels=labels, num_unseen=7)
    calibration = replace(CALIBRATION, thresholds=torch.full((labels,), NAN, dtype=torch.float64))
    tagger = Tagger(tiny_model(), split, transform=eval_transform(SIZE), calibration=calibration)

    def probabilities(rows: Tensor, rule: TagRule) -> list[dict[str, float]]:
        return [{tag.label: tag.probability for tag in tags} for tags in tagger.choose(rows, rule)]

    every = probabilities(embeddings(), TagRule(None))
    for rule in (*(TagRule(top_k) for top_k in range(1, labels + 1)), TagRule(None, 0.5, "probability")):
        for found, known in zip(probabilities(embeddings(), rule), every, strict=True):
            assert found.items() <= known.items()
    for count in range(1, len(every)):
        for found, known in zip(probabilities(embeddings()[-count:], TagRule(9)), every[-count:], strict=True):
            assert found == pytest.approx({label: known[label] for label in found}, rel=1e-6)


def test_empty_batch(tagger):
    for rule in RULES:
        assert tagger.choose(torch.empty(0, 8), rule) == []
        assert tagger.tag_tensors(torch.empty(0, 3, SIZE, SIZE), rule=rule) == []
    assert tagger.tag([], rule=TagRule(None, "fitted")) == []


def test_batch_equals_its_images_alone(tagger):
    for rule in RULES:
        together = tagger.choose(embeddings(), rule)
        alone = [tagger.choose(row[None], rule)[0] for row in embeddings()]
        assert_same_tags(together, alone)


@pytest.mark.parametrize(
    "rule",
    [TagRule(4), TagRule(None, "fitted"), TagRule(3, 0.3, "probability"), TagRule(None, 0.1, "raw", "fitted")],
)
def test_images_tensors_and_batches_give_the_same_tags(rule):
    vectors = 0.2 * SPLIT.word_vectors  # the random model's scores are large
    tagger = Tagger(
        tiny_model(), replace(SPLIT, word_vectors=vectors), transform=eval_transform(SIZE), calibration=CALIBRATION
    )
    images = drawn()
    together = tagger.tag(images, rule=rule)
    assert any(together)
    tensors = torch.stack([tagger.transform(image) for image in images])
    assert tagger.tag_tensors(tensors, rule=rule) == together
    assert tagger.choose(tagger.embed(tensors), rule) == together
    assert_same_tags([tagger.tag([image], rule=rule)[0] for image in images], together)


def test_rule_overrides_top_k_and_default_is_ten_raw_scores(tagger):
    assert tagger.tag(drawn(2), 1, rule=TagRule(3)) == tagger.tag(drawn(2), 3)
    assert tagger.tag(drawn(2), None) == tagger.tag(drawn(2), 8)
    assert TagRule() == TagRule(10, None, "raw", None)


# Own words


@pytest.mark.parametrize("tags", [["sun", "tag5", "sea", "tag1", "tag3", "tag7"], ["sea"], ["tag2", "tag4"]])
@pytest.mark.parametrize("only", [False, True])
def test_own_words_under_every_rule(checkpoint, tags, only):
    """With --only_tags too, an image's level is that of the checkpoint's seen labels."""
    tagger = Tagger.load(checkpoint, labels=LabelOptions(tags=tags, only_tags=only))
    new = [tag for tag in tags if tag in EXTRA]
    every = torch.cat([SPLIT.word_vectors, EXTRA_VECTORS], dim=1)
    names = [*SPLIT.labels, *EXTRA]
    labels = tags if only else [*SPLIT.labels, *new]
    seen = tuple(column for column, label in enumerate(labels) if label in SPLIT.names(SPLIT.seen))
    split = ZeroShotSplit(tuple(labels), seen, (), every[:, [names.index(label) for label in labels]])
    assert tagger.split.labels == split.labels
    for rule in RULES:
        if rule.top_k is not None and rule.top_k > len(labels):
            with pytest.raises(UserError, match=rf"--top_k {rule.top_k}: must be from 1 to .*, {len(labels)}"):
                tagger.check(rule)
            continue
        expected = [plain_tags(row, split, rule, CALIBRATION) for row in embeddings().tolist()]
        assert_same_tags(tagger.choose(embeddings(), rule), expected)


def test_only_tags_does_not_change_scores(checkpoint):
    tags = ["sun", "tag6", "tag3", "tag0"]
    among_all = Tagger.load(checkpoint, labels=LabelOptions(tags=tags)).choose(
        embeddings(), TagRule(None, "fitted", "probability")
    )
    alone = Tagger.load(checkpoint, labels=LabelOptions(tags=tags, only_tags=True)).choose(
        embeddings(), TagRule(None, "fitted", "probability")
    )
    assert any(alone)
    assert_same_tags(alone, [[tag for tag in of_image if tag.label in tags] for of_image in among_all])


def test_own_words_are_unseen_with_the_shared_threshold(checkpoint):
    tagger = Tagger.load(checkpoint, labels=LabelOptions(tags=["sun", "tag0"], only_tags=True))
    many = embeddings(200)
    tags = tagger.choose(many, TagRule(None))
    assert {(tag.label, tag.unseen, tag.marked) for of_image in tags for tag in of_image} == {
        ("sun", True, "*sun*"),
        ("tag0", False, "tag0"),
    }
    # The probabilities at the thresholds
    shared, own = (
        1 / (1 + math.exp(-(CALIBRATION.slope * threshold + CALIBRATION.offset)))
        for threshold in (CALIBRATION.shared_threshold, float(CALIBRATION.thresholds[0]))
    )
    between = set()
    for of_image, kept in zip(tags, tagger.choose(many, TagRule(None, "fitted")), strict=True):
        for tag in of_image:
            assert (tag in kept) == (tag.probability > (shared if tag.label == "sun" else own))
            if shared < tag.probability < own:
                between.add(tag.label)
    assert between == {"sun", "tag0"}


def test_folder_labels_keep_thresholds_by_name(checkpoint, tmp_path):
    columns = [6, 4, 0]
    words = torch.cat([SPLIT.word_vectors[:, columns], EXTRA_VECTORS[:, :1]], dim=1)
    split = make_split(["tag6", "tag4", "tag0", "sea"], [1, 2], [0, 3], words, name="new", source="new")
    tagger = Tagger.load(checkpoint, labels=LabelOptions(write_folder(tmp_path / "folder", split)))
    for rule in (TagRule(None, "fitted"), TagRule(2, 0.4, "probability"), TagRule(None, seen_bias="fitted")):
        expected = [plain_tags(row, split, rule, CALIBRATION) for row in embeddings().tolist()]
        assert_same_tags(tagger.choose(embeddings(), rule), expected)


def test_loaded_tagger_equals_the_saved_one(checkpoint, tagger):
    loaded = Tagger.load(checkpoint)
    for rule in RULES:
        assert loaded.choose(embeddings(), rule) == tagger.choose(embeddings(), rule)


@pytest.mark.parametrize("tags", [None, ["sun", "tag5"]])
def test_vectors_of_tags(checkpoint, tags):
    tagger = Tagger.load(checkpoint, labels=LabelOptions(tags=tags, only_tags=tags is not None))
    every = dict(zip([*SPLIT.labels, *EXTRA], [*SPLIT.word_vectors.T, *EXTRA_VECTORS.T], strict=True))
    for given in tagger.choose(embeddings(), TagRule(2, -1e6)):
        assert torch.allclose(tagger.vectors_of(given), torch.stack([every[tag.label] for tag in given], dim=1))
    assert tagger.vectors_of([]).shape == (4, 0)


# Requirements


@pytest.mark.parametrize(
    ("rule", "flag"),
    [
        (TagRule(threshold="fitted"), "--threshold fitted"),
        (TagRule(scores="probability"), "--scores probability"),
        (TagRule(seen_bias="fitted"), "--seen_bias fitted"),
        (TagRule(threshold=0.5, scores="probability", seen_bias=1.0), "--scores probability"),
        (TagRule(threshold="fitted", scores="probability", seen_bias="fitted"), "--threshold fitted"),
    ],
)
def test_rule_that_needs_a_calibration_names_its_flag(uncalibrated, tagger, rule, flag):
    rule = replace(rule, top_k=3)
    assert rule.needs_calibration == flag
    message = f"{flag}: the checkpoint has no calibration; add one with validate.py --fit-thresholds"
    for use in (
        lambda: uncalibrated.check(rule),
        lambda: uncalibrated.tag(drawn(1), rule=rule),
        lambda: uncalibrated.tag_tensors(torch.zeros(1, 3, SIZE, SIZE), rule=rule),
    ):
        with pytest.raises(UserError, match=message):
            use()
    tagger.check(rule)


@pytest.mark.parametrize("rule", [TagRule(3), TagRule(None, 0.5), TagRule(3, 0.5, seen_bias=2.0), TagRule(None)])
def test_other_rules_need_no_calibration(uncalibrated, rule):
    assert rule.needs_calibration is None
    uncalibrated.check(rule)


def test_checkpoint_without_a_calibration(tmp_path):
    tagger = Tagger.load(save_calibrated(tmp_path / "plain.ckpt", None))
    assert tagger.calibration is None
    with pytest.raises(UserError, match="--threshold fitted: the checkpoint has no calibration"):
        tagger.tag(drawn(1), rule=TagRule(None, "fitted"))


@pytest.mark.parametrize("top_k", [0, -2, 9])
def test_top_k_out_of_range_is_refused_with_any_threshold(tagger, top_k):
    for threshold in (None, 0.5, "fitted"):
        with pytest.raises(UserError, match=rf"--top_k {top_k}: must be from 1 to the number of labels, 8"):
            tagger.tag(drawn(1), rule=TagRule(top_k, threshold))


# Formatting


@pytest.mark.parametrize(
    ("scores", "digits", "shown"),
    [
        ("raw", 4, "-1.2346"),
        ("raw", 2, "-1.23"),
        ("probability", 4, "45.7%"),
        ("probability", 5, "45.68%"),
        ("probability", 2, "46%"),
        ("probability", 3, "46%"),
    ],
)
def test_scores_and_probabilities_are_shown(scores, digits, shown):
    tag = Tag("cat", -1.23456, False, 0.4568)
    assert tag.shown(scores, digits) == shown
    assert tag.shown(scores) == tag.shown(scores, 4)
    assert Tag("cat", -1.23456, False).shown(scores, digits) == f"{-1.23456:.{digits}f}"


def test_certain_and_impossible_tags_are_shown():
    assert [Tag("x", 0, False, p).shown("probability") for p in (0.0, 1.0)] == ["0.0%", "100.0%"]
