"""README's picture: `python experiments/world_picture.py --benchmarks FOLDER [--artifact FOLDER]`.

Rule:     the clean photos of the benchmarks in the order of their names (trained on by nobody; CC0 and CC BY-SA 4.0),
          each with the next class in alphabetical order. Another generator's corruption at severity 3 where it has the
          class, ours at severity 0.6 where not; seed 0; the middle of each photo.
Writes:   before above after, with the recognised class and the PSNR of both, to --output.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from robustness import corruption_function
from torch import Tensor
from world import CORRUPTIONS, UNSHARED

from daclip import Restorer
from daclip.commands.options import make
from daclip.config import composed
from daclip.degradations.base import CLEAN
from daclip.files import find_photos
from daclip.images import load_image
from daclip.metrics.image import psnr
from daclip.pixels import quantise

SIDE, COLUMNS, LEVEL, SEVERITY = 320, 5, 3, 0.6


def corrupted(class_name: str, hq: Tensor) -> Tensor:
    """A photo `[3, H, W]` with a corruption, by the rule above."""
    theirs = {ours: name for name, ours in CORRUPTIONS.items() if name != UNSHARED}
    if class_name in theirs:
        np.random.seed(0)  # noqa: NPY002 - the package draws from numpy's global generator
        pixels = np.ascontiguousarray((hq * 255).round().byte().permute(1, 2, 0).numpy())
        done = corruption_function()(pixels, corruption_name=theirs[class_name], severity=LEVEL)
        return torch.from_numpy(np.ascontiguousarray(done)).permute(2, 0, 1).float() / 255
    node = composed("degradations", ["degradation=world"])["degradation"][class_name]
    lq: Tensor = make(node)(hq[None], [torch.Generator().manual_seed(0)], SEVERITY)[0]
    return quantise(lq)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmarks", type=Path, required=True, help="as in world.py")
    parser.add_argument("--artifact", default="pretrained")
    parser.add_argument("--output", type=Path, default=Path("docs/pictures/world.jpg"))
    options = parser.parse_args()
    restorer = Restorer.from_pretrained(options.artifact, seed=0)
    classes = sorted(set(restorer.vocabulary) - {CLEAN})
    photos = sorted(find_photos(options.benchmarks / CLEAN).photos, key=lambda path: path.name)
    blocks = -(-len(classes) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * 2, blocks * 4.35), dpi=150, layout="constrained")
    axes = figure.subplots(2 * blocks, COLUMNS)
    for number, (class_name, path) in enumerate(zip(classes, photos, strict=True)):
        image = load_image(path)
        top, left = ((side - SIDE) // 2 for side in image.shape[1:])
        hq = image[:, top : top + SIDE, left : left + SIDE]
        lq = corrupted(class_name, hq)
        done = restorer.restore(lq)
        restored = quantise(done.image)
        before, after = (float(psnr(shown[None], hq[None])) for shown in (lq, restored))
        titles = (f"{class_name}  {before:.1f} dB", f"read as {done.degradation}  {after:.1f} dB")
        block, column = divmod(number, COLUMNS)
        for row, (shown, title) in enumerate(zip((lq, restored), titles, strict=True)):
            axis = axes[2 * block + row, column]
            axis.imshow(shown.permute(1, 2, 0).numpy())
            axis.set_title(title, fontsize=7)
            axis.set_axis_off()
    FigureCanvasAgg(figure).print_jpg(str(options.output), pil_kwargs={"quality": 88})


if __name__ == "__main__":
    main()
