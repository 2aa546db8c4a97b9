"""Random generators that depend on a key and on nothing else."""

import numpy as np
import torch


def generator_for(*key: int) -> torch.Generator:
    """A generator that depends on nothing but the key, such as (seed, sample index)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
