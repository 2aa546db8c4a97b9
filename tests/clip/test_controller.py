"""The frozen model and its controller."""

import pytest
import torch
from torch import Tensor

from daclip.clip.controller import DaClip, create_daclip
from daclip.clip.frozen_clip import FrozenClip, crop, multi_crop, resize
from daclip.errors import DaclipError

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def photos(count: int, height: int, width: int) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def daclip() -> DaClip:
    return create_daclip(TINY, None, "multi_crop", "reversed", 0)


@pytest.mark.parametrize("injection", ["reversed", "aligned"])
def test_at_step_0_the_content_embedding_is_clips_bit_for_bit(injection: str) -> None:
    model = create_daclip(TINY, None, "multi_crop", injection, 0)  # type: ignore[arg-type]
    images = photos(2, 40, 70)
    content = model(images).content
    assert torch.equal(content, model.clip.encode_image(images))
    # And, up to the order of summation, what open_clip itself gives for the same views.
    views = model.clip.views(images)
    direct = model.clip.model.visual(views.flatten(0, 1)).unflatten(0, views.shape[:2]).mean(1)
    torch.testing.assert_close(content, direct, rtol=1e-4, atol=1e-5)


def test_links_move_the_content_embedding_in_the_stated_order(daclip: DaClip) -> None:
    images = photos(1, 32, 32)
    before = daclip(images)
    with torch.no_grad():
        daclip.controller.links[0].get_parameter("bias").fill_(0.5)
    after = daclip(images)
    assert not torch.equal(before.content, after.content)
    # Reversed: the first link feeds the last frozen block, so a shift of all channels there is what
    # ln_post removes; the last link feeds the first block and is not removed.
    torch.testing.assert_close(before.content, after.content, rtol=1e-3, atol=1e-4)
    assert torch.equal(before.degradation, after.degradation)


def test_the_content_of_a_part_is_that_of_the_whole(daclip: DaClip) -> None:
    images = photos(3, 40, 70)
    torch.nn.init.normal_(daclip.controller.links[0].get_parameter("weight"), std=0.1)
    whole, part = daclip(images), daclip(images, steered=2)
    torch.testing.assert_close(part.content, whole.content[:2])
    torch.testing.assert_close(part.degradation, whole.degradation)


def test_patch_tokens_are_the_towers_own_in_the_space_of_the_embedding(daclip: DaClip) -> None:
    images = photos(2, 40, 70)
    out, alone = daclip(images), daclip(images[1:])
    views = daclip.clip.views(images)
    assert out.patches is not None
    assert out.patches.shape == (2, views.shape[1] * 16, 32)
    torch.testing.assert_close(out.patches[1:], alone.patches, rtol=1e-4, atol=1e-5)
    # With the links at zero they are what open_clip gives as tokens, projected.
    tower = daclip.clip.tower
    tower.output_tokens = True
    _, tokens = tower(views[:, 0])
    torch.testing.assert_close(out.patches[:, :16], tokens @ tower.proj, rtol=1e-4, atol=1e-5)
    assert daclip(images, steered=1).patches is None


def test_only_controller_and_scale_learn(daclip: DaClip) -> None:
    trained = {name.split(".")[0] for name, p in daclip.named_parameters() if p.requires_grad}
    assert trained == {"controller", "logit_scale"}
    daclip.train()
    assert not daclip.clip.training
    assert daclip.controller.training


def test_the_logit_scale_starts_at_clips_own() -> None:
    model = create_daclip({**TINY, "init_logit_scale": 3.0}, None, "resize", "reversed", 0)
    assert model.logit_scale.item() == pytest.approx(3.0)
    assert model.logit_scale is not model.clip.model.logit_scale
    assert model.scale().item() == pytest.approx(20.0855, rel=1e-4)


def test_a_cut_text_has_the_embedding_of_the_whole(daclip: DaClip) -> None:
    tokens = daclip.clip.tokenizer(["rainy", "a cup of espresso with a spoon: on a wooden table"])
    whole = daclip.clip.model.encode_text(tokens)
    torch.testing.assert_close(daclip.clip.encode_tokens(tokens), whole, rtol=1e-4, atol=1e-5)


def test_texts_are_encoded_once(daclip: DaClip, monkeypatch: pytest.MonkeyPatch) -> None:
    first = daclip.clip.encode_text(["rainy", "snowy", "rainy"])
    assert torch.equal(first[0], first[2])
    monkeypatch.setattr(FrozenClip, "encode_tokens", lambda *_: pytest.fail("encoded again"))
    again = daclip.clip.encode_text(["snowy", "rainy"])
    assert torch.equal(again, first[:2].flip(0))


def test_classify_gives_probabilities(daclip: DaClip) -> None:
    shares = daclip.classify(torch.randn(4, 32), ["rainy", "snowy", "hazy"])
    assert shares.shape == (4, 3)
    torch.testing.assert_close(shares.sum(-1), torch.ones(4))


@pytest.mark.parametrize(("height", "width", "count"), [(32, 32, 1), (33, 64, 4), (96, 200, 9), (20, 20, 1)])
def test_multi_crop_covers_the_photo(height: int, width: int, count: int) -> None:
    images = photos(2, height, width)
    views = multi_crop(images, 32)
    assert views.shape == (2, count, 3, 32, 32)
    if height >= 32:
        assert torch.equal(views[:, 0], images[..., :32, :32])
        assert torch.equal(views[:, -1], images[..., -32:, -32:])


def test_views_of_a_photo_of_clips_size_are_the_photo() -> None:
    images = photos(2, 32, 32).mul(255).round().div(255)  # `resize` works on 8 bits
    for view in (resize, crop, multi_crop):
        assert torch.equal(view(images, 32)[:, 0], images)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"architecture": "ViT-B-33"}, "no open_clip model"),
        ({"view": "squeeze"}, "clip.view"),
        ({"injection": "sideways"}, "injection"),
    ],
)
def test_bad_settings_are_refused_with_a_reason(settings: dict[str, str], reason: str) -> None:
    arguments = {
        "architecture": TINY,
        "pretrained": None,
        "view": "resize",
        "injection": "reversed",
        "seed": 0,
    }
    with pytest.raises(DaclipError, match=reason):
        create_daclip(**{**arguments, **settings})  # type: ignore[arg-type]


def test_a_tower_that_is_no_vit_is_refused_with_its_name() -> None:
    resnet = {**TINY, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}}
    with pytest.raises(DaclipError, match="ModifiedResNet"):
        FrozenClip(resnet, None, "resize", 0)


def test_weights_that_cannot_be_had_are_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("connection refused\nand a long explanation")

    monkeypatch.setattr("open_clip.create_model", fail)
    with pytest.raises(DaclipError, match="ViT-B-32/laion2b_s34b_b79k could not be loaded") as caught:
        FrozenClip("ViT-B-32", "laion2b_s34b_b79k", "resize", 0)
    assert "\n" not in str(caught.value)
    assert "network" in str(caught.value)
