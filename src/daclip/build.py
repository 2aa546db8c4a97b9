"""From a validated configuration to the objects of a run."""

from typing import Any

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from daclip.checkpoints import Artifact
from daclip.clip.controller import DaClip
from daclip.clip.module import ControllerPretraining
from daclip.data.module import MixedDegradationData
from daclip.diffusion.module import RestorationDiffusion
from daclip.errors import DaclipError
from daclip.precision import trainer_precision
from daclip.reliability.secrets import redacted

__all__ = [
    "build_controller_pretraining",
    "build_data",
    "build_restoration",
    "build_trainer",
    "make",
    "resolved",
]


def make(node: Any) -> Any:
    """Instantiate a node of the configuration into plain Python containers."""
    return instantiate(node, _convert_="object")


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
    data: MixedDegradationData = make(node)
    return data


def build_controller_pretraining(cfg: DictConfig, daclip: DaClip, words: list[str]) -> ControllerPretraining:
    """Stage 1's LightningModule."""
    module: ControllerPretraining = make(cfg.stage)(daclip=daclip, words=words)
    return module


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
    callbacks = [make(node) for node in cfg.callbacks.values()]
    loggers = [make(node) for node in cfg.logger.values()]
    steps = cfg.trainer.max_steps
    if not isinstance(steps, int) or (steps < 1 and steps != -1):
        raise DaclipError(f"trainer.max_steps must be a number of at least 1, or -1 for no limit, got {steps}")
    precision = trainer_precision(cfg.trainer.precision, cfg.trainer.accelerator)
    trainer: L.Trainer = instantiate(cfg.trainer, _partial_=True, _convert_="object")(
        callbacks=callbacks, logger=loggers, precision=precision
    )
    return trainer
