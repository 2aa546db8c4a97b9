"""What came out of a sweep: its runs, best first, and means over seeds."""

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from daclip.artifacts import read_metrics, read_record
from daclip.commands.assembly import objective, resolved
from daclip.commands.schemas import SweepConfig
from daclip.config import config_dir, run_entry, validated
from daclip.errors import DaclipError
from daclip.files import write_json, write_text

SEED = "seed"


def _overrides(job: Path) -> dict[str, str]:
    """Key to value of everything on a job's command line."""
    found = yaml.safe_load((job / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
    pairs = (str(override).split("=", 1) for override in found)
    return {key.lstrip("+~"): value for key, *rest in pairs for value in rest}


def summarise(folder: Path) -> dict[str, Any]:
    """Finished runs below a sweep's folder.

    Returns:
        `runs`, best first: the overrides that differ between the runs, `score` (stage 1: accuracy, stage 2: mean
        PSNR), `seconds`, `folder`. `groups`, best first, where several runs differ in the seed alone: the other
        overrides, `mean`, `deviation` (sample standard deviation) and `count`.
    """
    jobs = sorted(path.parents[1] for path in folder.rglob("artifact/record.json"))
    found = {job: _overrides(job) for job in jobs}
    varied = [
        key
        for key in dict.fromkeys(key for overrides in found.values() for key in overrides)
        if len({overrides.get(key) for overrides in found.values()}) > 1
    ]
    runs: list[dict[str, Any]] = [
        {
            "overrides": {key: overrides[key] for key in varied if key in overrides},
            "score": objective(read_metrics(job / "artifact")),
            "seconds": read_record(job / "artifact")["seconds"]["total"],
            "folder": job.relative_to(folder).as_posix(),
        }
        for job, overrides in found.items()
    ]
    runs.sort(key=lambda run: -run["score"])
    grouped: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for run in runs:
        others = tuple((key, value) for key, value in run["overrides"].items() if key != SEED)
        grouped.setdefault(others, []).append(run["score"])
    groups: list[dict[str, Any]] = [
        {
            "overrides": dict(others),
            "mean": statistics.fmean(scores),
            "deviation": statistics.stdev(scores) if len(scores) > 1 else None,
            "count": len(scores),
        }
        for others, scores in grouped.items()
    ]
    groups.sort(key=lambda group: -group["mean"])
    return {"runs": runs, "groups": groups if len(groups) < len(runs) else []}


def _rows(heading: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (heading, ["---"] * len(heading), *rows)]


def markdown(name: str, summary: Mapping[str, Any]) -> str:
    """The summary as Markdown tables."""
    runs, groups = summary["runs"], summary["groups"]
    keys = list(dict.fromkeys(key for run in runs for key in run["overrides"]))
    lines = [f"# Sweep {name}", "", f"{len(runs)} runs, best first.", ""]
    lines += _rows(
        [*keys, "score", "seconds"],
        [
            [*(run["overrides"].get(key, "") for key in keys), f"{run['score']:.4f}", f"{run['seconds']:.0f}"]
            for run in runs
        ],
    )
    if groups:
        others = [key for key in keys if key != SEED]
        lines += ["", "Means over seeds (± sample standard deviation).", ""]
        lines += _rows(
            [*others, "score", "runs"],
            [
                [
                    *(group["overrides"].get(key, "") for key in others),
                    f"{group['mean']:.4f}" + ("" if group["deviation"] is None else f" ± {group['deviation']:.4f}"),
                    str(group["count"]),
                ]
                for group in groups
            ],
        )
    return "\n".join([*lines, ""])


KEYS = {"primary", "launcher", "launcher_options", "overrides", "grid"}
LAUNCHERS = ("basic", "joblib", "ray", "submitit_local", "submitit_slurm")


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")


def sweep_command(name: str, preset: Mapping[str, Any], folder: Path) -> list[str]:
    """The Hydra multirun of a preset.

    A run's folder is called after its place in the grid and not after its number, so that a second start of the
    sweep finds the runs of the first.

    Args:
        name: The preset's name.
        preset: `primary`, `launcher`, `launcher_options`, `overrides` and `grid`.
        folder: Of the sweep.

    Raises:
        DaclipError: The preset lacks something, or names something that does not exist.
    """
    missing = sorted(KEYS - {"launcher_options"} - set(preset))
    unknown = sorted(set(preset) - KEYS)
    if missing or unknown:
        raise DaclipError(f"sweep={name}: " + (f"{missing[0]} is missing" if missing else f"unknown key {unknown[0]}"))
    if not (Path(config_dir()) / f"{preset['primary']}.yaml").is_file():
        raise DaclipError(f"sweep={name}: there is no primary '{preset['primary']}' in conf/")
    if preset["launcher"] not in LAUNCHERS:
        raise DaclipError(f"launcher={preset['launcher']}: choose from {', '.join(LAUNCHERS)}")
    swept = {_key(override) for override in preset["grid"]}
    fixed = [override for override in preset["overrides"] if _key(override) not in swept]
    constant = sorted({_key(override) for override in fixed} | {"output"})
    return [
        *("-m", "daclip.commands.train", "--config-name", str(preset["primary"]), "--multirun"),
        f"hydra/launcher={preset['launcher']}",
        *_launcher_options(preset.get("launcher_options") or {}),
        f"hydra.sweep.dir='{folder}'",
        "hydra.sweep.subdir=${hydra.job.override_dirname}",
        f"hydra.job.config.override_dirname.exclude_keys=[{','.join(constant)}]",
        f"output='{folder}'",
        *fixed,
        *preset["grid"],
    ]


def start(command: Sequence[str]) -> int:
    """Run a Python command and return its exit status.

    A process of its own: a multirun inside this one's Hydra would not start. Ctrl+C reaches both processes, and this
    one waits until the other has saved its state.
    """
    process = subprocess.Popen([sys.executable, *command])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def _flat(options: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Nested options as overrides.

    >>> _flat({"seed": 1, "data": {"root": "my photos", "words": ["a", "b"]}})
    ['seed=1', 'data.root="my photos"', 'data.words=["a","b"]']
    """
    found: list[str] = []
    for key, value in options.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append(f"{prefix}{key}={json.dumps(value, separators=(',', ':'), ensure_ascii=False)}")
    return found


def _launcher_options(options: Mapping[str, Any]) -> list[str]:
    """Options of the launcher as overrides.

    >>> _launcher_options({"n_jobs": 2, "ray": {"init": {"num_cpus": 2}}})
    ['hydra.launcher.n_jobs=2', 'hydra.launcher.ray.init={}', '++hydra.launcher.ray.init.num_cpus=2']
    """
    found: list[str] = []
    for override in _flat(options, "hydra.launcher."):
        # The launcher's own groups, such as ray.init; what lies deeper belongs to the library behind it.
        group = ".".join(_key(override).split(".")[:-1][:4])
        if group == "hydra.launcher":
            found.append(override)
            continue
        # A group takes any key, which only ++ may add; merging nothing into it first is refused where there is none.
        if f"{group}={{}}" not in found:
            found.append(f"{group}={{}}")
        found.append(f"++{override}")
    return found


def sweep(cfg: DictConfig) -> dict[str, Any]:
    """Run what is left of the sweep, then write and print its summary.

    Raises:
        DaclipError: No preset is chosen, the launcher is not installed, or runs failed.
    """
    if not cfg.sweep:
        known = sorted(path.stem for path in (Path(config_dir()) / "sweep").glob("*.yaml"))
        raise DaclipError(f"say which sweep: sweep=NAME (make sweep SWEEP=NAME), one of {', '.join(known)}")
    name = HydraConfig.get().runtime.choices["sweep"]
    preset = resolved(cfg.sweep)
    preset["launcher"] = cfg.launcher or preset.get("launcher")
    preset["launcher_options"] = {**(preset.get("launcher_options") or {}), **resolved(cfg.launcher_options)}
    preset["overrides"] = [*preset.get("overrides", []), *_flat(resolved(cfg.job))]
    folder = Path(cfg.output).resolve() / name
    command = sweep_command(name, preset, folder)
    status = start(command)
    summary = summarise(folder)
    console = Console()
    if summary["runs"]:
        write_json(folder / "summary.json", {"command": ["python", *command], **summary})
        write_text(folder / "summary.md", markdown(name, summary))
        console.print(_table(f"{name}, best first", summary["runs"]))
        console.print(f"written: {folder}/summary.json, summary.md", soft_wrap=True)
    if status:
        left = f"; {len(summary['runs'])} runs are finished, the same command goes on" if summary["runs"] else ""
        raise DaclipError(f"the sweep stopped, see above{left}")
    return summary


def _table(title: str, runs: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=title)
    keys = list(dict.fromkeys(key for run in runs for key in run["overrides"]))
    for heading in (*keys, "score"):
        table.add_column(heading, justify="right" if heading == "score" else "left")
    for run in runs:
        table.add_row(*(run["overrides"].get(key, "") for key in keys), f"{run['score']:.4f}")
    return table


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: sweep(validated(cfg, SweepConfig)), "sweep")


if __name__ == "__main__":
    main()
