"""What every network in conf/backbone must keep."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from daclip.backbones import ConditionalUNet
from daclip.backbones.nafnet import BlockDct
from daclip.errors import DaclipError
from daclip.types import Conditioning

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "backbone").glob("*.yaml"))
CONTEXT = 16


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def config(request: pytest.FixtureRequest) -> Path:
    return request.param


def _tiny(path: Path, **options: Any) -> nn.Module:
    """The yaml's network at width 32 with all parameters random, so that no path is silent."""
    torch.manual_seed(0)
    settings = OmegaConf.merge(OmegaConf.load(path), {"width": 32}, options)
    backbone: nn.Module = instantiate(settings)(context_dim=CONTEXT)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return backbone


def _skip_without(config: Path, *options: str) -> None:
    """Skip a network that does not offer the options."""
    if missing := set(options) - set(OmegaConf.load(config)):
        pytest.skip(f"{config.stem} has no {', '.join(sorted(missing))}")


def _inputs(height: int = 16, width: int = 16) -> tuple[Tensor, Tensor, Tensor, Conditioning]:
    g = torch.Generator().manual_seed(1)
    x_t, lq = torch.rand(2, 2, 3, height, width, generator=g)
    content, degradation = torch.randn(2, 2, CONTEXT, generator=g)
    return x_t, lq, torch.tensor([3.0, 77.0]), Conditioning(content, degradation)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (9, 3), (16, 16), (37, 45)])
def test_any_size(config: Path, size: tuple[int, int]) -> None:
    x_t, lq, t, conditioning = _inputs(*size)
    with torch.no_grad():
        out = _tiny(config)(x_t, lq, t, conditioning)
    assert out.shape == x_t.shape
    assert out.isfinite().all()


def test_gradient_reaches_every_trainable_parameter(config: Path) -> None:
    backbone = _tiny(config)
    out = backbone(*_inputs())
    out.square().mean().backward()
    silent = [n for n, p in backbone.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert silent == []


def test_every_input_matters(config: Path) -> None:
    backbone = _tiny(config).eval()
    x_t, lq, t, conditioning = _inputs()
    variants = {
        "x_t": (x_t + 0.1, lq, t, conditioning),
        "lq": (x_t, lq + 0.1, t, conditioning),
        "t": (x_t, lq, t + 1, conditioning),
        "content": (x_t, lq, t, Conditioning(-conditioning.content, conditioning.degradation)),  # type: ignore[operator]
        "degradation": (x_t, lq, t, Conditioning(conditioning.content, None)),
        "no content": (x_t, lq, t, Conditioning(None, conditioning.degradation)),
    }
    with torch.no_grad():
        out = backbone(x_t, lq, t, conditioning)
        for name, arguments in variants.items():
            assert not torch.allclose(backbone(*arguments), out, rtol=0, atol=1e-7), name


def test_images_of_a_batch_do_not_mix(config: Path) -> None:
    backbone = _tiny(config).eval()
    x_t, lq, t, conditioning = _inputs()
    assert conditioning.content is not None
    assert conditioning.degradation is not None
    second = Conditioning(conditioning.content[1:], conditioning.degradation[1:])
    with torch.no_grad():
        alone = backbone(x_t[1:], lq[1:], t[1:], second)
        torch.testing.assert_close(backbone(x_t, lq, t, conditioning)[1:], alone, rtol=1e-4, atol=1e-5)


def test_bfloat16_and_channels_last_stay_close(config: Path) -> None:
    backbone = _tiny(config)
    x_t, lq, t, conditioning = _inputs(32, 32)
    with torch.no_grad():
        expected = backbone(x_t, lq, t, conditioning)
    backbone.to(memory_format=torch.channels_last)
    x_t, lq = (z.to(memory_format=torch.channels_last) for z in (x_t, lq))
    with torch.autocast("cpu", torch.bfloat16):
        out = backbone(x_t, lq, t, conditioning)
    assert (out.float() - expected).norm() / expected.norm() < 0.05
    out.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize("degradation_context", [False, True])
@pytest.mark.parametrize("context", ["token", "patches", "none"])
def test_a_context_is_heard_as_far_as_it_is_asked_for(config: Path, context: str, degradation_context: bool) -> None:
    _skip_without(config, "context", "degradation_context")
    backbone = _tiny(config, context=context, degradation_context=degradation_context)
    x_t, lq, t, plain = _inputs()
    patches = torch.randn(2, 5, CONTEXT, generator=torch.Generator().manual_seed(2))
    full = Conditioning(plain.content, plain.degradation, patches)
    backbone(x_t, lq, t, full).square().mean().backward()
    assert [n for n, p in backbone.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())] == []
    with torch.no_grad():
        out = backbone(x_t, lq, t, full)

    def changed(**parts: Tensor) -> bool:
        with torch.no_grad():
            return not torch.equal(backbone(x_t, lq, t, replace(full, **parts)), out)

    assert plain.content is not None
    assert plain.degradation is not None
    assert changed(content=-plain.content) is (context != "none")
    assert changed(patches=-patches) is (context == "patches")
    assert changed(degradation=-plain.degradation) is degradation_context
    # Attention knows no order of its keys.
    with torch.no_grad():
        torch.testing.assert_close(
            backbone(x_t, lq, t, replace(full, patches=patches.flip(1))), out, rtol=1e-4, atol=1e-5
        )
    if context == "patches":
        with pytest.raises(DaclipError, match="patch tokens"):
            backbone(x_t, lq, t, plain)


def test_recomputing_activations_changes_nothing(config: Path) -> None:
    _skip_without(config, "checkpoint")
    gradients = []
    for checkpoint in (False, True):
        backbone = _tiny(config, checkpoint=checkpoint).train()
        backbone(*_inputs()).square().mean().backward()
        gradients.append([p.grad for p in backbone.parameters() if p.grad is not None])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_unet_options() -> None:
    with pytest.raises(DaclipError, match="choose token, patches or none"):
        ConditionalUNet(CONTEXT, context="both")  # type: ignore[arg-type]

    plain = ConditionalUNet(CONTEXT, width=32, multipliers=[1, 2], degradation_context=False, context="none")
    out = plain(*_inputs(8, 8))
    out.sum().backward()
    assert all(p.requires_grad for p in plain.parameters())
    with pytest.raises(DaclipError, match="multiple of 32"):
        ConditionalUNet(CONTEXT, width=48)
    with pytest.raises(DaclipError, match=r"\[4\] do not exist"):
        ConditionalUNet(CONTEXT, transformer_levels=[4])
    with pytest.raises(DaclipError, match=r"scale 1\.0 or 0\.5"):
        ConditionalUNet(CONTEXT, scale=2.0)
    with pytest.raises(DaclipError, match="context_dim"):
        ConditionalUNet(CONTEXT, width=32, multipliers=[1], self_attend_without_content=True)


@pytest.mark.parametrize("patch", [1, 2, 4, 8])
def test_block_dct_is_orthonormal_and_separates_the_mean(patch: int) -> None:
    image = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    dct = BlockDct(patch)
    folded = dct(image)
    assert folded.shape == (2, 3 * patch**2, 16 // patch, 24 // patch)
    torch.testing.assert_close(dct.inverse(folded), image)
    torch.testing.assert_close(folded.square().sum(), image.square().sum())
    mean = torch.nn.functional.avg_pool2d(image, patch)
    torch.testing.assert_close(folded[:, :: patch**2], mean * patch)
