"""Uncertainty of means: bootstrap intervals and paired comparisons over photos."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bootstrap:
    """Means over redrawn photos."""

    per_class: dict[str, Tensor]  # label to means, float64 `[draws, K]` for K columns of values
    macro: Tensor  # mean over the labels, `[draws, K]`
    units: int  # number of photos that were drawn from


def bootstrap(
    units: Sequence[str], classes: Sequence[str], values: Tensor, draws: int, generator: torch.Generator
) -> Bootstrap:
    """Redraw photos with replacement and average again (cluster bootstrap; Davison and Hinkley 1997, §3.8). Row n of
    the `values` `[N, K]` belongs to photo `units[n]` and label `classes[n]`. A photo is drawn with all of its rows,
    which are not independent, and among photos of the same classes, so that none is left empty."""
    names, labels = sorted(set(units)), list(dict.fromkeys(classes))
    place = {name: index for index, name in enumerate(names)}
    unit = torch.tensor([place[name] for name in units])
    label = torch.tensor([labels.index(name) for name in classes])
    sums = torch.zeros(len(names), len(labels), values.shape[1], dtype=torch.float64)
    counts = torch.zeros(len(names), len(labels), dtype=torch.float64)
    sums.index_put_((unit, label), values.double(), accumulate=True)
    counts.index_put_((unit, label), torch.ones(len(unit), dtype=torch.float64), accumulate=True)
    drawn = torch.zeros(draws, len(names), dtype=torch.float64)
    strata: dict[tuple[bool, ...], list[int]] = {}
    for index, present in enumerate((counts > 0).tolist()):
        strata.setdefault(tuple(present), []).append(index)
    for members in strata.values():
        picks = torch.randint(len(members), (draws, len(members)), generator=generator)
        chosen = torch.tensor(members)[picks]
        drawn.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=torch.float64))
    totals = torch.einsum("du,uwk->dwk", drawn, sums) / (drawn @ counts)[..., None]
    return Bootstrap({name: totals[:, i] for i, name in enumerate(labels)}, totals.mean(1), len(names))


def interval(means: Tensor, confidence: float) -> tuple[float, float] | None:
    """Percentile interval of redrawn means `[draws]`; None where one of them is infinite."""
    if not bool(means.isfinite().all()):
        return None
    tail = (1 - confidence) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=means.dtype)).tolist()
    return round(low, 9), round(high, 9)


@dataclass(frozen=True)
class Difference:
    """Mean difference of two runs on the same photos, second minus first, with its interval. `p` is the two-sided
    bootstrap p-value, at least 2^(1 − photos), the least that a sign test can reach."""

    mean: float
    low: float
    high: float
    p: float


def paired_difference(
    units: Sequence[str],
    classes: Sequence[str],
    differences: Tensor,
    draws: int,
    confidence: float,
    generator: torch.Generator,
) -> Difference | None:
    """Compare two runs by their `differences` `[N]` on each row, as `bootstrap`; None where one is not finite."""
    means = bootstrap(units, classes, differences[:, None], draws, generator).macro[:, 0]
    ends = interval(means, confidence)
    if ends is None:
        return None
    by_class = {name: [d for d, w in zip(differences.tolist(), classes, strict=True) if w == name] for name in classes}
    mean = sum(sum(found) / len(found) for found in by_class.values()) / len(by_class)
    # One is added to both counts, so that no finite number of draws claims p = 0 (Davison and Hinkley 1997, §4.2).
    other_side = min(int((means <= 0).sum()), int((means >= 0).sum()))
    p = 2 * (other_side + 1) / (draws + 1)
    # If the systems were alike, n photos would all point the same way this often; two photos prove nothing.
    least = 2.0 ** (1 - len(set(units)))
    return Difference(mean, *ends, min(1.0, max(p, least)))
