"""The global order of windows: place -> (video, start), a pure function of the seed and the place.

Every process, thread and worker asks the same function, so that the order depends on none of them, and a run continues
from nothing but the number of windows it has consumed.
"""

from collections.abc import Sequence

import grain
import numpy as np

from ssljax.errors import InputError


class Order:
    """Positions 0, 1, 2, ... without end over `counts[v]` starts of each video v.

    Without weights all starts of all videos are shuffled together: each comes exactly once per epoch, in a new order
    each epoch. With weights each video is shuffled by itself and repeats for ever, and the positions are dealt out to
    the videos evenly, in proportion at any moment, however long each is.
    Permutations are computed, not stored: any size, a few microseconds a position.
    """

    def __init__(self, counts: Sequence[int], *, seed: int, weights: Sequence[float | int] | None = None):
        self._first = np.cumsum([0, *counts])
        if weights is None:
            self._order = _shuffled(0, int(self._first[-1]), seed)
            return
        if len(weights) != len(counts):
            raise InputError(
                f"{len(weights)} weights were given for {len(counts)} videos or data sets: give one for each, or none"
            )
        if not all(weight > 0 and np.isfinite(weight) for weight in weights):
            raise InputError(f"weights {list(weights)} must all be positive numbers")
        # repeated one by one, since a mix ends with its first member that ends
        parts = [
            _shuffled(int(a), int(b), seed + i)
            for i, (a, b) in enumerate(zip(self._first[:-1], self._first[1:], strict=True))
        ]
        self._order = grain.MapDataset.mix(parts, [float(weight) for weight in weights])

    def __getitem__(self, position: int) -> tuple[int, int]:
        """(video, start): the number of the video and the number of the start within it."""
        flat = int(self._order[position])
        video = int(np.searchsorted(self._first, flat, side="right")) - 1
        return video, flat - int(self._first[video])

    def another(self, position: int, random: np.random.Generator) -> int:
        """A start that may take the place of the one at `position`: any of the same video."""
        video, _ = self[position]
        return int(random.integers(self._first[video + 1] - self._first[video]))


class BlockOrder:
    """Positions without end over blocks of neighbouring starts, in order; the starts of a block come shuffled.

    So that what is read at any time lies close together. Each start comes once per epoch, in a new order each epoch.

    Args of the constructor: blocks, (video, first start, end of its starts) in the order of their visits; seed.
    """

    def __init__(self, blocks: Sequence[tuple[int, int, int]], *, seed: int):
        self._blocks, self._seed = [block for block in blocks if block[2] > block[1]], seed
        self._first = np.cumsum([0] + [end - first for _, first, end in self._blocks])

    def __getitem__(self, position: int) -> tuple[int, int]:
        """(video, start), as `Order` has it."""
        epoch, number, offset = self._place(position)
        video, first, end = self._blocks[number]
        random = np.random.Generator(np.random.Philox(key=[self._seed % 2**64, epoch], counter=[0, 0, 2, number]))
        return video, first + int(random.permutation(end - first)[offset])

    def another(self, position: int, random: np.random.Generator) -> int:
        """A start that may take the place of the one at `position`: any of the same block."""
        _, first, end = self._blocks[self._place(position)[1]]
        return int(random.integers(first, end))

    def _place(self, position: int) -> tuple[int, int, int]:
        """(epoch, block, offset within it)."""
        epoch, flat = divmod(position, int(self._first[-1]))
        number = int(np.searchsorted(self._first, flat, side="right")) - 1
        return epoch, number, flat - int(self._first[number])


def _shuffled(first: int, end: int, seed: int) -> grain.MapDataset:
    return grain.MapDataset.range(first, end).seed(seed % 2**32).shuffle().repeat()
