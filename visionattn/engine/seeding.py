"""Randomness as a pure function of where training stands.

Every random number of a run comes from generators that are seeded right before use: the order of an epoch from (seed,
epoch), the augmentation of a sample from (seed, epoch, index), a training step (drop path, dropout, mixup) from
(seed, iteration, rank). So no generator state has to be saved, a resumed run repeats what an uninterrupted one does,
and neither the number of data workers nor their persistence changes a result.
"""

from __future__ import annotations

import random
from typing import NamedTuple, Optional

import numpy as np
import torch

__all__ = ["SampleKey", "mix_seed", "seed_cpu", "seed_step"]

_MASK = (1 << 64) - 1


class SampleKey(NamedTuple):
    """What a sampler asks a data set for.

    Attributes:
        index: Position in the data set.
        seed: Seed of the sample's augmentation; None leaves the generators alone.
        padding: The sample only fills up a batch so that all ranks have equally many; its label must not count.
    """

    index: int
    seed: Optional[int] = None
    padding: bool = False


def mix_seed(*values: int) -> int:
    """Mixes integers into one seed of 63 bits (splitmix64), so that neighboring inputs give unrelated streams."""
    state = 0
    for value in values:
        state = (state + value + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def seed_cpu(seed: int) -> None:
    """Seeds Python, NumPy and torch's CPU generator, not the devices' (cheap enough for every sample)."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


def seed_step(seed: int) -> None:
    """Seeds every generator that a training step may draw from, those of all devices included."""
    seed_cpu(seed)
    torch.manual_seed(seed)
