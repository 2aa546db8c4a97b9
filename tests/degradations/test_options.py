"""Options in the body of a class: read, checked, and refused by name."""

from typing import Any

import pytest
from hydra.errors import InstantiationException

from daclip.commands.options import make
from daclip.degradations.blur import KernelBlur, MotionBlur
from daclip.degradations.noise import GaussianNoise
from daclip.degradations.snow import Snowfall
from daclip.errors import DaclipError


def test_options_are_read_in_their_order() -> None:
    noise = GaussianNoise([10, 50])
    assert (noise.sigma, noise.gray) == ((10.0, 50.0), 0.0)
    assert GaussianNoise(sigma=25, gray=1).sigma == (25.0, 25.0)
    assert KernelBlur({"box": 2}, 1, 1, 1, 1, 1).kinds == dict.fromkeys(KernelBlur.names, 0.0) | {"box": 2.0}


def test_two_objects_keep_their_own_options() -> None:
    short, long = MotionBlur(3, turn=0), MotionBlur(9, turn=0)
    assert (short.extent, long.extent) == ((3.0, 3.0), (9.0, 9.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coverage": "much"}, "coverage must be a number or a list"),
        ({"coverage": [0.1, 2]}, "coverage: expected values in"),
        ({"glare": 1.5}, "glare: expected values in"),
        ({"radii": [[0.1, 2]]}, "radii: expected values in"),
        ({"windy": 3}, "no option 'windy'"),
    ],
)
def test_wrong_options_are_named(changes: dict[str, Any], message: str) -> None:
    ranges = {name: [0.1, 0.5] for name in ("coverage", "opacity", "veil", "zoom", "light")}
    numbers = dict.fromkeys(("motion", "wind", "tint", "ambience", "glare"), 0.5)
    node = {"_target_": f"{Snowfall.__module__}.Snowfall", "radii": [[1, 2]], **ranges, **numbers}
    assert make(node).driven == 0.0
    with pytest.raises((DaclipError, InstantiationException), match=message):
        make({**node, **changes})
