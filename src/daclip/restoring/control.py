"""What is done to a photo, by the user's settings and by recognition: classes, strength, mask, samples, passes."""

import difflib
import math
import re
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from daclip.clip.controller import DaClip
from daclip.clip.frozen_clip import FrozenClip
from daclip.degradations.base import CLEAN
from daclip.errors import DaclipError
from daclip.holes import covered
from daclip.pixels import BAND, Pixels
from daclip.restoring.instruction import Wish
from daclip.restoring.lexicon import lexicon_of
from daclip.types import Conditioning, Pass, Restoration

Passes = int | Literal["auto"]
Recognised = tuple[Any, dict[str, float]]
"""The embeddings of a photo and its classes."""


def steer(
    conditioning: Conditioning, daclip: DaClip, classes: Mapping[str, float], vocabulary: Sequence[str]
) -> Conditioning:
    """Put the user's classes, texts with weights that add up to 1, in place of those recognised; see `DaClip.moved`."""
    degradation = conditioning.degradation
    assert degradation is not None
    weights = torch.tensor(list(classes.values()), device=degradation.device)
    wanted = weights @ daclip.clip.encode_text(list(classes)).float()
    return replace(conditioning, degradation=daclip.moved(degradation, wanted, vocabulary))


# Certainty that something is wrong below which a photo is left as it is, and from which all of the change is made: on
# photos that training never saw (experiments/world.py), what is recognised with less is often something else. A repair
# that changes much, such as of darkness, spoils more where it is not called for, and needs more certainty to begin.
UNSURE, UNSURE_OF_MUCH, SURE = 0.55, 0.7, 0.9
LITTLE, MUCH = 35.0, 18.0  # dB of PSNR between the photo and its restoration

HOLES = "uncompleted"
MOST_COVERED = 0.6  # share of a photo

WEIGHTED = re.compile(r"\s*([^:,]+?)\s*:\s*([^:,]+?)\s*")


def parse_classes(classes: Any, vocabulary: Sequence[str] = ()) -> dict[str, float]:
    """The mixture of degradations that the user names, with weights that add up to 1. `classes` is a class, any text, a
    mapping or a text `class:weight,class:weight`, or a sequence of equal weights; a text made of commas and classes of
    the `vocabulary` is several classes.

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
        raise DaclipError(f"degradation={classes}: name a class, a text, or weights as in rainy:0.7,hazy:0.3")
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


def unknown_classes(
    classes: Mapping[str, float], vocabulary: Sequence[str], fate: str = "is taken as free text"
) -> list[str]:
    """A remark for each class that the restorer was not trained on, with what becomes of it."""
    remarks = []
    for class_name in (name for name in classes if name not in vocabulary):
        close = difflib.get_close_matches(class_name, vocabulary, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else f" (it knows {', '.join(vocabulary)})"
        remarks.append(f"'{class_name}' is no class that the restorer learned and {fate}{hint}")
    return remarks


def certainty(probabilities: Mapping[str, float]) -> float:
    """How sure recognition is that something is wrong, in [0, 1]: the Euclidean norm of the faults' probabilities, so
    for a single one its own, and for two that are equally likely 0.7. 1 where it has not learned what is clean."""
    if CLEAN not in probabilities:
        return 1.0
    return min(math.hypot(*(p for name, p in probabilities.items() if name != CLEAN)), 1.0)


def change_share(certain: float, distance: float) -> float:
    """Share of the change that is made, in [0, 1], by the certainty that something is wrong and the distance in dB that
    the whole change would make, so that restoring does no harm where nothing is."""
    large = min(max((LITTLE - distance) / (LITTLE - MUCH), 0.0), 1.0)
    unsure = UNSURE + (UNSURE_OF_MUCH - UNSURE) * large
    return min(max((certain - unsure) / (SURE - unsure), 0.0), 1.0)


def remark(probabilities: Mapping[str, float], share: float, several: bool = False) -> tuple[str, ...]:
    """What there is to say of a change that is not made whole; of `several` pictures each has its share."""
    if share == 1:
        return ()
    if max(probabilities, key=lambda name: probabilities[name]) == CLEAN and share == 0:
        return ("nothing wrong was found, and the photo was left as it is",)
    made = f"{'part' if several else f'{share:.0%}'} of the change was made" if share else "the photo was left as it is"
    return (f"recognition is not sure of what is wrong, so {made}; name the degradation to change all",)


RECOGNISED = 0.1  # probability from which a class counts as recognised, also beside surer ones


@dataclass(frozen=True)
class Plan:
    """What is done to one photo."""

    classes: dict[str, float] | None  # in place of what was recognised, with weights that add up to 1
    strength: float  # share of the change that is wanted
    repaired: tuple[str, ...] = ()  # by an instruction
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    certainty: float = 1.0  # that the change is called for
    shares: dict[str, float] = field(default_factory=dict)  # of the change, if the instruction asks for less than all

    @classmethod
    def of(
        cls,
        probabilities: Mapping[str, float],
        classes: dict[str, float] | None = None,
        wish: Wish | None = None,
        others: Container[str] = (),
        strength: float = 1.0,
        named: bool = True,
    ) -> "Plan":
        """The plan for what was recognised, or for classes (that are only repaired as far as recognition is sure where
        the user has not `named` them), or for a wish; a network of `others` repairs its class alone, and leaves the
        rest of a wish."""
        certain = certainty(probabilities)
        if classes is not None:
            return cls(classes, strength, certainty=1.0 if named else certain)
        if wish is None:
            return cls(None, strength, certainty=certain)
        plan = cls._wished(probabilities, wish, certain)
        repaired, foremost = plan.repaired, plan.foremost(probabilities)
        rest = tuple(name for name in repaired if name != foremost and foremost in others)
        repaired = (foremost,) if rest else repaired
        left, shares = (*plan.left, *rest), wish.shares(repaired)
        return replace(plan, strength=strength * plan.strength, repaired=repaired, left=left, shares=shares)

    @classmethod
    def _wished(cls, probabilities: Mapping[str, float], wish: Wish, certain: float) -> "Plan":
        found = {name: p for name, p in probabilities.items() if p >= RECOGNISED and name != CLEAN}
        if wish.repair:
            left = dict.fromkeys([*wish.keep, *(name for name in found if name not in wish.repair)])
            strongest = max(wish.repair.values())
            return cls(parse_classes(wish.repair), strongest, tuple(wish.repair), tuple(left))
        if certain <= UNSURE:
            return cls(None, wish.strength, (), wish.keep, certainty=certain)
        wanted = {name: p for name, p in found.items() if name not in wish.keep}
        if found and not wanted:
            note = "only what is to be left was found, and the photo was left as it is"
            return cls(None, 0.0, (), wish.keep, (note,))
        mixture = parse_classes(wanted) if len(wanted) < len(found) else None
        return cls(mixture, wish.strength, tuple(wanted), wish.keep, certainty=certain)

    def share(self, restored: Tensor, photo: Pixels) -> float:
        """Share of the change to `restored`, `[3, H, W]`, that certainty allows."""
        return 1.0 if self.certainty >= SURE else change_share(self.certainty, distance(restored, photo))

    def share_of(self, allowed: float, filled: bool) -> float:
        """The share to tell where certainty `allowed` so much: all of nothing, and all where holes were `filled`."""
        return 1.0 if filled or not self.strength else allowed

    @property
    def acts(self) -> bool:
        """Whether any of the change may be made."""
        return self.strength > 0 and self.certainty > UNSURE

    def foremost(self, probabilities: Mapping[str, float]) -> str:
        """The class that is repaired most, of those recognised where none is named."""
        weights = self.classes or {name: p for name, p in probabilities.items() if name != CLEAN}
        return max(weights, key=lambda name: weights[name], default=CLEAN)


# Of a phrase's probability among all known phrases, and of the known phrases that a text tower must tell apart.
CERTAIN, TOWER_KNOWS = 0.9, 0.7


class Phrases:
    """The known phrases of classes and of ordinary things, in the text tower's eyes."""

    def __init__(self, classes: Sequence[str], clip: FrozenClip):
        lexicon = lexicon_of(tuple(classes))
        known = [(text, name) for name, faults in lexicon.faults.items() for text in faults]
        known += [(text, "") for text in lexicon.ordinary]
        self.texts = clip.encode_text([f"a photo with {text}" for text, _ in known])
        found = [[name == other for other in ("", *classes)] for _, name in known]
        self.of_class = torch.tensor(found, device=self.texts.device)

    def chances(self, embedded: Tensor, without: Tensor | None = None) -> Tensor:
        """Probabilities of `""` (no class) and the classes for each embedded text."""
        logits = 100 * embedded @ self.texts.T
        logits = logits if without is None else logits.masked_fill(without, -math.inf)
        return logits.softmax(-1) @ self.of_class.float()

    @property
    def understood(self) -> bool:
        """Whether the text tower knows language, which shows in that it finds the classes of known phrases by the other
        ones; random weights do not."""
        itself = torch.eye(len(self.texts), dtype=torch.bool, device=self.texts.device)
        right = self.chances(self.texts, itself).argmax(-1) == self.of_class.int().argmax(-1)
        return bool(right.float().mean() >= TOWER_KNOWS)


def class_meant(phrase: str, classes: Sequence[str], clip: FrozenClip) -> str | None:
    """The class that an unknown phrase means, where the text tower knows language; None where it is unsure."""
    phrases = Phrases(classes, clip)
    best = phrases.chances(clip.encode_text([f"a photo with {phrase}"]))[0]
    place = int(best.argmax())
    return classes[place - 1] if place and best[place] >= CERTAIN and phrases.understood else None


def distance(restored: Tensor, photo: Pixels) -> float:
    """PSNR in dB between the restored photo, `[3, H, W]`, and the photo."""
    total = 0.0
    for top in range(0, photo.height, BAND):
        total += float((restored[:, top : top + BAND] - photo.crop(top, top + BAND)).square().sum())
    return -10 * math.log10(max(total / restored.numel(), 1e-12))


def blend_(restored: Tensor, photo: Pixels, strength: float, holes: np.ndarray | None = None) -> None:
    """Turn `restored`, `[3, H, W]`, in place into photo + strength · (restored − photo), the photo outside holes."""
    if strength == 1 and holes is None:
        return
    for top in range(0, photo.height, BAND):
        band, lq = restored[:, top : top + BAND], photo.crop(top, top + BAND)
        band.lerp_(lq, 1 - strength)
        if holes is not None:
            kept = torch.from_numpy(~holes[top : top + BAND]).expand_as(band)
            band[kept] = lq[kept]


def unsampled(
    photos: Sequence[Pixels], seen: Sequence[Pixels], plans: Sequence[Plan]
) -> list[tuple[list[Pixels], None, float]]:
    """What `Restorer._samples` finds where there is nothing for the network to do: photos as they are, or what was
    `seen` in their place, by the strength of the plans."""
    found: list[tuple[list[Pixels], None, float]] = []
    for photo, lq, plan in zip(photos, seen, plans, strict=True):
        image = lq
        if lq is not photo and plan.strength < 1:
            mixed = lq.crop()
            blend_(mixed, photo, plan.strength)
            image = photo.recoloured(mixed)
        found.append(([image], None, plan.share_of(0.0, lq is not photo)))
    return found


def without_holes(
    photo: Pixels, found: Recognised, plan: Plan, recognise: Callable[[Pixels], Recognised]
) -> tuple[Pixels, Recognised, Plan]:
    """The photo with what one colour covers drawn from around, where missing parts are to be repaired; what is
    recognised then; and the plan for the rest, which is repaired as far as that is sure unless the user has named it.
    Where nearly all is covered, the rest is rather text on paper."""
    if not plan.acts or HOLES not in (plan.classes or [plan.foremost(found[1])]):
        return photo, found, plan
    holes = covered(photo.shallow().colour)
    if not 0 < holes.mean() <= MOST_COVERED:
        return photo, found, plan
    photo = photo.filled(holes, None)
    found = recognise(photo)
    certain = plan.certainty if plan.classes else certainty(found[1])
    return photo, found, replace(plan, certainty=certain)


def holes_of(mask: Any, photos: Sequence[Pixels]) -> np.ndarray:
    """A mask (tensor, array, Pillow image; numbers: upper half is true) as bool `[H, W]`, true where it is missing."""
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
    """Per-pixel standard deviation over several restorations (Welford 1962), which holds only two images."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.squares = torch.zeros(())

    def add(self, image: Tensor) -> None:
        """Add a restoration, `[3, H, W]`."""
        self.count += 1
        delta = image - self.mean
        self.mean = self.mean + delta / self.count
        self.squares = self.squares + delta * (image - self.mean)

    def map(self) -> Tensor:
        """Root mean square over the colours of the sample standard deviation: `[H, W]`, in units of the image."""
        return (self.squares / (self.count - 1)).mean(0).sqrt()


AGAIN = 0.8  # certainty of a class for one more pass: with less, it is as often an echo of the last repair
MOST = 4  # passes of `auto`


def check_settings(strength: float, samples: int, passes: Passes, **beside: Any) -> int:
    """Refuse settings of no use; returns the most passes that are made. `beside` are options that say what to repair,
    by which several passes cannot go."""
    if not 0 <= strength <= 1:
        raise DaclipError(f"the strength must lie between 0 (leave the photo) and 1 (restore fully), got {strength}")
    if samples < 1:
        raise DaclipError(f"samples must be at least 1, got {samples}")
    if passes == 1:
        return 1
    most = MOST if passes == "auto" else passes
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise DaclipError(f"passes must be a number of at least 1, or auto, got {passes}")
    if given := [name for name, value in {**beside, "samples": samples > 1}.items() if value]:
        raise DaclipError(f"several passes do not go together with {', '.join(given)}; give one of both")
    return most


def in_turn(
    repair: Callable[[Any, str | None, Recognised], Restoration],
    recognise: Callable[[Any], Recognised],
    photo: Any,
    most: int,
    wish: Wish | None = None,
) -> Restoration:
    """Repair what is recognised, then each time the surest class, as long as one is sure, was not repaired before and
    is not to be left.

    `repair` restores a photo, of a class or (None) as one pass would, by what `recognise` has said of it. The first
    pass is what a single one would be, so that more of them cannot spoil a photo with one degradation."""
    started = time.perf_counter()
    first = done = repair(photo, None, recognise(photo))
    confidence = dict.fromkeys(first.repaired, 0.0) | first.probabilities  # one may be unknown to recognition
    surest = max(first.repaired, key=confidence.__getitem__, default=first.degradation)
    passes = [Pass(surest, confidence[surest], first.image)]
    networks = [first.network]
    while len(passes) < most:
        recognised = recognise(done.image)
        probabilities = recognised[1]
        surest = max((name for name in probabilities if name != CLEAN), key=probabilities.__getitem__)
        repaired = {one.degradation for one in passes}
        share = wish.share(surest) if wish else 1.0
        # What was asked for in part is not repaired twice.
        enough = share == 0 or (share < 1 and surest in first.repaired)
        if probabilities[surest] < AGAIN or surest in repaired or enough:
            break
        done = repair(done.image, surest, recognised)
        passes.append(Pass(surest, probabilities[surest], done.image))
        networks.append(done.network)
    if wish:
        # Each pass may have been another network's, which repairs its class alone.
        told = tuple(dict.fromkeys([*first.repaired, *(one.degradation for one in passes[1:])]))
        left = tuple(name for name in first.left if name not in told)
        first = replace(first, repaired=told, left=left, shares=wish.shares(told))
    by = ", ".join(dict.fromkeys(filter(None, networks))) or None
    seconds = time.perf_counter() - started
    return replace(first, image=done.image, seconds=seconds, passes=tuple(passes), network=by)
