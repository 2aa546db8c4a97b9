"""DA-CLIP against the goldens of the original system."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reference import Recording, assert_near, facts, golden, recording, reference_folder
from torch import Tensor
from torch.nn import functional as F

from daclip.clip.controller import MAX_LOGIT_SCALE, DaClip, create_daclip
from daclip.clip.frozen_clip import FrozenClip, resize
from daclip.clip.losses import contrastive_loss
from daclip.clip.official import from_official, load_official, official_state, read_weights, to_official
from daclip.training.optimizers import decay_groups


@pytest.fixture(scope="module")
def tiny() -> Recording:
    return recording("tiny_daclip")


@pytest.fixture
def daclip(tiny: Recording) -> DaClip:
    model = DaClip(FrozenClip(tiny.facts["config"], None, "resize", 0), "reversed")
    model.load_state_dict(from_official(tiny.under("weights")))
    return model


def losses(model: DaClip, tiny: Recording) -> tuple[Tensor, Tensor]:
    content, degradation = model.encode_views(tiny["in/images"])
    caption = F.normalize(model.clip.encode_tokens(tiny["in/caption"]), dim=-1)
    class_name = F.normalize(model.clip.encode_tokens(tiny["in/degradation"]), dim=-1)
    scale = model.scale()
    return (
        contrastive_loss(F.normalize(content, dim=-1), caption, scale),
        contrastive_loss(F.normalize(degradation, dim=-1), class_name, scale),
    )


def test_every_feature_agrees(daclip: DaClip, tiny: Recording) -> None:
    views = tiny["in/images"]
    content, degradation = daclip.encode_views(views)
    assert_near(content, tiny["out/image_features"])
    assert_near(degradation, tiny["out/degradation_features"])
    plain = daclip.clip.tower(views)
    assert_near(plain, tiny["out/image_features_no_control"])
    for text, out in (("caption", "caption"), ("degradation", "degradation_text")):
        embedded = daclip.clip.encode_tokens(tiny[f"in/{text}"])
        assert_near(embedded, tiny[f"out/{out}_features"])


def test_every_hidden_state_agrees(daclip: DaClip, tiny: Recording) -> None:
    _, hiddens = daclip.controller(tiny["in/images"])
    for number, hidden in enumerate(hiddens):
        # The reference keeps tokens first.
        expected = tiny[f"out/controller_hidden_{number}"].transpose(0, 1)
        assert_near(hidden, expected)


def test_losses_and_gradients_agree(daclip: DaClip, tiny: Recording) -> None:
    by_caption, by_class = losses(daclip, tiny)
    assert_near(by_caption, tiny["out/contrastive_loss"])
    assert_near(by_class, tiny["out/degra_loss"])
    (by_caption + by_class).backward()
    gradients = {name: p.grad for name, p in daclip.named_parameters() if p.grad is not None}
    expected = from_official(tiny.under("grad"))
    assert expected.keys() <= gradients.keys()
    for name, gradient in expected.items():
        assert_near(gradients[name], gradient, rtol=1e-3, what=name)
    norms = {name: torch.tensor(v) for name, v in tiny.facts["gradient_l2_norms_of_total_loss"].items()}
    assert set(gradients) == set(from_official(norms))
    for name, norm in from_official(norms).items():
        assert gradients[name].norm().item() == pytest.approx(norm.item(), rel=1e-3, abs=1e-6)


def test_training_follows_the_reference(daclip: DaClip, tiny: Recording) -> None:
    trace = tiny.facts["optimizer_trace"]
    optimizer = torch.optim.AdamW(
        decay_groups(daclip),
        lr=trace["lr"],
        betas=tuple(trace["betas"]),
        eps=trace["eps"],
        weight_decay=trace["weight_decay"],
    )
    for by_caption_expected, by_word_expected, scale_expected in trace["rows"]:
        by_caption, by_class = losses(daclip, tiny)
        assert by_caption.item() == pytest.approx(by_caption_expected, rel=2e-3)
        assert by_class.item() == pytest.approx(by_word_expected, rel=2e-3)
        optimizer.zero_grad()
        (by_caption + by_class).backward()
        optimizer.step()
        with torch.no_grad():
            daclip.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        assert daclip.logit_scale.item() == pytest.approx(scale_expected, rel=1e-4)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-L-14"])
def test_a_full_size_state_dict_has_the_official_names_and_shapes(name: str) -> None:
    known = facts(f"keys_daclip_{name}")
    with torch.device("meta"):
        model = create_daclip(name, None, "resize", "reversed", 0)
    official = to_official(model.state_dict())
    assert {key: list(value.shape) for key, value in official.items()} == {
        key: shape for key, (shape, _) in known["keys"].items()
    }
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    assert set(to_official(trained)) == set(known["trained_when_locked"])
    assert sum(p.numel() for p in trained.values()) == known["parameters_trained_when_locked"]
    free = {id(p) for group in decay_groups(model) if group.get("weight_decay") == 0 for p in group["params"]}
    assert set(to_official({key: p for key, p in trained.items() if id(p) in free})) == set(
        known["trained_without_weight_decay"]
    )


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-L-14"])
def test_a_full_state_dict_makes_the_round_trip_bit_for_bit(name: str) -> None:
    keys: dict[str, Any] = facts(f"keys_daclip_{name}")["keys"]
    sizes = {key: torch.Size(shape) for key, (shape, _) in keys.items() if not key.startswith("visual.")}
    # Different places of one random block: gigabytes of separate draws would take long.
    block = torch.randn(max(size.numel() for size in sizes.values()) + len(sizes))
    state = {key: block[i : i + size.numel()].view(size) for i, (key, size) in enumerate(sizes.items())}
    state |= {key: state[f"clip.{key}"] for key in keys if key.startswith("visual.")}
    with torch.device("meta"):
        model = create_daclip(name, None, "resize", "reversed", 0)
    model.load_state_dict(from_official({f"module.{key}": value for key, value in state.items()}), assign=True)
    again = to_official(model.state_dict())
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], value) for key, value in state.items())


@pytest.mark.parametrize("source", ["golden", "recorded"])
def test_a_checkpoint_file_of_a_distributed_run_is_read(source: str, tmp_path: Path) -> None:
    known = golden("micro_daclip")
    if source == "recorded":
        known = recording("micro_daclip_checkpoint_io")
        path = reference_folder() / "micro_daclip_checkpoint.pt"
    else:
        weights = known.under("weights")
        weights |= {
            key.removeprefix("clip."): value for key, value in weights.items() if key.startswith("clip.visual.")
        }
        path = tmp_path / "epoch_1.pt"
        state = {f"module.{key}": value for key, value in weights.items()}
        torch.save({"epoch": 1, "name": "run", "state_dict": state, "optimizer": {}}, path)
    model = DaClip(FrozenClip(known.facts["config"], None, "resize", 0), "reversed")
    load_official(model, official_state(read_weights(path), path), path)
    content, degradation = model.encode_views(known["in/images"])
    outputs = known.under("out")
    assert_near(content, outputs["image_features"])
    assert_near(degradation, outputs["degradation_features"])


def test_the_controller_starts_as_the_reference_but_for_the_links_and_the_last_norm() -> None:
    notes = facts("initial_controller")
    assert notes["everything else under visual_control."] == "equal to clip.visual."
    config = facts("tiny_daclip")["config"]
    model = DaClip(FrozenClip(config, None, "resize", 0), "reversed")
    state = to_official(model.state_dict())
    for name, value in state.items():
        if ".zero_modules." in name:
            # In the reference one of them holds a broadcast norm weight; ours are all zero.
            assert not value.any()
        elif name.startswith("visual_control."):
            plain = name.replace("visual_control.transformer.transformer.", "visual_control.transformer.")
            assert torch.equal(value, state[plain.replace("visual_control.", "clip.visual.")])
    assert torch.equal(state["logit_scale"], state["clip.logit_scale"])


@pytest.mark.parametrize("number", [0, 2])
def test_the_resize_view_is_the_restoration_datas_preprocessing(number: int) -> None:
    known = golden("clip_preprocess")
    image = known[f"{number}/in_float_hwc_rgb"].permute(2, 0, 1)[None]
    mean, std = (torch.tensor(known.facts[key]).view(3, 1, 1) for key in ("mean", "std"))
    ours = (resize(image, int(known[f"{number}/resolution"]))[0, 0] - mean) / std
    difference = (ours - known[f"{number}/out"]).abs() * std
    # Pillow's weights are whole numbers, which moves a value at the edge between two levels to the other one.
    assert difference.max() < 1.01 / 255
    assert difference.mean() < 0.02 / 255


def test_the_resize_view_is_pillows_on_a_noisy_photo() -> None:
    noisy = (255 * torch.rand(3, 84, 126, generator=torch.Generator().manual_seed(0)).round()).to(torch.uint8)
    shrunken = Image.fromarray(noisy.permute(1, 2, 0).numpy()).resize((120, 80), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.asarray(shrunken)[:, 20:100].copy()).permute(2, 0, 1).float()
    ours = resize(noisy[None].float() / 255, 80)[0, 0] * 255
    assert (ours - expected).abs().max() < 1.01
    at_once = F.interpolate(noisy[None].float(), (80, 120), mode="bicubic", antialias=True)[0, :, :, 20:100]
    assert (at_once.clamp(0, 255) - expected).abs().max() > 3
