"""Runs that a report reads, each from its folder, and the comparison of evaluations."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from daclip.artifacts import UNSCORED, read_metrics, read_record
from daclip.errors import DaclipError
from daclip.metrics.scorer import Difference, PhotoScore, paired_difference
from daclip.rng import generator_for

FACTS = ("name", "crop", "degradation", "recognised")  # columns of photos.csv that are no scores


@dataclass(frozen=True)
class Run:
    """One folder of a report."""

    label: str
    kind: str  # `evaluation`, `recognition` (an evaluation of stage 1), `samplers`; `daclip` or `restorer` (training)
    folder: Path
    metrics: dict[str, Any]  # `metrics.json`; of a sampler report `report.json`
    record: dict[str, Any]  # provenance
    photos: list[PhotoScore] = field(default_factory=list)  # of an evaluation: its `photos.csv`
    # Of a training run: logged name to points (step, value); empty where only the artifact is left.
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Runs:
    """The runs of a report, each kind in the order given."""

    evaluations: list[Run]
    recognitions: list[Run]
    trainings: list[Run]
    samplers: list[Run]


def _photos(path: Path) -> list[PhotoScore]:
    with path.open(encoding="utf-8", newline="") as file:
        photos = []
        for row in csv.DictReader(file):
            scores = {key: float(value) for key, value in row.items() if key not in FACTS}
            facts = (row["name"], int(row["crop"]), row["degradation"], row["recognised"] or None)
            photos.append(PhotoScore(*facts, scores))
        return photos


def _curves(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """The points that a run logged. A resumed run has files of its earlier attempts, `metrics_1.csv` and so on; what an
    attempt logged behind the step that the next one began at was lost with it."""
    attempts = sorted(folder.glob("metrics_*.csv"), key=lambda path: int(path.stem.partition("_")[2]))
    curves: dict[str, list[tuple[float, float]]] = {}
    for path in [*attempts, *folder.glob("metrics.csv")]:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        start = min((float(row["step"]) + 1 for row in rows), default=math.inf)
        for name, points in curves.items():
            curves[name] = [point for point in points if point[0] < start]
        for row in rows:
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    curves.setdefault(name, []).append((float(row["step"]) + 1, float(value)))
    return curves


def _folders(names: Sequence[str]) -> list[Path]:
    """The folders to read: those given, and in place of a sweep those of its finished jobs."""
    found: list[Path] = []
    for path in map(Path, names):
        if not path.is_dir():
            raise DaclipError(f"{path}: no such folder; check the path")
        if not (path / "multirun.yaml").is_file():
            found.append(path)
        elif jobs := sorted(record.parents[1] for record in path.rglob("artifact/record.json")):
            found += jobs
        else:
            raise DaclipError(f"{path}: no job of this sweep is finished yet")
    return found


def _labels(folders: Sequence[Path]) -> list[str]:
    """The shortest end of each path that no other path has."""
    parts = [folder.absolute().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise DaclipError("the same folder is given twice; name each run once")
    labels = []
    for part in parts:
        ends = (part[-length:] for length in range(1, len(part) + 1))
        labels.append("/".join(next(end for end in ends if [p[-len(end) :] for p in parts].count(end) == 1)))
    return labels


def read_runs(folders: Sequence[str]) -> Runs:
    """Read every folder as what it is; of a sweep, those of its jobs."""
    paths = _folders(folders)
    runs = []
    for path, label in zip(paths, _labels(paths), strict=True):
        try:
            runs.append(_read(path, label))
        except (KeyError, ValueError, TypeError) as error:
            raise DaclipError(f"{path}: damaged, or of another version ({error!r}); run it again") from error
    kinds = [("evaluation",), ("recognition",), ("daclip", "restorer"), ("samplers",)]
    return Runs(*([run for run in runs if run.kind in kind] for kind in kinds))


def _read(path: Path, label: str) -> Run:
    artifact = path / "artifact" if (path / "artifact").is_dir() else path
    if (path / "photos.csv").is_file():
        metrics = read_metrics(path)
        return Run(label, "evaluation", path, metrics, metrics["record"], photos=_photos(path / "photos.csv"))
    if (artifact / "weights.safetensors").is_file():
        metrics = read_metrics(artifact)
        if UNSCORED in metrics:
            raise DaclipError(f"{path}: has no scores ({metrics[UNSCORED]}); report an evaluation of it")
        kind = "daclip" if "degradation_accuracy" in metrics else "restorer"
        curves = _curves(artifact.resolve().parent / "logs")
        return Run(label, kind, path, metrics, read_record(artifact), curves=curves)
    if (path / "reliability.png").is_file():
        metrics = read_metrics(path)
        return Run(label, "recognition", path, metrics, metrics["record"])
    if (path / "report.json").is_file():
        report = json.loads((path / "report.json").read_text(encoding="utf-8"))
        return Run(label, "samplers", path, report, report["record"])
    raise DaclipError(f"{path}: neither an evaluation, nor a training run, nor a sampler report")


def inputs_agree(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two rows of scores are of the same degraded photos, as far as those have scores."""
    return all(math.isclose(a[name], b[name], abs_tol=1e-3) for name in a.keys() & b.keys() if name.endswith("_lq"))


def same_inputs(evaluations: Sequence[Run]) -> bool:
    """Whether evaluations scored the same degraded photos: the same rows, and the same scores before restoring."""
    rows = [{(p.name, p.crop, p.degradation): p.scores for p in one.photos} for one in evaluations]
    return all(
        rows[0].keys() == other.keys() and all(inputs_agree(rows[0][key], other[key]) for key in other)
        for other in rows[1:]
    )


def metric_names(row: Mapping[str, Any]) -> list[str]:
    """Metrics of a row of scores, without those of the degraded photo."""
    return [name for name in row if name != "count" and not name.endswith("_lq")]


@dataclass(frozen=True)
class Comparison:
    """One metric of one evaluation against the first."""

    label: str  # of the evaluation
    metric: str
    rows: int  # photos in common, each crop and degradation counted
    difference: Difference | None  # None where nothing can be said
    verdict: str  # `better`, `worse`, `no clear difference`, or why nothing can be said


def holm(values: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted so that the chance of any false alarm stays what it says (Holm 1979)."""
    adjusted = [0.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, round((len(values) - rank) * values[index], 12)))
        adjusted[index] = largest
    return adjusted


def compare(evaluations: Sequence[Run], draws: int, confidence: float, seed: int) -> list[Comparison]:
    """Every evaluation after the first against the first, metric by metric, on the photos in common (paired bootstrap).
    A difference is called by its p-value, adjusted for the number of comparisons."""

    def rules(evaluation: Run) -> list[object]:
        return [evaluation.metrics["protocol"][key] for key in ("eight_bit", "border", "colour")]

    row_of = attrgetter("name", "crop", "degradation")
    first = evaluations[0]
    found: list[Comparison] = []
    for other in evaluations[1:]:
        if rules(first) != rules(other):
            found.append(Comparison(other.label, "", 0, None, "another protocol: not comparable"))
            continue
        given = {row_of(p): p.scores for p in first.photos}
        if not all(inputs_agree(given[row_of(p)], p.scores) for p in other.photos if row_of(p) in given):
            found.append(Comparison(other.label, "", 0, None, "other degraded photos: not comparable"))
            continue
        for name in [name for name in metric_names(first.metrics["mean"]) if name in other.metrics["mean"]]:
            rows = [p for p in other.photos if row_of(p) in given]
            gaps = torch.tensor([p.scores[name] - given[row_of(p)][name] for p in rows], dtype=torch.float64)
            units, classes = [p.name for p in rows], [p.degradation for p in rows]
            difference = None
            if rows:
                difference = paired_difference(units, classes, gaps, draws, confidence, generator_for(seed))
            verdict = "infinite scores" if rows else "no photo in common"
            found.append(Comparison(other.label, name, len(rows), difference, verdict))
    adjusted = iter(holm([one.difference.p for one in found if one.difference]))
    for i, one in enumerate(found):
        if one.difference:
            p, up = next(adjusted), (one.difference.mean > 0) is first.metrics["higher_is_better"][one.metric]
            verdict = "no clear difference" if p > 1 - confidence else "better" if up else "worse"
            found[i] = replace(one, difference=replace(one.difference, p=p), verdict=verdict)
    return found
