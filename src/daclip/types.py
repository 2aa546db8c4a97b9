"""Records that travel between the rooms of the framework."""

from dataclasses import dataclass, fields

from torch import Tensor


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
    """What DA-CLIP says of degraded photos (not normalised); None leaves a part out.

    An embedding of zeros means "not known": networks learn it by conditioning drop-out.

    Attributes:
        content: Embedding that the clean photo would have, `[B, D]`.
        degradation: Embedding of the corruption, `[B, D]`.
        patches: The same tower's patch tokens in the space of the content embedding, `[B, N, D]`.
    """

    content: Tensor | None = None
    degradation: Tensor | None = None
    patches: Tensor | None = None

    def kept(self, keep: Tensor | float) -> "Conditioning":
        """The embeddings where `keep` is 1, and zeros where it is 0.

        Args:
            keep: `[B]`, or one value for all photos.
        """

        def one(value: Tensor | None) -> Tensor | None:
            if value is None or not isinstance(keep, Tensor):
                return None if value is None else value * keep
            return value * keep.to(value).view(-1, *[1] * (value.ndim - 1))

        return Conditioning(**{field.name: one(getattr(self, field.name)) for field in fields(self)})
