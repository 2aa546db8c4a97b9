"""From a validated configuration to the objects of a run."""

import logging
from typing import Any

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor
from omegaconf import DictConfig, OmegaConf

from daclip.arithmetic import trainer_precision
from daclip.artifacts import Artifact
from daclip.clip.controller import DaClip
from daclip.commands.options import make
from daclip.data.datamodule import MixedDegradationData
from daclip.diffusion.module import RestorationDiffusion
from daclip.errors import DaclipError
from daclip.files import one_line
from daclip.training.provenance import redacted

log = logging.getLogger(__name__)


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain containers with all references resolved and secrets struck out."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in redacted(plain).items()}


def build_data(cfg: DictConfig) -> MixedDegradationData:
    """The data module of `cfg.data`."""
    node = OmegaConf.to_container(cfg.data, resolve=True)
    assert isinstance(node, dict)
    # The command line's short names for the roots of photo sources, which refer to them.
    for short_name in ("root", "photos_root"):
        node.pop(short_name, None)
    data: MixedDegradationData = make(node, "data")
    return data


def build_restoration(cfg: DictConfig, daclip: DaClip) -> RestorationDiffusion:
    """Stage 2's LightningModule, with the weights of the artifact `cfg.init` if there is one."""
    module: RestorationDiffusion = make(cfg.stage)(
        daclip=daclip,
        backbone=make(cfg.backbone)(context_dim=daclip.embed_dim),
        process=make(cfg.process),
        sampler=make(cfg.sampler),
    )
    if cfg.init is not None:
        artifact = Artifact(cfg.init)
        artifact.require("restorer")
        artifact.load_into(module.denoiser.backbone)
    return module


def build_trainer(cfg: DictConfig) -> L.Trainer:
    """The Trainer with callbacks and loggers of the configuration."""
    callbacks = []
    for name, node in cfg.callbacks.items():
        if node is None or "_target_" in node:
            callbacks += [make(node)] if node else []
        else:  # options, from a recipe or the command line, of a callback that callbacks=[…] leaves out
            log.warning("callbacks.%s is not chosen, its options are left out: %s", name, ", ".join(node))
    loggers = [make(node) for node in cfg.logger.values()]
    if not loggers:  # logger=null: that callback would end the run
        callbacks = [callback for callback in callbacks if not isinstance(callback, LearningRateMonitor)]
    steps = cfg.trainer.max_steps
    if not isinstance(steps, int) or (steps < 1 and steps != -1):
        raise DaclipError(f"trainer.max_steps must be a number of at least 1, or -1 for no limit, got {steps}")
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch"):
        if cfg.trainer.get(name) == 0:
            raise DaclipError(f"trainer.{name} must be at least 1, got 0")
    precision = trainer_precision(cfg.trainer.precision, cfg.trainer.accelerator)
    if steps == -1 and cfg.trainer.get("max_epochs") == -1:
        raise DaclipError("the run has no end: give trainer.max_steps or trainer.max_epochs")
    settings = OmegaConf.to_container(cfg.trainer, resolve=True)
    assert isinstance(settings, dict)
    factory = make({**settings, "precision": precision, "_partial_": True}, "trainer")
    try:
        trainer: L.Trainer = factory(callbacks=callbacks, logger=loggers)
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise DaclipError(f"trainer: {one_line(error)}") from error
    return trainer
