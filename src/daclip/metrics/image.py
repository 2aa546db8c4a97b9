"""Base classes of metrics, fidelity of pixels (PSNR, SSIM, MS-SSIM), and the protocol that prepares photos for them."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)
from torchmetrics.utilities import dim_zero_cat

from daclip.errors import DaclipError
from daclip.pixels import quantise


class MetricUnavailableError(DaclipError):
    """A metric cannot be computed here; the message is the reason, and the other metrics are kept."""


class PairMetric(Metric):
    """Compares each photo with its own reference; `scores` holds one tensor a batch."""

    full_state_update = False
    is_network: ClassVar[bool] = False  # and sees what the protocol shows to networks
    scores: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def score(self, images: Tensor, reference: Tensor) -> Tensor:
        """Scores `[B]` of `[B, C, H, W]` in [0, 1]; `MetricUnavailableError` without weights or for small photos."""

    def update(self, images: Tensor, reference: Tensor) -> None:
        """Score a batch and keep the scores."""
        self.scores.append(self.score(images, reference))

    def compute(self) -> Tensor:
        """Mean over all photos."""
        return dim_zero_cat(self.scores).double().mean()


class SetMetric(Metric):
    """Compares a set of photos with the set of their references; may raise `MetricUnavailableError`."""

    is_network: ClassVar[bool] = True


def refuse_small(images: Tensor, side: int) -> None:
    """Raise `MetricUnavailableError` for photos with a side below what a metric's windows need."""
    if min(images.shape[-2:]) < side:
        raise MetricUnavailableError(f"photos need sides of at least {side} pixels, got {list(images.shape[-2:])}")


WINDOW = 11  # side of SSIM's Gaussian window
SMALLEST_SIDE = 176  # for MS-SSIM: that window fits into the picture at the fifth scale, a sixteenth of it


def luma(images: Tensor) -> Tensor:
    """Y / 255 of ITU-R BT.601, Y = 16 + 65.481 R + 128.553 G + 24.966 B, not rounded: RGB `[B, 3, H, W]` in [0, 1]
    gives `[B, 1, H, W]` in [16/255, 235/255]."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64, device=images.device)
    return (torch.einsum("bchw,c->bhw", images.double(), weights)[:, None].add(16) / 255).float()


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, `[B]`, of images `[B, C, H, W]` in [0, 1]; infinite where both are equal."""
    error = (images.double() - reference.double()).square().flatten(1).mean(1)
    return -10 * torch.log10(error).float()


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity `[B]` (Wang et al. 2004) of images `[B, C, H, W]` in [0, 1], sides of at least 11. Gaussian
    window 11×11, σ 1.5; averaged over channels and the region where the window fits."""
    _, per_pixel = structural_similarity_index_measure(
        images.double(), reference.double(), data_range=1.0, sigma=1.5, reduction="none", return_full_image=True
    )
    # torchmetrics reflects the border; the field's protocol counts only where the window fits.
    border = WINDOW // 2
    return per_pixel[..., border:-border, border:-border].flatten(1).mean(1).float()


class Psnr(PairMetric):
    """Peak signal-to-noise ratio in dB; see `psnr`."""

    higher_is_better = True

    def score(self, images: Tensor, reference: Tensor) -> Tensor:
        """dB of each photo, `[B]`."""
        return psnr(images, reference)


class Ssim(PairMetric):
    """Structural similarity (Wang et al. 2004); see `ssim`."""

    higher_is_better = True

    def score(self, images: Tensor, reference: Tensor) -> Tensor:
        """Similarity of each photo, `[B]`, at most 1."""
        refuse_small(images, WINDOW)
        return ssim(images, reference)


class MsSsim(PairMetric):
    """Multi-scale structural similarity (Wang et al. 2003), five scales with the paper's weights."""

    higher_is_better = True

    def score(self, images: Tensor, reference: Tensor) -> Tensor:
        """Similarity of each photo, `[B]`, at most 1."""
        refuse_small(images, SMALLEST_SIDE)
        values: Tensor = multiscale_structural_similarity_index_measure(
            images.double(), reference.double(), data_range=1.0, sigma=1.5, reduction="none"
        )
        return values.reshape(-1).float()


@dataclass(frozen=True)
class Protocol:
    """Rounding, border and colour space, the same for restored photo and reference. Metrics that are networks always
    see RGB, and with `whole_for_networks` the whole photo without rounding."""

    name: str  # for tables
    eight_bit: bool  # round to the 256 values that a saved picture holds
    border: int  # pixels cut from each side
    colour: Literal["rgb", "y"]  # `y`: luma of ITU-R BT.601 with its offset (MATLAB's `rgb2ycbcr`), not rounded
    whole_for_networks: bool = False

    def __post_init__(self) -> None:
        """Refuse contradictory values."""
        if self.border < 0 or self.colour not in ("rgb", "y"):
            raise DaclipError(
                f"protocol.border must be at least 0 and protocol.colour rgb or y, got {self.border}, {self.colour}"
            )

    def prepare(self, images: Tensor, network: bool = False) -> Tensor:
        """Photos `[B, 3, H, W]`, clipped, as compared: float32 `[B, 3 or 1, H − 2·border, W − 2·border]` in [0, 1];
        `network` for a metric that is one."""
        if network and self.whole_for_networks:
            return images.float().clamp(0, 1)
        height, width = images.shape[-2:]
        if min(height, width) <= 2 * self.border:
            raise DaclipError(f"a photo of {width}×{height} pixels has nothing inside a border of {self.border}")
        inside = images[..., self.border : height - self.border, self.border : width - self.border]
        values = quantise(inside) if self.eight_bit else inside.float().clamp(0, 1)
        return values if network or self.colour == "rgb" else luma(values)

    def describe(self) -> str:
        """One line for tables.

        >>> Protocol("daclip", eight_bit=True, border=4, colour="rgb").describe()
        'daclip: RGB, rounded to 8 bits, 4 pixels cut from each side'
        """
        parts = ["RGB" if self.colour == "rgb" else "Y of YCbCr (BT.601)"]
        parts.append("rounded to 8 bits" if self.eight_bit else "not rounded")
        parts.append(f"{self.border} pixels cut from each side" if self.border else "no border cut")
        if self.whole_for_networks:
            parts.append("all of it and unrounded for LPIPS and other networks")
        return f"{self.name}: {', '.join(parts)}"
