"""Two degradations on one photo: `python experiments/composites.py --photos FOLDER [--artifact FOLDER]`.

Question: is it better to repair two faults at once or in turn, and does `--passes auto` ever cost anything?
Needs:    --photos, clean photos, of which the validation third is used: one photo for each ordered pair of classes.
Writes:   composites.json to --output, and prints the means: one pass as recognised; auto; one pass told both classes;
          told in turn, the one that came last first; told in turn, the other way round.
"""

import argparse
import statistics
import sys
from itertools import permutations
from pathlib import Path

import torch
from torch import Tensor

from daclip import Restorer
from daclip.commands.options import make, markdown_table
from daclip.config import composed
from daclip.data.photos import validation_names
from daclip.degradations.base import CLEAN, Degradation
from daclip.files import write_json
from daclip.finding import find_photos
from daclip.images import load_image
from daclip.metrics.image import psnr
from daclip.training.provenance import provenance

SIDE = 256


def degraded(hq: Tensor, parts: tuple[Degradation, Degradation], severity: float, seed: int) -> Tensor:
    """A photo `[3, H, W]` under both, rounded to 8 bits."""
    image = hq[None]
    for number, part in enumerate(parts):
        image = part(image, [torch.Generator().manual_seed(2 * seed + number)], severity)
    return (image[0].clamp(0, 1) * 255).round() / 255


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
    rows = []
    pairs = list(permutations(sorted(set(parts) - {CLEAN}), 2))[: options.pairs]
    for number, (first, second) in enumerate(pairs):
        image = load_image(paths[number % len(paths)])
        top, left = ((side - SIDE) // 2 for side in image.shape[1:])
        hq = image[:, top : top + SIDE, left : left + SIDE]
        lq = degraded(hq, (parts[first], parts[second]), options.severity, options.seed + number)
        scores = {"degraded": float(psnr(lq[None], hq[None]))}
        for name, restored in ways(restorer, lq, first, second).items():
            rounded = (restored.clamp(0, 1) * 255).round() / 255
            scores[name] = float(psnr(rounded[None], hq[None]))
        rows.append({"pair": [first, second], "psnr": scores})
    names = list(rows[0]["psnr"])
    means = {name: statistics.fmean(row["psnr"][name] for row in rows) for name in names}
    lost = [row["psnr"]["auto"] - row["psnr"]["one pass"] for row in rows]
    record = provenance(options.seed, sys.argv, {})
    summary = {"psnr": means, "auto_changed": sum(map(bool, lost)), "auto_worst": min(lost)}
    write_json(options.output / "composites.json", {"summary": summary, "rows": rows, "record": record})
    cells = [[f"{means[name]:.2f}" for name in names]]
    sys.stdout.write("\n".join(markdown_table(names, cells)) + "\n")
    sys.stdout.write(f"auto made more passes on {summary['auto_changed']} of {len(rows)}, worst {min(lost):+.2f} dB\n")


if __name__ == "__main__":
    main()
