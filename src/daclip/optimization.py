"""Optimiser parameter groups and the learning-rate schedule that both stages share."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import lightning as L
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from daclip.errors import DaclipError

__all__ = ["OptimizerFactory", "StageModule", "decay_groups", "warmup_cosine"]

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]


def decay_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: with the optimiser's weight decay and without.

    Vectors and scalars (biases, gains, the logit scale) never decay.
    """
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            (free if parameter.ndim < 2 else decayed).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def warmup_cosine(step: int, warmup: int, total: int, final: float) -> float:
    """Factor of the learning rate: linear warm-up, then half a cosine down to `final`.

    Args:
        step: Number of finished optimiser steps.
        warmup: Steps of the warm-up.
        total: Steps of the whole run.
        final: Factor at the end.

    >>> warmup_cosine(0, 10, 100, 0.0), warmup_cosine(9, 10, 100, 0.0), warmup_cosine(100, 10, 100, 0.1)
    (0.1, 1.0, 0.1)
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


class StageModule(L.LightningModule):
    """What both stages share: parameter groups, learning-rate schedule and gradient clipping.

    Args:
        optimizer: Makes the optimiser from parameter groups.
        warmup_steps: Linear warm-up of the learning rate.
        final_lr: Factor of the learning rate at the end of its cosine.
    """

    def __init__(self, optimizer: OptimizerFactory, warmup_steps: int, final_lr: float):
        super().__init__()
        self.optimizer = optimizer
        self.warmup_steps = warmup_steps
        self.final_lr = final_lr

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of all trainable parameters for the optimiser."""
        return decay_groups(self)

    def configure_optimizers(self) -> Any:
        """The optimiser of all trainable parameters, with its per-step schedule."""
        optimizer = self.optimizer(self.parameter_groups())
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = LambdaLR(optimizer, lambda step: warmup_cosine(step, self.warmup_steps, total, self.final_lr))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient norm and log it as `train/grad_norm`.

        Lightning refuses to clip for fused optimisers because those unscale float16 gradients inside; bfloat16
        gradients are not scaled, so clipping them here is sound.

        Raises:
            DaclipError: Under float16 with gradient scaling.
        """
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            raise DaclipError("trainer.precision=16-mixed scales gradients; use bf16-mixed or 32-true")
        limit = math.inf if gradient_clip_val is None else gradient_clip_val
        self.log("train/grad_norm", nn.utils.clip_grad_norm_(self.parameters(), limit))
