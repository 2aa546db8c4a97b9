"""Degradation base class: a random draw on the CPU, then a batched formula; and the labels of photos."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from daclip.degradations.draws import ramp as ramp
from daclip.degradations.draws import uniform as uniform
from daclip.degradations.options import Span as Span
from daclip.degradations.options import span as span
from daclip.errors import DaclipError

Drawn = dict[str, Tensor]
"""The decisions of one call of `draw`; every value has a leading dimension of 1, so samples concatenate."""

SMALLEST_SIDE = 32  # below it neither a blur kernel nor a drop fits into the picture
CLEAN = "clean"  # class of photos with nothing wrong
SEPARATOR = ", "  # between the classes of a photo that is degraded in several ways


@dataclass
class Degraded:
    """Degraded photos and how they came about, one entry a sample."""

    images: Tensor  # float32 `[B, 3, H, W]`, RGB in [0, 1]
    severities: list[float]  # in [0, 1], given or drawn
    drawn: list[Drawn]  # all other random decisions; `Degradation.replay` repeats the corruption from them
    classes: list[str | None]  # by `Degradation.describe`; None: the class that it is configured under


class Degradation(ABC):
    """One family of image corruption, severity 0 (mild) to 1 (strong). `draw` decides on the CPU, one generator a
    sample; `apply` is plain tensor code over a batch. So neither the device nor the batches change the result."""

    @abstractmethod
    def draw(self, height: int, width: int, severity: float, generator: Generator) -> Drawn:
        """Decide everything random about one sample of 32 × 32 pixels or more; severity moves parameters along their
        ranges. Returns CPU tensors with a leading dimension of 1, whose shapes depend on height and width only."""

    @abstractmethod
    def apply(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Corrupt photos, float32 `[B, 3, H, W]`, RGB in [0, 1], without randomness and into new memory, by the
        samples' draws, concatenated to a leading dimension of B on the photos' device."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Every single class that `describe` may name; empty where the configured class is the label."""
        return ()

    def describe(self, drawn: Drawn) -> str | None:
        """Label of one sample by its draw, such as `"hazy, rainy"`; None: the configured class."""
        return None

    def replay(self, images: Tensor, draws: Sequence[Drawn]) -> Tensor:
        """Corrupt photos `[B, 3, H, W]` by given draws, one a sample."""
        drawn = {key: torch.cat([sample[key] for sample in draws]).to(images.device) for key in draws[0]}
        return self.apply(images, drawn)

    def degrade(self, images: Tensor, generators: Sequence[Generator], severity: float | None = None) -> Degraded:
        """Draw with a CPU generator a sample, apply to photos, float32 `[B, 3, H, W]`, RGB in [0, 1], and tell what was
        drawn. `severity` in [0, 1] is for all samples; None draws each sample's own uniformly."""
        _check(images, generators, severity)
        height, width = images.shape[-2:]
        severities, draws = [], []
        for generator in generators:
            strength = uniform(0, 1, generator) if severity is None else float(severity)
            severities.append(strength)
            draws.append(self.draw(height, width, strength, generator))
        return Degraded(self.replay(images, draws), severities, draws, [self.describe(drawn) for drawn in draws])

    def __call__(self, images: Tensor, generators: Sequence[Generator], severity: float | None = None) -> Tensor:
        """Degraded photos alone, same shape, dtype and range; see `degrade`."""
        return self.degrade(images, generators, severity).images


class OneByOne(Degradation):
    """A degradation that applies its draws one by one, since samples differ in their parts; and since a codec would
    turn a last bit that depends on the size of the batch into a visible step."""

    def replay(self, images: Tensor, draws: Sequence[Drawn]) -> Tensor:
        """Corrupt photos `[B, 3, H, W]` by given draws, one a sample."""
        return torch.cat([super(OneByOne, self).replay(images[i : i + 1], [draws[i]]) for i in range(len(draws))])


def join_classes(classes: Iterable[str]) -> str:
    """One label from several classes; each counts once, in its first place.
    >>> join_classes(["hazy", "rainy", "hazy"])
    'hazy, rainy'
    """
    return SEPARATOR.join(dict.fromkeys(classes))


def split_classes(label: str) -> list[str]:
    """The single classes of a label.
    >>> split_classes("hazy, rainy"), split_classes("noisy")
    (['hazy', 'rainy'], ['noisy'])
    """
    return label.split(SEPARATOR)


def vocabulary(degradations: Mapping[str, Degradation]) -> list[str]:
    """The single classes in the labels of these degradations: their own, or else their configured names."""
    named = (class_name for name, part in degradations.items() for class_name in part.classes or (name,))
    return list(dict.fromkeys(named))


def _check(images: Tensor, generators: Sequence[Generator], severity: float | None) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.float32:
        raise DaclipError(f"expected float32 [B, 3, H, W], got {images.dtype} {list(images.shape)}")
    if min(images.shape[-2:]) < SMALLEST_SIDE:
        raise DaclipError(f"photos need sides of at least {SMALLEST_SIDE} px, got {list(images.shape[-2:])}")
    if len(generators) != len(images) or not generators:
        raise DaclipError(f"expected one generator a sample, got {len(generators)} for {len(images)}")
    if severity is not None and not 0 <= severity <= 1:
        raise DaclipError(f"severity: expected a number in [0, 1], got {severity}")
