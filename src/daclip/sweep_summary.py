"""What came out of a sweep: its runs, best first, and means over seeds."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from daclip.checkpoints import read_metrics, read_record
from daclip.jobs import objective

__all__ = ["markdown", "summarise"]

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
