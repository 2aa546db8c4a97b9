"""Train both stages for a while and watch the processes: does anything grow, pile up or slow down?

Question: can a run last for days?
Command:  make soak MINUTES=60, which is python experiments/soak.py 60 [--output outputs/soak]
Expected: exit status 0; memory, open files and children flat, no zombies, throughput steady, in report.md and soak.svg.

Each stage runs for half of the time as its command, with two loader processes, validation passes and saved states. At
the end it is asked to stop by SIGTERM and must end with status 75 and leave no process behind.
"""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure

from daclip.files import write_json, write_text

WARM_UP = 0.25  # share of the time in which caches fill and which the limits leave out
GROWTH = 0.05  # of memory and open files that may be noise
MEGABYTES = 40.0  # of memory that may be noise in any case
SLOWEST = 0.75  # of the throughput of the first half that the second must reach
WORKERS = 2
STAGES = {
    "daclip": ["experiment=smoke_daclip", "output=out/daclip", "data.samples_per_epoch=4000"],
    "restorer": [
        "experiment=smoke_restorer",
        "output=out/restorer",
        "backbone=nafnet",
        "backbone.width=16",
        "~backbone.multipliers",
        "data.samples_per_epoch=4000",
    ],
}
SHARED = [
    "trainer.max_steps=100000000",
    "trainer.log_every_n_steps=5",
    f"data.num_workers={WORKERS}",
    "data.crop_size=48",
    "callbacks.checkpoint.every_n_steps=200",
    "~callbacks.progress",
]


@dataclass(frozen=True)
class Sample:
    """The process tree of a run at one moment.

    Attributes:
        minutes: Since the start of the stage.
        megabytes: Memory of its own (not shared with others) of all processes.
        files: Open files of all processes.
        processes: Processes, without zombies.
        zombies: Ended processes that nobody asked for.
        steps: Optimiser steps logged so far.
    """

    minutes: float
    megabytes: float
    files: int
    processes: int
    zombies: int
    steps: int


def _status(process: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def tree(root: int) -> dict[int, dict[str, str]]:
    """Status of a process and of all that it started, by number."""
    every = {int(path.name): _status(int(path.name)) for path in Path("/proc").iterdir() if path.name.isdigit()}
    found, last = {root}, 0
    while len(found) != last:
        last = len(found)
        found |= {number for number, status in every.items() if int(status.get("PPid", 0)) in found}
    return {number: every[number] for number in found if every.get(number)}


def _files(process: int) -> int:
    try:
        return len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208 - a handle a file would count itself
    except OSError:
        return 0


def _steps(folder: Path) -> int:
    """The last step in the run's curves."""
    for path in folder.glob("out/*/*/logs/metrics.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            steps = [int(row["step"]) for row in csv.DictReader(file) if row.get("step")]
        return max(steps, default=0)
    return 0


def look(root: int, folder: Path, started: float) -> Sample:
    """One sample of a run."""
    every = tree(root)
    alive = {number: status for number, status in every.items() if not status.get("State", "Z").startswith("Z")}
    kilobytes = sum(int(status.get("RssAnon", "0 kB").split()[0]) for status in alive.values())
    return Sample(
        minutes=(time.monotonic() - started) / 60,
        megabytes=kilobytes / 1024,
        files=sum(_files(number) for number in alive),
        processes=len(alive),
        zombies=len(every) - len(alive),
        steps=_steps(folder),
    )


def soak(stage: str, minutes: float, folder: Path, interval: float) -> tuple[list[Sample], list[str]]:
    """Run one stage.

    Returns:
        The samples, and what was wrong with how the run ended.
    """
    command = [sys.executable, "-m", f"daclip.commands.train_{stage}", *STAGES[stage], *SHARED]
    started = time.monotonic()
    samples: list[Sample] = []
    wrong: list[str] = []
    log = folder / f"{stage}.txt"
    with log.open("w") as output:
        run = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        while time.monotonic() - started < 60 * minutes and run.poll() is None:
            time.sleep(interval)
            samples.append(look(run.pid, folder, started))
        children = set(tree(run.pid)) - {run.pid}
        run.send_signal(signal.SIGTERM)
        try:
            status = run.wait(timeout=120)
        except subprocess.TimeoutExpired:
            run.kill()
            status = run.wait()
    if status != 75:
        wrong.append(f"{stage}: ended with status {status} and not 75, see {log}")
    time.sleep(1)
    left = [number for number in children if _status(number)]
    if left:
        wrong.append(f"{stage}: {len(left)} processes were left behind")
    return samples, wrong


def verdict(stage: str, samples: list[Sample]) -> tuple[dict[str, float], list[str]]:
    """Figures behind the warm-up and which limits they break."""
    started = next((i for i, sample in enumerate(samples) if sample.steps), len(samples))
    running = samples[started:]
    settled = running[int(WARM_UP * len(running)) :]
    if len(settled) < 4:
        return {}, [f"{stage}: too few samples behind the warm-up, give more minutes"]
    half = len(settled) // 2
    first, second = settled[:half], settled[half:]

    def mean(part: list[Sample], value: Callable[[Sample], float]) -> float:
        return sum(value(sample) for sample in part) / len(part)

    def rate(part: list[Sample]) -> float:
        return (part[-1].steps - part[0].steps) / max(60 * (part[-1].minutes - part[0].minutes), 1e-9)

    figures = {
        "megabytes, first half": mean(first, lambda sample: sample.megabytes),
        "megabytes, second half": mean(second, lambda sample: sample.megabytes),
        "open files, first half": mean(first, lambda sample: sample.files),
        "open files, second half": mean(second, lambda sample: sample.files),
        "processes, most": max(sample.processes for sample in settled),
        "zombies, most": max(sample.zombies for sample in samples),
        "steps a second, first half": rate(first),
        "steps a second, second half": rate(second),
        "steps": samples[-1].steps,
    }
    wrong = []
    before, after = figures["megabytes, first half"], figures["megabytes, second half"]
    if after - before > max(GROWTH * before, MEGABYTES):
        wrong.append(f"{stage}: memory grows, {before:.0f} to {after:.0f} MB")
    before, after = figures["open files, first half"], figures["open files, second half"]
    if after > before * (1 + GROWTH) + 1:
        wrong.append(f"{stage}: open files grow, {before:.0f} to {after:.0f}")
    # A validation pass has loader processes of its own.
    if figures["processes, most"] > 2 + 2 * WORKERS:
        wrong.append(f"{stage}: up to {figures['processes, most']:.0f} processes")
    # One that has just ended may not have been asked for yet.
    if any(a.zombies and b.zombies and c.zombies for a, b, c in zip(samples, samples[1:], samples[2:], strict=False)):
        wrong.append(f"{stage}: zombies stay")
    if rate(second) < SLOWEST * rate(first):
        wrong.append(f"{stage}: slows down, {rate(first):.2f} to {rate(second):.2f} steps a second")
    return figures, wrong


def plot(found: dict[str, list[Sample]], path: Path) -> None:
    """Four charts over the minutes, as one picture."""
    rates = {
        stage: [
            (b.minutes, (b.steps - a.steps) / max(60 * (b.minutes - a.minutes), 1e-9))
            for a, b in zip(samples[::5], samples[5::5], strict=False)
        ]
        for stage, samples in found.items()
    }
    charts = {
        "memory in MB": {stage: [(s.minutes, s.megabytes) for s in samples] for stage, samples in found.items()},
        "open files": {stage: [(s.minutes, s.files) for s in samples] for stage, samples in found.items()},
        "processes": {stage: [(s.minutes, s.processes) for s in samples] for stage, samples in found.items()},
        "throughput in steps a second": rates,
    }
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(2, 2).flat, charts.items(), strict=True):
        for stage, points in curves.items():
            if points:
                axes.plot(*zip(*points, strict=True), label=stage)
        axes.set(title=title, xlabel="minutes", ylim=(0, None))
    figure.axes[0].legend()
    figure.savefig(path)


def main() -> None:
    """Soak, write the report, exit with 1 if a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("minutes", type=float, help="for both stages together")
    parser.add_argument("--output", type=Path, default=Path("outputs/soak"))
    parser.add_argument("--interval", type=float, help="seconds between two samples; by default 200 a stage")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    shutil.rmtree(output / "runs", ignore_errors=True)
    folder = output / "runs"
    folder.mkdir(parents=True)
    interval = arguments.interval or max(0.5, 60 * arguments.minutes / 2 / 200)
    found: dict[str, list[Sample]] = {}
    figures: dict[str, dict[str, float]] = {}
    wrong: list[str] = []
    # Stage 2 needs stage 1's artifact.
    first = ["experiment=smoke_daclip", "output=outputs/daclip"]
    subprocess.run(
        [sys.executable, "-m", "daclip.commands.train_daclip", *first],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for stage in STAGES:
        found[stage], ended = soak(stage, arguments.minutes / 2, folder, interval)
        figures[stage], limits = verdict(stage, found[stage])
        wrong += ended + limits
        shutil.rmtree(folder / "out", ignore_errors=True)
    names = list(dict.fromkeys(name for row in figures.values() for name in row))
    lines = [
        f"Both stages, {arguments.minutes:g} minutes, {WORKERS} loader processes; figures behind the first "
        f"{WARM_UP:.0%} of each stage.",
        "",
        f"| | {' | '.join(figures)} |",
        f"|---|{'---|' * len(figures)}",
        *(f"| {name} | {' | '.join(f'{row.get(name, 0):.5g}' for row in figures.values())} |" for name in names),
        "",
        *(wrong or ["No limit is broken."]),
        "",
    ]
    write_text(output / "report.md", "\n".join(lines))
    plot(found, output / "soak.svg")
    write_json(output / "samples.json", {stage: [asdict(sample) for sample in row] for stage, row in found.items()})
    sys.stdout.write("\n".join(lines))
    sys.stdout.write(f"written: {output / 'report.md'}, {output / 'soak.svg'}, {json.dumps(wrong)}\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
