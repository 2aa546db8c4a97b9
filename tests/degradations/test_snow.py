"""Facts about wide snow."""

from typing import Any

import pytest
import torch
from torch import Tensor

from daclip.degradations.snow import Snowfall

STILL: dict[str, Any] = {
    "coverage": 0.2,
    "opacity": 1.0,
    "veil": 0.0,
    "radii": [[0.5, 1.0], [1.0, 2.5], [2.5, 6.0]],
    "zoom": 1.0,
    "motion": 0,
    "wind": 0,
    "light": 1.0,
    "tint": 0.0,
    "ambience": 0.0,
    "glare": 0.0,
    "driven": 0.0,
}


def generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def flakes(snow: Snowfall, size: tuple[int, int], count: int) -> Tensor:
    """The opacities of several samples, `[count, H, W]`."""
    return torch.cat([snow.draw(*size, 0.5, generator)["flakes"][0] for generator in generators(count)])


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_flakes_cover_about_their_share(share: float) -> None:
    covered = (flakes(Snowfall(**{**STILL, "coverage": share}), (128, 128), 8) > 0.25).float().mean()
    assert float(covered) == pytest.approx(share, rel=0.4)


@pytest.mark.parametrize("motion", [0, 40])
def test_moving_flakes_are_drawn_out_along_their_fall(motion: float) -> None:
    fallen = flakes(Snowfall(**{**STILL, "motion": motion}), (96, 128), 8)
    rows, columns = float(fallen.diff(dim=1).abs().mean()), float(fallen.diff(dim=2).abs().mean())
    assert (rows < 0.9 * columns) is (motion > 0)


@pytest.mark.parametrize("size", [(64, 64), (35, 90)])
def test_snow_lies_between_the_scene_and_its_light(size: tuple[int, int]) -> None:
    photos = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0))
    snow = Snowfall(**{**STILL, "veil": 0.3})
    result = snow(photos, generators(3), 0.5)
    assert (result >= photos * 0.75 - 1e-6).all()  # the veil is at least this grey
    clear = Snowfall(**STILL)
    assert (clear(photos, generators(3), 0.5) >= photos - 1e-6).all()
    dry = flakes(clear, size, 3) == 0
    assert dry.any()
    assert torch.equal(clear(photos, generators(3), 0.5).movedim(1, -1)[dry], photos.movedim(1, -1)[dry])


def test_flakes_take_on_the_colour_of_the_scene() -> None:
    red = torch.tensor([0.8, 0.4, 0.4]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    snow = Snowfall(**STILL)
    drawn = snow.draw(64, 64, 0.5, torch.Generator().manual_seed(0))
    drawn["flakes"] = torch.ones(1, 1, 64, 64)
    drawn["ambience"] = torch.full((1, 1, 1, 1), 0.5)
    colour = snow.apply(red, drawn)[0, :, 0, 0]
    torch.testing.assert_close(colour, torch.tensor([1.0, 0.75, 0.75]))


def test_severity_raises_the_mean_error() -> None:
    snow = Snowfall(**{**STILL, "coverage": [0.01, 0.4], "opacity": [0.5, 1.0], "veil": [0, 0.5]})
    grey = torch.full((12, 3, 64, 64), 0.4)
    errors = [float((snow(grey, generators(12), x) - grey).abs().mean()) for x in (0, 0.3, 0.6, 1)]
    assert errors == sorted(errors)
    assert errors[-1] > 5 * errors[0]


def test_glare_brightens_with_severity_and_never_darkens() -> None:
    photos = torch.rand(4, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    dry = Snowfall(**{**STILL, "opacity": 0.0, "glare": 1.0})
    faint, strong = (dry(photos, generators(4), severity) - photos for severity in (0.0, 1.0))
    assert faint.min() >= 0
    assert strong.mean() > 3 * faint.mean() > 0


def test_driven_snow_falls_in_one_direction() -> None:
    def along_and_across(driven: float) -> tuple[Tensor, Tensor]:
        fallen = flakes(Snowfall(**{**STILL, "driven": driven}), (96, 96), 8)
        return (fallen.diff(dim=1)).square().mean(), (fallen.diff(dim=2)).square().mean()

    down, right = along_and_across(1.0)  # without wind it comes from above
    assert down < 0.4 * right
    down, right = along_and_across(0.0)
    assert 0.8 < down / right < 1.25


def test_driven_snow_adds_its_light_or_covers() -> None:
    snow = Snowfall(**{**STILL, "driven": 1.0})
    drawn = snow.draw(48, 48, 1.0, torch.Generator().manual_seed(2)) | {"glare": torch.zeros(1, 1, 1, 1)}
    grey, opacity = torch.full((1, 3, 48, 48), 0.4), drawn["flakes"]
    added = snow.apply(grey, drawn | {"added": torch.ones(1, 1, 1, 1)})
    covered = snow.apply(grey, drawn | {"added": torch.zeros(1, 1, 1, 1)})
    assert torch.allclose(added, (0.4 + opacity).clamp(max=1).expand_as(added), atol=1e-6)
    assert torch.allclose(covered, (0.4 + 0.6 * opacity).expand_as(covered), atol=1e-6)
