"""Stage 2: the LightningModule that trains a denoiser, and the frozen DA-CLIP that guides it."""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from daclip.clip.controller import DaClip
from daclip.degradations import split_classes
from daclip.diffusion.denoiser import Denoiser, Parameterization
from daclip.diffusion.objectives import Objective, TimeDraw, draw_training_state, uniform
from daclip.diffusion.sde import MeanRevertingSDE
from daclip.errors import DaclipError
from daclip.metrics.classification import MeansByLabel
from daclip.metrics.image import psnr
from daclip.pixels import quantise
from daclip.rng import generator_for
from daclip.samplers.base import Sampler
from daclip.training.optimizers import OptimizerFactory, SchedulerFactory, StageModule
from daclip.types import Conditioning, RestorationBatch

Row = dict[str, Tensor]

HIGHEST_PSNR = 100.0  # dB, for equal photos


class FrozenGuide:
    """Frozen DA-CLIP outside the module tree, so that weight averages and checkpoints leave it out. The `cache_size`
    last used embeddings are kept by the photos' pixels, for photos that come again unchanged, as in validation.
    """

    def __init__(self, daclip: DaClip, cache_size: int = 0):
        self.daclip = daclip.eval().requires_grad_(False)
        self.cache_size = cache_size
        self._rows: OrderedDict[bytes, Row] = OrderedDict()

    def __deepcopy__(self, memo: dict[int, Any]) -> "FrozenGuide":
        """The same object: frozen things are shared."""
        return self

    def __call__(self, lq: Tensor) -> Conditioning:
        """Embeddings of degraded photos `[B, 3, H, W]`, computed once per batch."""
        if not self.cache_size:
            return Conditioning(**self._compute(lq))
        keys = [hashlib.blake2b(photo.contiguous().cpu().numpy().tobytes(), digest_size=16).digest() for photo in lq]
        new = [number for number, key in enumerate(keys) if key not in self._rows]
        if new:
            computed = self._compute(lq[new])
            for place, number in enumerate(new):
                self._rows[keys[number]] = {name: value[place] for name, value in computed.items()}
        for key in keys:
            self._rows.move_to_end(key)
        rows = [self._rows[key] for key in keys]
        while len(self._rows) > self.cache_size:
            self._rows.popitem(last=False)
        return Conditioning(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})

    @torch.no_grad()
    def with_true_classes(
        self, conditioning: Conditioning, truth: Sequence[str], classes: Sequence[str], chosen: Tensor
    ) -> Conditioning:
        """Conditioning with the true classes' degradation embeddings (`DaClip.moved`) where the mask `chosen` `[B]` is
        true. A label of several classes, such as `hazy, rainy`, counts as their mean, as when restoring.
        """
        degradation = conditioning.degradation
        assert degradation is not None
        encode = self.daclip.clip.encode_text
        wanted = torch.stack([encode(split_classes(label)).mean(0) for label in truth])
        moved = self.daclip.moved(degradation, wanted, classes)
        return replace(conditioning, degradation=torch.where(chosen[:, None], moved, degradation))

    @torch.no_grad()
    def decided(self, conditioning: Conditioning, classes: Sequence[str], temperature: float) -> Conditioning:
        """Embeddings as if recognition had been surer, see `DaClip.decided`."""
        assert conditioning.degradation is not None
        return replace(conditioning, degradation=self.daclip.decided(conditioning.degradation, classes, temperature))

    def _compute(self, lq: Tensor) -> Row:
        """The parts of the conditioning by name."""
        with torch.inference_mode():
            # Not in the module tree, so no Trainer moves it; where it lies already, this does nothing.
            found = vars(self.daclip.to(lq.device)(lq))
        # Copies: a backward pass may not keep tensors of inference mode.
        return {name: value.clone() for name, value in found.items() if value is not None}


class RestorationDiffusion(StageModule):
    """Train a network to reverse the mean-reverting SDE, guided by DA-CLIP; for other options see `StageModule`.

    `backbone`, `parameterization` and `correct_epsilon_shift` are those of `Denoiser`; `sampler` restores validation
    photos, with `val/psnr` and `val/gain` (dB above the input) logged overall and per class,
    and `val/clean_psnr` of those with nothing wrong. A sample's times and noise
    depend on `seed`, not on the number of ranks. A share `conditioning_dropout` of the samples learns without
    conditioning, for guidance (Ho and Salimans 2022). A share `true_class_share` has its embedding moved to the true
    class: from the unsure embeddings of crops the network would learn to try every repair a little; `temperature`
    (`DaClip.decided`) is for restoring after that. `compiled` applies `torch.compile`: a slow start, faster steps.
    """

    def __init__(
        self,
        daclip: DaClip,
        backbone: torch.nn.Module,
        process: MeanRevertingSDE,
        sampler: Sampler,
        parameterization: Parameterization,
        correct_epsilon_shift: bool,
        objective: Objective,
        optimizer: OptimizerFactory,
        warmup_steps: int,
        final_lr: float,
        seed: int,
        times: TimeDraw = uniform,
        conditioning_dropout: float = 0.0,
        true_class_share: float = 0.0,
        temperature: float = 1.0,
        embedding_cache_size: int = 0,
        compiled: bool = False,
        scheduler: SchedulerFactory | None = None,
    ):
        super().__init__(optimizer, warmup_steps, final_lr, scheduler)
        shares = {"conditioning_dropout": conditioning_dropout, "true_class_share": true_class_share}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise DaclipError(f"stage.{name} must lie in [0, 1], got {value}")
        if not 0 < temperature <= 1:
            raise DaclipError(f"stage.temperature must be above 0 and at most 1, got {temperature}")
        # A grid that does not fit is found now and not at the first validation.
        sampler.times(process)
        self.guide = FrozenGuide(daclip, embedding_cache_size)
        self.denoiser = Denoiser(
            backbone.to(memory_format=torch.channels_last), process, parameterization, correct_epsilon_shift
        )
        self.sampler = sampler
        self.objective = objective
        self.times = times
        self.conditioning_dropout = conditioning_dropout
        self.true_class_share = true_class_share
        self.temperature = temperature
        self.seed = seed
        if compiled:
            self.denoiser.backbone.compile()
        self.scores = MeansByLabel("psnr_lq", "psnr")
        self.clean = MeansByLabel("psnr")

    def training_step(self, batch: RestorationBatch, batch_index: int) -> Tensor:
        """One step on a batch of pairs."""
        lq = batch.lq.contiguous(memory_format=torch.channels_last)
        hq = batch.hq.contiguous(memory_format=torch.channels_last)
        # One for each sample, by its number in the stream of all ranks.
        number = self.trainer.fit_loop.total_batch_idx * self.trainer.world_size + self.global_rank
        generators = [generator_for(self.seed, 0, number * len(lq) + i) for i in range(len(lq))]
        draws = [
            draw_training_state(self.denoiser.process, (1, *lq.shape[1:]), generator, times=self.times)
            for generator in generators
        ]
        t, noise = (torch.cat(parts).to(lq.device) for parts in zip(*draws, strict=True))
        noise = noise.contiguous(memory_format=torch.channels_last)
        conditioning = self.guide(lq)
        if self.true_class_share:
            chosen = torch.cat([torch.rand(1, generator=g) for g in generators]) < self.true_class_share
            classes = self.trainer.datamodule.classes  # type: ignore[attr-defined]
            conditioning = self.guide.with_true_classes(conditioning, batch.degradation, classes, chosen.to(lq.device))
        if self.conditioning_dropout:
            kept = torch.cat([torch.rand(1, generator=g) for g in generators]) >= self.conditioning_dropout
            conditioning = conditioning.kept(kept.to(lq.device))
        loss = self.objective(self.denoiser, lq, hq, conditioning, t, noise)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch), sync_dist=True)
        return loss

    def restore(self, lq: Tensor, numbers: Sequence[int] | None = None) -> Tensor:
        """Restore a batch; an image's number (default: its place) chooses its generator."""
        numbers = range(len(lq)) if numbers is None else numbers
        generators = [generator_for(self.seed, number) for number in numbers]
        conditioning = self.guide(lq)
        if self.temperature < 1:
            classes = self.trainer.datamodule.classes  # type: ignore[attr-defined]
            conditioning = self.guide.decided(conditioning, classes, self.temperature)
        return self.sampler.sample(self.denoiser, lq, conditioning, generators)

    def validation_step(self, batch: RestorationBatch, batch_index: int) -> Tensor:
        """Restore validation photos; returns the restored batch `[B, 3, H, W]` for the sample grid."""
        numbers = self.validation_numbers(batch_index, len(batch))
        restored = self.restore(batch.lq, numbers)
        reference = quantise(batch.hq)
        before, after = (psnr(quantise(images), reference) for images in (batch.lq, restored))
        kept = range(self.counted(numbers))
        # A photo with nothing wrong has an infinite PSNR before, and is no case of a gain.
        damaged = [i for i in kept if before[i].isfinite()]
        clean = [i for i in kept if not before[i].isfinite()]
        self.scores.update([batch.degradation[i] for i in damaged], psnr_lq=before[damaged], psnr=after[damaged])
        self.clean.update([batch.degradation[i] for i in clean], psnr=after[clean].clamp_max(HIGHEST_PSNR))
        return restored

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation pass, which are those of all ranks."""
        results = self.results()
        self.log("val/psnr", results["mean"]["psnr"], prog_bar=True, sync_dist=True)
        self.log("val/gain", results["mean"]["psnr"] - results["mean"]["psnr_lq"], prog_bar=True, sync_dist=True)
        if "clean_psnr" in results:
            self.log("val/clean_psnr", results["clean_psnr"], sync_dist=True)
        for label, row in results["per_degradation"].items():
            self.log(f"val/psnr/{label}", row["psnr"], sync_dist=True)
            self.log(f"val/gain/{label}", row["psnr"] - row["psnr_lq"], sync_dist=True)

    def results(self) -> dict[str, Any]:
        """Scores of the last validation pass for the artifact's `metrics.json`; `clean_psnr` is how near photos with
        nothing wrong stay to themselves.
        """
        means = self.scores.compute()
        found = {name: means[name] for name in ("per_degradation", "mean")}
        clean = self.clean.compute()["overall"]["psnr"]
        return found if math.isnan(clean) else {**found, "clean_psnr": clean}
