"""Runs that a report reads: evaluations of both stages, training runs and sampler reports, each from its folder."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daclip.artifacts import read_metrics, read_record
from daclip.errors import DaclipError
from daclip.metrics.scorer import PhotoScore

FACTS = ("name", "crop", "degradation", "recognised")  # columns of photos.csv that are no scores


@dataclass(frozen=True)
class Evaluation:
    """A folder that `daclip evaluate` wrote: its `metrics.json` and `photos.csv`."""

    label: str
    folder: Path
    metrics: dict[str, Any]
    photos: list[PhotoScore]


@dataclass(frozen=True)
class Recognition:
    """A folder with an evaluation of stage 1: its `metrics.json`."""

    label: str
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Training:
    """A finished training run.

    Attributes:
        label: Its name in the report.
        kind: `daclip` or `restorer`.
        metrics: The artifact's scores.
        record: Its provenance.
        curves: Logged name to points (step, value); empty where only the artifact is left.
    """

    label: str
    kind: str
    metrics: dict[str, Any]
    record: dict[str, Any]
    curves: dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class SamplerScores:
    """A folder that `daclip sampler-report` wrote: one entry a sampler, grid and budget."""

    label: str
    scores: list[dict[str, Any]]


@dataclass(frozen=True)
class Runs:
    """The runs of a report, each kind in the order given."""

    evaluations: list[Evaluation]
    recognitions: list[Recognition]
    trainings: list[Training]
    samplers: list[SamplerScores]


def _photos(path: Path) -> list[PhotoScore]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            PhotoScore(
                row["name"],
                int(row["crop"]),
                row["degradation"],
                row["recognised"] or None,
                {key: float(value) for key, value in row.items() if key not in FACTS},
            )
            for row in csv.DictReader(file)
        ]


def _curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    curves: dict[str, list[tuple[float, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    curves.setdefault(name, []).append((float(row["step"]) + 1, float(value)))
    return curves


def _labels(folders: Sequence[Path]) -> list[str]:
    """The shortest end of each path that no other path has."""
    parts = [folder.absolute().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise DaclipError("the same folder is given twice in runs=[…]; name each run once")
    labels = []
    for part in parts:
        ends = (part[-length:] for length in range(1, len(part) + 1))
        labels.append("/".join(next(end for end in ends if [p[-len(end) :] for p in parts].count(end) == 1)))
    return labels


def read_runs(folders: Sequence[str]) -> Runs:
    """Read every folder as what it is.

    Raises:
        DaclipError: A folder is missing or damaged, or holds none of these kinds.
    """
    if not folders:
        raise DaclipError("give folders of runs, as in runs=[outputs/evaluation] (make report RUNS=outputs/evaluation)")
    paths = [Path(folder) for folder in folders]
    runs = Runs([], [], [], [])
    for path, label in zip(paths, _labels(paths), strict=True):
        if not path.is_dir():
            raise DaclipError(f"{path}: no such folder; check the path")
        try:
            _read(path, label, runs)
        except (KeyError, ValueError, TypeError) as error:
            raise DaclipError(f"{path}: damaged, or of another version ({error!r}); run it again") from error
    return runs


def _read(path: Path, label: str, runs: Runs) -> None:
    artifact = path / "artifact" if (path / "artifact").is_dir() else path
    if (path / "photos.csv").is_file():
        runs.evaluations.append(Evaluation(label, path, read_metrics(path), _photos(path / "photos.csv")))
    elif (artifact / "weights.safetensors").is_file():
        metrics = read_metrics(artifact)
        kind = "daclip" if "degradation_accuracy" in metrics else "restorer"
        log = artifact.resolve().parent / "logs" / "metrics.csv"
        curves = _curves(log) if log.is_file() else {}
        runs.trainings.append(Training(label, kind, metrics, read_record(artifact), curves))
    elif (path / "reliability.png").is_file():
        runs.recognitions.append(Recognition(label, read_metrics(path)))
    elif (path / "report.json").is_file():
        found = json.loads((path / "report.json").read_text(encoding="utf-8"))
        runs.samplers.append(SamplerScores(label, found["scores"]))
    else:
        raise DaclipError(f"{path}: neither an evaluation, nor a training run, nor a sampler report")
