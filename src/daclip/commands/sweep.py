"""Results of a sweep (`-m`): its runs, best first, and means over seeds."""

import math
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write
from rich.console import Console

from daclip.artifacts import CONFIG, read_metrics, read_record
from daclip.commands.assembly import objective
from daclip.commands.options import markdown_table, say, text_table
from daclip.commands.run_folders import claim, take_latest
from daclip.files import write_json, write_text

SEED = "seed"


class Sweep(Callback):
    """Hydra callback: claims the folder of a run or sweep, and names job folders after the options that vary;
    command-line options replace the preset's."""

    folder: ClassVar[Path | None] = None

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim the run's folder."""
        with read_write(config.hydra):
            claim(config.hydra.run)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim the sweep's folder; leave options that are the same for all jobs out of the names of their folders."""
        with read_write(config.hydra):
            claim(config.hydra.sweep)
        type(self).folder = Path(config.hydra.sweep.dir)
        given = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        constant = sorted({override.key_or_group for override in given if not override.is_sweep_override()})
        names = ",".join(f"'{name}'" for name in constant)
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{names}]")
            for key in {override.key_or_group for override in given} & set(config.hydra.sweeper.get("params") or {}):
                del config.hydra.sweeper.params[key]


def _overrides(job: Path) -> dict[str, str]:
    """Key to value of everything on a job's command line."""
    found = yaml.safe_load((job / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
    pairs = (str(override).split("=", 1) for override in found)
    return {key.lstrip("+~"): value for key, *rest in pairs for value in rest}


def summarise(folder: Path) -> dict[str, Any]:
    """Finished runs below a sweep's folder: `runs` and, for runs that differ in the seed alone, `groups`; best first.

    A run has its varying overrides, `score` (stage 1: accuracy, stage 2: mean PSNR, None without validation), `seconds`
    and `folder`; a group
    has its overrides, `mean`, `deviation` (sample standard deviation) and `count`.
    """
    jobs = sorted(path.parents[1] for path in folder.rglob("artifact/record.json"))
    found = {job: _overrides(job) for job in jobs}
    keys = dict.fromkeys(key for overrides in found.values() for key in overrides)
    varied = [key for key in keys if len({overrides.get(key) for overrides in found.values()}) > 1]
    runs: list[dict[str, Any]] = [
        {
            "overrides": {key: overrides[key] for key in varied if key in overrides},
            "score": objective(read_metrics(job / "artifact")),
            "seconds": read_record(job / "artifact")["seconds"]["total"],
            "folder": job.relative_to(folder).as_posix(),
        }
        for job, overrides in found.items()
    ]
    runs.sort(key=lambda run: math.inf if run["score"] is None else -run["score"])
    grouped: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for run in (run for run in runs if run["score"] is not None):
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


def _tables(summary: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Title → heading and rows."""
    keys = list(dict.fromkeys(key for run in summary["runs"] for key in run["overrides"]))
    runs = [
        [
            *(run["overrides"].get(key, "") for key in keys),
            "–" if run["score"] is None else f"{run['score']:.4f}",
            f"{run['seconds']:.0f}",
        ]
        for run in summary["runs"]
    ]
    tables = {f"{len(runs)} runs, best first": [[*keys, "score", "seconds"], *runs]}
    if summary["groups"]:
        others = [key for key in keys if key != SEED]
        means = [
            [
                *(group["overrides"].get(key, "") for key in others),
                f"{group['mean']:.4f}" + ("" if group["deviation"] is None else f" ± {group['deviation']:.4f}"),
                str(group["count"]),
            ]
            for group in summary["groups"]
        ]
        tables["Means over seeds (± sample standard deviation)"] = [[*others, "score", "runs"], *means]
    return tables


def finish(whole: bool) -> None:
    """Print this process's sweep, if any, and write `summary.json` and `summary.md`; `whole`: all jobs finished."""
    folder = Sweep.folder
    if folder is None or not (summary := summarise(folder))["runs"]:
        return
    lines = [f"# Sweep {folder.name}", ""]
    for title, (heading, *rows) in _tables(summary).items():
        lines += [f"{title}.", "", *markdown_table(heading, rows), ""]
        Console().print(text_table(title, heading, rows))
    write_json(folder / "summary.json", {"command": sys.argv, **summary})
    write_text(folder / "summary.md", "\n".join(lines))
    say(f"written: {folder}/summary.json, summary.md")
    best = folder / summary["runs"][0]["folder"] / "artifact"
    root = yaml.safe_load((best / CONFIG).read_text(encoding="utf-8")).get("output", folder)
    if summary["runs"][0]["score"] is not None and take_latest(best, root):
        say(f"{root}/latest: the best of them, {best}")
    if not whole:
        say(f"{len(summary['runs'])} runs are finished; the same command goes on with the rest")
