"""Several degradations one after the other: recognise, repair, recognise again."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from daclip.degradations.base import CLEAN
from daclip.errors import DaclipError
from daclip.restoring.instruction import Wish
from daclip.restoring.results import Pass, Restoration

Passes = int | Literal["auto"]
Recognised = tuple[Any, dict[str, float]]
"""The embeddings of a photo and its classes."""

AGAIN = 0.8  # certainty of a class for one more pass: with less, it is as often an echo of the last repair
MOST = 4  # passes of `auto`


def check_passes(passes: Passes, **beside: Any) -> int:
    """The most passes that are made; `beside` are options that say what to repair, or how often, by other means."""
    if passes == 1:
        return 1
    most = MOST if passes == "auto" else passes
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise DaclipError(f"passes must be a number of at least 1, or auto, got {passes}")
    if given := [name for name, value in beside.items() if value]:
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
