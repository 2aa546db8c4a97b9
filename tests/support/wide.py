"""What the tests of the wide degradations share: a photo, seeds, the parts as `conf/` configures them."""

import functools
from typing import Any

import torch
from skimage import data
from torch import Tensor

from daclip.commands.options import make
from daclip.config import composed

PHOTO: Tensor = (torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 255)[None, :, 20:148, 180:308]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.cache
def _settings(class_name: str) -> Any:
    return composed(None, [f"+degradation=[world_{class_name}]"])["degradation"][class_name]


def configured(class_name: str, **changes: Any) -> Any:
    """The degradation of `world_CLASS.yaml`, with changes."""
    return make({**_settings(class_name), **changes})


def errors(degradation: Any, severities: tuple[float, ...], count: int = 24) -> list[float]:
    """Mean absolute change of a photo at each severity, over the same seeds."""
    return [
        float((degradation(PHOTO.expand(count, -1, -1, -1), [seeded(i) for i in range(count)], s) - PHOTO).abs().mean())
        for s in severities
    ]
