"""Batches of a data set in its global order, rebuilt from a position: the loader has no other state."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from absl import flags

from ssljax.errors import InputError

POSITIONS = 2**32  # a sample's position is a uint32


@runtime_checkable
class Dataset(Protocol):
    """What the loader asks of a data set: samples by global position, without end, safe to ask from several threads.

    It may also have `reuse` and `read(positions)`: then positions p of equal p // reuse are cheaper to read together,
    and those that lie side by side in this process's rows are. And `close()`, called when the loader is closed, and
    `in_process`, True if its samples cannot be read in worker processes.
    """

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

    Raises InputError if the data set cannot be read so: a batch must hold whole groups of its `reuse`.

    An error of the data set is raised by `next`, then and at every later call; it never looks like the end of the data.
    Close the iterator (or use it as a context manager) to stop its threads and workers.
    """
    rows = [int(row) for row in rows]
    if not rows or min(rows) < 0 or max(rows) >= batch_size:
        raise ValueError(f"rows {rows} must lie in a batch of {batch_size}")
    if not 0 <= position < POSITIONS:
        raise ValueError(f"position {position} is not a uint32")

    check(dataset, batch_size, workers)

    blocks = _blocks(rows, position, getattr(dataset, "reuse", 1))
    total = (POSITIONS - position) // batch_size * len(blocks)
    ahead = max(-(-buffer * len(blocks) // len(rows)), threads)
    read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    samples = grain.MapDataset.range(total).map(_Samples(dataset, blocks, batch_size, position)).to_iter_dataset(read)
    if workers:
        # The workers get this process's flags, which absl refuses to read before somebody has parsed them.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
        samples = samples.mp_prefetch(options, _leave_stopping_to_the_parent)
    return Batches(samples.batch(len(blocks), drop_remainder=True, batch_fn=_stack), getattr(dataset, "close", None))


def check(dataset: Dataset, batch_size: int, workers: int) -> None:
    """Check that the loader can read the data set; InputError if it cannot."""
    reuse = getattr(dataset, "reuse", 1)
    if batch_size % reuse:
        raise InputError(
            f"batch_size {batch_size} does not divide into groups of data.reuse={reuse} windows: change one"
        )
    if workers and getattr(dataset, "in_process", False):
        raise InputError(f"loader.workers is {workers}, but this data.source is read in one process: set it to 0")


def _leave_stopping_to_the_parent(worker: int, workers: int) -> None:
    """In a worker: outlive Ctrl-C and SIGTERM, which reach a whole group of processes, but not the parent.

    So that the parent gets its batches until it has saved; it stops its workers when it closes the loader.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _blocks(rows: list[int], position: int, reuse: int) -> list[list[int]]:
    """`rows` in their order, neighbours of one group together; the same for every batch, which holds whole groups."""
    return [list(block) for _, block in itertools.groupby(rows, lambda row: (position + row) // reuse)]


@dataclass(frozen=True)
class _Samples:
    """This process's samples, block after block: block number -> samples. It can be sent to a worker."""

    dataset: Any
    blocks: list[list[int]]
    batch_size: int
    position: int

    def __call__(self, number: int) -> list[dict[str, Any]]:
        batch, block = divmod(int(number), len(self.blocks))
        positions = [self.position + batch * self.batch_size + row for row in self.blocks[block]]
        if len(positions) > 1:
            return self.dataset.read(positions)
        return [self.dataset[positions[0]]]


def _stack(blocks: Sequence[list[dict[str, Any]]]) -> dict[str, np.ndarray]:
    samples = list(itertools.chain.from_iterable(blocks))
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


class Batches(Iterator[dict[str, np.ndarray]]):
    """The iterator that `load` returns. Its first error stays its answer."""

    def __init__(self, batches: grain.IterDataset, on_close: Callable[[], None] | None = None):
        self._batches, self._on_close = iter(batches), on_close
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
        if self._on_close is not None:
            self._on_close()
        self._batches.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
