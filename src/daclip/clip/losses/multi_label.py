"""Several words for one photo, all of them right."""

from torch import Tensor

from daclip.clip.losses.base import Matching, Targets

__all__ = ["MultiLabel", "multi_label_loss"]


def multi_label_loss(image: Tensor, text: Tensor, member: Tensor, scale: Tensor) -> Tensor:
    """Contrastive loss with several texts to an image and several images to a text.

    Each image is matched to the uniform distribution over its texts, each text to that over its images, both
    less the distribution's entropy, so that the floor is 0. With one text an image it equals
    `multi_positive_loss` (SupCon, Khosla et al. 2020).

    Args:
        image: Unit vectors `[B, D]`.
        text: Unit vectors of the unique texts, `[K, D]`.
        member: 1 where a text belongs to an image, else 0, `[B, K]`; no row is all 0.
        scale: Factor of the cosine similarities.

    Returns:
        Scalar, the mean of both directions.
    """
    logits = scale * image @ text.T
    present = member.sum(0) > 0
    return (_divergence(logits, member) + _divergence(logits.T[present], member.T[present])) / 2


def _divergence(logits: Tensor, member: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence from the uniform distributions over members to those of the logits."""
    count = member.sum(1)
    return (-(member * logits.log_softmax(-1)).sum(1) / count - count.log()).mean()


class MultiLabel(Matching):
    """`multi_label_loss`; a label of several words counts for each of them."""

    splits_labels = True

    def forward(self, image: Tensor, targets: Targets, scale: Tensor) -> Tensor:
        """The loss of a batch, as in `Matching`."""
        return multi_label_loss(image, targets.text, targets.member, scale)
