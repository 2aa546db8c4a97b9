"""What a run leaves behind and another takes up: its folder, its recorded configuration and `latest`; sweeps (`-m`),
with their runs, best first, and means over seeds."""

import filecmp
import itertools
import logging
import math
import os
import shutil
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from rich.console import Console

from daclip.artifacts import CONFIG, UNSCORED, WEIGHTS, point_latest, present_names, read_metrics, read_record
from daclip.commands.assembly import resolved
from daclip.commands.options import markdown_table, say, text_table
from daclip.config import STAGES
from daclip.errors import DaclipError
from daclip.files import one_line, write_json, write_text
from daclip.training.checkpointing import FOLDER, RecordedConfig, checkpoint_to_resume, read_checkpoint

log = logging.getLogger(__name__)

# Begins the options that a checkpoint's weights and moments are made for.
FIXED = ("clip.", "backbone.", "process.", "stage.parameterization", "stage.optimizer._target_")
# Begins those that change nothing that is trained.
SILENT = ("resume", "output", "paths.", "logger.", "callbacks.", "init", "daclip", "classes")
SHOWN = 8  # differences that a line names
JOB = "job.yaml"  # the configuration that a job's folder belongs to
SEED = "seed"  # the option that runs of a group differ in


def claimed(folder: Path) -> Path:
    """A new folder for one run alone, made in one step: `folder`, or the same with a number where it is taken."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(2):
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
        folder = folder.with_name(f"{folder.name.removesuffix(f'_{number - 1}')}_{number}")
    raise AssertionError


def hold(artifact: Path, place: Path) -> None:
    """Give an artifact's files a second name, without a copy where both lie on one disk: whoever deletes the first
    during a run that needs it at its end costs it nothing."""

    def second_name(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)

    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(artifact, place, copy_function=second_name)


def claim(node: DictConfig) -> None:
    """Claim the folder `dir` that Hydra's `run` or `sweep` names after the time. One that the user gave is shared: by
    the ranks of a run, and with the run that it goes on from."""
    first_rank = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
    raw = OmegaConf.to_container(node, resolve=False)
    assert isinstance(raw, dict)
    if first_rank and "${now:" in str(raw["dir"]):
        node.dir = str(claimed(Path(node.dir)))


def claim_states(run_folder: Path) -> None:
    """Claim the run folder that a new run is to fill: another run there, over or not, would lose its artifact."""
    try:
        (run_folder / FOLDER).mkdir(parents=True)
    except FileExistsError:
        raise DaclipError(
            f"{run_folder} belongs to another run; go on with that by resume=auto, or name another hydra.run.dir"
        ) from None


def recorded_config(path: Path, checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """The resolved configuration of the run that a checkpoint, the content of `path`, comes from; None if unknown."""
    run_folder = path.absolute().parents[1]
    written = run_folder / ".hydra" / "config.yaml"
    if (config := RecordedConfig.of(checkpoint)) is not None or not written.is_file():
        return config

    # A run of an earlier version: Hydra wrote its configuration down with all references in it.
    def located(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: located(value) for key, value in node.items()}
        if isinstance(node, list):
            return [located(value) for value in node]
        return node.replace("${hydra:runtime.output_dir}", str(run_folder)) if isinstance(node, str) else node

    cfg = OmegaConf.create(located(yaml.safe_load(written.read_text(encoding="utf-8"))))
    assert isinstance(cfg, DictConfig)
    return resolved(cfg)


def flat(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and plain values of nested mappings."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, node


class Resumed:
    """The checkpoint that a run goes on from, compared with the run before anything is restored from it."""

    def __init__(self, path: Path):
        self.path = path
        # Nothing but the names is read here; the whole file is checked when it is restored.
        try:
            self.content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            self.config = present_names(recorded_config(path, self.content))
        except Exception as error:
            read_checkpoint(path)  # says what is wrong with the file
            raise DaclipError(f"resume={path}: its configuration cannot be read ({one_line(error)})") from None

    def guide(self) -> str | None:
        """The stage-1 artifact of a stage-2 run, where it is known."""
        return None if self.config is None or self.config.get("clip") else self.config.get("daclip")

    def compare(self, config: Mapping[str, Any]) -> None:
        """Refuse a run that these weights are not made for; say what else differs."""
        if self.config is None:
            return
        kinds = ["daclip" if found.get("clip") else "restorer" for found in (self.config, config)]
        if kinds[0] != kinds[1]:
            raise DaclipError(
                f"resume={self.path}: a state of {STAGES[kinds[0]]}, and this is {STAGES[kinds[1]]}; "
                f"use make train-{kinds[0]}"
            )
        before, now = dict(flat(self.config)), dict(flat(config))
        changed = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
        changed = sorted(name for name in changed if not name.startswith(SILENT))
        told = {name: f"{name} {before.get(name)} → {now.get(name)}" for name in changed}
        # A schedule of one's own has the optimiser's numbers in its state.
        scheduled = (config.get("stage") or {}).get("scheduler")
        begins = (*FIXED, "stage.optimizer.", "stage.scheduler.") if scheduled else FIXED
        given = [name for name in changed if name in before and now.get(name) is not None]
        if fixed := [told[name] for name in given if name.startswith(begins)]:
            raise DaclipError(
                f"resume={self.path}: its run had other parts: {'; '.join(fixed[:SHOWN])}; "
                "give the same ones, or start anew without resume"
            )
        guides = [Path(found) / WEIGHTS for found in (self.guide(), config["daclip"]) if found]
        if len(guides) == 2 and guides[0].is_file() and not filecmp.cmp(guides[0], guides[1], shallow=False):
            raise DaclipError(
                f"resume={self.path}: its network knows the embeddings of {guides[0].parent} only, not of "
                f"{guides[1].parent}; leave daclip out, or start anew without resume"
            )
        if told:
            more = f" and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
            log.info("goes on from %s with other options: %s%s", self.path, "; ".join([*told.values()][:SHOWN]), more)

    def prepare(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Refuse weights of another shape, say where nothing is left to train, and carry the best score over."""
        own = {name: value.shape for name, value in module.state_dict().items()}
        state = self.content.get("state_dict", {})
        wrong = sorted(
            name for name in own.keys() | state.keys() if name not in state or state[name].shape != own.get(name)
        )
        averages = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if not wrong and averages != ("averaging_state" in self.content):
            wrong = ["the average of the weights (callbacks.ema)"]
        if wrong:
            raise DaclipError(
                f"resume={self.path}: does not fit this run at {', '.join(wrong[:3])}; "
                "give the options of its own run, or start anew without resume"
            )
        steps = self.content["global_step"]
        if 0 < trainer.max_steps <= steps:
            log.info(
                "nothing is left to train: %d of %d steps are done; raise trainer.max_steps", steps, trainer.max_steps
            )
        for callback in trainer.checkpoint_callbacks:
            # Lightning carries the score over only where the run goes on in the same folder.
            found = self.content.get("callbacks", {}).get(callback.state_key)
            if isinstance(callback, ModelCheckpoint) and found:
                for name in ("best_model_score", "best_k_models", "kth_best_model_path", "kth_value"):
                    setattr(callback, name, found[name])


def is_job() -> bool:
    """Whether this run is a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def is_trial(trainer: L.Trainer) -> bool:
    """Whether a run only proves that something runs: the preset `trainer=smoke`, or Lightning's `fast_dev_run`."""
    preset = HydraConfig.get().runtime.choices.get("trainer") if HydraConfig.initialized() else None
    return bool(trainer.fast_dev_run) or preset == "smoke"  # type: ignore[attr-defined]


def take_latest(artifact: Path, root: str | Path) -> bool:
    """Let `root/latest` point at the artifact, unless it is a trial's and `latest` is not; whether it does now."""
    latest = Path(root, "latest")
    if read_record(artifact).get("trial") and latest.is_dir() and not read_record(latest).get("trial"):
        return False
    point_latest(artifact, root)
    return True


def objective(metrics: Mapping[str, Any]) -> float | None:
    """The score that a sweep maximises: stage 1's accuracy, stage 2's mean PSNR; None for a run that has no scores."""
    if UNSCORED in metrics:
        return None
    return float(metrics["degradation_accuracy"] if "degradation_accuracy" in metrics else metrics["mean"]["psnr"])


def continue_job(cfg: DictConfig, run_folder: Path) -> tuple[DictConfig, dict[str, Any] | None]:
    """Configuration for the rest of a job (validated, `resume` set where a checkpoint exists), and scores if finished.

    A job whose earlier attempt had another configuration starts anew.
    """
    text = yaml.safe_dump(resolved(cfg), sort_keys=True, allow_unicode=True)
    job = run_folder / JOB
    if job.is_file() and job.read_text(encoding="utf-8") == text:
        if (run_folder / "artifact" / "record.json").is_file():
            log.info("finished before: %s", run_folder)
            return cfg, read_metrics(run_folder / "artifact")
        checkpoint = checkpoint_to_resume("auto", cfg.output, run_folder)
        if checkpoint is not None and cfg.resume is None:
            log.info("goes on from %s", checkpoint)
            resumed = OmegaConf.merge(cfg, {"resume": str(checkpoint)})
            assert isinstance(resumed, DictConfig)
            return resumed, None
    write_text(job, text)
    return cfg, None


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

    A run has its varying overrides, `score` (see `objective`), `seconds` and `folder`; a group has its overrides,
    `mean`, `deviation` (sample standard deviation) and `count`.
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


def finish_sweep(whole: bool) -> None:
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
