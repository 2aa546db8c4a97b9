"""How soon a restorer is good: the official objective against our default, same network, data and machine.

    python experiments/time_to_quality.py --daclip ARTIFACT --minutes 30 [overrides…]

Trains both for the same time of training (validation passes do not count) with the learning-rate schedule of each
spread over it, and plots validation PSNR against wall-clock. Writes `result.json`, `result.md` and `result.svg`; a
finished arm is kept as `arm_N.json`, with its network as the artifact `arm_N`, and not run again. Other arguments are
Hydra overrides of both, such as `data=folder data.root=PHOTOS`.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import hydra
import lightning as L
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from rich.console import Console

from daclip.artifacts import load_daclip, save_artifact
from daclip.commands.assembly import build_data, build_restoration, build_trainer, resolved
from daclip.commands.train import TrainConfig
from daclip.config import config_dir, validated
from daclip.files import write_json, write_text
from daclip.training.provenance import provenance

# Arm → overrides. Both get the recipe's network, data, batches and weight average.
ARMS = {
    "data prediction (default)": [],
    "official epsilon objective": [
        "objective=posterior",
        "stage.parameterization=epsilon",
        "stage.correct_epsilon_shift=true",
        "stage.objective.frequency_weight=0",
        "stage.objective.relative=false",
    ],
}
OFFICIAL = "official epsilon objective"
CALIBRATION = 20  # steps whose time is measured; the first five are not counted


class Clock(L.Callback):
    """Seconds of training at each validation pass, without the passes themselves."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self.steps: list[float] = []
        self._began = 0.0
        self._paused = 0.0
        self._stopped = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start."""
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Note the time of each step."""
        self.steps.append(self._seconds())

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Pause."""
        self._stopped = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the score and go on."""
        self._paused += time.perf_counter() - self._stopped
        self.points.append((self._seconds(), float(trainer.callback_metrics["val/psnr"])))

    def _seconds(self) -> float:
        return time.perf_counter() - self._began - self._paused


def fit(overrides: list[str], folder: Path, steps: int, passes: int) -> Clock:
    """Train for so many steps; with validation passes (0: none) the network is kept as an artifact."""
    with hydra.initialize_config_dir(config_dir(), version_base="1.3"):
        composed = hydra.compose("train_restorer", [*overrides, f"trainer.max_steps={steps}", f"output={folder}"])
    # Checkpoints and pictures would need a run folder.
    callbacks = {name: node for name, node in composed.callbacks.items() if name == "ema"}
    OmegaConf.set_struct(composed, False)
    composed.callbacks, composed.logger = callbacks, {}
    composed.trainer.enable_checkpointing = False
    composed.trainer.check_val_every_n_epoch = None
    composed.trainer.val_check_interval = max(steps // passes, 1) if passes else 10**9
    composed.data.samples_per_epoch = steps * composed.data.batch_size
    cfg = validated(composed, TrainConfig)
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    module = build_restoration(cfg, load_daclip(cfg.daclip))
    trainer = build_trainer(cfg)
    trainer.callbacks.append(clock := Clock())
    data = build_data(cfg)
    trainer.fit(module, data)
    if passes:
        record = provenance(cfg.seed, ["python", "experiments/time_to_quality.py"], {"fit": clock.steps[-1]})
        weights = module.denoiser.backbone.state_dict()
        config, parts = {**resolved(cfg), "classes": data.classes}, {"daclip": Path(cfg.daclip)}
        save_artifact(folder, "restorer", config, weights, module.results(), record, parts)
    return clock


def train_arm(overrides: list[str], folder: Path, minutes: float, passes: int) -> list[tuple[float, float]]:
    """Points (minutes of training, validation PSNR in dB) of one arm."""
    steps = fit(overrides, folder, CALIBRATION, 0).steps
    a_step = (steps[-1] - steps[4]) / (len(steps) - 5)
    clock = fit(overrides, folder, max(round(minutes * 60 / a_step), passes), passes)
    return [(seconds / 60, score) for seconds, score in clock.points]


def verdict(curves: dict[str, list[tuple[float, float]]]) -> str:
    """When the default passes the final quality of the official objective."""
    (default, points), goal = next(iter(curves.items())), curves[OFFICIAL][-1]
    reached = next((minutes for minutes, score in points if score >= goal[1]), None)
    if reached is None:
        return f"{default} does not reach the {goal[1]:.2f} dB of the {OFFICIAL} at {goal[0]:.1f} min"
    return (
        f"{default} reaches the {goal[1]:.2f} dB that the {OFFICIAL} has after {goal[0]:.1f} min within "
        f"{reached:.1f} min ({reached / goal[0]:.0%} of the time; a validation pass every {points[0][0]:.1f} min)"
    )


def main() -> None:
    """Run what is missing and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--daclip", required=True, type=Path, help="stage-1 artifact")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training, each arm")
    parser.add_argument("--passes", type=int, default=20, help="validation passes, evenly spread")
    parser.add_argument("--recipe", default="embedded_restorer")
    parser.add_argument("--official-steps", type=int, default=20, help="steps of the official arm's sampler")
    parser.add_argument("--output", type=Path, default=Path("outputs/time_to_quality"))
    chosen, overrides = parser.parse_known_args()
    torch.set_float32_matmul_precision("high")
    console = Console(soft_wrap=True)
    shared = [f"experiment={chosen.recipe}", f"daclip={chosen.daclip}"]
    curves: dict[str, list[tuple[float, float]]] = {}
    for number, (arm, own) in enumerate(ARMS.items()):
        kept = chosen.output / f"arm_{number}.json"
        if not kept.is_file():
            console.print(f"training: {arm}")
            more = [f"sampler.steps={chosen.official_steps}"] if arm == OFFICIAL else []
            folder = kept.with_suffix("")
            points = train_arm([*shared, *own, *overrides, *more], folder, chosen.minutes, chosen.passes)
            write_json(kept, points)
        curves[arm] = [(minutes, score) for minutes, score in json.loads(kept.read_text(encoding="utf-8"))]
    sentence = verdict(curves)
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    for arm, points in curves.items():
        axes.plot(*zip(*points, strict=True), label=arm)
    axes.set(xlabel="minutes of training", ylabel="validation PSNR in dB")
    axes.legend()
    figure.savefig(chosen.output / "result.svg")
    write_text(chosen.output / "result.md", sentence + ".\n")
    record = provenance(0, ["python", "experiments/time_to_quality.py"], {})
    write_json(chosen.output / "result.json", {"curves": curves, "verdict": sentence, "record": record})
    console.print(sentence)
    console.print(f"written: {chosen.output}/result.json, result.md, result.svg")


if __name__ == "__main__":
    main()
