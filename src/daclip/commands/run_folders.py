"""What a run leaves behind and another takes up: its folder, its recorded configuration, and `latest`."""

import filecmp
import itertools
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from omegaconf import DictConfig, OmegaConf

from daclip.artifacts import WEIGHTS, point_latest, present_names, read_record
from daclip.commands.assembly import resolved
from daclip.config import STAGES
from daclip.errors import DaclipError
from daclip.files import one_line
from daclip.training.checkpointing import FOLDER, RecordedConfig, read_checkpoint

log = logging.getLogger(__name__)

# Begins the options that a checkpoint's weights and moments are made for.
FIXED = ("clip.", "backbone.", "process.", "stage.parameterization", "stage.optimizer._target_")
# Begins those that change nothing that is trained.
SILENT = ("resume", "output", "paths.", "logger.", "callbacks.", "init", "daclip", "classes")
SHOWN = 8  # differences that a line names


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
        told = [f"{name} {before.get(name)} → {now.get(name)}" for name in changed]
        # A schedule of one's own has the optimiser's numbers in its state.
        scheduled = (config.get("stage") or {}).get("scheduler")
        begins = (*FIXED, "stage.optimizer.", "stage.scheduler.") if scheduled else FIXED
        fixed = [text for name, text in zip(changed, told, strict=True) if name.startswith(begins) and name in before]
        if fixed := [text for text in fixed if not text.endswith("→ None")]:
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
            log.info("goes on from %s with other options: %s%s", self.path, "; ".join(told[:SHOWN]), more)

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
