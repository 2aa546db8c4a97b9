"""Stage 1's losses on the same photos, steps and seeds: `python experiments/stage1_losses.py PHOTOS [--captions FILE]`.

Each run is one `python -m daclip.train experiments=ablation_daclip …` in a folder of its own below --output; runs that
are done are not repeated, so the command can be stopped and started again at any time. In the end the table is
printed and written: accuracy on held-out photos, cosine of the steered embedding to the clean photo's, and the
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

from daclip.records import write_json, write_text

# Name → overrides. Weights of the content losses are stated in full: the arms differ in nothing else.
ARMS = {
    "official": ["loss=official", "stage.loss.caption_weight=1", "stage.loss.distillation_weight=0"],
    "multi-positive": ["loss=multi_positive", "stage.loss.caption_weight=1", "stage.loss.distillation_weight=0"],
    "multi-positive + distillation": [
        "loss=multi_positive", "stage.loss.caption_weight=1", "stage.loss.distillation_weight=1",
    ],
    "multi-positive, distillation instead of captions": [
        "loss=multi_positive", "stage.loss.caption_weight=0", "stage.loss.distillation_weight=1",
    ],
    "sigmoid + distillation": [
        "loss=sigmoid", "stage.loss.caption_weight=0", "stage.loss.distillation_weight=1",
    ],
}  # fmt: skip
BATCH, WORDS = 64, 10  # of ablation_daclip


def run(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Scores of one run, trained if it is not there yet."""
    output = Path(options.output) / arm.replace(" ", "_").replace(",", "") / f"seed_{seed}"
    if not (output / "latest" / "metrics.json").is_file():
        Console(stderr=True).print(f"{arm}, seed {seed}")
        root = json.dumps(str(Path(options.photos).resolve()))
        command = ["experiments=ablation_daclip", f"data.root={root}", f"output={json.dumps(str(output))}"]
        command += [f"seed={seed}", f"trainer.max_steps={options.steps}", "callbacks=checkpoint", *ARMS[arm]]
        if options.captions:
            command.append(f"data.photos.captions={json.dumps(str(Path(options.captions).resolve()))}")
        subprocess.run([sys.executable, "-m", "daclip.train", *command], check=True, stdout=subprocess.DEVNULL)
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


def table(results: dict[str, Any], steps: int, seeds: int) -> str:
    """The summary as Markdown."""
    floor = math.log(BATCH / WORDS)
    lines = [
        f"{steps} steps, {seeds} seeds, mean ± standard deviation; ln(B/K) = {floor:.2f}",
        "",
        "| loss | accuracy | content cosine | plain CLIP | degradation loss |",
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
    parser.add_argument("--output", default="outputs/stage1_losses")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    options = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in options.arms}
    for seed in options.seeds:  # all arms of one seed first: a part of the table is a fair table too
        for arm in options.arms:
            runs[arm].append(run(arm, seed, options))
    results = {arm: summary(found) for arm, found in runs.items()}
    text = table(results, options.steps, len(options.seeds))
    output = Path(options.output)
    write_text(output / "table.md", text)
    write_json(output / "results.json", {"steps": options.steps, "runs": runs, "summary": results})
    Console().print(text, markup=False, highlight=False)


if __name__ == "__main__":
    main()
