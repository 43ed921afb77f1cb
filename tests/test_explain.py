"""Maps that add up to the score, and the principal vector that won."""

import pytest
import torch

from src.errors import UserError
from src.inference.explain import explain, feature_map
from src.models import create_model
from src.scoring import score_labels
from tests.helpers import live_norms, tiny_model

CONVOLUTIONAL = ("test_resnet", "test_efficientnet", "tresnet_m", "tf_efficientnet_lite0")


def problem(name: str, rows: int = 3, dim: int = 5, labels: int = 8):
    torch.manual_seed(0)
    model = create_model(name, rows, dim, image_size=64)
    live_norms(model)
    return model.eval(), torch.rand(3, 64, 64), torch.nn.functional.normalize(torch.randn(dim, labels), dim=0)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_mean_of_a_map_is_the_score(name):
    model, image, words = problem(name)
    found = explain(model, image, words)
    with torch.inference_mode():
        scores = score_labels(model(image.unsqueeze(0)), words)[0]
    torch.testing.assert_close(found.scores, scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.maps.mean(dim=(1, 2)), scores, rtol=1e-4, atol=1e-5)


def test_maps_equal_a_plain_loop():
    model, image, words = problem("test_resnet")
    found = explain(model, image, words)
    with torch.inference_mode():
        features = feature_map(model, image.unsqueeze(0))[0]
        height, width = features.shape[1:]
        assert height * width > 1
        for label in range(words.shape[1]):
            by_row = []
            for row in range(model.num_rows):
                weight = model.embedding.weight[row :: model.num_rows]  # [D, F]: output d*M + m is A[d, m]
                place = [[(weight @ features[:, y, x]) @ words[:, label] for x in range(width)] for y in range(height)]
                by_row.append(torch.tensor(place))
            means = torch.stack([one.mean() for one in by_row])
            assert int(found.winners[label]) == int(means.argmax())
            torch.testing.assert_close(found.maps[label], by_row[int(means.argmax())], rtol=1e-4, atol=1e-5)


def test_shares_count_labels_per_principal_vector():
    model, image, words = problem("test_resnet", rows=4, labels=30)
    found = explain(model, image, words)
    assert found.shares.tolist() == [int((found.winners == row).sum()) for row in range(4)]
    assert len(found.shares) == 4


def test_head_with_one_feature_maps_that_feature():
    model = tiny_model(num_rows=2, wordvec_dim=1, size=128)
    image = torch.zeros(3, 128, 128)
    image[:, :64, :64] = 1
    with torch.inference_mode():
        features = feature_map(model, image.unsqueeze(0))[0]
        channel = int(features.mean(dim=(1, 2)).argmax())
        assert features[channel].std() > 0
        model.embedding.weight.zero_()
        model.embedding.weight[1, channel] = 1  # principal vector 1, D = 1
        found = explain(model, image, torch.ones(1, 1))
    assert found.winners.tolist() == [1]
    torch.testing.assert_close(found.maps[0], features[channel])


@pytest.mark.parametrize("name", ["test_vit", "mobilenetv3_small_050"])
def test_backbones_that_do_more_than_average_are_refused(name):
    torch.manual_seed(0)
    model = create_model(name, 2, 4, image_size=160).eval()
    with pytest.raises(UserError, match="--explain: this backbone"):
        explain(model, torch.rand(3, 160, 160), torch.randn(4, 2))
