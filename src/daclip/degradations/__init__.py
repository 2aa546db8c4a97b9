"""Synthetic degradations: clean photos in, degraded photos out, one file a family."""

from daclip.degradations.base import Degradation, Degraded, join_classes, split_classes, vocabulary

__all__ = ["Degradation", "Degraded", "join_classes", "split_classes", "vocabulary"]
