"""Facts about single degradations that follow from their definitions."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import Tensor
from wide import seeded

from daclip.commands.degradations import contact_sheet
from daclip.degradations.base import Drawn, span
from daclip.degradations.blur import MotionBlur
from daclip.degradations.compose import OneOf
from daclip.degradations.digital import JpegCompression
from daclip.degradations.fields import patches, smooth_noise, stamp
from daclip.degradations.haze import Haze
from daclip.degradations.light import LowLight, Shadow
from daclip.degradations.mask import Inpainting
from daclip.degradations.noise import GaussianNoise
from daclip.degradations.rain import Rain
from daclip.degradations.raindrops import Raindrops
from daclip.degradations.snow import Snow
from daclip.errors import DaclipError

PHOTO = (torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 255)[None, :, 20:148, 180:308]
GREY = torch.full((1, 3, 128, 128), 0.5)


def test_without_a_severity_each_sample_draws_its_own() -> None:
    seen = []

    class Listen(GaussianNoise):
        def draw(self, height: int, width: int, severity: float, generator: torch.Generator) -> Drawn:
            seen.append(severity)
            return super().draw(height, width, severity, generator)

    Listen(10)(torch.zeros(64, 3, 32, 32), [seeded(seed) for seed in range(64)])
    assert len(set(seen)) == 64
    assert 0 <= min(seen) < 0.1
    assert 0.9 < max(seen) <= 1
    assert sum(seen) / 64 == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize(("severity", "sigma"), [(0.0, 10), (0.5, 30), (1.0, 50)])
def test_noise_has_the_standard_deviation_of_its_severity(severity: float, sigma: float) -> None:
    drawn = GaussianNoise(sigma=[10, 50]).draw(128, 128, severity, seeded(0))
    noise = drawn["noise"]
    assert float(noise.std()) * 255 == pytest.approx(sigma, rel=0.02)
    assert abs(float(noise.mean())) * 255 < 0.05 * sigma


def test_noise_is_added_where_nothing_clips() -> None:
    degradation = GaussianNoise(sigma=10)
    drawn = degradation.draw(128, 128, 0.5, seeded(0))
    torch.testing.assert_close(degradation.apply(GREY, drawn) - GREY, drawn["noise"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_blur_kernel_is_a_centred_average(seed: int) -> None:
    kernel = MotionBlur(extent=[5, 21], turn=120).draw(128, 128, 1.0, seeded(seed))["kernel"][0, 0]
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-5)
    assert kernel.min() >= 0
    offsets = torch.arange(len(kernel)) - len(kernel) // 2
    assert abs(float((kernel.sum(1) * offsets).sum())) < 1e-3
    assert abs(float((kernel.sum(0) * offsets).sum())) < 1e-3
    farthest = (offsets[:, None] ** 2 + offsets[None, :] ** 2)[kernel > 0].max().sqrt()
    assert 0.9 * 19 / 2 <= farthest <= 21 / 2 + math.sqrt(2)


@pytest.mark.parametrize("size", [(128, 128), (83, 115), (35, 60)])
def test_blur_equals_a_direct_convolution(size: tuple[int, int]) -> None:
    photo = PHOTO[..., : size[0], : size[1]]
    degradation = MotionBlur(extent=[5, 21], turn=120)
    drawn = degradation.draw(*size, 1.0, seeded(0))
    kernel = drawn["kernel"].flip(-2, -1).expand(3, 1, -1, -1)
    padded = torch.nn.functional.pad(photo, (kernel.shape[-1] // 2,) * 4, mode="reflect")
    expected = torch.nn.functional.conv2d(padded, kernel, groups=3)
    torch.testing.assert_close(degradation.apply(photo, drawn), expected, rtol=0, atol=1e-5)


def test_blur_without_turning_is_a_straight_line() -> None:
    kernel = MotionBlur(extent=21, turn=0).draw(128, 128, 0.5, seeded(1))["kernel"][0, 0]
    place = torch.nonzero(kernel).float()
    weight = kernel[kernel > 0]
    place = place - (place * weight[:, None]).sum(0)
    spread = torch.linalg.eigvalsh((place * weight[:, None]).T @ place)
    assert spread[0] < 0.3  # only the width that rasterising adds
    assert spread[1] > 20


@pytest.mark.parametrize("mode", ["4:4:4", "4:2:0"])
def test_jpeg_is_what_the_codec_gives(mode: str) -> None:
    file = io.BytesIO()
    pixels = (PHOTO[0] * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=20, subsampling=mode)
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    result = JpegCompression(quality=20, subsampling=[mode], grid_shift=0)(PHOTO, [seeded(0)], 0.5)
    assert torch.equal((result[0] * 255).round().byte(), expected)


def test_jpeg_reaches_both_ends_of_its_quality() -> None:
    degradation = JpegCompression(quality=[50, 8], subsampling=["4:2:0"], grid_shift=0)
    qualities = [int(degradation.draw(64, 64, s, seeded(0))["settings"][0, 0]) for s in (0.0, 0.5, 1.0)]
    assert qualities == [50, 20, 8]


@pytest.mark.parametrize("left", [0, 3, 7])
def test_jpeg_blocks_lie_where_the_grid_was_drawn(left: int) -> None:
    degradation = JpegCompression(quality=8, subsampling=["4:4:4"], grid_shift=7)
    result = degradation.apply(PHOTO, {"settings": torch.tensor([[8, 0, 0, left]])})
    steps = (result[0, :, :, 1:] - result[0, :, :, :-1]).abs().mean((0, 1))
    by_phase = torch.stack([steps[phase::8].mean() for phase in range(8)])
    # Between columns c − 1 and c lies a block edge where c + left is a multiple of 8.
    assert int(by_phase.argmax()) == (-left - 1) % 8
    offsets = {tuple(degradation.draw(64, 64, 0.5, seeded(i))["settings"][0, 2:].tolist()) for i in range(400)}
    assert len(offsets) == 64


def test_haze_lies_between_the_scene_and_the_airlight() -> None:
    degradation = Haze(beta=[0.4, 1.3], nearest=0.35, airlight=[0.75, 1.0], tint=0.03)
    drawn = degradation.draw(128, 128, 1.0, seeded(0))
    assert drawn["transmission"].min() >= math.exp(-1.3) - 1e-6
    assert drawn["transmission"].max() <= math.exp(-0.35 * 0.4)
    result = degradation.apply(PHOTO, drawn)
    airlight = drawn["airlight"].expand_as(PHOTO)
    assert (result >= torch.minimum(PHOTO, airlight) - 1e-6).all()
    assert (result <= torch.maximum(PHOTO, airlight) + 1e-6).all()
    assert result.std() < PHOTO.std()


def test_low_light_scales_linear_light() -> None:
    result = LowLight(gain=0.1, gamma=1, shot=0, read=0)(GREY, [seeded(0)], 0.5)
    linear = ((0.5 + 0.055) / 1.055) ** 2.4 * 0.1
    expected = 1.055 * linear ** (1 / 2.4) - 0.055
    torch.testing.assert_close(result, torch.full_like(result, expected), rtol=0, atol=1e-5)


def test_low_light_noise_has_the_variance_of_its_model() -> None:
    degradation = LowLight(gain=1, gamma=1, shot=0.001, read=0.01)
    result = degradation(GREY, [seeded(0)], 0.5)
    linear = ((result + 0.055) / 1.055) ** 2.4
    expected = math.sqrt(0.001 * ((0.5 + 0.055) / 1.055) ** 2.4 + 0.01**2)
    assert float(linear.std()) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("seed", range(6))
def test_shadow_covers_its_share_and_darkens_towards_blue(seed: int) -> None:
    degradation = Shadow(light=0.2, coverage=[0.2, 0.6], softness=[1, 8], blue=0.1)
    drawn = degradation.draw(128, 96, 0.5, seeded(seed))
    assert 0.2 <= float((drawn["mask"] > 0.5).float().mean()) <= 0.6
    red, green, blue = drawn["factor"].flatten().tolist()
    assert red < green < blue < 1
    assert green == pytest.approx(0.2 ** (1 / 2.2))
    assert float(drawn["mask"].max()) > 0.9
    assert float(drawn["mask"].min()) < 0.1


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_inpainting_fills_the_mask_and_keeps_the_rest(fill: float) -> None:
    degradation = Inpainting(coverage=[0.1, 0.4], brush=[3, 12], blocks=0.25, fill=fill)
    drawn = degradation.draw(128, 128, 1.0, seeded(0))
    mask = drawn["mask"].expand_as(PHOTO)
    result = degradation.apply(PHOTO, drawn)
    assert torch.equal(result[~mask], PHOTO[~mask])
    assert (result[mask] == fill).all()
    assert 0.36 <= float(mask.float().mean()) <= 0.5


def test_inpainting_of_halves_takes_one_side() -> None:
    degradation = Inpainting(coverage=[0.1, 0.4], brush=[3, 12], blocks=0.25, fill=1.0, halves=1.0)
    masks = [degradation.draw(96, 128, 1.0, seeded(seed))["mask"][0, 0] for seed in range(24)]
    sides = set()
    for mask in masks:
        assert 0.44 <= float(mask.float().mean()) <= 0.5
        rows, columns = mask.all(dim=1), mask.all(dim=0)
        # All or nothing of each row, or of each column.
        assert torch.equal(mask, rows[:, None].expand_as(mask)) or torch.equal(mask, columns[None].expand_as(mask))
        sides.add((bool(mask[0, 0]), bool(mask[-1, -1]), bool(mask[0, -1])))
    assert len(sides) == 4
    mild = [float(degradation.draw(96, 128, 0.0, seeded(seed))["mask"].float().mean()) for seed in range(8)]
    assert all(0.08 <= share <= 0.15 for share in mild)


def test_halves_take_their_share_of_the_photos() -> None:
    degradation = Inpainting(coverage=[0.1, 0.4], brush=[3, 12], blocks=0.25, fill=1.0, halves=0.25)
    masks = [degradation.draw(32, 32, 1.0, seeded(seed))["mask"][0, 0] for seed in range(200)]
    straight = [bool(mask.all(dim=1).sum() + mask.all(dim=0).sum() >= 13) for mask in masks]
    assert sum(straight) / 200 == pytest.approx(0.25, abs=0.09)


@pytest.mark.parametrize("stretch", [1.01, 6])
def test_snow_is_drawn_out_along_its_motion(stretch: float) -> None:
    snow = Snow(coverage=0.1, radii=[[1.5, 2.5]], opacity=1, veil=0, stretch=stretch)
    rows, columns = 0.0, 0.0
    for seed in range(6):
        flakes = snow.draw(128, 128, 0.5, seeded(seed))["flakes"][0, 0]
        rows, columns = rows + float(flakes.diff(dim=0).abs().mean()), columns + float(flakes.diff(dim=1).abs().mean())
    # Falling flakes change less along the rows' direction of fall than across it.
    assert (rows < 0.75 * columns) is (stretch > 2)


def test_rain_and_snow_only_brighten_a_dark_scene() -> None:
    dark = torch.full((1, 3, 128, 128), 0.1)
    rain = Rain(coverage=0.3, length=30, opacity=0.8, veil=0.05, tilt=0, layers=3)
    snow = Snow(coverage=0.2, radii=[[0.7, 1.2], [2, 4]], opacity=0.9, veil=0.05, stretch=1.5)
    for degradation in (rain, snow):
        result = degradation(dark, [seeded(0)], 0.5)
        assert (result >= dark).all()
        assert float(result.max()) > 0.5


def test_rain_without_tilt_runs_along_the_columns() -> None:
    rain = Rain(coverage=0.3, length=30, opacity=0.8, veil=0, tilt=0, layers=1)
    streaks = rain.draw(128, 128, 0.5, seeded(0))["streaks"][0, 0]
    assert streaks.diff(dim=0).abs().mean() < 0.5 * streaks.diff(dim=1).abs().mean()


@pytest.mark.parametrize("tilt", [0, 35])
def test_rain_covers_its_share_evenly(tilt: float) -> None:
    rain = Rain(coverage=0.3, length=24, opacity=1, veil=0, tilt=tilt, layers=1)
    drawn = [rain.draw(128, 128, 0.5, seeded(seed))["streaks"][0, 0] > 0.15 for seed in range(20)]
    covered = torch.stack(drawn).float().mean(dim=0)
    assert float(covered.mean()) == pytest.approx(0.3, rel=0.3)
    for quarter in (covered[:32], covered[-32:], covered[:, :32], covered[:, -32:]):
        assert float(quarter.mean()) == pytest.approx(float(covered.mean()), rel=0.2)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_snow_covers_about_its_share(share: float) -> None:
    snow = Snow(coverage=share, radii=[[0.7, 1.2], [1.2, 2.4], [2.4, 5]], opacity=1, veil=0, stretch=1.5)
    covered = [float((snow.draw(128, 128, 0.5, seeded(s))["flakes"] > 0.4).float().mean()) for s in range(5)]
    assert sum(covered) / 5 == pytest.approx(share, rel=0.4)


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_raindrops_cover_about_their_share(share: float) -> None:
    drops = Raindrops(coverage=share, radius=[4, 16], bend=2, opacity=1, shine=0.2)
    covered = [float((drops.draw(256, 256, 0.5, seeded(s))["opacity"] > 0.5).float().mean()) for s in range(5)]
    assert sum(covered) / 5 == pytest.approx(share, rel=0.3)


def test_raindrops_leave_the_dry_glass_clear_and_turn_the_scene_around() -> None:
    drops = Raindrops(coverage=0.1, radius=[8, 16], bend=2, opacity=1, shine=0)
    drawn = drops.draw(128, 128, 0.5, seeded(0))
    result = drops.apply(PHOTO, drawn)
    dry = (drawn["opacity"] == 0).expand_as(PHOTO)
    assert dry.float().mean() > 0.5
    assert torch.equal(result[dry], PHOTO[dry])
    # Inside a drop, going right in the picture goes left in the scene.
    look = drawn["look"][0, :, :, 0]
    middle = drawn["opacity"][0, 0] > 0.99
    inner = middle[:, 1:] & middle[:, :-1]
    assert (look.diff(dim=1)[inner] < 0).float().mean() > 0.8


def test_smooth_noise_is_smooth_and_normalised() -> None:
    field = smooth_noise(96, 130, 30, seeded(0))
    assert field.shape == (96, 130)
    assert float(field.mean()) == pytest.approx(0, abs=1e-4)
    assert float(field.std()) == pytest.approx(1, abs=1e-4)
    assert float(field.diff(dim=0).abs().max()) < 0.5


def test_stamps_keep_the_largest_value_and_drop_what_lies_outside() -> None:
    places, _, _ = patches(torch.tensor([[0.0, 0.0], [0.0, 1.0], [50.0, 50.0]]), 1)
    values = torch.tensor([1.0, 3.0, 9.0])[:, None, None].expand(3, 3, 3)
    expected = torch.zeros(4, 5)
    expected[:2, :2] = 1
    expected[:2, :3] = 3
    assert torch.equal(stamp(values, places, 4, 5), expected)


@pytest.mark.parametrize("value", [[1, 2, 3], [1], [-1, 5], [5, 200], float("nan")])
def test_span_refuses_what_is_no_range(value: float | list[float]) -> None:
    with pytest.raises(DaclipError, match="sigma"):
        span(value, "sigma", least=0, most=100)


def test_jpeg_refuses_an_unknown_subsampling() -> None:
    with pytest.raises(DaclipError, match="4:1:0"):
        JpegCompression(quality=20, subsampling=["4:1:0"], grid_shift=0)


def test_contact_sheet_has_a_line_for_labels_that_samples_bring() -> None:
    plain, labelled = GaussianNoise(10), OneOf({"noisy": GaussianNoise(10)})
    heights = [contact_sheet([torch.ones(3, 40, 48)], {"x": part}, [0.5], 0).height for part in (plain, labelled)]
    assert heights[1] > heights[0] + 10


def test_contact_sheet_holds_every_cell() -> None:
    class Darken(GaussianNoise):
        def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
            return images * 0

    photos = [torch.ones(3, 40, 48), torch.ones(3, 64, 32)]
    sheet = np.asarray(contact_sheet(photos, {"black": Darken(10), "dark": Darken(10)}, [0.2, 1.0], 0))
    black = (sheet == 0).all(axis=-1)
    assert sheet.shape[1] >= 6 * 48
    # Two rows, two severities, both photos; the labels add only a few black pixels.
    pictures = 2 * 2 * (40 * 48 + 64 * 32)
    assert pictures <= black.sum() <= 1.05 * pictures
