"""Fréchet distance of Inception features."""

from typing import Any

from daclip.metrics.inception import InceptionDistance

__all__ = ["Fid"]


class Fid(InceptionDistance):
    """Fréchet inception distance (Heusel et al. 2017), 0 for equal sets.

    Biased for small sets: compare only sets of the same photos.
    """

    def load(self) -> Any:
        """torchmetrics' metric."""
        from torchmetrics.image.fid import FrechetInceptionDistance

        return FrechetInceptionDistance(feature=self.feature)

    def compute(self, metric: Any, photos: int) -> float:
        """The distance."""
        return float(metric.compute())
