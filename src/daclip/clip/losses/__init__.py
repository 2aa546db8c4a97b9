"""Losses of stage 1: one file and one yaml of `conf/loss/` each; `DaClipLoss` adds the terms up."""

from daclip.clip.losses.base import Matching, Targets
from daclip.clip.losses.distillation import (
    ContrastiveDistillation,
    CosineDistillation,
    Distillation,
    distillation_loss,
)
from daclip.clip.losses.multi_label import MultiLabel, multi_label_loss
from daclip.clip.losses.multi_positive import MultiPositive, multi_positive_loss
from daclip.clip.losses.official import Official, contrastive_loss
from daclip.clip.losses.sigmoid import Sigmoid, sigmoid_loss
from daclip.clip.losses.total import DaClipLoss, LossTerms

__all__ = [
    "ContrastiveDistillation",
    "CosineDistillation",
    "DaClipLoss",
    "Distillation",
    "LossTerms",
    "Matching",
    "MultiLabel",
    "MultiPositive",
    "Official",
    "Sigmoid",
    "Targets",
    "contrastive_loss",
    "distillation_loss",
    "multi_label_loss",
    "multi_positive_loss",
    "sigmoid_loss",
]
