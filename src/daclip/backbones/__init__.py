"""Restoration networks `(x_t, lq, t, conditioning) → output`."""

from daclip.backbones.nafnet import ConditionalNAFNet as ConditionalNAFNet
from daclip.backbones.unet import ConditionalUNet as ConditionalUNet
