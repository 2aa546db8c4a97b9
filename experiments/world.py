"""A restorer on photos and corruptions that training never saw: `python experiments/world.py [--artifact FOLDER]`.

Question: does it recognise what is wrong, improve the photo, and leave good photos alone, outside of its own data?
Needs:    --benchmarks, a folder with `paired/CLASS/SET/{lq,gt}`, `unpaired/CLASS/SET/lq` and `clean/SET`; beside them
          a SET may hold `mask` (score inside it too) and `out_NAME` (another system's output). --photos, clean photos,
          of which the validation third is corrupted by imagecorruptions-imaug (`pip install 'daclip[robustness]'`).
Writes:   world.json, world.md and a contact sheet of each unpaired class to --output.
"""

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from robustness import SEVERITIES, corruption_function
from torch import Tensor

from daclip import Restorer
from daclip.commands.options import markdown_table
from daclip.data.photos import validation_names
from daclip.degradations.base import split_classes
from daclip.files import find_photos, write_json, write_text
from daclip.images import load_image
from daclip.metrics.image import psnr, ssim
from daclip.metrics.perceptual import LiteDistance
from daclip.pixels import quantise
from daclip.training.provenance import provenance

CLEAN = "clean"
BEST = 100.0  # dB that stand for equal pictures
UNTOUCHED = 60.0  # dB to the input from which a photo counts as returned as it was
SHIFT, BORDER = 4, 8  # px, of the protocol for real camera shake (Levin et al. 2009)
SHIFTED = ("levin_gray",)  # sets whose reference may lie a few pixels off
# Another generator's corruption → our class; spatter has none of ours to the letter, and is the nearest to drops.
CORRUPTIONS = {
    "fog": "hazy",
    "gaussian_noise": "noisy",
    "jpeg_compression": "jpeg-compressed",
    "motion_blur": "motion-blurry",
    "snow": "snowy",
    "spatter": "raindrop",
}
UNSHARED = "spatter"  # named or not, it is no fault of recognition


@dataclass
class Row:
    """Scores of one set of photos; means over its photos, dB and shares in [0, 1]."""

    part: str
    degradation: str
    name: str
    photos: int
    named: float
    said: dict[str, int]
    scores: dict[str, float] = field(default_factory=dict)


class Ruler:
    """Restores photos and scores them in RGB at 8 bits.

    Args:
        restorer: What is measured.
        side: Longest side in pixels; larger photos are cut to their middle, so that a ruler takes minutes.
    """

    def __init__(self, restorer: Restorer, side: int):
        self.restorer = restorer
        self.side = side
        self.lite = LiteDistance()

    def load(self, path: Path) -> Tensor:
        """A photo, `[3, H, W]`, cut to the middle where it is too large."""
        image = load_image(path)
        top, left = (max(length - self.side, 0) // 2 for length in image.shape[1:])
        return image[:, top : top + self.side, left : left + self.side]

    def restore(self, image: Tensor) -> tuple[Tensor, str]:
        """The restored photo, rounded to 8 bits, and the recognised class."""
        done = self.restorer.restore(image)
        return quantise(done.image), done.degradation

    def compare(self, lq: Tensor, hq: Tensor) -> tuple[dict[str, float], str, Tensor]:
        """Scores of the degraded (`_in`) and of the restored photo, the recognised class, and the restored photo."""
        restored, recognised = self.restore(lq)
        before, after = self.fidelity(lq, hq), self.fidelity(restored, hq)
        return {f"{name}_in": value for name, value in before.items()} | after, recognised, restored

    def fidelity(self, image: Tensor, reference: Tensor) -> dict[str, float]:
        """PSNR, SSIM and `lite` to the reference."""
        a, b = image[None], reference[None]
        return {"psnr": min(float(psnr(a, b)), BEST), "ssim": float(ssim(a, b)), "lite": float(self.lite.score(a, b))}


def share_named(said: Counter[str], class_name: str) -> float:
    """Share of photos of which the class was named, alone or among others."""
    return sum(count for name, count in said.items() if class_name in split_classes(name)) / said.total()


def shifted_psnr(image: Tensor, reference: Tensor) -> float:
    """The best PSNR over shifts of a few pixels, without the border."""
    cut = BORDER + SHIFT
    height, width = image.shape[1:]
    inner = reference[:, cut : height - cut, cut : width - cut]
    best = 0.0
    for down in range(-SHIFT, SHIFT + 1):
        for right in range(-SHIFT, SHIFT + 1):
            moved = image[:, cut + down : height - cut + down, cut + right : width - cut + right]
            best = max(best, float(psnr(moved[None], inner[None])))
    return best


def masked_psnr(image: Tensor, reference: Tensor, mask: Tensor) -> float:
    """PSNR inside a mask `[3, H, W]`."""
    inside = mask > 0.5
    return float(-10 * torch.log10((image - reference)[inside].square().mean().clamp(min=1e-10)))


def means(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean of every score that some photo has."""
    names = dict.fromkeys(name for score in scores for name in score)
    return {name: statistics.fmean(score[name] for score in scores if name in score) for name in names}


def paired(ruler: Ruler, root: Path, limit: int | None) -> Iterator[Row]:
    """Sets with a reference."""
    for folder in sorted(path.parent for path in root.glob("*/*/lq")):
        class_name = folder.parent.name
        scores, said = [], Counter[str]()
        for path in find_photos(folder / "lq").photos[:limit]:
            reference = next(iter(sorted((folder / "gt").glob(f"{path.stem}.*"))))
            lq, gt = ruler.load(path), ruler.load(reference)
            score, recognised, restored = ruler.compare(lq, gt)
            said[recognised] += 1
            if folder.name in SHIFTED:
                score["psnr_in"], score["psnr"] = shifted_psnr(lq, gt), shifted_psnr(restored, gt)
            score["gain"] = score["psnr"] - score["psnr_in"]
            for mask in (folder / "mask").glob(f"{path.stem}.*"):
                area = ruler.load(mask)
                if area.max() > 0.5:
                    score["mask_gain"] = masked_psnr(restored, gt, area) - masked_psnr(lq, gt, area)
            for other in folder.glob(f"out_*/{path.stem}.*"):
                score[other.parent.name] = float(psnr(ruler.load(other)[None], gt[None]))
            scores.append(score)
        named = share_named(said, class_name)
        worst = min(score["gain"] for score in scores)
        yield Row("paired", class_name, folder.name, len(scores), named, dict(said), means(scores) | {"worst": worst})


def unpaired(ruler: Ruler, root: Path, output: Path, limit: int | None) -> Iterator[Row]:
    """Sets without a reference: recognition, and a sheet to look at."""
    for folder in sorted(path.parent for path in root.glob("*/*/lq")):
        class_name, said, shown = folder.parent.name, Counter[str](), []
        for path in find_photos(folder / "lq").photos[:limit]:
            lq = ruler.load(path)
            restored, recognised = ruler.restore(lq)
            said[recognised] += 1
            shown.append((path.stem, recognised, lq, restored))
        sheet(shown, output / f"{class_name}_{folder.name}.jpg")
        yield Row("unpaired", class_name, folder.name, said.total(), share_named(said, class_name), dict(said))


def clean(ruler: Ruler, root: Path, limit: int | None) -> Iterator[Row]:
    """Photos with nothing wrong: how far they come back from themselves."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        said, distances = Counter[str](), []
        for path in find_photos(folder).photos[:limit]:
            image = ruler.load(path)
            restored, recognised = ruler.restore(image)
            said[recognised] += 1
            distances.append(min(float(psnr(restored[None], image[None])), BEST))
        scores = {
            "median": statistics.median(distances),
            "worst": min(distances),
            "touched": sum(distance < UNTOUCHED for distance in distances) / len(distances),
        }
        yield Row("clean", CLEAN, folder.name, said.total(), share_named(said, CLEAN), dict(said), scores)


def generator(ruler: Ruler, photos: Path, share: float, limit: int | None, seed: int) -> Iterator[Row]:
    """Another generator's corruptions on photos that training leaves out."""
    corrupt = corruption_function()
    paths = find_photos(photos).photos
    kept = validation_names([str(path.relative_to(photos)) for path in paths], share)
    paths = [path for path in paths if str(path.relative_to(photos)) in kept][:limit]
    for corruption, class_name in CORRUPTIONS.items():
        scores, said = [], Counter[str]()
        for number, path in enumerate(paths):
            hq = ruler.load(path)
            severity = SEVERITIES[number % len(SEVERITIES)]
            np.random.seed(seed + number)  # noqa: NPY002 - the package draws from numpy's global generator
            pixels = (hq * 255).round().byte().permute(1, 2, 0).numpy()
            corrupted = corrupt(np.ascontiguousarray(pixels), corruption_name=corruption, severity=severity)
            lq = torch.from_numpy(np.ascontiguousarray(corrupted)).permute(2, 0, 1).float() / 255
            score, recognised, _ = ruler.compare(lq, hq)
            said[recognised] += 1
            scores.append(score | {"gain": score["psnr"] - score["psnr_in"]})
        named = share_named(said, class_name)
        yield Row("generator", class_name, corruption, len(paths), named, dict(said), means(scores))


def sheet(shown: Sequence[tuple[str, str, Tensor, Tensor]], path: Path) -> None:
    """Photos above their restorations."""
    figure = Figure(figsize=(3 * len(shown), 5), layout="constrained")
    axes = figure.subplots(2, len(shown), squeeze=False)
    for column, (name, recognised, lq, restored) in zip(axes.T, shown, strict=True):
        for axis, image, title in zip(column, (lq, restored), (name[:24], recognised), strict=True):
            axis.imshow(image.permute(1, 2, 0).numpy())
            axis.set_title(title, fontsize=8)
            axis.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_jpg(str(path))


def markdown(rows: Sequence[Row]) -> str:
    """All rows as one table a part."""
    lines = []
    for part in dict.fromkeys(row.part for row in rows):
        of_part = [row for row in rows if row.part == part]
        names = list(dict.fromkeys(name for row in of_part for name in row.scores))
        table = []
        for row in of_part:
            values = [f"{row.scores[name]:.2f}" if name in row.scores else "" for name in names]
            most = ", ".join(f"{name} {count}" for name, count in Counter(row.said).most_common(2))
            table.append([row.degradation, row.name, str(row.photos), f"{row.named:.2f}", *values, most])
        heading = ["class", "set", "photos", "named", *names, "mostly named"]
        lines += ["", f"## {part}", "", *markdown_table(heading, table)]
    return "\n".join(lines)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """What the rows come to: means over classes of means over their sets."""

    def over_classes(part: str, score: str, without: str | None = None) -> float:
        found: dict[str, list[float]] = {}
        for row in (row for row in rows if row.name != without):
            value = row.named if score == "named" else row.scores.get(score)
            if row.part == part and value is not None:
                found.setdefault(row.degradation, []).append(value)
        return statistics.fmean(statistics.fmean(values) for values in found.values()) if found else float("nan")

    def least(part: str, score: str) -> float | None:
        return min((row.scores[score] for row in rows if row.part == part), default=None)

    return {
        "paired_named": over_classes("paired", "named"),
        "paired_gain": over_classes("paired", "gain"),
        "paired_worst_set": least("paired", "gain"),
        "unpaired_named": over_classes("unpaired", "named"),
        "clean_named": over_classes("clean", "named"),
        "clean_median": least("clean", "median"),  # of the set that comes back least alike
        "clean_worst": least("clean", "worst"),
        "generator_named": over_classes("generator", "named", without=UNSHARED),
        "generator_gain": over_classes("generator", "gain"),
        "generator_worst": least("generator", "gain"),
    }


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifact", default="outputs/restorer/latest")
    parser.add_argument("--benchmarks", type=Path, required=True)
    parser.add_argument("--photos", type=Path, help="clean photos for another generator's corruptions")
    parser.add_argument("--validation", type=float, default=1 / 3, help="share of --photos that training leaves out")
    parser.add_argument("--parts", nargs="+", default=["paired", "unpaired", "clean", "generator"])
    parser.add_argument("--limit", type=int, help="photos of each set at most")
    parser.add_argument("--side", type=int, default=512, help="longest side in pixels; larger photos are cut")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("outputs/world"))
    options = parser.parse_args()
    started = time.monotonic()
    ruler = Ruler(Restorer.from_pretrained(options.artifact, seed=options.seed), options.side)
    rows: list[Row] = []
    if "paired" in options.parts:
        rows += paired(ruler, options.benchmarks / "paired", options.limit)
    if "unpaired" in options.parts:
        rows += unpaired(ruler, options.benchmarks / "unpaired", options.output, options.limit)
    if "clean" in options.parts:
        rows += clean(ruler, options.benchmarks / "clean", options.limit)
    if "generator" in options.parts and options.photos:
        rows += generator(ruler, options.photos, options.validation, options.limit, options.seed)
    found = summary(rows)
    seconds = {"total": time.monotonic() - started}
    record = provenance(options.seed, sys.argv, seconds)
    write_json(
        options.output / "world.json",
        {"artifact": str(options.artifact), "summary": found, "rows": [asdict(row) for row in rows], "record": record},
    )
    text = "\n".join(f"- {name}: {value:.2f}" for name, value in found.items() if value is not None)
    write_text(options.output / "world.md", f"# {options.artifact}\n\n{text}\n{markdown(rows)}\n")
    sys.stdout.write(f"{text}\n{markdown(rows)}\nwritten: {options.output}\n")


if __name__ == "__main__":
    main()
