"""Which differences between runs are more than chance."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from daclip.data.pairs import generator_for
from daclip.metrics.statistics import Difference, paired_difference
from daclip.report.runs import Evaluation
from daclip.score_table import metric_names

__all__ = ["Comparison", "compare", "holm"]


@dataclass(frozen=True)
class Comparison:
    """One metric of one evaluation against the first.

    Attributes:
        label: The evaluation.
        metric: The metric.
        rows: Photos in common, each crop and degradation counted.
        difference: Its mean with interval and p-value; None where nothing can be said.
        verdict: `better`, `worse`, `no clear difference`, or why nothing can be said.
    """

    label: str
    metric: str
    rows: int
    difference: Difference | None
    verdict: str


def holm(values: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted so that the chance of any false alarm stays what it says (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        largest = max(largest, min(1.0, round((len(values) - rank) * values[index], 12)))
        adjusted[index] = largest
    return adjusted


def _difference(
    first: Evaluation, other: Evaluation, metric: str, draws: int, confidence: float, seed: int
) -> tuple[int, Difference | None]:
    before = {(p.name, p.crop, p.degradation): p.scores[metric] for p in first.photos}
    rows = [p for p in other.photos if (p.name, p.crop, p.degradation) in before]
    if not rows:
        return 0, None
    gaps = torch.tensor([p.scores[metric] - before[p.name, p.crop, p.degradation] for p in rows], dtype=torch.float64)
    units, words = [p.name for p in rows], [p.degradation for p in rows]
    return len(rows), paired_difference(units, words, gaps, draws, confidence, generator_for(seed))


def compare(evaluations: Sequence[Evaluation], draws: int, confidence: float, seed: int) -> list[Comparison]:
    """Every evaluation after the first against the first, metric by metric, on the photos in common.

    p-values are adjusted for the number of comparisons.

    Args:
        evaluations: At least one.
        draws: Redrawn sets of the paired bootstrap.
        confidence: Of the intervals; a difference is called by its adjusted p-value.
        seed: Of the draws.
    """
    first = evaluations[0]
    found: list[tuple[str, str, int, Difference | None]] = []
    for other in evaluations[1:]:
        shared = [name for name in metric_names(first.metrics["mean"]) if name in other.metrics["mean"]]
        if _rules(first) != _rules(other):
            found.append((other.label, "", 0, None))
            continue
        found += [(other.label, name, *_difference(first, other, name, draws, confidence, seed)) for name in shared]
    adjusted = iter(holm([difference.p for *_, difference in found if difference]))
    comparisons = []
    for label, metric, rows, difference in found:
        if not metric:
            comparisons.append(Comparison(label, "", 0, None, "another protocol: not comparable"))
            continue
        if difference is None:
            why = "no photo in common" if not rows else "infinite scores"
            comparisons.append(Comparison(label, metric, rows, None, why))
            continue
        p = next(adjusted)
        difference = Difference(difference.mean, difference.low, difference.high, p)
        up = (difference.mean > 0) is first.metrics["higher_is_better"][metric]
        verdict = "no clear difference" if p > 1 - confidence else "better" if up else "worse"
        comparisons.append(Comparison(label, metric, rows, difference, verdict))
    return comparisons


def _rules(evaluation: Evaluation) -> tuple[object, ...]:
    """The protocol without its name."""
    protocol = evaluation.metrics["protocol"]
    return tuple(protocol[key] for key in ("eight_bit", "border", "colour"))
