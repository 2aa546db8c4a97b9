"""Embeddings of several photos, and the user's words in place of recognised ones."""

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from daclip.clip.controller import DaClip
from daclip.errors import DaclipError
from daclip.pixels import BAND, Pixels
from daclip.types import Conditioning


def rows(conditioning: Conditioning, indices: list[int]) -> Conditioning:
    """The embeddings of some photos, in that order, repeated where an index is."""
    return _each([conditioning], lambda tensors: tensors[0][indices])


def stacked(conditionings: Sequence[Conditioning]) -> Conditioning:
    """The embeddings of several batches as one."""
    return _each(conditionings, torch.cat)


def _each(conditionings: Sequence[Conditioning], join: Callable[[list[Tensor]], Tensor]) -> Conditioning:
    names = [field.name for field in fields(Conditioning)]
    values = {name: [getattr(one, name) for one in conditionings] for name in names}
    return Conditioning(**{name: None if found[0] is None else join(found) for name, found in values.items()})


def steer(
    conditioning: Conditioning, daclip: DaClip, classes: Mapping[str, float], vocabulary: Sequence[str]
) -> Conditioning:
    """Put the user's words in place of what was recognised, see `DaClip.moved`.

    Args:
        conditioning: Embeddings of photos, `[B, D]`.
        daclip: The network that they come from.
        classes: Texts with weights that add up to 1.
        vocabulary: The words among which degradations are recognised.
    """
    degradation = conditioning.degradation
    assert degradation is not None
    weights = torch.tensor(list(classes.values()), device=degradation.device)
    wanted = weights @ daclip.clip.encode_text(list(classes)).float()
    return replace(conditioning, degradation=daclip.moved(degradation, wanted, vocabulary))


WEIGHTED = re.compile(r"\s*([^:,]+?)\s*:\s*([^:,]+?)\s*")


def parse_classes(classes: Any, vocabulary: Sequence[str] = ()) -> dict[str, float]:
    """The mixture of degradations that the user names, with weights that add up to 1.

    Args:
        classes: A word, any text, a mapping or a text `word:weight,word:weight`, or a sequence of equal words.
        vocabulary: Words that the restorer knows: a text made of them and commas is several words.

    Raises:
        DaclipError: Weights that are no numbers above 0, or no words at all.

    >>> parse_classes("rainy")
    {'rainy': 1.0}
    >>> parse_classes("rainy:3, hazy:1")
    {'rainy': 0.75, 'hazy': 0.25}
    >>> parse_classes("rainy, hazy", ["rainy", "hazy"])
    {'rainy': 0.5, 'hazy': 0.5}
    >>> parse_classes("rain drops on a window, at night")
    {'rain drops on a window, at night': 1.0}
    """
    if isinstance(classes, str):
        parts = [part.strip() for part in classes.split(",")]
        matches = [WEIGHTED.fullmatch(part) for part in parts]
        found = {match[1]: match[2] for match in matches if match}
        known = all(part in vocabulary for part in parts)
        classes = found if found and all(matches) else parts if known else [classes]
    if isinstance(classes, Sequence):
        classes = dict.fromkeys((str(class_name) for class_name in classes), 1.0)
    if not isinstance(classes, Mapping) or not classes:
        raise DaclipError(f"degradation={classes}: name a word, a text, or words with weights as in rainy:0.7,hazy:0.3")
    weights = {}
    for class_name, weight in classes.items():
        try:
            value = float(weight)
        except (TypeError, ValueError):
            value = math.nan
        if not str(class_name).strip() or not 0 < value < math.inf:
            raise DaclipError(f"degradation: the weight of '{class_name}' must be a number above 0, got {weight}")
        weights[str(class_name).strip()] = value
    total = sum(weights.values())
    return {class_name: weight / total for class_name, weight in weights.items()}


def unknown_classes(classes: Mapping[str, float], vocabulary: Sequence[str]) -> list[str]:
    """A remark for each word that the restorer was not trained on: it is taken as free text."""
    remarks = []
    for class_name in classes:
        if class_name not in vocabulary:
            close = difflib.get_close_matches(class_name, vocabulary, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else f" (it knows {', '.join(vocabulary)})"
            remarks.append(f"'{class_name}' is no word that the restorer learned and is taken as free text{hint}")
    return remarks


def check_strength(strength: float) -> None:
    """Refuse what is no share."""
    if not 0 <= strength <= 1:
        raise DaclipError(f"strength={strength} must lie between 0 (leave the photo) and 1 (restore fully)")


def blend_(restored: Tensor, photo: Pixels, strength: float, holes: np.ndarray | None = None) -> None:
    """Make photo + strength · (restored − photo) of `restored`, `[3, H, W]`, and the photo itself outside holes.

    In place and band by band, as photos can be large.
    """
    if strength == 1 and holes is None:
        return
    for top in range(0, photo.height, BAND):
        band, lq = restored[:, top : top + BAND], photo.crop(top, top + BAND)
        band.lerp_(lq, 1 - strength)
        if holes is not None:
            kept = torch.from_numpy(~holes[top : top + BAND]).expand_as(band)
            band[kept] = lq[kept]


def holes_of(mask: Any, photos: Sequence[Pixels]) -> np.ndarray:
    """A mask as bool `[H, W]`, true where the photo is missing.

    Args:
        mask: A tensor, array or Pillow image; of numbers those in the upper half of their range are true.
        photos: The photos that are restored, which must be one, of the mask's size.
    """
    if len(photos) != 1:
        raise DaclipError("a mask goes with a single photo; restore the photos one by one")
    values = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    values = values.squeeze() if values.ndim > 2 else values
    expected = (photos[0].height, photos[0].width)
    if values.shape != expected:
        raise DaclipError(f"the mask has the shape {values.shape}, but the photo {expected}")
    holes: np.ndarray = values if values.dtype == np.bool_ else values > values.max() / 2
    if not holes.any():
        raise DaclipError("the mask marks no pixel; missing parts must be white (or true)")
    return holes


class Uncertainty:
    """Per-pixel standard deviation over several restorations, from a running mean (Welford 1962).

    Only two images are held, however many restorations there are.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.squares = torch.zeros(())

    def add(self, image: Tensor) -> None:
        """Take in a restoration, `[3, H, W]`."""
        self.count += 1
        delta = image - self.mean
        self.mean = self.mean + delta / self.count
        self.squares = self.squares + delta * (image - self.mean)

    def map(self) -> Tensor:
        """Root mean square over the colours of the sample standard deviation: `[H, W]`, in units of the image.

        Raises:
            DaclipError: Fewer than two restorations were taken in.
        """
        if self.count < 2:
            raise DaclipError("uncertainty needs at least two restorations; set samples=2 or more")
        return (self.squares / (self.count - 1)).mean(0).sqrt()
