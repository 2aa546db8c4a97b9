"""The perceptual term of an objective."""

from typing import Any

from torch import Tensor

from daclip.recognition import Recognizer

__all__ = ["PerceptualDistance"]


class PerceptualDistance:
    """Distance of images as a recognition network sees them (Johnson et al. 2016), weighted.

    The network is frozen and belongs to no module: it is neither averaged nor saved, and follows the images to their
    device.

    Args:
        network: What sees.
        factor: Weight of the term.
    """

    def __init__(self, network: Recognizer, factor: float) -> None:
        self.network = network
        self.factor = factor

    def __deepcopy__(self, memo: dict[int, Any]) -> "PerceptualDistance":
        """The same object: frozen things are shared."""
        return self

    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        """Distance of images `[B, 3, H, W]` in about [0, 1] to others of that shape, `[B]`; H, W at least 32."""
        return self.factor * self.network.to(images.device).distance(images, reference)
