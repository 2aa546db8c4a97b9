"""Stage 1's losses on the same photos, steps and seeds: `python experiments/stage1_losses.py PHOTOS [--captions FILE]`.

`--compare` puts another choice in the place of the losses, which needs no captions: the order of injection, the view of
a photo, or the kind of distillation.

Each run is one `daclip train-daclip experiment=ablation_daclip …` in a folder of its own below --output; runs that are
done are not repeated, so the command can be stopped and started again at any time. In the end the table is printed and
written: accuracy on validation photos, cosine of the steered embedding to the clean photo's, and the
degradation loss of the last fifth of training against ln(B/K), which one-to-one InfoNCE cannot go below.
"""

import argparse
import csv
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from daclip.files import write_json, write_text

# What the other comparisons hold fixed.
FIXED = ["loss=multi_positive", "stage.loss.caption_weight=0", "stage.loss.distillation_weight=1"]
# Comparison → arm → overrides. What a comparison is about is stated in full: its arms differ in nothing else.
COMPARISONS: dict[str, dict[str, list[str]]] = {
    "losses": {
        "official": ["loss=official", "stage.loss.caption_weight=1", "stage.loss.distillation_weight=0"],
        "multi-positive": ["loss=multi_positive", "stage.loss.caption_weight=1", "stage.loss.distillation_weight=0"],
        "multi-positive + distillation": [
            "loss=multi_positive", "stage.loss.caption_weight=1", "stage.loss.distillation_weight=1",
        ],
        "multi-positive, distillation instead of captions": FIXED,
        "sigmoid + distillation": [
            "loss=sigmoid", "stage.loss.caption_weight=0", "stage.loss.distillation_weight=1",
        ],
    },
    "injection": {way: [*FIXED, f"clip.injection={way}"] for way in ("reversed", "aligned")},
    # Crops of twice CLIP's size: at CLIP's own size all views are the crop itself.
    "view": {
        view: [*FIXED, f"clip.view={view}", "data.crop_size=128"] for view in ("resize", "crop", "multi_crop")
    },
    "distillation": {kind: [*FIXED, f"distillation={kind}"] for kind in ("cosine", "contrastive")},
}  # fmt: skip
BATCH, CLASSES = 64, 10  # of ablation_daclip


def run(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Scores of one run, trained if it is not there yet."""
    output = Path(options.output) / arm.replace(" ", "_").replace(",", "") / f"seed_{seed}"
    if not (output / "latest" / "metrics.json").is_file():
        Console(stderr=True).print(f"{arm}, seed {seed}")
        root = json.dumps(str(Path(options.photos).resolve()))
        command = ["experiment=ablation_daclip", f"data.root={root}", f"output={json.dumps(str(output))}"]
        command += [f"seed={seed}", f"trainer.max_steps={options.steps}", "callbacks=checkpoint"]
        command += COMPARISONS[options.compare][arm]
        if options.captions:
            command.append(f"data.photos.captions={json.dumps(str(Path(options.captions).resolve()))}")
        subprocess.run(
            [sys.executable, "-m", "daclip.commands.train_daclip", *command], check=True, stdout=subprocess.DEVNULL
        )
    artifact = (output / "latest").resolve()
    metrics: dict[str, Any] = json.loads((artifact / "metrics.json").read_text(encoding="utf-8"))
    if metrics["steps"] != options.steps:
        sys.exit(f"error: {output} holds a run of {metrics['steps']} steps; choose another --output")
    with (artifact.parent / "logs" / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["train/degradation_loss"]]
    last = [float(row["train/degradation_loss"]) for row in rows if int(row["step"]) >= 0.8 * options.steps]
    return {
        "accuracy": metrics["degradation_accuracy"],
        "content_cosine": metrics["content_cosine"],
        "content_cosine_plain": metrics["content_cosine_plain"],
        "degradation_loss": statistics.fmean(last),
    }


def summary(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over seeds of each score."""
    return {
        name: {
            "mean": statistics.fmean(found := [one[name] for one in runs]),
            "sd": statistics.stdev(found) if len(found) > 1 else 0.0,
        }
        for name in runs[0]
    }


def table(comparison: str, results: dict[str, Any], steps: int, seeds: int) -> str:
    """The summary as Markdown."""
    floor = math.log(BATCH / CLASSES)
    lines = [
        f"{steps} steps, {seeds} seeds, mean ± standard deviation; ln(B/K) = {floor:.2f}",
        "",
        f"| {comparison} | accuracy | content cosine | plain CLIP | degradation loss |",
        "|---|---|---|---|---|",
    ]
    for arm, row in results.items():
        cells = [
            f"{row[name]['mean']:.{digits}f} ± {row[name]['sd']:.{digits}f}"
            for name, digits in (
                ("accuracy", 3), ("content_cosine", 4), ("content_cosine_plain", 4), ("degradation_loss", 2),
            )
        ]  # fmt: skip
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", help="folder of photos")
    parser.add_argument("--captions", help="csv or jsonl with name,caption")
    parser.add_argument("--compare", choices=list(COMPARISONS), default="losses")
    parser.add_argument("--output", help="by default outputs/stage1_ and what is compared")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", help="some of the comparison's; by default all")
    options = parser.parse_args()
    arms = list(COMPARISONS[options.compare])
    if unknown := set(options.arms or []) - set(arms):
        parser.error(f"--arms {' '.join(sorted(unknown))}: choose from {', '.join(arms)}")
    options.arms = options.arms or arms
    options.output = options.output or f"outputs/stage1_{options.compare}"
    runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in options.arms}
    for seed in options.seeds:  # all arms of one seed first: a part of the table is a fair table too
        for arm in options.arms:
            runs[arm].append(run(arm, seed, options))
    results = {arm: summary(found) for arm, found in runs.items()}
    text = table(options.compare, results, options.steps, len(options.seeds))
    output = Path(options.output)
    write_text(output / "table.md", text)
    write_json(output / "results.json", {"steps": options.steps, "runs": runs, "summary": results})
    Console().print(text, markup=False, highlight=False)


if __name__ == "__main__":
    main()
