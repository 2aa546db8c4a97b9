"""Random numbers of a degradation, each from the generator of one sample."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor

from daclip.degradations.options import Ends


def uniform(low: float, high: float, generator: Generator) -> float:
    """One number drawn uniformly from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def ramp(ends: Ends, severity: float, generator: Generator) -> float:
    """A parameter at `severity` along its range, with a jitter of ±0.1 of severity, so that parameters differ."""
    place = min(max(severity + uniform(-0.1, 0.1, generator), 0.0), 1.0)
    return ends[0] + (ends[1] - ends[0]) * place


def logarithms(ends: Ends) -> Ends:
    """Logarithms of a range, for parameters that act by their ratio."""
    return math.log(ends[0]), math.log(ends[1])


def log_uniform(ends: Ends, generator: Generator) -> float:
    """One number drawn from a range, every ratio as likely as any other of its size."""
    return math.exp(uniform(*logarithms(ends), generator))


def log_ramp(ends: Ends, severity: float, generator: Generator) -> float:
    """As `ramp`, in equal ratios."""
    return math.exp(ramp(logarithms(ends), severity, generator))


def tint(most: float, generator: Generator) -> Tensor:
    """Deviations of the channels `[1, 3, 1, 1]`, each up to `most`."""
    return most * (2 * torch.rand(1, 3, 1, 1, generator=generator) - 1)


def scalar(value: float) -> Tensor:
    """One number for a draw, `[1, 1, 1, 1]`."""
    return torch.full((1, 1, 1, 1), value)


def fork(generator: Generator) -> Generator:
    """A generator of its own for one part, so that the number of its draws does not change the parts after it."""
    return Generator().manual_seed(int(torch.randint(2**62, (), generator=generator)))


def permuted(names: Sequence[str], generator: Generator) -> list[str]:
    """The names in random order."""
    return [names[i] for i in torch.randperm(len(names), generator=generator).tolist()]


def choose(weights: Mapping[str, float], generator: Generator) -> str:
    """One of the names, in proportion to its weight."""
    names = list(weights)
    return names[int(torch.multinomial(torch.tensor(list(weights.values())), 1, generator=generator))]
