"""Samples of equal text are positives of each other."""

from torch import Tensor
from torch.nn import functional as F

from daclip.clip.losses.base import Matching, Targets

__all__ = ["MultiPositive", "multi_positive_loss"]


def multi_positive_loss(image: Tensor, text: Tensor, label: Tensor, scale: Tensor) -> Tensor:
    """Contrastive loss in which every sample of equal text is a positive (SupCon, Khosla et al. 2020).

    Image to text it is the cross-entropy over the K unique texts, whose floor is 0; text to image each
    text is matched to the uniform distribution over its images, less that distribution's entropy, so that
    this floor is 0 too.

    Args:
        image: Unit vectors `[B, D]`.
        text: Unit vectors of the unique texts, `[K, D]`.
        label: Row of `text` that belongs to each image, int64 `[B]`.
        scale: Factor of the cosine similarities.

    Returns:
        Scalar, the mean of both directions.
    """
    logits = scale * image @ text.T
    to_text = F.cross_entropy(logits, label)
    member = F.one_hot(label, len(text)).T.to(logits.dtype)
    present = member.sum(1) > 0
    count = member[present].sum(1)
    log_likelihood = logits.T[present].log_softmax(-1)
    to_image = -(member[present] * log_likelihood).sum(1) / count - count.log()
    return (to_text + to_image.mean()) / 2


class MultiPositive(Matching):
    """`multi_positive_loss`; a label of several words is one text of its own."""

    def forward(self, image: Tensor, targets: Targets, scale: Tensor) -> Tensor:
        """The loss of a batch, as in `Matching`."""
        return multi_positive_loss(image, targets.text, targets.label, scale)
