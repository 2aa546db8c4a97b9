"""The table of recipes, from the records of their runs: `python -m daclip.recipes [runs=[ARTIFACT,…]]`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig
from rich.console import Console

from daclip.checkpoints import Artifact, read_metrics, read_record
from daclip.config import config_dir, run_entry, validated
from daclip.errors import DaclipError
from daclip.jobs import objective
from daclip.records import write_json, write_text
from daclip.schemas import RecipesConfig

__all__ = ["main", "recipe_record", "recipes", "table"]

# Options that say where and how a run is written down, not what is computed.
NEUTRAL = {"output", "daclip", "logger", "seed", "experiments", "hydra.run.dir"}
START, END = "<!-- recipes: written by `make recipes` -->", "<!-- recipes end -->"


def _default_recipe(kind: str) -> str:
    primary = yaml.safe_load((Path(config_dir()) / f"train_{kind}.yaml").read_text(encoding="utf-8"))
    return next(str(entry["experiments"]) for entry in primary["defaults"] if "experiments" in entry)


def recipe_record(artifact: str | Path) -> tuple[str, dict[str, Any]]:
    """Which recipe a finished run belongs to, and what the table needs of its record.

    Raises:
        DaclipError: The run changed the recipe on its command line.
    """
    kind = Artifact(artifact).config["kind"]
    record, metrics = read_record(artifact), read_metrics(artifact)
    given = dict(argument.split("=", 1) for argument in record["command"] if "=" in argument)
    changed = sorted(key for key in given if key not in NEUTRAL)
    if changed:
        raise DaclipError(f"{artifact}: not a run of a recipe, its command changed {', '.join(changed)}")
    name = given.get("experiments", _default_recipe(kind))
    scores: dict[str, Any] = {key: metrics[key] for key in ("degradation_accuracy", "mean", "steps") if key in metrics}
    kept = ("seed", "seconds", "finished", "commit", "dirty", "versions", "hardware", "data")
    return name, {"kind": kind, **scores, **{key: record[key] for key in kept if key in record}}


def _header(recipe: Path) -> dict[str, str]:
    """`Question`, `Command` and what else the comment at a recipe's top names."""
    header = recipe.read_text(encoding="utf-8").partition("defaults:")[0]
    return dict(re.findall(r"^# ([A-Z][a-z]+): +(.*)$", header, re.MULTILINE))


def _score(record: Mapping[str, Any]) -> str:
    if record["kind"] == "daclip":
        return f"accuracy {objective(record):.3f}"
    mean = record["mean"]
    return f"{mean['psnr']:.2f} dB ({mean['psnr'] - mean['psnr_lq']:+.2f})"


def _machine(record: Mapping[str, Any]) -> str:
    hardware = record["hardware"]
    return ", ".join(hardware["gpus"]) or f"{hardware['cores']} cores of {hardware['processor']}"


def table(folder: Path) -> list[str]:
    """One line a recipe; measured columns come from `records/NAME.json` and are empty without it."""
    lines = ["| recipe | question | command | measured | time | machine | seed | commit |", "|---" * 8 + "|"]
    for recipe in sorted(folder.glob("*.yaml")):
        header = _header(recipe)
        path = folder / "records" / f"{recipe.stem}.json"
        measured = ["not run yet", "", "", "", ""]
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            minutes, seconds = divmod(round(record["seconds"]["total"]), 60)
            commit = (record["commit"] or "")[:9] + ("+" if record["dirty"] else "")
            measured = [_score(record), f"{minutes} min {seconds} s", _machine(record), str(record["seed"]), commit]
        command = f"`{header['Command']}`" if "Command" in header else ""
        lines.append("| " + " | ".join([f"`{recipe.stem}`", header.get("Question", ""), command, *measured]) + " |")
    return lines


def recipes(cfg: DictConfig) -> Path:
    """Take over records, then write the table into README.md between its marks.

    Raises:
        DaclipError: A run belongs to no recipe here, or README.md has no marks.
    """
    folder = Path(cfg.folder)
    readme = folder / "README.md"
    if not readme.is_file():
        raise DaclipError(f"{readme}: no such file; give the folder of recipes, as in folder=experiments")
    text = readme.read_text(encoding="utf-8")
    if text.count(START) != 1 or text.count(END) != 1:
        raise DaclipError(f"{readme}: the lines '{START}' and '{END}' must be there once")
    taken = [recipe_record(run) for run in cfg.runs]
    for name, _ in taken:
        if not (folder / f"{name}.yaml").is_file():
            raise DaclipError(f"there is no recipe {folder / name}.yaml")
    for name, record in taken:
        write_json(folder / "records" / f"{name}.json", record)
    before, after = text.split(START)[0], text.split(END)[1]
    write_text(readme, before + "\n".join([START, *table(folder), END]) + after)
    Console().print(f"written: {readme}", soft_wrap=True)
    return readme


def main() -> None:
    """Entry point."""
    run_entry(lambda cfg: recipes(validated(cfg, RecipesConfig)), "recipes")


if __name__ == "__main__":
    main()
