"""Memory and seconds of restoring a photo of any size, and the difference that tiles make.

Question: does memory grow with the tile and not with the photo, and do tiles give what the whole photo gives?
Command:  python experiments/restoring_limits.py --artifact outputs/restorer/latest [--sizes 256x256 4000x6000]
Expected: a peak below `--max-memory` at every size; 40 dB and more between tiles and the whole photo.

Each size runs in a process of its own, whose peak is the largest resident set the system saw, from a file
to a file as `daclip restore` does. With `--compare PHOTOS` tiles are compared with the whole photo instead, and a
picture degraded | whole | tiled | ten times the difference is written for each photo and class.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage import data

from daclip import Restorer
from daclip.artifacts import Artifact
from daclip.decoding import read_photo
from daclip.restoring.batch import Job, Request, attempt
from daclip.rng import generator_for
from daclip.training.callbacks import peak_memory


def noisy_photo(height: int, width: int) -> Image.Image:
    """A real photograph mirrored until it fills the size, with noise of σ = 25."""
    photo = data.coffee()
    repeats = [(0, max(0, side - length)) for side, length in zip((height, width), photo.shape[:2], strict=True)]
    pixels = np.pad(photo, (*repeats, (0, 0)), mode="symmetric")[:height, :width]
    out = np.empty_like(pixels)
    for top in range(0, height, 256):
        band = torch.from_numpy(pixels[top : top + 256]).permute(2, 0, 1) / 255
        noise = torch.randn(band.shape, generator=generator_for(0, top)) * 25 / 255
        out[top : top + 256] = ((band + noise).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(out)


def measure(options: argparse.Namespace, photo: Path) -> dict[str, Any]:
    """Restore one file in this process."""
    restorer = Restorer.from_pretrained(
        options.artifact, steps=options.steps, max_memory=options.max_memory, device="cpu", precision=options.precision
    )
    loaded = peak_memory()
    told: list[float] = []
    started = time.perf_counter()
    request = Request(None, 1.0, 1, dry_run=False, overwrite=True)
    outcome = attempt(restorer, Job(photo, photo.with_name("restored.png")), request, told.append)
    if outcome.error is not None:
        sys.exit(f"error: {outcome.error}")
    return {
        "size": "x".join(str(side) for side in reversed(outcome.size or [])),
        "nfe": restorer.sampler.nfe,
        "network_calls": len(told),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gib": round(peak_memory() / 1024, 2),
        "loaded_gib": round(loaded / 1024, 2),
    }


def sizes(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """One process a size; a line of JSON each."""
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            height, width = (int(side) for side in size.split("x"))
            path = Path(folder) / "photo.png"
            noisy_photo(height, width).save(path, compress_level=1)
            command = [sys.executable, __file__, *arguments, "--one", str(path)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            sys.stdout.write(done.stdout.splitlines()[-1] + "\n")
            sys.stdout.flush()


def compare(options: argparse.Namespace) -> None:
    """Tiles against the whole photo, with pictures."""
    restorer = Restorer.from_pretrained(
        options.artifact, steps=options.steps, max_memory=64, device="cpu", precision=options.precision
    )
    options.output.mkdir(parents=True, exist_ok=True)
    degradations = Artifact(restorer.artifact.folder / "daclip").build("degradation")
    for path in options.compare:
        image = Image.fromarray(np.ascontiguousarray(read_photo(path).pixels.colour).astype(np.uint8))
        image.thumbnail((options.side, options.side))
        clean = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        for class_name in options.classes or degradations:
            photo = degradations[class_name](clean[None], [generator_for(1)], 0.7)[0]
            whole = restorer.restore(photo).image
            restorer.tile = options.tile
            tiled = restorer.restore(photo).image
            restorer.tile = None
            difference = (tiled - whole).abs()
            row = {
                "photo": path.name,
                "class": class_name,
                "psnr_tiled_whole": round(float(-10 * torch.log10(difference.square().mean())), 2),
                "psnr_whole_input": round(float(-10 * torch.log10((whole - photo).square().mean())), 2),
                "largest": round(float(difference.max()), 4),
            }
            sheet = torch.cat([photo, whole, tiled, (10 * difference).clamp(0, 1)], dim=2)
            pixels = (sheet * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(options.output / f"{path.stem}-{class_name}-tiles.png")
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifact", required=True)
    parser.add_argument("--sizes", nargs="+", default=["256x256", "1024x1024", "4000x6000"])
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--max-memory", type=float, default=2.0)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compare", nargs="+", type=Path)
    parser.add_argument("--side", type=int, default=768, help="longest side of compared photos")
    parser.add_argument("--classes", nargs="+", help="degradations of compared photos; default: all")
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--output", type=Path, default=Path("outputs/restoring_limits"))
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        sys.stdout.write(json.dumps(measure(options, options.one)) + "\n")
    elif options.compare:
        compare(options)
    else:
        sizes(options, sys.argv[1:])


if __name__ == "__main__":
    main()
