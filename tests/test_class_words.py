"""The classes of the backbone's own classifier as words: in the head, its files, its explanation, and training."""

import math
from dataclasses import replace

import pytest
import timm
import torch
from torch.nn.functional import normalize

import export
import infer
import train
import validate
from src.checkpoint import load_checkpoint, save_checkpoint
from src.checkpoint.info import CheckpointInfo, ModelConfig
from src.config.train import ModelSettings
from src.data.coco import read_coco_labels
from src.data.metadata import ExtraWords, load_metadata
from src.data.metadata_writer import MetadataContent, write_metadata
from src.errors import UserError
from src.exported.engines import ExportedModel
from src.inference.explain import explain
from src.models import create_model
from src.models.backbones import read_classifier
from src.models.class_words import ClassWords, PrincipalHead
from src.scoring import principal_vectors, score_labels
from src.training.class_words import imagenet_names, set_class_words
from src.training.initial_model import build_model
from src.utils.distributed import Processes
from tests.helpers import SIZE, TINY, live_norms, make_toy_split
from tests.script_helpers import PLAIN, call, copy_of, succeeded, user_error
from tests.script_helpers import TINY as TINY_RUN

CLASSES, DIM, ROWS = 6, 4, 3
NAMES = [name for several in imagenet_names() for name in several]
PLAIN_WORDS = sorted({part for name in NAMES for part in name.lower().split()})


def filled_head(features: int = 5) -> PrincipalHead:
    torch.manual_seed(1)
    head = PrincipalHead(features, DIM, ROWS, CLASSES)
    words = head.class_words
    words.weight.copy_(torch.randn(CLASSES, features))
    words.bias.copy_(torch.randn(CLASSES))
    words.words.copy_(normalize(torch.randn(CLASSES, DIM), dim=1))
    words.words[2] = 0  # a class without a vector
    words.scale.fill_(1.7)
    return head


def model_with_class_words(name: str = TINY, size: int = SIZE):
    torch.manual_seed(0)
    model = create_model(name, ROWS, DIM, num_class_words=CLASSES, image_size=size)
    live_norms(model)
    model.embedding.class_words = filled_head(model.num_features).class_words
    return model.eval()


def save(path, model):
    config = ModelConfig(TINY, ROWS, DIM, SIZE, num_class_words=CLASSES)
    save_checkpoint(path, model, CheckpointInfo("sdl", config, make_toy_split(dim=DIM)))
    return path


def test_vector_is_the_convex_combination_of_a_plain_loop():
    words, features = filled_head().class_words, torch.randn(7, 5)
    found = words(features)
    for image, of_image in enumerate(features.tolist()):
        logits = [
            sum(w * f for w, f in zip(row, of_image, strict=True)) + bias
            for row, bias in zip(words.weight.tolist(), words.bias.tolist(), strict=True)
        ]
        total = sum(map(math.exp, logits))
        sums = [
            sum(math.exp(z) / total * w[d] for z, w in zip(logits, words.words.tolist(), strict=True))
            for d in range(DIM)
        ]
        length = math.sqrt(sum(s * s for s in sums))
        assert found[image].tolist() == pytest.approx([1.7 * s / length for s in sums], rel=1e-4)


def test_every_label_gains_the_score_of_the_classes():
    head, features, labels = filled_head(), torch.randn(7, 5), torch.randn(DIM, 9)
    plain = features @ head.weight.t()
    expected = score_labels(plain, labels) + head.class_words(features) @ labels
    torch.testing.assert_close(score_labels(head(features), labels), expected)
    difference = principal_vectors(head(features) - plain, DIM)  # the same vector in each of the M
    torch.testing.assert_close(difference, head.class_words(features).unsqueeze(1).expand(-1, ROWS, -1))


def test_training_changes_the_linear_layer_only():
    head = filled_head()
    assert [name for name, _ in head.named_parameters()] == ["weight"]
    head(torch.randn(2, 5)).sum().backward()
    assert head.weight.grad is not None


def test_checkpoint_keeps_class_words(tmp_path):
    model, images = model_with_class_words(), torch.rand(2, 3, SIZE, SIZE)
    loaded, info = load_checkpoint(save(tmp_path / "m.ckpt", model))
    assert info.config.num_class_words == CLASSES
    with torch.inference_mode():
        torch.testing.assert_close(loaded(images), model(images))
    content = torch.load(tmp_path / "m.ckpt", weights_only=True)
    del content["state_dict"]["embedding.class_words.words"]
    torch.save(content, tmp_path / "less.ckpt")
    with pytest.raises(UserError, match=r"embedding\.class_words\.words"):
        load_checkpoint(tmp_path / "less.ckpt")


def test_exported_model_has_class_words(tmp_path):
    pytest.importorskip("onnxruntime")
    model, images = model_with_class_words(), torch.rand(2, 3, SIZE, SIZE)
    path = save(tmp_path / "m.ckpt", model)
    succeeded(call(export.main, "--model_path", path, "--output", tmp_path / "m.onnx"))
    with torch.inference_mode():
        torch.testing.assert_close(ExportedModel(tmp_path / "m.onnx")(images), model(images), rtol=1e-3, atol=1e-3)


def test_mean_of_a_map_is_the_score_with_class_words():
    model, image = model_with_class_words("test_resnet", 64), torch.rand(3, 64, 64)
    words = normalize(torch.randn(DIM, 5), dim=0)
    found = explain(model, image, words)
    with torch.inference_mode():
        scores = score_labels(model(image.unsqueeze(0)), words)[0]
        features = model.forward_places((image).unsqueeze(0))[0]
    torch.testing.assert_close(found.scores, scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.maps.mean(dim=(1, 2)), scores, rtol=1e-4, atol=1e-5)
    pooled, step = features.mean(dim=(1, 2)), 1e-3
    for label in range(5):  # differences between places follow the score's slope, here by finite differences
        first, second = features[:, 0, 0], features[:, 1, 1]
        moved = torch.stack([pooled + step * (first - second), pooled - step * (first - second)])
        vectors = principal_vectors(model.embedding(moved), DIM)[:, found.winners[label]] @ words[:, label]
        slope = (vectors[0] - vectors[1]).item() / (2 * step)
        assert (found.maps[label, 0, 0] - found.maps[label, 1, 1]).item() == pytest.approx(slope, rel=2e-2, abs=1e-3)


# Names and vectors


@pytest.fixture(scope="module")
def vocabulary():
    """A vector for each word of the classes' names."""
    vectors = torch.randn(8, len(PLAIN_WORDS), generator=torch.Generator().manual_seed(0))
    return ExtraWords(tuple(PLAIN_WORDS), normalize(vectors, dim=0))


@pytest.fixture(scope="module")
def metadata(sample, vocabulary, tmp_path_factory):
    """The sample data set with vectors of 8 numbers, and those words."""
    folder = tmp_path_factory.mktemp("words") / "data"
    source = load_metadata(copy_of(sample, folder))
    vectors = torch.randn(8, len(source.split.labels), generator=torch.Generator().manual_seed(2))
    split = replace(source.split, word_vectors=normalize(vectors, dim=0))
    parts = {part: read_coco_labels(getattr(source, part), split.labels) for part in ("train", "val")}
    content = MetadataContent(split, parts, image_root=source.image_root, extra_words=vocabulary)
    write_metadata(folder.with_name("prepared"), content)
    return folder.with_name("prepared")


def test_each_class_has_the_mean_vector_of_its_own_names(metadata, vocabulary):
    of_word = dict(zip(vocabulary.words, vocabulary.vectors.t(), strict=True))
    model = create_model(TINY, 2, 8, num_class_words=1000)
    weight = torch.randn(1000, model.num_features)
    found, count = set_class_words(model, (weight, torch.zeros(1000)), 2.0, load_metadata(metadata))
    words = model.embedding.class_words
    assert count == 1000
    assert found > 990
    assert torch.equal(words.weight, weight)
    assert words.scale.item() == 2
    for k, names in ((1, ["goldfish", "Carassius auratus"]), (281, ["tabby", "tabby cat"]), (417, ["balloon"])):
        assert imagenet_names()[k] == names
        means = [normalize(sum(of_word[part] for part in name.lower().split()), dim=0) for name in names]
        torch.testing.assert_close(words.words[k], normalize(sum(means), dim=0), rtol=1e-4, atol=1e-5)


def test_other_classifiers_and_folders_without_words_are_refused(metadata, sample):
    model = create_model(TINY, 2, 8, num_class_words=9)
    with pytest.raises(UserError, match=r"--class-words 3: the file's classifier has 9 classes"):
        set_class_words(model, (torch.zeros(9, 3), torch.zeros(9)), 3.0, load_metadata(metadata))
    with pytest.raises(UserError, match=r"word vectors of \d+ of the 1,000 classes; make it anew .*--extra-words"):
        set_class_words(model, (torch.zeros(1000, 3), torch.zeros(1000)), 3.0, load_metadata(sample))


def test_classifier_of_another_form_is_refused(tmp_path):
    model = create_model(TINY, 2, 4)
    torch.save(model.backbone.state_dict(), tmp_path / "b.pth")
    with pytest.raises(UserError, match=rf"b\.pth has no linear classifier on {model.num_features} features"):
        read_classifier(model, tmp_path / "b.pth")


def test_classifier_is_of_the_same_weights_as_the_backbone(metadata, classifier, tmp_path):
    state = torch.load(classifier, weights_only=True)
    average = {key: tensor / 2 if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": average}, tmp_path / "both.pth")
    for use_ema, of in ((False, state), (True, average)):
        settings = ModelSettings(
            model_name="test_efficientnet", model_path=str(tmp_path / "both.pth"), class_words=2, use_ema=use_ema,
            image_size=32,
        )  # fmt: skip
        model, _ = build_model(settings, load_metadata(metadata), torch.device("cpu"), Processes())
        assert torch.equal(model.embedding.class_words.weight, of["classifier.weight"])
        assert torch.equal(model.backbone.conv_stem.weight, of["conv_stem.weight"])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    path = tmp_path_factory.mktemp("classifier") / "c.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("test_efficientnet", num_classes=1000).state_dict(), path)
    return path


def test_trained_model_tags_with_class_words(metadata, classifier, tmp_path):
    flags = ("--data", metadata, *TINY_RUN, *PLAIN, "--model-path", classifier, "--freeze-backbone", "--seed", 3)
    for name, more in (("plain", ()), ("words", ("--class-words", 4))):
        run = ("--num-epochs", 1, "--path_output", tmp_path / name, "--feature-cache", tmp_path / "cache", *more)
        finished = succeeded(call(train.main, *flags, *run))
    assert "of the 1,000 classes of the backbone have a word vector" in finished.stderr
    model, info = load_checkpoint(tmp_path / "words" / "model-last.ckpt")
    assert info.config.num_class_words == 1000
    assert isinstance(model.embedding.class_words, ClassWords)
    file = torch.load(classifier, weights_only=True)
    weight, bias = read_classifier(model, classifier)
    assert torch.equal(model.embedding.class_words.weight, weight)
    assert torch.equal(weight, file["classifier.weight"])
    assert torch.equal(bias, file["classifier.bias"])
    succeeded(call(validate.main, "--model-path", tmp_path / "words" / "model-last.ckpt", "-j", 0))
    image = next((load_metadata(metadata).image_root or tmp_path).rglob("*.jpg"))
    tags = ("--tags", "goldfish", "--only_tags", "--no_picture", "--pic_path", image)
    shown = [
        call(infer.main, "--model_path", tmp_path / name / "model-last.ckpt", *tags) for name in ("plain", "words")
    ]
    assert succeeded(shown[0]).stdout != succeeded(shown[1]).stdout
    # A continued model keeps its class words
    again = ("--data", metadata, *TINY_RUN, *PLAIN, "--model-path", tmp_path / "words" / "model-last.ckpt", "--seed", 3)
    run = ("--num-epochs", 1, "--path_output", tmp_path / "again")
    assert "has a head already" in user_error(call(train.main, *again, *run, "--class-words", 4))
    succeeded(call(train.main, *again, *run))
    continued, _ = load_checkpoint(tmp_path / "again" / "model-last.ckpt")
    assert torch.equal(continued.embedding.class_words.words, model.embedding.class_words.words)


def test_resumed_run_has_class_words(metadata, classifier, tmp_path):
    flags = ("--data", metadata, *TINY_RUN, *PLAIN, "--model-path", classifier, "--freeze-backbone", "--class-words", 4)
    run = (*flags, "--path_output", tmp_path / "run", "--feature-cache", tmp_path / "cache", "--seed", 3)
    constant = ("--schedule", "constant")
    succeeded(call(train.main, *run, *constant, "--num-epochs", 1))
    succeeded(call(train.main, *run, *constant, "--num-epochs", 2, "--resume"))
    _, info = load_checkpoint(tmp_path / "run" / "model-last.ckpt")
    assert info.config.num_class_words == 1000
