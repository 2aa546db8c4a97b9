"""Intervals and paired comparisons against closed forms."""

import math

import pytest
import torch

from daclip.metrics.scorer import bootstrap, interval, paired_difference
from daclip.reporting.runs import holm
from daclip.rng import generator_for


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    """For n photos the bootstrap's standard error is σ√((n−1)/n)/√n; 95 % lie within 1.96 of it."""
    values = torch.randn(200, 1, generator=generator_for(0), dtype=torch.float64)
    found = bootstrap([str(i) for i in range(200)], ["noisy"] * 200, values, 4000, generator_for(1))
    ends = interval(found.macro[:, 0], 0.95)
    assert ends is not None
    low, high = ends
    expected = 1.96 * float(values.std(correction=0)) / math.sqrt(200)
    mean = float(values.mean())
    assert mean - low == pytest.approx(expected, rel=0.08)
    assert high - mean == pytest.approx(expected, rel=0.08)


def test_rows_of_one_photo_are_drawn_together() -> None:
    """Crops that repeat each other carry no new information: the interval is as wide as with one crop each."""
    values = torch.randn(30, 1, generator=generator_for(2), dtype=torch.float64)
    once = bootstrap([str(i) for i in range(30)], ["noisy"] * 30, values, 500, generator_for(3))
    units = [str(i) for i in range(30) for _ in range(4)]
    often = bootstrap(units, ["noisy"] * 120, values.repeat_interleave(4, 0), 500, generator_for(3))
    torch.testing.assert_close(once.macro, often.macro)
    assert often.units == 30


def test_no_word_is_ever_empty() -> None:
    """Photos with different words are drawn apart, so every redrawn set has all words."""
    units, classes = ["a", "b", "c", "d"], ["rainy", "rainy", "hazy", "noisy"]
    values = torch.tensor([[1.0], [3.0], [10.0], [20.0]])
    found = bootstrap(units, classes, values, 200, generator_for(4))
    assert set(found.per_class["hazy"].flatten().tolist()) == {10.0}
    assert set(found.per_class["rainy"].flatten().tolist()) == {1.0, 2.0, 3.0}
    assert bool(found.macro.isfinite().all())
    torch.testing.assert_close(found.macro[:, 0], (found.per_class["rainy"][:, 0] + 30) / 3)


def test_infinite_scores_have_no_interval() -> None:
    values = torch.tensor([[1.0], [math.inf]])
    found = bootstrap(["a", "b"], ["noisy", "noisy"], values, 100, generator_for(0))
    assert interval(found.macro[:, 0], 0.95) is None


def test_a_paired_difference_is_found_where_single_means_overlap() -> None:
    """Photos differ by 5 dB, the two systems by 0.1 dB on each: only the pairing shows it."""
    level = 25 + 5 * torch.randn(60, generator=generator_for(5), dtype=torch.float64)
    gap = 0.1 + 0.05 * torch.randn(60, generator=generator_for(6), dtype=torch.float64)
    units = [str(i) for i in range(60)]
    found = paired_difference(units, ["noisy"] * 60, gap, 2000, 0.95, generator_for(7))
    assert found is not None
    assert found.low < 0.1 < found.high
    assert found.low > 0
    assert found.p == pytest.approx(2 / 2001)
    alone = interval(bootstrap(units, ["noisy"] * 60, level[:, None], 2000, generator_for(8)).macro[:, 0], 0.95)
    assert alone is not None
    assert alone[1] - alone[0] > 1


def test_two_photos_prove_nothing() -> None:
    gaps = torch.tensor([0.30, 0.31, 0.29, 0.30])
    found = paired_difference(["a", "a", "b", "b"], ["noisy", "rainy"] * 2, gaps, 2000, 0.95, generator_for(0))
    assert found is not None
    assert found.p == 0.5
    assert found.low > 0


def test_no_difference_is_called_none() -> None:
    gaps = torch.tensor([0.3, -0.3, 0.1, -0.1, 0.2, -0.2])
    found = paired_difference([str(i) for i in range(6)], ["noisy"] * 6, gaps, 2000, 0.95, generator_for(9))
    assert found is not None
    assert found.p > 0.5
    assert found.low < 0 < found.high


def test_adjusted_p_values_keep_their_order_and_grow() -> None:
    raw = [0.001, 0.2, 0.04, 0.04]
    adjusted = holm(raw)
    assert all(after >= before for before, after in zip(raw, adjusted, strict=True))
    assert adjusted == pytest.approx([0.004, 0.2, 0.12, 0.12])
