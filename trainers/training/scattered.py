"""Draw a large data set's rows in random order without a list of their numbers."""

from collections.abc import Iterator

import numpy as np
import torch

ROUNDS = 6
"""Rounds of the network that scatters numbers; four make it indistinguishable from chance (Luby
and Rackoff, 1988), the others make up for a plain mixing function."""

DRAWN = 4096
"""Numbers scattered at once."""


class Scattered(torch.utils.data.Sampler[int]):
    """Yields each of ``0 .. rows - 1`` once an epoch, in an order drawn from `seed` and the epoch.

    A Feistel network permutes the numbers up to the next power of 4; one beyond the rows is
    permuted again until it is not (Black and Rogaway, 2002). A list of 20 million numbers takes
    800 MB, this nothing.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self.rows, self.seed, self.epoch = rows, seed, 0
        self.half = np.uint64(max(1, ((rows - 1).bit_length() + 1) // 2))

    def __len__(self) -> int:
        return self.rows

    def set_epoch(self, epoch: int) -> None:
        """Change the order to that of another epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        keys = np.random.SeedSequence([self.seed, self.epoch]).generate_state(ROUNDS, np.uint64)
        for start in range(0, self.rows, DRAWN):
            numbers = np.arange(start, min(start + DRAWN, self.rows), dtype=np.uint64)
            scattered = self._permuted(numbers, keys)
            while (beyond := scattered >= self.rows).any():
                scattered[beyond] = self._permuted(scattered[beyond], keys)
            yield from scattered.tolist()

    def _permuted(self, numbers: np.ndarray, keys: np.ndarray) -> np.ndarray:
        low = (np.uint64(1) << self.half) - np.uint64(1)
        left, right = numbers >> self.half, numbers & low
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & low)
        return (left << self.half) | right


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Mix 64 bits (the finaliser of splitmix64, Steele et al., 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
