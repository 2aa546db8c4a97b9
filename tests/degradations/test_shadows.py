"""Facts about the wide shadows."""

import pytest
import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from wide import PHOTO, configured, errors, seeded

from daclip.degradations.light import CastShadows


def only(kind: str) -> dict[str, float]:
    return {other: float(other == kind) for other in CastShadows.names}


@pytest.mark.parametrize("kind", CastShadows.names)
@pytest.mark.parametrize("size", [(32, 47), (128, 96)])
def test_every_shape_leaves_light_and_shadow(kind: str, size: tuple[int, int]) -> None:
    shadows = configured("shadowed", kinds=only(kind), further=0, light=0.3, blue=0, bounce=0, penumbra=2)
    factors = torch.cat([shadows.draw(*size, 0.5, seeded(seed))["factor"] for seed in range(8)])[:, 0]
    assert 0.03 < (factors < 0.65).float().mean() < 0.8
    assert ((factors > 0.99).flatten(1).any(1) & (factors < 0.31).flatten(1).any(1)).sum() >= 6


def test_the_picture_changes_in_the_shadow_only() -> None:
    shadows = configured("shadowed", further=0.5, penumbra=[1, 10])
    for seed in range(6):
        drawn = shadows.draw(128, 128, 1.0, seeded(seed))
        shaded = shadows.apply(PHOTO, drawn)
        assert torch.equal(shaded[drawn["factor"] == 1], PHOTO[drawn["factor"] == 1])
        expected = linear_rgb_to_rgb(rgb_to_linear_rgb(PHOTO) * drawn["factor"])
        torch.testing.assert_close(shaded, expected, rtol=0, atol=1e-5)


def test_shadows_do_not_add_up() -> None:
    shadows = configured("shadowed", further=0.9, light=0.3, blue=0, bounce=0)
    darkest = [float(shadows.draw(64, 64, 0.5, seeded(seed))["factor"].min()) for seed in range(5)]
    assert darkest == pytest.approx([0.3] * 5, abs=1e-4)


@pytest.mark.parametrize("width", [4, 16])
def test_an_edge_is_as_wide_as_its_penumbra(width: float) -> None:
    shadows = configured("shadowed", kinds=only("polygon"), further=0, light=0.001, blue=0, bounce=0, penumbra=width)
    mask = 1 - shadows.draw(128, 128, 0.5, seeded(1))["factor"][0, 0]
    steepest = sum(part.square() for part in torch.gradient(mask)).sqrt().max()  # type: ignore[union-attr]
    assert float(steepest) == pytest.approx(1.5 / width, rel=0.1)  # of a smoothstep


def test_deep_shadows_are_bluer_than_faint_ones() -> None:
    def tints(light: float) -> torch.Tensor:
        shadows = configured("shadowed", light=light, bounce=0)
        factors = [shadows.draw(48, 48, 0.5, seeded(seed))["factor"][0] for seed in range(12)]
        return torch.stack([f[2].min() / f[0].min() for f in factors])

    assert tints(0.12).mean() > 1.1
    assert 1 < tints(0.8).mean() < 1.05


def test_severity_goes_from_faint_to_deep() -> None:
    mild, middle, strong = errors(configured("shadowed"), (0.0, 0.5, 1.0))
    assert mild < 0.03
    assert 2 * mild < middle < strong
