"""Base class of both stages' LightningModules: parameter groups, learning-rate schedule, clipping, skipped steps,
which weights were scored."""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import lightning as L
import torch
from timm.optim import muon as timm_muon
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torchmetrics import Metric

from daclip.arithmetic import supports_bf16
from daclip.errors import DaclipError
from daclip.files import one_line

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


class Muon(timm_muon.Muon):
    """Muon that orthogonalises in bfloat16, as its author does, where that is arithmetic of the hardware, else in
    float32: emulated, it takes three quarters of a training step on a CPU."""

    def step(self, closure: Any = None) -> Any:
        """One step, as `timm.optim.Muon.step`."""
        plain = timm_muon.zeropower_via_newtonschulz
        native = supports_bf16(self.param_groups[0]["params"][0].device.type)
        timm_muon.zeropower_via_newtonschulz = partial(plain, dtype=torch.bfloat16 if native else torch.float32)
        try:
            return super().step(closure)
        finally:
            timm_muon.zeropower_via_newtonschulz = plain


def decay_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: with the optimiser's weight decay, and without (vectors and scalars)."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2]},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def digest(module: nn.Module) -> bytes:
    """Hash of the trainable parameters."""
    found = hashlib.blake2b(digest_size=16)
    for parameter in module.parameters():
        if parameter.requires_grad:
            found.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.digest()


def warmup_cosine(step: int, warmup: int, total: int, final: float) -> float:
    """Factor of the learning rate after `step` steps: linear warm-up, then half a cosine down to `final` at `total`.

    >>> warmup_cosine(0, 10, 100, 0.0), warmup_cosine(9, 10, 100, 0.0), warmup_cosine(100, 10, 100, 0.1)
    (0.1, 1.0, 0.1)
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


class StageModule(L.LightningModule):
    """Base class of both stages; `step_skipped` tells whether the last optimiser step was left out as not finite.
    `optimizer` takes parameter groups; `warmup_steps` and `final_lr` (a factor) are for `warmup_cosine`, which another
    `scheduler`, moved on after every step, replaces."""

    def __init__(
        self,
        optimizer: OptimizerFactory,
        warmup_steps: int,
        final_lr: float,
        scheduler: SchedulerFactory | None = None,
    ):
        super().__init__()
        for name, value in {"warmup_steps": warmup_steps, "final_lr": final_lr}.items():
            if value < 0:
                raise DaclipError(f"stage.{name} must be at least 0, got {value}")
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.warmup_steps = warmup_steps
        self.final_lr = final_lr
        self.step_skipped = False
        self._options: list[dict[str, Any]] = []
        self._scored = b""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups of all trainable parameters for the optimiser."""
        return decay_groups(self)

    def configure_optimizers(self) -> Any:
        """The optimiser of all trainable parameters, with its per-step schedule."""
        total = int(self.trainer.estimated_stepping_batches)
        try:
            optimizer = self.optimizer(self.parameter_groups())
            self._options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            scheduler = self.scheduler(optimizer) if self.scheduler else None
        except (TypeError, ValueError) as error:
            raise DaclipError(f"stage.optimizer or stage.scheduler: {one_line(error)}") from error
        if scheduler is None:
            scheduler = LambdaLR(optimizer, lambda step: warmup_cosine(step, self.warmup_steps, total, self.final_lr))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Take this run's options of the optimiser: a resumed state brings those of the run before."""
        if self.scheduler is not None:
            return  # it may change any of them; such a change is refused before
        scheduler: Any = self.lr_schedulers()
        for index, (group, options) in enumerate(zip(scheduler.optimizer.param_groups, self._options, strict=True)):
            group.update({name: value for name, value in options.items() if name != "lr"})
            before, now = group.get("initial_lr"), options["lr"]
            if before != now and before:
                group["lr"] *= now / before
                scheduler.base_lrs[index] = group["initial_lr"] = now

    def on_validation_epoch_start(self) -> None:
        """Forget the scores of the previous validation pass."""
        for metric in self.children():
            if isinstance(metric, Metric):
                metric.reset()

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Note the weights that this validation pass scores: the average, where there is one."""
        if batch_idx == 0 and not self.trainer.sanity_checking:
            self._scored = digest(self)

    def is_scored(self) -> bool:
        """Whether the last validation pass scored the weights as they are now."""
        return self._scored == digest(self)

    def validation_numbers(self, batch_index: int, count: int) -> list[int]:
        """Numbers of a batch's photos in the validation set; ranks take turns, and those ≥ its length are repeats."""
        loader: Any = self.trainer.val_dataloaders
        first = batch_index * loader.batch_size
        return [(first + i) * self.trainer.world_size + self.global_rank for i in range(count)]

    def counted(self, numbers: Sequence[int]) -> int:
        """Photos of a validation batch, from its beginning, that are no repeats."""
        loader: Any = self.trainer.val_dataloaders
        return sum(number < len(loader.dataset) for number in numbers)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backward pass; a loss that is not finite makes all gradients NaN, on every rank once they are averaged."""
        poison = torch.where(torch.isfinite(loss.detach()), 1.0, math.nan)
        super().backward(loss * poison, *args, **kwargs)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients, by their norm unless the algorithm is `value`, and log the norm as `train/grad_norm`;
        without a finite norm, skip the step. Every optimiser leaves a parameter without gradient alone, so weights and
        moments stay. All ranks decide alike, as gradients are averaged. Fused optimisers, which Lightning refuses to
        clip, would unscale float16 gradients after it."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        self.log("train/grad_norm", norm)
        self.step_skipped = not bool(torch.isfinite(norm))
        if self.step_skipped:
            for parameter in self.parameters():
                parameter.grad = None
        elif gradient_clip_val is not None and gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        elif gradient_clip_val is not None:
            factor = float(gradient_clip_val) / (float(norm) + 1e-6)
            if factor < 1:
                torch._foreach_mul_(gradients, factor)
