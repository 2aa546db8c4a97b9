"""Synthetic degradations: clean photos in, degraded photos out, one file a family."""

from daclip.degradations.base import Degradation

__all__ = ["Degradation"]
