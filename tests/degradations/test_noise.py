"""Facts about noise of many origins."""

import pytest
import torch
from torch import Tensor
from wide import seeded

from daclip.degradations.noise import AnyNoise, blotchy, demosaiced

GREY = torch.full((1, 3, 128, 128), 0.5)


def only(kind: str, jpeg: float = 0.0) -> AnyNoise:
    kinds = {name: float(name == kind) for name in AnyNoise.names}
    return AnyNoise(
        kinds, sigma=12, plain_sigma=[5, 55], camera_sigma=12, impulses=[0.002, 0.3], jpeg=jpeg, jpeg_quality=[85, 98]
    )


def neighbours(noise: Tensor) -> float:
    """Correlation of horizontal neighbours."""
    noise = noise - noise.mean(dim=(-2, -1), keepdim=True)
    return float((noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean())


@pytest.mark.parametrize("kind", sorted(set(AnyNoise.names) - {"plain", "impulses", "mixed", "tinted"}))
def test_every_kind_has_the_deviation_asked_for_at_mid_grey(kind: str) -> None:
    deviations = [float((only(kind)(GREY, [seeded(i)], 0.5) - GREY).std()) * 255 for i in range(4)]
    assert sum(deviations) / 4 == pytest.approx(12, rel=0.2)


def test_plain_noise_is_white_of_an_even_sigma_at_8_bit() -> None:
    result = only("plain", jpeg=1.0)(GREY, [seeded(0)], 0.3)
    assert float((result - GREY).std()) * 255 == pytest.approx(20, rel=0.02)
    assert abs(neighbours(result)) < 0.02
    torch.testing.assert_close((result * 255).round(), result * 255, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "power"), [("gray", 0), ("photons", 1), ("speckle", 2)])
def test_noise_follows_the_light_by_its_law(kind: str, power: int) -> None:
    dark, bright = (float((only(kind)(GREY * light, [seeded(1)], 0.5) - GREY * light).var()) for light in (0.5, 1.0))
    assert bright / dark == pytest.approx(2.0**power, rel=0.05)


def test_impulses_cover_their_share() -> None:
    for severity, share in ((0.5, 0.002 + 0.298 * 0.25), (1.0, 0.3)):
        noisy = only("impulses")(GREY.expand(8, -1, -1, -1), [seeded(i) for i in range(8)], severity)
        assert float(((noisy == 0) | (noisy == 1)).float().mean()) == pytest.approx(share, abs=0.03)
    result = only("impulses")(GREY, [seeded(0)], 1.0)
    assert {0.0, 1.0} <= set(result.unique().tolist())


def test_processed_noise_is_correlated_and_demosaicing_keeps_what_is_smooth() -> None:
    noise = torch.randn(3, 96, 96, generator=seeded(0))
    assert neighbours(demosaiced(noise)) > 0.3
    assert neighbours(blotchy(noise, seeded(1))) > 0.2
    flat = torch.tensor([0.2, 0.5, 0.8])[:, None, None].expand(3, 16, 18)
    torch.testing.assert_close(demosaiced(flat)[:, 1:-1, 1:-1], flat[:, 1:-1, 1:-1])
