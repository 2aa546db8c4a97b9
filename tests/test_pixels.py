import numpy as np
import pytest

from daclip.holes import from_around
from daclip.pixels import DEPTHS, Pixels

RAMP = np.linspace(0.2, 0.8, 64, dtype=np.float32)[None, :, None] * np.ones((48, 1, 3), np.float32)
MISSING = np.zeros((48, 64), bool)
MISSING[20:30, 24:40] = True


@pytest.mark.parametrize("dtype", DEPTHS, ids=str)
def test_missing_pixels_are_drawn_from_around_and_the_others_stay(dtype: np.dtype) -> None:
    most = DEPTHS[dtype]
    photo = Pixels((RAMP * most).astype(dtype))
    filled = photo.filled(MISSING, None).colour
    assert filled.dtype == dtype
    assert np.array_equal(filled[~MISSING], photo.colour[~MISSING])
    assert np.abs(filled / most - RAMP).max() < 0.1  # the ramp crosses 0.15 in the hole
    assert (photo.filled(MISSING, 1.0).colour[MISSING] == most).all()


def test_a_flat_photo_is_filled_with_its_colour() -> None:
    assert from_around(np.full((33, 50), 7.0, np.float32), np.eye(33, 50) > 0) == pytest.approx(7.0)


def test_where_nothing_is_known_the_result_is_finite() -> None:
    assert np.isfinite(from_around(np.ones((5, 9), np.float32), np.ones((5, 9), bool))).all()
