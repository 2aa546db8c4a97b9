"""Every pair of image and text by itself: right or wrong."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from daclip.clip.losses.base import Matching, Targets

__all__ = ["Sigmoid", "sigmoid_loss"]


def sigmoid_loss(image: Tensor, text: Tensor, member: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Sum over texts and mean over images of -log sigmoid(±(scale · cosine + bias)) (SigLIP, Zhai et al. 2023).

    Args:
        image: Unit vectors `[B, D]`.
        text: Unit vectors of the unique texts, `[K, D]`.
        member: 1 where a text belongs to an image, else 0, `[B, K]`.
        scale: Factor of the cosine similarities.
        bias: Added to them; negative, since most pairs are wrong ones.

    Returns:
        Scalar.
    """
    logits = scale * image @ text.T + bias
    return -F.logsigmoid((2 * member - 1) * logits).sum(1).mean()


class Sigmoid(Matching):
    """`sigmoid_loss` with a bias that is learned; a label of several words counts for each of them.

    Args:
        bias: Start of the bias. It should undo the scale times the usual cosine between a photo and any text,
            so that training does not begin with every pair taken for a right one.
    """

    splits_labels = True

    def __init__(self, bias: float):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def forward(self, image: Tensor, targets: Targets, scale: Tensor) -> Tensor:
        """The loss of a batch, as in `Matching`."""
        return sigmoid_loss(image, targets.text, targets.member, scale, self.bias)
