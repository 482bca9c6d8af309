"""Batches of a data set in its global order, rebuilt from a position: the loader has no other state."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from absl import flags

POSITIONS = 2**32  # a sample's position is a uint32


@runtime_checkable
class Dataset(Protocol):
    """What the loader asks of a data set: samples by global position, without end, safe to ask from several threads."""

    checksum: str

    def __getitem__(self, position: int) -> dict[str, np.ndarray]: ...

    def describe(self, position: int) -> dict:
        """Where the sample comes from, for people and for replay."""
        ...


def load(
    dataset: Dataset,
    *,
    rows: Iterable[int],
    batch_size: int,
    position: int = 0,
    threads: int = 2,
    workers: int = 0,
    buffer: int = 32,
) -> "Batches":
    """An endless iterator of stacked NumPy batches, starting at a global position.

    Batch j holds the samples at positions `position + j * batch_size + r` for r in `rows`, this process's rows of the
    global batch, in that order. `threads` (in each worker, if there are any), `workers` (processes; 0 for none) and
    `buffer` (samples read ahead, in each worker) change the speed and the memory, never the samples.

    An error of the data set is raised by `next`, then and at every later call; it never looks like the end of the data.
    Close the iterator (or use it as a context manager) to stop its threads and workers.
    """
    rows = [int(row) for row in rows]
    if not rows or min(rows) < 0 or max(rows) >= batch_size:
        raise ValueError(f"rows {rows} must lie in a batch of {batch_size}")
    if not 0 <= position < POSITIONS:
        raise ValueError(f"position {position} is not a uint32")

    batches = (POSITIONS - position) // batch_size
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(buffer, threads))
    samples = (
        grain.MapDataset.range(batches * len(rows))
        .map(_Samples(dataset, rows, batch_size, position))
        .to_iter_dataset(read)
    )
    if workers:
        # The workers get this process's flags, which absl refuses to read before somebody has parsed them.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        samples = samples.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1))
    return Batches(samples.batch(len(rows), drop_remainder=True))


@dataclass(frozen=True)
class _Samples:
    """This process's samples one after the other: sample number -> sample. It can be sent to a worker."""

    dataset: Dataset
    rows: list[int]
    batch_size: int
    position: int

    def __call__(self, number: int) -> dict[str, Any]:
        batch, row = divmod(int(number), len(self.rows))
        return self.dataset[self.position + batch * self.batch_size + self.rows[row]]


class Batches(Iterator[dict[str, np.ndarray]]):
    """The iterator that `load` returns. Its first error stays its answer."""

    def __init__(self, batches: grain.IterDataset):
        self._batches = iter(batches)
        self._error: BaseException | None = None

    def __next__(self) -> dict[str, np.ndarray]:
        if self._error is not None:
            raise self._error
        try:
            return next(self._batches)
        except StopIteration:
            self._error = RuntimeError(
                "the data ended, although a data set has no end: all 2**32 positions are used up"
            )
            raise self._error from None
        except BaseException as error:
            self._error = error
            raise

    def close(self) -> None:
        """Stop the threads and workers; the iterator cannot be used afterwards."""
        if self._error is None:
            self._error = ValueError("the loader is closed")
        self._batches.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
