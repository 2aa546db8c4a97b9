"""Two degradations on one photo: `python experiments/composites.py --photos FOLDER [--artifact FOLDER]`.

Question: is it better to repair two faults at once or in turn, does `--passes auto` ever cost anything, and is a wish
          to keep one of them obeyed?
Needs:    --photos, clean photos, of which the validation third is used: one photo for each ordered pair of classes.
Writes:   composites.json to --output, and prints the means: one pass as recognised; auto; one pass told both classes;
          told in turn, the one that came last first; told in turn, the other way round. Against the photo under the
          first alone: degraded, told both, and told in words to remove the second and keep the first.
"""

import argparse
import statistics
import sys
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from daclip import Restorer
from daclip.commands.options import make, markdown_table
from daclip.config import composed
from daclip.data.photos import validation_names
from daclip.degradations.base import CLEAN, Degradation
from daclip.files import find_photos, write_json
from daclip.images import load_image
from daclip.metrics.image import psnr
from daclip.pixels import quantise
from daclip.training.provenance import provenance

SIDE = 256
NOUNS = {
    "hazy": "haze",
    "jpeg-compressed": "JPEG artifacts",
    "low-light": "darkness",
    "motion-blurry": "motion blur",
    "noisy": "noise",
    "raindrop": "raindrops",
    "rainy": "rain",
    "shadowed": "shadow",
    "snowy": "snow",
    "uncompleted": "holes",
}


def degraded(hq: Tensor, parts: tuple[Degradation, Degradation], severity: float, seed: int) -> tuple[Tensor, Tensor]:
    """A photo `[3, H, W]` under the first, and under both."""
    images = [hq[None]]
    for number, part in enumerate(parts):
        images.append(part(images[-1], [torch.Generator().manual_seed(2 * seed + number)], severity))
    return quantise(images[1][0]), quantise(images[2][0])


def ways(restorer: Restorer, lq: Tensor, first: str, second: str) -> dict[str, Tensor]:
    """The restored photo by each way."""
    auto = restorer.restore(lq, passes="auto")
    found = {"one pass": auto.passes[0].image, "auto": auto.image}
    found["told both"] = restorer.restore(lq, degradation=[first, second]).image
    for name, order in (("last first", (second, first)), ("first first", (first, second))):
        image = lq
        for class_name in order:
            image = restorer.restore(image, degradation=class_name).image
        found[f"told, {name}"] = image
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--artifact", default="pretrained")
    parser.add_argument("--validation", type=float, default=1 / 3, help="share of --photos that training leaves out")
    parser.add_argument("--severity", type=float, default=0.5)
    parser.add_argument("--pairs", type=int, help="pairs of classes at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("outputs/composites"))
    options = parser.parse_args()
    restorer = Restorer.from_pretrained(options.artifact, seed=options.seed)
    parts = {name: make(node) for name, node in composed("degradations", ["degradation=world"])["degradation"].items()}
    paths = find_photos(options.photos).photos
    kept = validation_names([str(path.relative_to(options.photos)) for path in paths], options.validation)
    paths = [path for path in paths if str(path.relative_to(options.photos)) in kept]
    rows: list[dict[str, Any]] = []
    pairs = list(permutations(sorted(set(parts) - {CLEAN}), 2))[: options.pairs]
    for number, (first, second) in enumerate(pairs):
        image = load_image(paths[number % len(paths)])
        top, left = ((side - SIDE) // 2 for side in image.shape[1:])
        hq = image[:, top : top + SIDE, left : left + SIDE]
        under_first, lq = degraded(hq, (parts[first], parts[second]), options.severity, options.seed + number)
        found = {"degraded": lq} | ways(restorer, lq, first, second)
        wish = f"remove the {NOUNS[second]} but keep the {NOUNS[first]}"
        kept = {name: found[name] for name in ("degraded", "told both")}
        kept["told to keep"] = restorer.restore(lq, instruction=wish).image
        scores = {name: float(psnr(quantise(image)[None], hq[None])) for name, image in found.items()}
        scores_kept = {name: float(psnr(quantise(image)[None], under_first[None])) for name, image in kept.items()}
        rows.append({"pair": [first, second], "psnr": scores, "psnr_kept": scores_kept})

    def means_of(kind: str) -> dict[str, float]:
        return {name: statistics.fmean(row[kind][name] for row in rows) for name in rows[0][kind]}

    means, means_kept = means_of("psnr"), means_of("psnr_kept")
    obeyed = statistics.fmean(row["psnr_kept"]["told to keep"] > row["psnr_kept"]["told both"] for row in rows)
    lost = [row["psnr"]["auto"] - row["psnr"]["one pass"] for row in rows]
    record = provenance(options.seed, sys.argv, {})
    summary = {
        "psnr": means,
        "psnr_kept": means_kept,
        "obeyed": obeyed,
        "auto_changed": sum(map(bool, lost)),
        "auto_worst": min(lost),
    }
    write_json(options.output / "composites.json", {"summary": summary, "rows": rows, "record": record})
    for table in (means, means_kept):
        sys.stdout.write("\n".join(markdown_table(list(table), [[f"{value:.2f}" for value in table.values()]])) + "\n")
    sys.stdout.write(f"nearer to the photo under the first when told to keep it: {obeyed:.0%}\n")
    sys.stdout.write(f"auto made more passes on {summary['auto_changed']} of {len(rows)}, worst {min(lost):+.2f} dB\n")


if __name__ == "__main__":
    main()
