"""What every logger of a run is given in the same way: its configuration and its pictures."""

from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL.Image import Image
from torchvision.transforms.functional import pil_to_tensor


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
