"""Facts about wide drops on the glass."""

from typing import Any

import pytest
import torch
from skimage import data
from wide import seeded

from daclip.degradations.raindrops import WaterOnGlass
from daclip.errors import DaclipError

PHOTO = (torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 255)[None, :, 20:148, 180:308]
KINDS = WaterOnGlass.names


def water(kind: str, **changes: Any) -> WaterOnGlass:
    """Water of one kind on clean glass."""
    settings: dict[str, Any] = {
        "kinds": {name: float(name == kind) for name in KINDS},
        "coverage": 0.2,
        "opacity": 1.0,
        "radius": [4, 12],
        "view": 0.3,
        "edge": 0.3,
        "sky": 0.9,
        "trails": 0,
        "mud": 0.5,
        "glass": 0.0,
    }
    return WaterOnGlass(**{**settings, **changes})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.4])
def test_water_covers_about_its_share(kind: str, share: float) -> None:
    wet = water(kind, coverage=share)
    half = 0.2 if kind == "discs" else 0.35  # discs are translucent
    covered = [float((wet.draw(160, 128, 0.5, seeded(s))["opacity"] > half).float().mean()) for s in range(6)]
    assert sum(covered) / 6 == pytest.approx(share, rel=0.45)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(128, 128), (47, 90)])
def test_dry_glass_stays_clear(kind: str, size: tuple[int, int]) -> None:
    photo = PHOTO[..., : size[0], : size[1]]
    wet = water(kind)
    drawn = wet.draw(*size, 0.5, seeded(1))
    dry = (drawn["opacity"] == 0).expand_as(photo)
    assert dry.any()
    result = wet.apply(photo, drawn)
    assert torch.equal(result[dry], photo[dry])
    assert float((result - photo).abs()[~dry].mean()) > 0.01


def test_a_drop_turns_the_scene_around_and_is_darker_above() -> None:
    drawn = water("drops", radius=14, coverage=0.1).draw(128, 128, 0.5, seeded(0))
    look, inside = drawn["look"][0], drawn["opacity"][0, 0] > 0.95
    for axis, dim in ((0, 1), (1, 0)):
        both = inside & inside.roll(1, dim)
        steps = look[..., axis] - look[..., axis].roll(1, dim)
        assert (steps[both] < 0).float().mean() > 0.8
    # The top of a drop looks down.
    rows = torch.linspace(-1, 1, 128)[:, None].expand(128, 128)
    downwards = look[..., 1] - rows
    assert (
        drawn["dark"][0, 0][inside & (downwards > 0.1)].mean()
        > 2 * drawn["dark"][0, 0][inside & (downwards < -0.1)].mean()
    )
    assert (
        drawn["glow"][0, 0][inside & (downwards < -0.1)].mean()
        > 1.2 * drawn["glow"][0, 0][inside & (downwards > 0.1)].mean()
    )


def test_trails_add_to_the_drops() -> None:
    dry, running = (
        sum(float(water("drops", trails=trails).draw(128, 128, 0.5, seeded(s))["opacity"].mean()) for s in range(12))
        for trails in (0, 20)
    )
    assert running > 1.1 * dry


def test_severity_raises_the_mean_error() -> None:
    wet = WaterOnGlass(dict.fromkeys(KINDS, 1.0), [0.02, 0.5], [0.5, 1.0], [2, 12], 0.3, [0.2, 1.0], 0.9, 2, 0.3, 0.3)
    photos = PHOTO.expand(16, -1, -1, -1)
    errors = [float((wet(photos, [seeded(s) for s in range(16)], x) - photos).abs().mean()) for x in (0, 0.3, 0.6, 1)]
    assert errors == sorted(errors)
    assert errors[-1] > 4 * errors[0]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(DaclipError, match="weights"):
        water("drops", kinds={"drops": 1.0, "hail": 1.0})
