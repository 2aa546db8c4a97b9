"""Stage 2: training of the restorer."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from daclip.clip.controller import DaClip
from daclip.data.pairs import generator_for
from daclip.diffusion.denoiser import Denoiser, Parameterization
from daclip.diffusion.guide import FrozenGuide
from daclip.diffusion.objective import Objective, draw_training_state
from daclip.diffusion.process import MeanRevertingSDE
from daclip.diffusion.times import TimeDraw, uniform
from daclip.errors import DaclipError
from daclip.metrics.image import psnr, quantise
from daclip.optimization import OptimizerFactory, StageModule
from daclip.samplers.base import Sampler
from daclip.types import RestorationBatch

__all__ = ["RestorationDiffusion"]


class RestorationDiffusion(StageModule):
    """Train a network to reverse the mean-reverting SDE, guided by DA-CLIP.

    Logged on held-out photos: `val/psnr` and `val/gain` (dB above the degraded input), overall and per word.

    Args:
        daclip: Frozen stage 1.
        backbone: Network `(x_t, lq, t, conditioning) → [B, 3, H, W]`.
        process: The SDE.
        sampler: Restores held-out photos.
        parameterization: Meaning of the network's output.
        correct_epsilon_shift: See `Denoiser`.
        objective: What is minimised.
        optimizer: Makes the optimiser from parameter groups.
        warmup_steps: Linear warm-up of the learning rate.
        final_lr: Factor of the learning rate at the end of its cosine.
        seed: Seed of times and noise; what a sample gets does not depend on the number of ranks.
        times: Law of the times.
        conditioning_dropout: Share of samples that learn without conditioning, for guidance (Ho and Salimans 2022).
        told_share: Share of samples whose degradation embedding is moved to their true word. A crop shows less of its
            corruption than a photo does; unsure embeddings would teach the network to try every repair a little.
        certainty: See `DaClip.decided`; for restoring, after a training that told words.
        remembered_photos: See `FrozenGuide`.
        compiled: Let `torch.compile` fuse the network: minutes at the start, faster steps after them.

    Raises:
        DaclipError: A value out of range, or a sampler that does not fit the process.
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
        told_share: float = 0.0,
        certainty: float = 1.0,
        remembered_photos: int = 0,
        compiled: bool = False,
    ):
        super().__init__(optimizer, warmup_steps, final_lr)
        if not 0 <= conditioning_dropout <= 1:
            raise DaclipError(f"stage.conditioning_dropout must lie in [0, 1], got {conditioning_dropout}")
        if not 0 <= told_share <= 1:
            raise DaclipError(f"stage.told_share must lie in [0, 1], got {told_share}")
        if certainty < 1:
            raise DaclipError(f"stage.certainty must be at least 1, got {certainty}")
        # Found now and not at the first held-out pass.
        sampler.times(process)
        self.guide = FrozenGuide(daclip, remembered_photos)
        self.denoiser = Denoiser(
            backbone.to(memory_format=torch.channels_last), process, parameterization, correct_epsilon_shift
        )
        self.sampler = sampler
        self.objective = objective
        self.times = times
        self.conditioning_dropout = conditioning_dropout
        self.told_share = told_share
        self.certainty = certainty
        self.seed = seed
        if compiled:
            self.denoiser.backbone.compile()
        self._scores: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def training_step(self, batch: RestorationBatch, batch_index: int) -> Tensor:
        """One step on a batch of pairs."""
        lq = batch.lq.contiguous(memory_format=torch.channels_last)
        hq = batch.hq.contiguous(memory_format=torch.channels_last)
        generators = self._generators(len(lq))
        draws = [
            draw_training_state(self.denoiser.process, (1, *lq.shape[1:]), generator, times=self.times)
            for generator in generators
        ]
        t, noise = (torch.cat(parts).to(lq.device) for parts in zip(*draws, strict=True))
        noise = noise.contiguous(memory_format=torch.channels_last)
        conditioning = self.guide(lq)
        if self.told_share:
            told = torch.cat([torch.rand(1, generator=g) for g in generators]) < self.told_share
            words = self.trainer.datamodule.words  # type: ignore[attr-defined]
            conditioning = self.guide.told(conditioning, batch.degradation, words, told.to(lq.device))
        if self.conditioning_dropout:
            kept = torch.cat([torch.rand(1, generator=g) for g in generators]) >= self.conditioning_dropout
            conditioning = conditioning.kept(kept.to(lq.device))
        loss = self.objective(self.denoiser, lq, hq, conditioning, t, noise)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def _generators(self, count: int) -> list[torch.Generator]:
        """One for each sample of a training batch, by the sample's number in the stream of all ranks."""
        batch = self.trainer.fit_loop.total_batch_idx * self.trainer.world_size + self.global_rank
        return [generator_for(self.seed, 0, batch * count + i) for i in range(count)]

    def restore(self, lq: Tensor, first: int = 0) -> Tensor:
        """Restore a batch; image i uses the generator of number `first + i`."""
        generators = [generator_for(self.seed, first + i) for i in range(len(lq))]
        conditioning = self.guide(lq)
        if self.certainty > 1:
            words = self.trainer.datamodule.words  # type: ignore[attr-defined]
            conditioning = self.guide.decided(conditioning, words, self.certainty)
        return self.sampler.sample(self.denoiser, lq, conditioning, generators)

    def on_validation_epoch_start(self) -> None:
        """Forget the previous held-out pass."""
        self._scores.clear()

    def validation_step(self, batch: RestorationBatch, batch_index: int) -> Tensor:
        """Restore held-out photos; returns the restored batch `[B, 3, H, W]` for the sample grid."""
        restored = self.restore(batch.lq, batch_index * len(batch))
        reference = quantise(batch.hq)
        before = psnr(quantise(batch.lq), reference).tolist()
        after = psnr(quantise(restored), reference).tolist()
        for word, low, high in zip(batch.degradation, before, after, strict=True):
            self._scores[word].append((low, high))
        return restored

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the held-out pass."""
        results = self.results()
        self.log("val/psnr", results["mean"]["psnr"], prog_bar=True)
        self.log("val/gain", results["mean"]["psnr"] - results["mean"]["psnr_lq"], prog_bar=True)
        for word, row in results["per_degradation"].items():
            self.log(f"val/psnr/{word}", row["psnr"])
            self.log(f"val/gain/{word}", row["psnr"] - row["psnr_lq"])

    def results(self) -> dict[str, Any]:
        """Scores of the last held-out pass for the artifact's `metrics.json`."""
        rows = {
            word: {
                "psnr_lq": sum(low for low, _ in pairs) / len(pairs),
                "psnr": sum(high for _, high in pairs) / len(pairs),
                "count": len(pairs),
            }
            for word, pairs in self._scores.items()
        }
        mean = {key: sum(row[key] for row in rows.values()) / len(rows) for key in ("psnr_lq", "psnr")}
        return {"per_degradation": rows, "mean": mean}
