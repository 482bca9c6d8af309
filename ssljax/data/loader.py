"""Batches of a data set in its global order, rebuilt from a position: the loader has no other state."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from absl import flags

from ssljax.errors import InputError

_NAMED = 8  # positions, of those that are read beside the one that takes longest
POSITIONS = 2**32  # a sample's position is a uint32


@runtime_checkable
class Dataset(Protocol):
    """What the loader asks of a data set: samples by global position, without end, safe to ask from several threads.

    It may also have `reuse` and `read(positions)`: then positions p of equal p // reuse are cheaper to read together,
    and those that lie side by side in this process's rows are. And `close()`, called when the loader is closed, and
    `in_process`, True if its samples cannot be read in worker processes. And `where(position)`, words for people that
    say where a sample lies, without reading anything; and `damage` (damage.py), where samples are replaced.
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
    timeout: float | None = None,
) -> "Batches":
    """An endless iterator of stacked NumPy batches, starting at a global position.

    Batch j holds the samples at positions `position + j * batch_size + r` for r in `rows`, this process's rows of the
    global batch, in that order. `threads` (in each worker, if there are any), `workers` (processes; 0 for none) and
    `buffer` (samples read ahead, in each worker) change the speed and the memory, never the samples.

    Raises InputError if the data set cannot be read so: a batch must hold whole groups of its `reuse`.

    An error of the data set is raised by `next`, then and at every later call; it never looks like the end of the data.
    Close the iterator (or use it as a context manager) to stop its threads and workers.
    `timeout` is for whoever waits for a batch: the seconds after which `reading` says what does not come.
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
    source = _Samples(dataset, blocks, batch_size, position, Reading())
    samples = grain.MapDataset.range(total).map(source).to_iter_dataset(read)
    if workers:
        # The workers get this process's flags, which absl refuses to read before somebody has parsed them.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
        samples = samples.mp_prefetch(options, _leave_stopping_to_the_parent)
    return Batches(samples.batch(len(blocks), drop_remainder=True, batch_fn=_stack), source, timeout)


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


class Reading:
    """Which positions this process's threads are reading now. A copy that is sent to another process begins anew."""

    def __init__(self) -> None:
        self._lock, self._begun = threading.Lock(), dict[int, tuple[float, list[int]]]()

    def __reduce__(self) -> tuple[type["Reading"], tuple[()]]:
        return Reading, ()

    @contextlib.contextmanager
    def of(self, positions: list[int]) -> Iterator[None]:
        """Note that this thread reads these positions."""
        thread = threading.get_ident()
        with self._lock:
            self._begun[thread] = time.monotonic(), positions
        try:
            yield
        finally:
            with self._lock:
                del self._begun[thread]

    def longest_first(self) -> list[list[int]]:
        """The positions that each thread reads, those first that take longest."""
        with self._lock:
            return [positions for _, positions in sorted(self._begun.values())]


@dataclass(frozen=True)
class _Samples:
    """This process's samples, block after block: block number -> samples. It can be sent to a worker."""

    dataset: Any
    blocks: list[list[int]]
    batch_size: int
    position: int
    reading: Reading

    def __call__(self, number: int) -> list[dict[str, Any]]:
        positions = self.positions(*divmod(int(number), len(self.blocks)))
        with self.reading.of(positions):
            if len(positions) > 1:
                return self.dataset.read(positions)
            return [self.dataset[positions[0]]]

    def positions(self, batch: int, block: int) -> list[int]:
        """Those of one block of a batch."""
        return [self.position + batch * self.batch_size + row for row in self.blocks[block]]

    def words(self, batch: int) -> str:
        """What is being read now; all of a batch where it cannot be known, since workers read it."""
        now = self.reading.longest_first() or [self.positions(batch, block) for block in range(len(self.blocks))]
        (first, *more), *others = now
        rest = [*more, *itertools.chain.from_iterable(others)]
        beside = (
            f" (and of positions {', '.join(map(str, rest[:_NAMED]))}{' ...' * (len(rest) > _NAMED)})" if rest else ""
        )
        return f"still reading {where(self.dataset, first)}, of position {first}{beside}"


def where(dataset: Any, position: int) -> str:
    """Words that say where a sample lies; nothing is read for them."""
    return dataset.where(position) if hasattr(dataset, "where") else "a sample of the data set"


def _stack(blocks: Sequence[list[dict[str, Any]]]) -> dict[str, np.ndarray]:
    samples = list(itertools.chain.from_iterable(blocks))
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


class Batches(Iterator[dict[str, np.ndarray]]):
    """The iterator that `load` returns. Its first error stays its answer."""

    def __init__(self, batches: grain.IterDataset, source: _Samples, timeout: float | None):
        self._batches, self._source, self.timeout = iter(batches), source, timeout
        self._error: BaseException | None = None
        self._given, self._abandoned = 0, False

    def __next__(self) -> dict[str, np.ndarray]:
        if self._error is not None:
            raise self._error
        try:
            batch = next(self._batches)
            self._given += 1
            return batch
        except StopIteration:
            self._error = RuntimeError(
                "the data ended, although a data set has no end: all 2**32 positions are used up"
            )
            raise self._error from None
        except BaseException as error:
            self._error = error
            raise

    def reading(self) -> str:
        """What the next batch waits for, in words."""
        return self._source.words(self._given)

    def abandon(self) -> None:
        """Give up threads that read what does not come: `close` no longer waits for them."""
        self._abandoned = True

    def close(self) -> None:
        """Stop the threads and workers; the iterator cannot be used afterwards."""
        if self._error is None:
            self._error = ValueError("the loader is closed")
        if self._abandoned:
            return
        if hasattr(self._source.dataset, "close"):
            self._source.dataset.close()
        self._batches.close()

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
