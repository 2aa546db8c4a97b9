"""Replay a run from its record and compare: `python -m daclip.reproduce run=FOLDER`."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from daclip.checkpoints import Artifact, read_metrics, read_record
from daclip.config import run_entry, validated
from daclip.errors import DaclipError
from daclip.evaluate import evaluate
from daclip.records import write_json
from daclip.reliability.trust import refuse_foreign_targets
from daclip.schemas import EvaluateConfig, ReproduceConfig, TrainConfig
from daclip.train import train

__all__ = ["differences", "main", "reproduce"]

TIMINGS = ("seconds_per_photo", "record")  # of metrics that no two runs share
CIRCUMSTANCES = ("commit", "dirty", "versions", "hardware", "data")


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every leaf in which two nested structures differ, by its dotted name.

    >>> list(differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}))
    [('a.c', 2, 3)]
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{path}[{i}]")
    elif old != new:
        yield path, old, new


def _distance(old: Any, new: Any) -> float:
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in (old, new)):
        return math.inf
    return abs(old - new)


def _moved(node: Any, before: str, after: str) -> Any:
    """The configuration with the paths of the run's own folder in the new one."""
    if isinstance(node, Mapping):
        return {key: _moved(value, before, after) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [_moved(value, before, after) for value in node]
    if isinstance(node, str) and (node == before or node.startswith(before + "/")):
        return after + node.removeprefix(before)
    return node


def _replay_training(folder: Path, output: Path) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """Train again: the old scores, the old record, and the new artifact."""
    artifact = Artifact(folder)
    record = read_record(folder)
    if not record.get("run_folder"):
        raise DaclipError(f"{folder}: its record does not name its run folder; it was written by an older version")
    run_folder = output / "run"
    refuse_foreign_targets(artifact.config, str(folder / "config.yaml"), training=True)
    config = _moved(artifact.config, record["run_folder"], str(run_folder.resolve()))
    kind = config.pop("kind")
    config |= {"output": str(output), "resume": None}
    config["logger"].pop("wandb", None)  # a replay is no new experiment
    if kind == "restorer":
        config["daclip"] = str(folder / "daclip")
    train(validated(OmegaConf.create(config), TrainConfig), run_folder)
    return read_metrics(folder), record, run_folder / "artifact"


def _replay_evaluation(folder: Path, output: Path) -> tuple[dict[str, Any], dict[str, Any], Path]:
    metrics = read_metrics(folder)
    config = metrics["record"].get("config")
    if config is None:
        raise DaclipError(f"{folder}: its record holds no configuration; it was written by an older version")
    refuse_foreign_targets(config, str(folder / "metrics.json"), training=True)
    # `latest` may have moved on.
    config |= {"output": str(output / "run"), "artifact": metrics.get("artifact")}
    evaluate(validated(OmegaConf.create(config), EvaluateConfig))
    return metrics, metrics["record"], output / "run"


def reproduce(cfg: DictConfig) -> dict[str, Any]:
    """Replay a run, compare, and write `reproduction.json`.

    Raises:
        DaclipError: There is nothing to replay, or scores lie further apart than the tolerance.
    """
    if cfg.run is None:
        raise DaclipError("give the folder of a run, as in run=outputs/restorer/latest (make reproduce RUN=…)")
    run, output = Path(cfg.run), Path(cfg.output)
    if not run.is_dir():
        raise DaclipError(f"run={run}: no such folder; check the path")
    folder = (run / "artifact" if (run / "artifact").is_dir() else run).resolve()
    trained, scored = (folder / "weights.safetensors").is_file(), (folder / "photos.csv").is_file()
    if not trained and not scored:
        raise DaclipError(f"run={run}: neither a training run, nor an artifact, nor an evaluation")
    if output.resolve().is_relative_to(folder) or folder.is_relative_to((output / "run").resolve()):
        raise DaclipError(f"output={output} would mix the replay with {run}; choose another folder")
    if trained:
        before, record, replayed = _replay_training(folder, output)
        again = read_record(replayed)
    else:
        before, record, replayed = _replay_evaluation(folder, output)
        again = read_metrics(replayed)["record"]
    after = read_metrics(replayed)
    for metrics in (before, after):
        for key in TIMINGS:
            metrics.pop(key, None)
    found = list(differences(before, after))
    apart = [(name, old, new) for name, old, new in found if _distance(old, new) > cfg.tolerance]
    then, now = ({key: facts.get(key) for key in CIRCUMSTANCES} for facts in (record, again))
    circumstances = list(differences(then, now))
    result = {
        "run": str(run),
        "identical": not found,
        "within_tolerance": not apart,
        "tolerance": cfg.tolerance,
        "differences": [{"name": name, "recorded": old, "replayed": new} for name, old, new in found],
        "circumstances": [{"name": name, "recorded": old, "replayed": new} for name, old, new in circumstances],
    }
    write_json(output / "reproduction.json", result)
    console = Console(soft_wrap=True)
    for name, old, new in circumstances:
        console.print(f"other than then: {name} was {_short(old)}, is {_short(new)}")
    if apart:
        name, old, new = max(apart, key=lambda row: _distance(row[1], row[2]))
        raise DaclipError(
            f"{len(apart)} scores differ, most of all {name}: {_short(old)} then, {_short(new)} now; "
            f"see {output / 'reproduction.json'}"
        )
    console.print("all scores are identical" if not found else f"all scores lie within {cfg.tolerance:g}")
    return result


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: reproduce(validated(cfg, ReproduceConfig)), "reproduce")


if __name__ == "__main__":
    main()
