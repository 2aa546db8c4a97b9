"""Facts about wide rain and about the random fields that the wide weather is made of."""

from typing import Any

import pytest
import torch
from wide import seeded

from daclip.degradations.fields import clouds, streak, strewn, torus
from daclip.degradations.rain import Rainfall

CLEAR: dict[str, Any] = {
    "coverage": 0.3,
    "opacity": 1.0,
    "veil": 0.0,
    "length": 30,
    "width": 1.5,
    "tilt": 0,
    "spread": 0,
    "light": 1.0,
    "tint": 0.0,
    "layers": 1,
}


def ones(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1), value)


def test_a_torus_holds_the_picture() -> None:
    assert [torus(height, 100) for height in (32, 33, 64)] == [(32, 128), (64, 128), (64, 128)]


@pytest.mark.parametrize(("degrees", "axis"), [(0.0, 0), (90.0, 1)])
def test_a_streak_has_its_length_and_breadth(degrees: float, axis: int) -> None:
    kernel = streak((64, 64), ones(21), ones(3), torch.deg2rad(ones(degrees)), 0.0)[0]
    assert float(kernel[0, 0]) == 1
    lengthwise, crosswise = kernel.select(1 - axis, 0), kernel.select(axis, 0)
    assert float(lengthwise.sum()) == pytest.approx(21, abs=0.1)
    assert float((crosswise > 0.5).sum()) == 3


def test_copies_at_random_points_cover_their_share() -> None:
    kernels = streak((192, 192), ones(15), ones(2), ones(0.3), 0.1)
    shares = [float(strewn(kernels, ones(0.3), ones(1.0), seeded(seed)).gt(0.25).float().mean()) for seed in range(4)]
    assert sum(shares) / 4 == pytest.approx(0.3, rel=0.25)


def test_light_scales_the_copies() -> None:
    kernels = streak((64, 64), ones(9), ones(2), ones(0.0), 0.2)
    dim, bright = (strewn(kernels, ones(0.05), ones(light), seeded(0)) for light in (0.2, 0.4))
    assert float(dim.max()) > 0.1
    torch.testing.assert_close(2 * dim, bright, rtol=0, atol=1e-5)


def test_clouds_are_normalised_and_as_coarse_as_their_size() -> None:
    slopes = []
    for size in (6.0, 24.0):
        field = clouds(96, 70, torch.tensor([size]), torch.ones(1), seeded(0))
        assert field.shape == (96, 70)
        assert float(field.mean()) == pytest.approx(0, abs=1e-5)
        assert float(field.std()) == pytest.approx(1, abs=1e-5)
        slopes.append(float(field.diff(dim=0).std()))
    # White noise blurred by a Gaussian σ has the slope 1 / (σ·√2), a difference of neighbours slightly less.
    assert slopes[0] == pytest.approx(3 / (6 * 2**0.5), rel=0.15)
    assert slopes[1] == pytest.approx(3 / (24 * 2**0.5), rel=0.35)


@pytest.mark.parametrize(("opaque", "expected"), [(1.0, 0.6), (0.0, 0.9)])
def test_streaks_cover_or_add_their_light(opaque: float, expected: float) -> None:
    drawn = Rainfall(**CLEAR).draw(64, 64, 0.5, seeded(0))
    drawn["streaks"] = torch.full((1, 1, 64, 64), 0.5)
    drawn["light"], drawn["opaque"] = torch.full((1, 3, 1, 1), 0.6), torch.full((1, 1, 1, 1), opaque)
    result = Rainfall(**CLEAR).apply(torch.full((1, 3, 64, 64), 0.6), drawn)
    torch.testing.assert_close(result, torch.full_like(result, expected))


@pytest.mark.parametrize("size", [(96, 128), (83, 47)])
def test_rain_without_tilt_runs_along_the_columns_and_only_brightens(size: tuple[int, int]) -> None:
    dark = torch.full((1, 3, *size), 0.1)
    result = Rainfall(**CLEAR)(dark, [seeded(0)], 0.5)
    assert (result >= dark - 1e-6).all()
    assert float(result.max()) > 0.5
    assert result.diff(dim=2).abs().mean() < 0.6 * result.diff(dim=3).abs().mean()


def test_severity_raises_the_mean_error() -> None:
    rain = Rainfall(**{**CLEAR, "coverage": [0.04, 0.5], "opacity": [0.2, 1.0], "veil": [0, 0.5]})
    grey = torch.full((12, 3, 64, 64), 0.4)
    errors = [float((rain(grey, [seeded(s) for s in range(12)], x) - grey).abs().mean()) for x in (0, 0.3, 0.6, 1)]
    assert errors == sorted(errors)
    assert errors[-1] > 5 * errors[0]
