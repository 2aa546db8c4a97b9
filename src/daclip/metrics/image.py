"""Formulas of fidelity: rounding, luma, PSNR, SSIM and MS-SSIM of each image of a batch."""

import torch
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from daclip.metrics.base import PairMetric, refuse_small

BORDER = 5  # half of SSIM's 11×11 window


def quantise(images: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to the 256 values that a saved picture can hold."""
    return images.float().clamp(0, 1).mul(255).round().div(255)


def luma(images: Tensor) -> Tensor:
    """Y of YCbCr as ITU-R BT.601 defines it for 8-bit video, Y = 16 + 65.481 R + 128.553 G + 24.966 B.

    Args:
        images: `[B, 3, H, W]`, RGB in [0, 1].

    Returns:
        Y / 255, not rounded, `[B, 1, H, W]`; between 16/255 and 235/255.
    """
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64, device=images.device)
    return (torch.einsum("bchw,c->bhw", images.double(), weights)[:, None].add(16) / 255).float()


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image over all channels.

    Args:
        images: `[B, C, H, W]` in [0, 1].
        reference: Same shape and range.

    Returns:
        dB, `[B]`; infinite where both are equal.
    """
    error = (images.double() - reference.double()).square().flatten(1).mean(1)
    return -10 * torch.log10(error).float()


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004): Gaussian window 11×11, σ 1.5, valid region.

    Args:
        images: `[B, C, H, W]` in [0, 1], sides of at least 11.
        reference: Same shape and range.

    Returns:
        `[B]`, at most 1.
    """
    _, per_pixel = structural_similarity_index_measure(
        images.float(), reference.float(), data_range=1.0, sigma=1.5, reduction="none", return_full_image=True
    )
    # torchmetrics reflects the border; the field's protocol counts only where the window fits.
    return per_pixel[..., BORDER:-BORDER, BORDER:-BORDER].flatten(1).mean(1)


def ms_ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Multi-scale structural similarity of each image (Wang et al. 2003), five scales with the paper's weights.

    Args:
        images: `[B, C, H, W]` in [0, 1], sides of more than 160.
        reference: Same shape and range.

    Returns:
        `[B]`, at most 1.
    """
    values: Tensor = multiscale_structural_similarity_index_measure(
        images.float(), reference.float(), data_range=1.0, sigma=1.5, reduction="none"
    )
    return values.reshape(-1)


class Psnr(PairMetric):
    """Peak signal-to-noise ratio in dB over all pixels and channels; infinite for equal photos."""

    higher_is_better = True

    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        """dB of each photo, `[B]`."""
        return psnr(images, reference)


WINDOW = 11


class Ssim(PairMetric):
    """Structural similarity (Wang et al. 2004), averaged over channels and the region where its window fits."""

    higher_is_better = True

    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        """Similarity of each photo, `[B]`, at most 1."""
        refuse_small(images, WINDOW)
        return ssim(images, reference)


SMALLEST_SIDE = 161  # the 11×11 window at the fifth scale


class MsSsim(PairMetric):
    """Multi-scale structural similarity (Wang et al. 2003)."""

    higher_is_better = True

    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        """Similarity of each photo, `[B]`, at most 1."""
        refuse_small(images, SMALLEST_SIDE)
        return ms_ssim(images, reference)
