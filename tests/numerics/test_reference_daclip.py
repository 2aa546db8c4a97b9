"""DA-CLIP against the goldens of the original system."""

import pytest
import torch
from reference import Recording, assert_near, recording
from torch import Tensor
from torch.nn import functional as F

from daclip.clip.backbone import FrozenClip
from daclip.clip.controller import MAX_LOGIT_SCALE, DaClip
from daclip.clip.losses import contrastive_loss
from daclip.clip.official import from_official
from daclip.optimization import decay_groups


@pytest.fixture(scope="module")
def golden() -> Recording:
    return recording("tiny_daclip")


@pytest.fixture
def daclip(golden: Recording) -> DaClip:
    model = DaClip(FrozenClip(golden.facts["config"], None, "resize", 0), "reversed")
    model.load_state_dict(from_official(golden.under("weights")))
    return model


def losses(model: DaClip, golden: Recording) -> tuple[Tensor, Tensor]:
    content, degradation = model.encode_views(golden["in/images"])
    caption = F.normalize(model.clip.encode_tokens(golden["in/caption"]), dim=-1)
    word = F.normalize(model.clip.encode_tokens(golden["in/degradation"]), dim=-1)
    scale = model.scale()
    return (
        contrastive_loss(F.normalize(content, dim=-1), caption, scale),
        contrastive_loss(F.normalize(degradation, dim=-1), word, scale),
    )


def test_every_feature_agrees(daclip: DaClip, golden: Recording) -> None:
    views = golden["in/images"]
    content, degradation = daclip.encode_views(views)
    assert_near(content, golden["out/image_features"])
    assert_near(degradation, golden["out/degradation_features"])
    plain = daclip.clip.tower(views)
    assert_near(plain, golden["out/image_features_no_control"])
    for text, out in (("caption", "caption"), ("degradation", "degradation_text")):
        embedded = daclip.clip.encode_tokens(golden[f"in/{text}"])
        assert_near(embedded, golden[f"out/{out}_features"])


def test_every_hidden_state_agrees(daclip: DaClip, golden: Recording) -> None:
    _, hiddens = daclip.controller(golden["in/images"])
    for number, hidden in enumerate(hiddens):
        # The reference keeps tokens first.
        expected = golden[f"out/controller_hidden_{number}"].transpose(0, 1)
        assert_near(hidden, expected)


def test_losses_and_gradients_agree(daclip: DaClip, golden: Recording) -> None:
    by_caption, by_word = losses(daclip, golden)
    assert_near(by_caption, golden["out/contrastive_loss"])
    assert_near(by_word, golden["out/degra_loss"])
    (by_caption + by_word).backward()
    gradients = {name: p.grad for name, p in daclip.named_parameters() if p.grad is not None}
    expected = from_official(golden.under("grad"))
    assert expected.keys() <= gradients.keys()
    for name, gradient in expected.items():
        assert_near(gradients[name], gradient, rtol=1e-3, what=name)
    norms = {name: torch.tensor(v) for name, v in golden.facts["gradient_l2_norms_of_total_loss"].items()}
    assert set(gradients) == set(from_official(norms))
    for name, norm in from_official(norms).items():
        assert gradients[name].norm().item() == pytest.approx(norm.item(), rel=1e-3, abs=1e-6)


def test_training_follows_the_reference(daclip: DaClip, golden: Recording) -> None:
    trace = golden.facts["optimizer_trace"]
    optimizer = torch.optim.AdamW(
        decay_groups(daclip),
        lr=trace["lr"],
        betas=tuple(trace["betas"]),
        eps=trace["eps"],
        weight_decay=trace["weight_decay"],
    )
    for by_caption_expected, by_word_expected, scale_expected in trace["rows"]:
        by_caption, by_word = losses(daclip, golden)
        assert by_caption.item() == pytest.approx(by_caption_expected, rel=2e-3)
        assert by_word.item() == pytest.approx(by_word_expected, rel=2e-3)
        optimizer.zero_grad()
        (by_caption + by_word).backward()
        optimizer.step()
        with torch.no_grad():
            daclip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        assert daclip.logit_scale.item() == pytest.approx(scale_expected, rel=1e-4)
