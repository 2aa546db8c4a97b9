"""Which degraded photo belongs to which clean one: by their names, never by their order. Whether they look alike."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from daclip.errors import DaclipError
from daclip.files import sample

# What data sets add to the names of files and folders to tell degraded, clean and restored photos apart.
ROLES = (
    "no[_-]?shadow|shadow[_-]?free|no[_-]?rain|no[_-]?haze|blur(?:red|ry)?|clean|clear|degraded|denoised|derain(?:ed)?|drop|"
    "fake|free|gt|haze|hazy|high|hq|hr|input|low|lq|lr|noise|noisy|normal|orig(?:inal)?|out(?:put)?|pred(?:iction)?|"
    "rain(?:y|drop)?|real|ref(?:erence)?|restored|result|shadow|sharp|sr|snowy?|target|truth"
)
_ROLE = re.compile(rf"(?<![a-z0-9])(?:{ROLES})(?![a-z])", re.IGNORECASE)
_SEPARATORS = re.compile(r"[_\-. ]+")
_SCALE = re.compile(r"(?<=\d)x[234]$", re.IGNORECASE)  # Rain100L: norain-1x2.png
SIDE = 16  # of the small copies that are compared
UNLIKE, ALIKE = 0.2, 0.8  # correlations of small copies: of different pictures, and of one picture in another light
FEWEST = 4  # pairs that tell how a degradation changes small copies


def key_of(name: str) -> str:
    """What is left of a path without suffix and without the words that tell degraded and clean photos apart.

    >>> key_of("rain-001.png") == key_of("norain-001.png"), key_of("clip/blur/0001.png"), key_of("0_NOISY_SRGB.PNG")
    (True, 'clip/0001', '0_SRGB')
    """
    path = PurePosixPath(name).with_suffix("")
    parts = [_SEPARATORS.sub("_", _ROLE.sub("", part)).strip("_") for part in path.parts]
    parts[-1] = _SCALE.sub("", parts[-1])
    return "/".join(filter(None, parts))


@dataclass
class Matching:
    """Names of degraded photos with the names of their clean ones, and what found no partner."""

    pairs: list[tuple[str, str]] = field(default_factory=list)  # (LQ, GT), sorted; several LQ may share one GT
    rules: Counter[str] = field(default_factory=Counter)  # how many pairs were found by which rule
    lonely_lq: list[str] = field(default_factory=list)
    lonely_gt: list[str] = field(default_factory=list)
    doubtful: dict[str, list[str]] = field(default_factory=dict)  # LQ to the GT files that it fits equally well


def match_names(lq: Iterable[str], gt: Iterable[str]) -> Matching:
    """Match the names of files, paths below an LQ and a GT folder. A pair needs a reason: the same path whatever the
    suffix; else the same path without words such as `rain` and `clean`; else an LQ name that goes on behind the GT name
    (`0001_1_0.8` and `0001`)."""
    found = Matching()
    names = sorted(gt)
    exact: dict[str, list[str]] = {}
    keyed: dict[str, list[str]] = {}
    for name in names:
        exact.setdefault(_stem(name), []).append(name)
        keyed.setdefault(key_of(name), []).append(name)
    for name in sorted(lq):
        rule, candidates = "name", exact.get(_stem(name), [])
        if not candidates:
            rule, candidates = "name without words such as rain and clean", keyed.get(key := key_of(name), [])
            while not candidates and "_" in PurePosixPath(key).name:
                key = key.rpartition("_")[0]
                rule, candidates = "beginning of the name", keyed.get(key, [])
        same = [other for other in candidates if other == name] or candidates
        if len(same) == 1:
            found.pairs.append((name, same[0]))
            found.rules[rule] += 1
        elif same:
            found.doubtful[name] = same
        else:
            found.lonely_lq.append(name)
    taken = {other for _, other in found.pairs} | {other for others in found.doubtful.values() for other in others}
    found.lonely_gt = [name for name in names if name not in taken]
    return found


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()


def pair_account(rules: Mapping[str, int]) -> str:
    """How many pairs were found by which rule.

    >>> pair_account({"name": 8, "beginning of the name": 2})
    '10 pairs (8 by name, 2 by beginning of the name)'
    """
    return f"{sum(rules.values())} pairs{by_rule(rules)}"


def by_rule(rules: Mapping[str, int]) -> str:
    """How many were found by which rule, in brackets; nothing where there is none."""
    how = ", ".join(f"{count} by {rule}" for rule, count in rules.items())
    return f" ({how})" if how else ""


def require_partners(found: Matching, lq: str, gt: str) -> None:
    """Refuse photos without a partner, by name; `lq` and `gt` say where they lie."""
    for name, others in found.doubtful.items():
        raise DaclipError(f"{lq}: {name} belongs to {' as well as '.join(others)} of {gt}; remove all but one")
    sides = [(lq, found.lonely_lq, gt), (gt, found.lonely_gt, lq)]
    lines = [f"{len(names)} in {side} have none in {other}: {sample(names)}" for side, names, other in sides if names]
    if lines:
        raise DaclipError(f"photos without a partner: {'; '.join(lines)}; name them alike, or remove them")


def small_copy(pixels: Tensor) -> np.ndarray:
    """A blurred gray copy of a photo `[3, H, W]`, uint8 `[SIDE, SIDE]`."""
    copy: np.ndarray = F.adaptive_avg_pool2d(pixels.float().mean(0, keepdim=True), SIDE)[0].round().byte().numpy()
    return copy


def strangers(copies: Sequence[Sequence[np.ndarray]]) -> dict[int, str]:
    """Pairs of one class whose small copies (of LQ and of GT) show different pictures, with the reason. A hole or dense
    haze hides a picture as well, so a low correlation counts only where it is not the degradation's own:
    most pairs of the class have one, or hardly any other, or the photo looks like another clean one."""
    if not copies:
        return {}
    degraded, clean = (_standard(np.stack(side)) for side in zip(*copies, strict=True))
    own = (degraded * clean).sum(1)
    judged = degraded.any(1) & clean.any(1)
    low = np.flatnonzero(judged & (own < UNLIKE))
    if not len(low):
        return {}
    values = own[judged]
    most, hardly_any = len(values) >= FEWEST and np.median(values) < UNLIKE, np.quantile(values, 0.25) > 0.5
    found = {}
    for i in low.tolist():
        others = clean @ degraded[i]
        if most or hardly_any or others.max() > ALIKE:
            found[i] = f"correlation {own[i]:.2f}"
    return found


def _standard(copies: np.ndarray) -> np.ndarray:
    """Rows of mean 0 and length 1, float64 `[N, SIDE²]`; 0 for uniform pictures."""
    rows = copies.reshape(len(copies), -1).astype(float)
    rows -= rows.mean(1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(lengths > 1e-6, rows / np.maximum(lengths, 1e-6), 0)
