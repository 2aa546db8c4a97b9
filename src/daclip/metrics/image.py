"""Fidelity of restored photos under the protocol of the field: 8-bit values, RGB, no border cut."""

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

__all__ = ["psnr", "quantise", "ssim"]

BORDER = 5  # half of SSIM's 11×11 window


def quantise(images: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to the 256 values that a saved picture can hold."""
    return images.float().clamp(0, 1).mul(255).round().div(255)


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image over all channels.

    Args:
        images: `[B, 3, H, W]` in [0, 1].
        reference: Same shape and range.

    Returns:
        dB, `[B]`; infinite where both are equal.
    """
    error = (images.double() - reference.double()).square().flatten(1).mean(1)
    return -10 * torch.log10(error).float()


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity of each image (Wang et al. 2004): Gaussian window 11×11, σ 1.5, valid region.

    Args:
        images: `[B, 3, H, W]` in [0, 1], sides of at least 11.
        reference: Same shape and range.

    Returns:
        `[B]`, at most 1.
    """
    _, per_pixel = structural_similarity_index_measure(
        images.float(), reference.float(), data_range=1.0, sigma=1.5, reduction="none", return_full_image=True
    )
    # torchmetrics reflects the border; the field's protocol counts only where the window fits.
    return per_pixel[..., BORDER:-BORDER, BORDER:-BORDER].flatten(1).mean(1)
