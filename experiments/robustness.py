"""Stage 1 on corruptions that are not ours: `python experiments/robustness.py [--artifact FOLDER] [--photos FOLDER]`.

The corruptions are those of the package imagecorruptions-imaug (`pip install 'daclip[robustness]'`), at its five
severities (Hendrycks and Dietterich 2019; Michaelis et al. 2019). A corruption counts as named when the model says the
class of ours that describes it. Prints a table and writes it with the confusions to --output.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from daclip.arithmetic import autocast, device_by_name
from daclip.artifacts import Artifact, find_artifact, load_daclip
from daclip.data.sources import EmbeddedPhotos
from daclip.files import find_photos, write_json
from daclip.images import load_image
from daclip.training.provenance import provenance

# Their name → our class. Only what one of our classes describes.
CORRUPTIONS = {
    "gaussian_noise": "noisy",
    "shot_noise": "noisy",
    "impulse_noise": "noisy",
    "speckle_noise": "noisy",
    "motion_blur": "motion-blurry",
    "defocus_blur": "motion-blurry",
    "snow": "snowy",
    "fog": "hazy",
    "jpeg_compression": "jpeg-compressed",
}
SEVERITIES = (1, 2, 3, 4, 5)


def crops(paths: list[Path], size: int, count: int, seed: int) -> list[np.ndarray]:
    """Square crops of the photos, uint8 `[H, W, 3]`; a photo smaller than the crop is left out."""
    random = np.random.default_rng(seed)
    found = []
    for path in paths:
        pixels = (load_image(path) * 255).round().byte().permute(1, 2, 0).numpy()
        for _ in range(count):
            spare = [side - size for side in pixels.shape[:2]]
            if min(spare) < 0:
                break
            top, left = (int(random.integers(0, room + 1)) for room in spare)
            found.append(np.ascontiguousarray(pixels[top : top + size, left : left + size]))
    return found


def corruption_function() -> Callable[..., np.ndarray]:
    """The package's `corrupt`; it draws from numpy's global generator, to be seeded before."""
    try:
        from imagecorruptions import corrupt
    except ImportError:
        sys.exit("error: the package imagecorruptions-imaug is missing; pip install 'daclip[robustness]'")
    function: Callable[..., np.ndarray] = corrupt
    return function


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifact", help="stage-1 artifact; by default outputs/daclip/latest")
    parser.add_argument("--photos", help="folder of photos; by default the embedded validation photos")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--crops", type=int, default=8, help="of each photo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", default="outputs/robustness/metrics.json")
    options = parser.parse_args()
    corrupt = corruption_function()
    artifact = Artifact(find_artifact(options.artifact, "outputs/daclip", "make train-daclip"))
    device = device_by_name(options.device)
    daclip = load_daclip(artifact.folder).to(device)
    classes = artifact.classes
    validation = EmbeddedPhotos(validation=["chelsea.png", "coffee.png"]).validation()
    paths = find_photos(options.photos).photos if options.photos else [Path(photo.path) for photo in validation]
    photos = crops(paths, options.size, options.crops, options.seed)
    if not photos:
        sys.exit(f"error: no photo has {options.size} pixels on both sides; choose a smaller --size")

    @torch.inference_mode()
    def name(images: list[np.ndarray]) -> list[str]:
        named = []
        for start in range(0, len(images), 20):
            batch: Tensor = torch.from_numpy(np.stack(images[start : start + 20])).to(device)
            with autocast(device, "auto"):
                out = daclip(batch.permute(0, 3, 1, 2).float() / 255)
                assert out.degradation is not None
                named += [classes[i] for i in daclip.classify(out.degradation, classes).argmax(-1).tolist()]
        return named

    rows: dict[str, dict[str, object]] = {}
    table = Table(title=f"{len(photos)} crops of {options.size}²: share named as our class, by severity")
    for heading in ("corruption", "class", *map(str, SEVERITIES), "mean", "mostly named"):
        table.add_column(heading, justify="left" if heading in ("corruption", "class", "mostly named") else "right")
    for corruption, class_name in CORRUPTIONS.items():
        if class_name not in classes:
            continue
        shares, said = [], Counter[str]()
        for severity in SEVERITIES:
            np.random.seed(options.seed)  # noqa: NPY002 - the package draws from numpy's global generator
            named = name([corrupt(photo, corruption_name=corruption, severity=severity) for photo in photos])
            shares.append(named.count(class_name) / len(named))
            said.update(named)
        mean = sum(shares) / len(shares)
        rows[corruption] = {
            "class": class_name,
            "accuracy": shares,
            "mean": mean,
            "named": dict(said.most_common()),
        }
        most = ", ".join(f"{other} {count / said.total():.0%}" for other, count in said.most_common(2))
        table.add_row(corruption, class_name, *(f"{share:.2f}" for share in shares), f"{mean:.2f}", most)
    overall = sum(float(str(row["mean"])) for row in rows.values()) / len(rows)
    table.add_section()
    table.add_row("mean", "", *[""] * len(SEVERITIES), f"{overall:.3f}", "")
    Console().print(table)
    record = provenance(options.seed, sys.argv, {})
    write_json(
        options.output,
        {
            "accuracy": overall,
            "corruptions": rows,
            "crops": len(photos),
            "artifact": str(artifact.folder),
            "record": record,
        },
    )
    Console().print(f"written: {options.output}", soft_wrap=True)


if __name__ == "__main__":
    main()
