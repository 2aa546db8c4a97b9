"""Photo in, photo out: a trained restorer from its artifact folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from daclip.checkpoints import Artifact, load_daclip, load_denoiser
from daclip.data.pairs import generator_for
from daclip.degradations import vocabulary
from daclip.precision import autocast, device_by_name
from daclip.samplers.base import Sampler

__all__ = ["Restored", "Restorer"]


@dataclass(frozen=True)
class Restored:
    """What came of a batch of photos.

    Attributes:
        images: Restored photos, float32 `[B, 3, H, W]` in [0, 1], on the CPU.
        probabilities: For each photo its degradation words with probabilities, most likely first.
    """

    images: Tensor
    probabilities: list[dict[str, float]]

    @property
    def words(self) -> list[str]:
        """The most likely degradation word of each photo."""
        return [next(iter(row)) for row in self.probabilities]


class Restorer:
    """Restores degraded photos with a stage-2 artifact.

    Args:
        artifact: The artifact folder; it holds both stages' weights.
        sampler: Another sampler than the one the artifact was trained with.
        device: `auto`, `cpu` or `cuda`.
        precision: `auto`, `bf16` or `fp32`.
        seed: Photo number i of a call draws its noise from (seed, i), whatever the batch or device.

    Raises:
        DaclipError: The folder is no stage-2 artifact, or the device is not there.
    """

    def __init__(
        self,
        artifact: str | Path,
        sampler: Sampler | None = None,
        device: str = "auto",
        precision: str = "auto",
        seed: int = 0,
    ):
        self.artifact = Artifact(artifact)
        self.artifact.require("restorer")
        self.device = device_by_name(device)
        self.precision = precision
        self.seed = seed
        self.daclip = load_daclip(self.artifact.folder / "daclip").to(self.device)
        self.denoiser = load_denoiser(self.artifact, self.daclip.embed_dim).to(self.device)
        self.sampler: Sampler = sampler or self.artifact.build("sampler")
        stage_1 = Artifact(self.artifact.folder / "daclip")
        self.vocabulary = vocabulary(stage_1.build("degradation"))

    @torch.inference_mode()
    def restore(self, lq: Tensor, numbers: Sequence[int] | None = None) -> Restored:
        """Restore photos of one size.

        Args:
            lq: Degraded photos, float32 `[B, 3, H, W]`, RGB in [0, 1].
            numbers: Which draw of noise each photo gets; by default its place in the batch.
        """
        lq = lq.to(self.device)
        generators = [generator_for(self.seed, number) for number in numbers or range(len(lq))]
        with autocast(self.device, self.precision):
            conditioning = self.daclip(lq)
            probabilities = self.daclip.classify(conditioning.degradation, self.vocabulary).cpu()
            images = self.sampler.sample(self.denoiser, lq, conditioning, generators)
        return Restored(images.float().clamp(0, 1).cpu(), [self._ranked(row) for row in probabilities])

    def _ranked(self, row: Tensor) -> dict[str, float]:
        order = row.argsort(descending=True).tolist()
        return {self.vocabulary[i]: float(row[i]) for i in order}
