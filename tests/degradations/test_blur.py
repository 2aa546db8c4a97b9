"""Facts about motion during the exposure."""

import math

import pytest
import torch
from skimage import data
from wide import seeded

from daclip.degradations.blur import AnyMotion, kernel

PHOTO = (torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 255)[None, :, 20:148, 180:308]


def motion(path: str | None = None, varying: float = 0.0, linear: float = 0.0, noise: float = 0.0) -> AnyMotion:
    paths = {name: float(path in (None, name)) for name in AnyMotion.names}
    return AnyMotion([3, 45], paths, varying, linear, lights=1.0, boost=4, noise=noise)


@pytest.mark.parametrize("path", AnyMotion.names)
def test_kernels_sum_to_one_and_do_not_shift_the_photo(path: str) -> None:
    for seed in range(5):
        for kernel_ in motion(path, varying=1.0).draw(96, 128, 1.0, seeded(seed))["kernels"][0]:
            assert float(kernel_.sum()) == pytest.approx(1, abs=1e-5)
            steps = torch.arange(len(kernel_)) - len(kernel_) // 2
            for axis in (0, 1):
                assert float(kernel_.sum(dim=axis) @ steps.float()) == pytest.approx(0, abs=0.12)


def test_a_straight_path_spreads_like_a_line() -> None:
    path = torch.stack((torch.zeros(96), torch.linspace(-10, 10, 96)), dim=1)
    line = kernel(path, torch.ones(96), 1.0, 12)
    assert float(line[12].sum()) == pytest.approx(1)
    steps = torch.arange(-12.0, 13)
    assert float(line.sum(0) @ steps.square()) == pytest.approx(20**2 / 12 + 1 / 6, rel=0.03)
    one_sided = kernel(path, torch.linspace(1, 0, 96), 1.0, 12)
    assert float(one_sided.sum(0) @ steps) == pytest.approx(0, abs=1e-4)


def test_less_detail_is_left_the_more_severe_it_is() -> None:
    left = []
    for severity in (0.0, 0.5, 1.0):
        blurred = motion()(PHOTO.expand(8, -1, -1, -1), [seeded(i) for i in range(8)], severity)
        left.append(float(blurred.diff(dim=-1).square().mean() + blurred.diff(dim=-2).square().mean()))
    assert left[0] > 1.3 * left[1] > 1.3**2 * left[2]


def test_lights_stay_white_along_their_way_in_linear_light() -> None:
    photo = torch.full((1, 3, 64, 64), 0.1)
    photo[..., 31:33, 31:33] = 1.0
    drawn = motion("straight").draw(64, 64, 0.6, seeded(0))
    plain = motion().apply(photo, drawn)
    linear = motion().apply(photo, drawn | {"linear": torch.ones(1, 1, 1, 1, dtype=torch.bool)})
    boosted = motion().apply(photo, drawn | {"linear": ~drawn["linear"], "boost": drawn["boost"] * 6})
    assert plain.max() < linear.max() < boosted.max()
    torch.testing.assert_close(boosted[..., :8, :8], photo[..., :8, :8], rtol=0, atol=0.01)


def test_flat_parts_show_the_noise_and_nothing_else() -> None:
    grey = torch.full((1, 3, 64, 64), 0.5)
    results = motion(varying=1.0, linear=1.0, noise=6)(grey.expand(30, -1, -1, -1), [seeded(i) for i in range(30)])
    deviations = results.std(dim=(1, 2, 3)) * 255
    assert deviations.max() < 6.5
    assert 0.2 < float((deviations < 0.5).float().mean()) < 0.6  # a third without noise
    assert math.isclose(float(results.mean()), 0.5, abs_tol=0.003)
