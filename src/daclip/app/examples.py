"""Photos to try: one for each degradation, made by ours."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data

from daclip.degradations.base import CLEAN, Degradation
from daclip.images import save_image
from daclip.pixels import Pixels

SIZE = (480, 320)
SEVERITY = 0.6


def make_examples(degradations: Mapping[str, Degradation], folder: Path) -> dict[str, str]:
    """A file for each class in a folder, degraded from a photo of scikit-image."""
    photo = Pixels.from_pil(Image.fromarray(np.asarray(data.coffee())).resize(SIZE)).crop()[None]
    files = {}
    for word, degradation in degradations.items():
        if word != CLEAN:
            files[word] = str(folder / f"{word}.png")
            save_image(degradation(photo, [torch.Generator().manual_seed(0)], SEVERITY)[0], files[word])
    return files
