"""Facts about the wide low light."""

from typing import Any

import pytest
import torch
from kornia.color import linear_rgb_to_rgb, rgb_to_linear_rgb
from wide import PHOTO, configured, errors, seeded

PLAIN: dict[str, Any] = {
    "noiseless": 1,
    "tints": {"white": [1, 1, 1]},
    "contrast": 1,
    "black": 0,
    "partial": 0,
    "smooth": 0,
}


def test_light_is_scaled_where_it_is_linear() -> None:
    dark = configured("low-light", **PLAIN, gain=0.1)(PHOTO, [seeded(0)], 0.5)
    expected = linear_rgb_to_rgb(0.1 * rgb_to_linear_rgb(PHOTO))
    torch.testing.assert_close(dark, expected, rtol=0, atol=0.51 / 255)


def test_noise_has_the_variance_of_photons_and_read_out() -> None:
    grey = torch.full((1, 3, 128, 128), 0.7)
    night = configured("low-light", **{**PLAIN, "noiseless": 0}, gain=0.5, shot=0.001, read=0.01)
    light = rgb_to_linear_rgb(night(grey, [seeded(0)], 0.5))
    level = 0.5 * float(rgb_to_linear_rgb(grey).mean())
    assert float(light.mean()) == pytest.approx(level, rel=0.01)
    assert float(light.var()) == pytest.approx(0.001 * level + 0.01**2, rel=0.05)


def test_uneven_light_is_between_the_gain_and_full() -> None:
    uneven, even = (configured("low-light", **{**PLAIN, "partial": share}, gain=0.1) for share in (1, 0))
    for seed in range(12):
        gain = uneven.draw(48, 64, 0.5, seeded(seed))["gain"]
        assert 0.0999 <= gain.min() <= gain.max() <= 1
        assert gain.max() > 1.1 * gain.min()
        torch.testing.assert_close(even.draw(48, 64, 0.5, seeded(seed))["gain"], torch.full((1, 3, 48, 64), 0.1))


def test_blacks_are_crushed() -> None:
    night = configured("low-light", **PLAIN, gain=1)
    drawn = night.draw(32, 32, 0.5, seeded(0)) | {"black": torch.full((1, 1, 1, 1), 0.2)}
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    crushed = night.apply(ramp, drawn)
    torch.testing.assert_close(crushed, ((ramp - 0.2) / 0.8).clamp(0, 1), rtol=0, atol=0.6 / 255)


def test_severity_goes_from_dim_to_night() -> None:
    night = configured("low-light")
    mild, middle, strong = errors(night, (0.0, 0.5, 1.0))
    assert mild < 0.12
    assert 1.5 * mild < middle < strong
    even = configured("low-light", partial=0)(PHOTO.expand(8, -1, -1, -1), [seeded(i) for i in range(8)], 1.0)
    assert 0.02 < even.mean() < 0.12  # as in LOL
