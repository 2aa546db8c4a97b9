"""Facts about the wide haze."""

import math
from typing import Any

import pytest
import torch
from wide import PHOTO, configured, errors, seeded

from daclip.degradations.haze import Fog

PLAIN: dict[str, Any] = {
    "guided": 0,
    "gradient": 0,
    "shaded": 0,
    "scatter": 0,
    "noise": 0,
    "tints": {"grey": [1, 1, 1]},
}


def only(kind: str) -> dict[str, float]:
    return {other: float(other == kind) for other in Fog.names}


def test_a_uniform_veil_follows_koschmieders_law() -> None:
    fog = configured("hazy", **PLAIN, thickness=1.2, nearest=1, airlight=0.8)
    expected = torch.lerp(torch.tensor(0.8), PHOTO, math.exp(-1.2))
    torch.testing.assert_close(fog(PHOTO, [seeded(0)], 0.5), expected, rtol=0, atol=0.51 / 255)


@pytest.mark.parametrize("kind", Fog.names)
@pytest.mark.parametrize("size", [(32, 57), (128, 96)])
def test_every_depth_reaches_from_the_nearest_to_the_farthest(kind: str, size: tuple[int, int]) -> None:
    fog = configured("hazy", fields=only(kind))
    for seed in range(5):
        depth = fog.draw(*size, 0.5, seeded(seed))["depth"][0, 0]
        assert depth.shape == size
        assert float(depth.min()) == 0
        assert float(depth.max()) == pytest.approx(1, abs=1e-5)


def test_the_sky_is_farthest() -> None:
    fog = configured("hazy", fields=only("ground"))
    depths = torch.stack([fog.draw(64, 64, 0.5, seeded(seed))["depth"][0, 0] for seed in range(10)])
    assert depths[:, :4].mean() > depths[:, -4:].mean() + 0.5


def test_the_veil_may_end_where_colours_do() -> None:
    halves = torch.full((1, 3, 32, 64), 0.1)
    halves[:, 0, :, 32:] = 0.9
    fog = configured("hazy", **PLAIN, thickness=1, nearest=0, airlight=1, fields=only("smooth"))
    drawn = fog.draw(32, 64, 0.5, seeded(0)) | {"depth": torch.full((1, 1, 32, 64), 0.5)}
    even, pushed = (
        fog.apply(halves, drawn | {"guide": torch.tensor([red, 0.0, 0.0]).view(1, 3, 1, 1)}) for red in (0.0, 2.0)
    )
    assert torch.equal(even[0, 1, :, :30], even[0, 1, :, 34:])
    assert (pushed[0, 1, :, 34:].min() - pushed[0, 1, :, :30].max()) > 0.1  # red is far


def test_what_is_far_is_blurred() -> None:
    clear, blurred = (
        configured("hazy", **{**PLAIN, "scatter": 0}, thickness=1, nearest=1, airlight=0.8)(PHOTO, [seeded(1)], 1.0),
        configured("hazy", **{**PLAIN, "scatter": 1}, thickness=1, nearest=1, airlight=0.8)(PHOTO, [seeded(1)], 1.0),
    )
    assert blurred.diff(dim=-1).square().mean() < 0.9 * clear.diff(dim=-1).square().mean()


def test_severity_goes_from_hardly_visible_to_opaque() -> None:
    mild, middle, strong = errors(configured("hazy"), (0.0, 0.5, 1.0))
    assert 1 / 255 < mild < 8 / 255
    assert 2 * mild < middle < strong / 1.3


def test_photos_have_eight_bits() -> None:
    levels = configured("hazy")(PHOTO, [seeded(3)]) * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


def test_clouds_of_fog_may_shade_one_another() -> None:
    lit, shaded = (
        configured("hazy", **{**PLAIN, "shaded": share}, airlight=0.9).draw(64, 96, 0.5, seeded(0))["airlight"]
        for share in (0, 1)
    )
    torch.testing.assert_close(lit, torch.full_like(lit, 0.9))
    assert (shaded <= 0.9).all()
    assert shaded.min() < 0.7
    assert shaded.max() == pytest.approx(0.9, abs=1e-3)
