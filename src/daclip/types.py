"""Records that travel between the rooms of the framework."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Conditioning", "RestorationBatch"]


@dataclass
class RestorationBatch:
    """Degraded photos with their clean versions and texts.

    Attributes:
        lq: Degraded photos, float32 `[B, 3, H, W]`, RGB in [0, 1].
        hq: Clean photos, same shape and range.
        caption: What the photo shows, one text a sample; empty where no caption is known.
        degradation: The degradation word, one a sample, such as `"rainy"`.
        name: Which photo the sample comes from.
    """

    lq: Tensor
    hq: Tensor
    caption: list[str]
    degradation: list[str]
    name: list[str]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.lq)


@dataclass
class Conditioning:
    """What DA-CLIP says of degraded photos (not normalised).

    Attributes:
        content: Embedding that the clean photo would have, `[B, D]`; None leaves it out.
        degradation: Embedding of the corruption, `[B, D]`; None leaves it out.
    """

    content: Tensor | None = None
    degradation: Tensor | None = None
