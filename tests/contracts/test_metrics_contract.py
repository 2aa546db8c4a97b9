"""Every yaml of conf/metric and conf/protocol keeps its contract."""

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import hydra
import pytest
import torch
import torchvision
from skimage import data
from torchmetrics.image.fid import FrechetInceptionDistance

from daclip.commands.options import make
from daclip.config import config_dir
from daclip.metrics.image import MetricUnavailableError, PairMetric, Protocol
from daclip.metrics.perceptual import Fid, Kid
from daclip.metrics.scorer import Scorer

GROUPS = {"all", "paper"}
DOWNLOADED = {"lpips", "dists", "fid", "kid"}
METRICS = sorted(path.stem for path in (Path(config_dir()) / "metric").glob("*.yaml") if path.stem not in GROUPS)
PROTOCOLS = sorted(path.stem for path in (Path(config_dir()) / "protocol").glob("*.yaml"))
RGB = Protocol("rgb", eight_bit=True, border=0, colour="rgb")


def compose(*overrides: str) -> Any:
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        return hydra.compose("evaluate", list(overrides))


@pytest.fixture(scope="module")
def photos() -> torch.Tensor:
    cat = torch.from_numpy(data.chelsea()[:200, :400]).permute(2, 0, 1).float() / 255
    return torch.stack([cat[..., :200], cat[..., 200:]])


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cached weights, and every connection is refused at once."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*_: Any, **__: Any) -> Any:
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torch.hub.urlopen", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_right_about_equal_photos_or_says_what_it_lacks(name: str, photos: torch.Tensor) -> None:
    metric = make(compose(f"metric=[{name}]").metric)[name]
    if name in DOWNLOADED:
        with pytest.raises(MetricUnavailableError, match=r"cannot be downloaded \(.*no network|install daclip"):
            metric.update(photos, photos)
        return
    assert isinstance(metric, PairMetric)
    noisy = (photos + 0.1 * torch.randn(photos.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    equal, worse = metric.score(photos, photos), metric.score(noisy, photos)
    assert equal.shape == worse.shape == (2,)
    best = float("inf") if name == "psnr" else float(bool(metric.higher_is_better))
    assert equal.tolist() == pytest.approx([best, best], abs=1e-5)
    assert bool(((worse < equal) if metric.higher_is_better else (worse > equal)).all())
    torch.testing.assert_close(metric.score(noisy[1:], photos[1:]), worse[1:])
    metric.update(noisy, photos)
    assert float(metric.compute()) == pytest.approx(float(worse.mean()))


@pytest.mark.usefixtures("no_network")
def test_what_cannot_be_computed_is_named_and_the_rest_is_kept(photos: torch.Tensor) -> None:
    scorer = Scorer(RGB, make(compose("metric=all").metric))
    scorer.add(["a", "b"], ["noisy", "rainy"], photos * 0.9, photos, photos * 0.8)
    assert set(scorer.missing) == DOWNLOADED
    assert list(scorer.photos[0].scores) == [
        "psnr_lq",
        "psnr",
        "ssim_lq",
        "ssim",
        "ms_ssim_lq",
        "ms_ssim",
        "lite_lq",
        "lite",
    ]
    # A metric that fails at a later photo leaves no column with holes.
    scorer.add(["c"], ["rainy"], photos[:1, :, :100, :100], photos[:1, :, :100, :100], photos[:1, :, :100, :100])
    assert "176" in scorer.missing["ms_ssim"]
    assert {tuple(photo.scores) for photo in scorer.photos} == {
        ("psnr_lq", "psnr", "ssim_lq", "ssim", "lite_lq", "lite")
    }


@pytest.mark.parametrize("network", ["lpips", "dists"])
def test_networks_score_photos_one_by_one(network: str, photos: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights in place of the downloaded ones: the plumbing, not the scores."""
    name = {"lpips": "alexnet", "dists": "vgg16"}[network]
    with torch.device("meta"):  # their classifiers are most of the weights and are not used
        features = getattr(torchvision.models, name)().features
    features = features.to_empty(device="cpu")
    for parameter in features.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(0))
    where = {"lpips": "torchvision.models.alexnet", "dists": "torchmetrics.functional.image.dists.vgg16"}[network]
    monkeypatch.setattr(where, lambda weights: SimpleNamespace(features=features))
    metric = make(compose(f"metric=[{network}]").metric)[network]
    small = photos[..., :64, :64]
    distance = metric.score(small * 0.5, small)
    assert distance.shape == (2,)
    assert bool((distance > 0).all())
    torch.testing.assert_close(metric.score(small, small), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(metric.score(small[1:] * 0.5, small[1:]), distance[1:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_prepares_photos(name: str, photos: torch.Tensor) -> None:
    protocol = make(compose(f"protocol={name}").protocol)
    assert protocol.name == name
    prepared = protocol.prepare(photos * 1.2)
    side = 200 - 2 * protocol.border
    assert prepared.shape == (2, 3 if protocol.colour == "rgb" else 1, side, side)
    assert 0 <= float(prepared.min()) <= float(prepared.max()) <= 1
    assert protocol.prepare(photos, network=True).shape[1] == 3
    assert protocol.describe().startswith(name)


class Colours(torch.nn.Module):
    """Stands in for the Inception network: the mean colour and its squares."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8
        mean = images.double().mean((2, 3))
        return torch.cat([mean, mean.square() / 255], 1)[:, :4]


def test_distances_of_sets_are_those_of_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    images, reference = torch.rand(2, 12, 3, 8, 8, generator=generator) * torch.rand(12, 1, 1, 1, generator=generator)
    loaded: list[Colours] = []

    def load(*_: Any) -> Colours:
        loaded.append(Colours())
        return loaded[-1]

    monkeypatch.setattr("daclip.metrics.perceptual.NoTrainInceptionV3", load)
    network = Colours()
    network.num_features = 4  # type: ignore[assignment]
    expected = FrechetInceptionDistance(network)
    for batch, real in ((images, False), (reference, True)):
        expected.update(batch.mul(255).round().to(torch.uint8), real=real)
    scorer = Scorer(RGB, {"fid": Fid(4), "kid": Kid(4, subsets=10, subset_size=1000, seed=0)})
    for part in (slice(0, 7), slice(7, 12)):
        names = [str(number) for number in range(12)[part]]
        scorer.add(names, ["noisy"] * len(names), images[part], reference[part], reference[part])
    found = scorer.sets(with_lq=True)
    assert found["fid"] == pytest.approx(float(expected.compute()), rel=1e-6)
    assert found["fid_lq"] == pytest.approx(0, abs=1e-6)
    assert found["kid"] != pytest.approx(found["kid_lq"], abs=1e-6)
    assert scorer.sets(with_lq=True) == found
    assert len(loaded) == 2  # one network a metric, shared with the copy that scores degraded photos
