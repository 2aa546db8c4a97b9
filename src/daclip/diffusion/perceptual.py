"""A distance of images as a network for recognition sees them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VGG16_Weights
from torchvision.models.vgg import cfgs, make_layers

from daclip.errors import DaclipError

__all__ = ["PerceptualDistance"]

# Last activation before each of the first four poolings: relu1_2, relu2_2, relu3_3, relu4_3.
STAGES = (4, 9, 16, 23)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PerceptualDistance:
    """Weighted distance of VGG-16 features (Johnson et al. 2016), of unit length at each position (Zhang et al. 2018).

    The sum over four stages of the mean squared difference. The network is frozen and belongs to no module: it is
    neither averaged nor saved, and follows the images to their device.

    Args:
        weights: A file with torchvision's state dict of `vgg16`, read with `weights_only`, or `hub` for a
            download by torchvision.
        factor: Weight of the term.

    Raises:
        DaclipError: The file is missing, damaged or of another network.
    """

    def __init__(self, weights: str, factor: float) -> None:
        self.factor = factor
        self.stages = _stages(weights)
        self.mean = torch.tensor(MEAN).view(3, 1, 1)
        self.std = torch.tensor(STD).view(3, 1, 1)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PerceptualDistance":
        """The same object: frozen things are shared."""
        return self

    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        """Distance of images `[B, 3, H, W]` in about [0, 1] to others of that shape, `[B]`; H, W at least 16."""
        self.stages.to(images.device)
        mean, std = self.mean.to(images), self.std.to(images)
        ours = (images - mean) / std
        with torch.no_grad():
            theirs = (reference - mean) / std
        total = images.new_zeros(len(images))
        for stage in self.stages:
            ours = stage(ours)
            with torch.no_grad():
                theirs = stage(theirs)
            difference = F.normalize(ours.float(), dim=1) - F.normalize(theirs.float(), dim=1)
            total = total + difference.square().sum(1).flatten(1).mean(1)
        return self.factor * total


def _stages(weights: str) -> nn.ModuleList:
    try:
        if weights == "hub":
            state: Any = VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=False)
        else:
            state = torch.load(Path(weights), map_location="cpu", weights_only=True)
        features = make_layers(cfgs["D"], batch_norm=False)
        features.load_state_dict(
            {name.removeprefix("features."): value for name, value in state.items() if name.startswith("features.")}
        )
    except Exception as error:  # a missing, damaged or foreign file raises whatever the reader met first
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DaclipError(
            f"stage.objective.perceptual.weights={weights}: no weights of torchvision's vgg16 ({reason[:120]})"
        ) from None
    layers = [nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in features]  # not in place
    starts = (0, *STAGES[:-1])
    parts = [nn.Sequential(*layers[start:stop]) for start, stop in zip(starts, STAGES, strict=True)]
    return nn.ModuleList(parts).eval().requires_grad_(False)
