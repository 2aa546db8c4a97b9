"""Flicker of restored videos, frame by frame and as `daclip restore clip.mp4` restores them.

Question: does one field of noise and a conditioning that changes slowly keep a restored video from flickering?
Command:  python experiments/video_flicker.py
Expected: less flicker than frame by frame, at the same PSNR.

The clip is a window that pans over a photo of scikit-image by whole pixels. Its frames lie side by side under one draw
of rain: its density and direction are the clip's, its streaks each frame's. What does not change from frame to frame,
such as darkness, is drawn `--once`, the same for every frame.
Flicker is the mean absolute difference, in levels of 255, between what two neighbouring frames show of the same place.
"""

import argparse
import time
from collections.abc import Callable

import torch
from skimage import data
from torch import Tensor

from daclip import Restorer
from daclip.commands.options import make
from daclip.config import composed
from daclip.metrics.image import psnr
from daclip.pixels import quantise
from daclip.restoring.video import SteadyRestorer
from daclip.rng import generator_for


def panned(frames: int, side: int, step: int) -> Tensor:
    """Windows on a photo, each `step` pixels further to the right, float32 `[F, 3, side, side]` in [0, 1]."""
    photo = torch.from_numpy(data.astronaut()).movedim(-1, 0).float() / 255
    return torch.stack([photo[:, 100 : 100 + side, i * step : i * step + side] for i in range(frames)])


def flicker(frames: Tensor, step: int) -> float:
    """Mean absolute difference between neighbours where both show the same place, in levels of 255."""
    width = frames.shape[-1]
    return float((frames[1:, ..., : width - step] - frames[:-1, ..., step:]).abs().mean()) * 255


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", default="pretrained")
    parser.add_argument("--degradation", default="rainy", help="class of the wide degradations")
    parser.add_argument("--severity", type=float, default=0.6)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--side", type=int, default=192, help="of the window, in pixels")
    parser.add_argument("--step", type=int, default=2, help="of the pan, in pixels a frame; 0: a still scene")
    parser.add_argument("--once", action="store_true", help="the same draw for all frames")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    restorer = Restorer.from_pretrained(options.artifact, device=options.device)
    degradation = make(composed("degradations", ["degradation=world"])["degradation"][options.degradation])
    clean = panned(options.frames, options.side, options.step)
    if options.once:
        degraded = degradation(clean, [generator_for(1, 0) for _ in clean], options.severity)
    else:
        row = degradation(torch.cat([*clean], dim=-1)[None], [generator_for(1, 0)], options.severity)[0]
        degraded = torch.stack(row.split(options.side, dim=-1))
    degraded = quantise(degraded)
    same = [0] * options.frames
    ways: dict[str, Callable[[], Tensor]] = {
        "degraded": lambda: degraded,
        "frame by frame": lambda: restorer.restore(degraded).images,
        "the same noise": lambda: restorer.restore(degraded, same).images,
        "the same noise, steady conditioning": lambda: SteadyRestorer(restorer).restore(degraded, same).images,
    }
    print(f"| {options.degradation}, pan of {options.step} | flicker | PSNR | s a frame |")  # noqa: T201
    print("|---|---:|---:|---:|")  # noqa: T201
    for name, way in ways.items():
        started = time.perf_counter()
        frames = way()
        seconds = (time.perf_counter() - started) / options.frames
        row = [
            name,
            f"{flicker(frames, options.step):.2f}",
            f"{float(psnr(frames, clean).mean()):.2f}",
            f"{seconds:.2f}",
        ]
        print("| " + " | ".join(row) + " |", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
