"""Loggers: configuration and pictures for all of them; for Weights & Biases tables, and artifacts with lineage."""

import logging
import os
import sys
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL.Image import Image
from torchvision.transforms.functional import pil_to_tensor

from daclip.images import to_pil
from daclip.metrics.image import psnr
from daclip.pixels import quantise
from daclip.types import RestorationBatch

log = logging.getLogger(__name__)


def logged_step(trainer: L.Trainer) -> int:
    """The step that Lightning writes beside scalars: in a validation pass one less than `trainer.global_step`."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def first_rank() -> bool:
    """Whether this is the first process, by its environment: loggers are made before Lightning numbers processes."""
    return not _get_rank()


def mlflow_logger(**options: Any) -> Logger:
    """MLflow's logger, on the first rank only: it opens its database, and may have to make it, when it is made."""
    return MLFlowLogger(**options) if first_rank() else DummyLogger()


@rank_zero_only
def describe_run(loggers: Iterable[Logger], config: Mapping[str, Any]) -> None:
    """Give loggers the resolved configuration; csv has it in `.hydra` beside it. The keys are the command line's."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):  # nested, as wandb groups it
            logger.experiment.config.update(dict(config), allow_val_change=True)
        elif not isinstance(logger, CSVLogger):
            logger.log_hyperparams(dict(config))


def log_picture(trainer: L.Trainer, key: str, picture: Image, caption: str) -> None:
    """Show a picture in every logger that shows any, beside the scalars of the same step."""
    step = logged_step(trainer)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, [picture], step=step, caption=[caption])
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(key, pil_to_tensor(picture), step)
            logger.experiment.add_text(f"{key}/caption", caption, step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, picture, artifact_file=f"{key}/step_{step:06d}.png")


def _mode() -> str:
    """`WANDB_MODE`; without it online for a user who is logged in and has a network, else offline."""
    import requests
    import wandb

    if "WANDB_MODE" in os.environ:
        return os.environ["WANDB_MODE"]
    if not wandb.login(prompt=False):
        return "offline"
    try:
        requests.head(wandb.setup().settings.base_url, timeout=5)
    except requests.RequestException:
        log.warning("wandb cannot be reached: the run is written offline, `wandb sync` uploads it later")
        return "offline"
    return "online"


def wandb_logger(
    project: str, save_dir: str, name: str | None, group: str | None, job: str, log_model: bool, **options: Any
) -> WandbLogger:
    """A wandb logger that works without account and network. A run is named after its folder; in a sweep after `job`,
    the overrides that vary, and `group` is the sweep's folder. `log_model` uploads the weights of the artifact."""
    folder = Path(save_dir)
    sweep = next((parent for parent in folder.parents if (parent / "multirun.yaml").is_file()), None)
    if sweep is not None:
        name, group = name or job or folder.name, group or sweep.name
    # Only the first rank starts a run.
    mode = _mode() if first_rank() else "disabled"
    logger = WandbLogger(
        project=project, save_dir=save_dir, name=(name or folder.name)[:128], group=group, mode=mode, **options
    )
    logger.uploads_weights = log_model  # type: ignore[attr-defined]
    return logger


def _wandb(loggers: Iterable[Logger]) -> list[WandbLogger]:
    return [logger for logger in loggers if isinstance(logger, WandbLogger)]


@rank_zero_only
def log_artifact(
    loggers: Iterable[Logger], kind: str, folder: Path, parts: Mapping[str, Path], metrics: Mapping[str, Any]
) -> None:
    """Log a finished artifact of a kind (`daclip` or `restorer`) with its scores, and the artifacts it was made from.
    wandb knows equal content by its hash: what one run logs and another uses is one node of the lineage graph."""
    import wandb

    for logger in _wandb(loggers):
        run = logger.experiment
        weights: bool = logger.uploads_weights  # type: ignore[attr-defined]
        used = {name: _artifact(wandb.Artifact(name, type="model"), part, weights) for name, part in parts.items()}
        for artifact in used.values():
            if run.offline:
                # `use_artifact` refuses to work offline; this is what it does with an artifact that is no server's.
                run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
            else:
                run.use_artifact(artifact)
        facts = {**metrics, "made_from": {name: artifact.digest for name, artifact in used.items()}}
        run.log_artifact(_artifact(wandb.Artifact(kind, type="model", metadata=facts), folder, weights))
        run.summary.update({"final": dict(metrics)})


def _artifact(artifact: Any, folder: Path, weights: bool) -> Any:
    """An artifact of the files of a folder, without those of the artifacts inside it; weights that are not uploaded
    stand in it with their address and checksum."""
    for path in sorted(Path(folder).resolve().iterdir()):
        if path.is_file() and not weights and path.suffix == ".safetensors":
            artifact.add_reference(path.as_uri())
        elif path.is_file():
            # Immutable: the file is not copied to wandb's cache; it stays in the run's folder.
            artifact.add_file(str(path), policy="immutable")
    return artifact


def finish_run() -> None:
    """End this process's wandb run, so that the next job of a sweep starts its own."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


class WandbTables(Callback):
    """The first `rows` validation samples as a table, and stage 1's confusion matrix; for wandb loggers."""

    def __init__(self, rows: int):
        self.rows = rows

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: RestorationBatch, *position: int
    ) -> None:
        """Show stage 2's first batch: LQ, restored, HQ, the class that stage 1 recognises, PSNR."""
        loggers = _wandb(trainer.loggers)
        # Stages are told by what they have: their classes lie above this room.
        guide: Any = getattr(pl_module, "guide", None)
        if any(position) or not loggers or not trainer.is_global_zero or guide is None:
            return
        import wandb

        classes = trainer.datamodule.classes  # type: ignore[attr-defined]
        named = guide.daclip.classify(guide(batch.lq).degradation, classes).argmax(-1).tolist()
        reference = quantise(batch.hq)
        before, after = (psnr(quantise(images), reference).tolist() for images in (batch.lq, outputs))
        table = wandb.Table(["photo", "degradation", "recognised", "PSNR in", "PSNR", "LQ", "restored", "HQ"])
        rows = zip(batch.name, batch.degradation, named, before, after, batch.lq, outputs, batch.hq, strict=True)
        for name, label, place, was, now, *pictures in islice(rows, self.rows):
            table.add_data(name, label, classes[place], was, now, *(wandb.Image(to_pil(one)) for one in pictures))
        self._log(loggers, trainer, {"samples/table": table})

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show stage 1's confusion matrix."""
        loggers = _wandb(trainer.loggers)
        confusion: Any = getattr(pl_module, "confusion", None)
        if not loggers or not trainer.is_global_zero or confusion is None:
            return
        import wandb

        counts, classes = confusion.table(), confusion.classes
        rows = [[truth, named, counts.get(truth, {}).get(named, 0)] for truth in classes for named in classes]
        chart = wandb.plot_table(
            "wandb/confusion_matrix/v1",
            wandb.Table(columns=["Actual", "Predicted", "nPredictions"], data=rows),
            {"Actual": "Actual", "Predicted": "Predicted", "nPredictions": "nPredictions"},
            {"title": "degradations of validation photos"},
        )
        self._log(loggers, trainer, {"val/confusion": chart})

    @staticmethod
    def _log(loggers: Iterable[WandbLogger], trainer: L.Trainer, content: Mapping[str, Any]) -> None:
        for logger in loggers:
            logger.experiment.log({**content, "trainer/global_step": logged_step(trainer)})
