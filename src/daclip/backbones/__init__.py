"""Networks `(x_t, lq, t, conditioning) → output`."""

from daclip.backbones.nafnet import ConditionalNAFNet
from daclip.backbones.unet import ConditionalUNet

__all__ = ["ConditionalNAFNet", "ConditionalUNet"]
