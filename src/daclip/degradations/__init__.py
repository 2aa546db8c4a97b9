"""Synthetic degradations: clean photos in, degraded photos out, one file a family."""

from daclip.degradations.base import Degradation, Degraded, join_words, split_words, vocabulary

__all__ = ["Degradation", "Degraded", "join_words", "split_words", "vocabulary"]
