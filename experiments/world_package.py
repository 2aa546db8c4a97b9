"""Put a trained restorer into the package: `python experiments/world_package.py --artifact FOLDER --scores world.json`.

Needs:    an artifact of `world_restorer`, and what `world.py` found about it.
Writes:   both stages in float16, without what only training needs, and MODEL_CARD.md, to src/daclip/pretrained.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_file

from daclip.artifacts import PACKAGED, WEIGHTS, Artifact, read_metrics, read_record, save_artifact
from daclip.commands.options import markdown_table
from daclip.files import write_text

CARD = "MODEL_CARD.md"
NEEDED = ("clip", "backbone", "process", "sampler", "stage")
OF_STAGE = ("parameterization", "correct_epsilon_shift", "temperature")
RECORDED = ("seed", "seconds", "finished", "commit", "versions", "hardware", "data")
LIMITS = (
    "It learned from 208 photos in hours on two CPU cores: networks with millions of photos behind them restore more.",
    "It changes a photo as far as it is sure of what is wrong; a mild or rare fault it may leave or mend in part.",
    "A photo that it misreads for sure gets worse; one that is meant to be dark is brightened.",
    "Motion blur hardly gets better, drops and shadows in part; a hole is filled smoothly, without new detail.",
    "Its text tower is random: it knows the words of its classes and no others.",
    "Faces, text and documents got no special care. Do not use its output as evidence of what a photo showed.",
)


def copy(source: Artifact, target: Path, **parts: Path) -> None:
    """Write a stage's artifact in float16, without what only training needs."""
    config = {key: value for key, value in source.config.items() if key in NEEDED and value}
    config["classes"] = source.classes
    if source.config["kind"] == "daclip":  # where restoring looks for it
        config["fill"] = source.fill
    config["stage"] = {key: value for key, value in config.get("stage", {}).items() if key in OF_STAGE}
    weights = load_file(source.folder / WEIGHTS)
    weights |= {name: value.half() for name, value in weights.items() if value.is_floating_point()}
    metrics = {key: value for key, value in read_metrics(source.folder).items() if key != "confusion"}
    record = read_record(source.folder)
    record = {key: record[key] for key in RECORDED if key in record}
    save_artifact(target, source.config["kind"], config, weights, metrics, record, parts)


def card(source: Artifact, scores: Mapping[str, Any], trained: str) -> str:
    """The model card."""
    record = read_record(source.folder)
    rows = []
    for row in scores["rows"]:
        values = row["scores"]
        change = values.get("gain", values.get("median"))
        shown = "" if change is None else f"{change:+.2f}" if "gain" in values else f"{change:.1f} to itself"
        rows.append([row["part"], row["degradation"], row["name"], str(row["photos"]), f"{row['named']:.2f}", shown])
    table = markdown_table(["part", "class", "set", "photos", "named", "dB"], rows)
    found = [f"- {name}: {value:.2f}" for name, value in scores["summary"].items() if value is not None]
    lines = [
        "# The restorer in the package",
        "",
        "DA-CLIP, a controller on EfficientNet-Lite0's first stages, and a NAFNet in an IR-SDE at one evaluation a",
        "photo. It names what is wrong and repairs it as far as it is sure; a clean photo comes back as it was.",
        "",
        "- Recipes: `world_daclip`, `world_restorer` (conf/experiment/), "
        f"as of commit {record['commit'][:7]}, seed {record['seed']}.",
        f"- Training: {trained}.",
        "- Photos: 208 of 319; the others are left for validation. CID22-512's training references (CC BY-SA 4.0),",
        "  CLIC 2025 (Unsplash licence), Debian's wallpapers and grounds (CC BY-SA, CC BY, GPL, public domain);",
        "  experiments/world_photos.py names them all.",
        "- Image tower: EfficientNet-Lite0, trained on ImageNet (Apache 2.0). Weights: float16.",
        "",
        "## What it cannot do",
        "",
        *(f"- {line}" for line in LIMITS),
        "",
        "## Scores on photos and corruptions that training never saw",
        "",
        "`python experiments/world.py`, seed 0; gains in dB of PSNR on the middle 512 pixels, means over photos",
        "of a set, at most 6 of them (`--limit 6`); over classes:",
        "",
        *found,
        "",
        *table,
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True, help="world.json of the artifact")
    parser.add_argument("--trained", required=True, help="how long, on what, for the card")
    parser.add_argument("--output", type=Path, default=PACKAGED)
    options = parser.parse_args()
    scores = json.loads(options.scores.read_text(encoding="utf-8"))
    restorer = Artifact(options.artifact)
    restorer.require("restorer")
    text = card(restorer, scores, options.trained)
    with TemporaryDirectory() as folder:
        stage_1 = Path(folder) / "daclip"
        copy(Artifact(restorer.folder / "daclip"), stage_1)
        copy(restorer, options.output, daclip=stage_1)
    write_text(options.output / CARD, text)
    size = sum(path.stat().st_size for path in options.output.rglob("*") if path.is_file())
    sys.stdout.write(f"{options.output}: {size / 1e6:.1f} MB\n")


if __name__ == "__main__":
    main()
