"""Checkpoints of a run: state, position in the data, config and format version, written by orbax and verified."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils

from ssljax import retention, verification
from ssljax.errors import InputError, is_of_a_peer
from ssljax.retention import Retention

FORMAT = 1
_STATE, _RECORD = "state", "record"
_NONE, _ALL_DAMAGED = -1, -2  # in place of a step


class Record(NamedTuple):
    """What a checkpoint holds beside the state's arrays.

    Attributes:
        samples: Samples consumed: the position in the data, whatever threads, processes and prefetch were.
        data_checksum: Of the data's index; a resumed run must read the same.
        config: The run's config, plain.
    """

    samples: int
    data_checksum: str
    config: dict[str, Any]


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep orbax from telling that a folder is opened to read, as if that were wrong."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


class Checkpoints:
    """The checkpoints of one run, written in the background under a temporary name and renamed when complete.

    A thread of the first process then notes their checksums, and only after that are older ones removed. Opening the
    folder compares the newest one with them: a damaged one is moved to `damaged/` and the one before it takes its
    place, in all processes, which must share the folder.

    Attributes:
        blocked_seconds: For which `save` has kept its caller waiting so far.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: int = 2,
        best_metric: str = "",
        best_mode: str = "min",
        keep_best: int = 1,
        share: float = 1.0,
        read_only: bool = False,
    ) -> None:
        """Open or create the folder.

        Args:
            directory: `checkpoints/` of a run.
            keep: The latest ones kept.
            best_metric: Name of a metric by which more are kept, of those saved with it; none by default.
            best_mode: "min" or "max": which value of it is the best.
            keep_best: How many of the best are kept.
            share: The part of the time for which `save` may keep its caller waiting before this is `busy`; 1 for never.
            read_only: Nothing is saved, moved or removed, so that the run may go on writing meanwhile.

        Raises:
            InputError: `best_mode` is neither, or all checkpoints are damaged.
        """
        if best_mode not in ("min", "max"):
            raise InputError(f'checkpoint.best_mode is {best_mode!r}; give "min" or "max".')
        self._directory, self._read_only = directory.absolute(), read_only
        self._retention, self._share = Retention(keep, best_metric, best_mode, keep_best), share
        self._pending: int | None = None
        self._trusted: set[int] = set()
        self._verifying: threading.Thread | None = None
        self._failure: Exception | None = None
        self.blocked_seconds, self._opened = 0.0, time.monotonic()
        if not read_only and jax.process_index() == 0:
            retention.remove_leftovers(self._directory)
        self._newest = None if read_only else self._find()
        options = ocp.CheckpointManagerOptions(
            best_fn=(lambda metrics: metrics[best_metric]) if best_metric else None,  # without it no metric is stored
            enable_async_checkpointing=True,
            # A reader that cleaned up would remove what the run is writing.
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            save_interval_steps=0 if read_only else 1,
            create=not read_only,
            lightweight_initialize=True,  # else one damaged metric would keep all from being opened
        )
        with _without_warnings() if read_only else contextlib.nullcontext():
            self._manager = ocp.CheckpointManager(self._directory, options=options, item_names=(_STATE, _RECORD))

    def latest(self) -> int | None:
        """Return the newest sound checkpoint's step, None where there is none.

        Raises:
            InputError: All checkpoints are damaged.
        """
        if self._newest is None and self._read_only:
            self._newest = self._find()
        return self._newest

    def best(self) -> tuple[int, float] | None:
        """Return the step and the metric of the best checkpoint kept; None without a metric that ranks them."""
        ranked = self._retention.ranked(self._directory, verification.steps_in(self._directory))
        return ranked[0] if ranked else None

    @property
    def busy(self) -> bool:
        """Whether a save now would wait for the one before, or saving took more than its share; asking takes no time.

        The share is of the time since the folder was opened.
        """
        if self._share >= 1:
            return False
        if self._manager.is_saving_in_progress() or (self._verifying is not None and self._verifying.is_alive()):
            return True
        return self.blocked_seconds > self._share * (time.monotonic() - self._opened)

    def save(self, step: int, state: Any, record: Record, metrics: Mapping[str, float]) -> None:
        """Start to save; the arrays may be donated once this returns. Does nothing where `step` is already saved.

        Where `metrics` lack the one that ranks checkpoints, or it is not finite, this is kept as the latest alone.

        Raises:
            InputError: This save, or the one before it, cannot be written; older checkpoints are intact.
        """
        if step in (self._pending, self._newest):
            return
        began = time.monotonic()
        self.wait()
        stored = ocp.args.JsonSave({"format": FORMAT, **record._asdict()})
        items = ocp.args.Composite(**{_STATE: ocp.args.StandardSave(state), _RECORD: stored})
        ranking = self._retention.best_metric
        kept = {ranking: metrics[ranking]} if math.isfinite(metrics.get(ranking, math.nan)) else None
        with self._guarded():
            self._manager.save(step, args=items, metrics=kept, force=True)
        self._pending = step
        if jax.process_index() == 0:
            self._verifying = threading.Thread(target=self._verify, args=(step,), name="verify", daemon=True)
            self._verifying.start()
        self.blocked_seconds += time.monotonic() - began

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
            InputError: The save under way cannot be written; older checkpoints are intact.
        """
        with self._guarded():
            self._manager.wait_until_finished()
            if self._verifying is not None:
                self._verifying.join()
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
        self._newest = self._newest if self._pending is None else self._pending

    def record(self, step: int | None = None) -> tuple[int, Record]:
        """Return the step and the record of a checkpoint, the newest sound one by default.

        Raises:
            InputError: There is no such checkpoint, it is damaged, or a newer version of this package wrote it.
        """
        step = self._existing(step)
        stored = dict(self._read(step, _RECORD, ocp.args.JsonRestore()))
        version = stored.pop("format")
        if version != FORMAT:
            raise InputError(
                f"The checkpoint of step {step} in {self._directory} has format {version}, but this version of ssljax "
                f"reads format {FORMAT}; use the version that wrote it."
            )
        return step, Record(**stored)

    def restore(self, step: int | None, abstract: Any) -> Any:
        """Return the state of a checkpoint, placed as `abstract` (shapes with shardings) says.

        Raises:
            InputError: There is no such checkpoint, or it is damaged.
        """
        return self._read(self._existing(step), _STATE, ocp.args.StandardRestore(abstract))

    def close(self) -> None:
        """Release the folder; call `wait` before, to learn of failures.

        Raises:
            InputError: A save that nobody waited for cannot be written.
        """
        with self._guarded():
            self._manager.close()
        if self._verifying is not None:
            self._verifying.join()

    def _find(self) -> int | None:
        """Return the newest sound step: the first process moves damaged newer ones aside, and tells the others."""
        step, reason = _NONE, ""
        if self._read_only or jax.process_index() == 0:
            found, reason = verification.newest_sound(self._directory, read_only=self._read_only)
            step = found if found is not None else _ALL_DAMAGED if reason else _NONE
        if not self._read_only:
            step = int(multihost_utils.broadcast_one_to_all(np.int32(step)))
        if step == _ALL_DAMAGED:
            raise InputError(
                f"All checkpoints in {self._directory} are damaged{f' ({reason})' if reason else ''} and were left as "
                "they are: restore one from a copy, or train in another --workdir."
            )
        return None if step == _NONE else step

    def _verify(self, step: int) -> None:
        """In a thread: note the checksums of what was written, and remove what need not be kept beside it."""
        try:
            self._manager.wait_until_finished()
        except Exception:
            return  # raised where somebody waits for it, too
        try:
            verification.write_checksums(self._directory / str(step))
            self._retention.remove_others(self._directory, step)
        except Exception as error:  # raised by `wait`
            self._failure = error

    def _existing(self, step: int | None) -> int:
        if step is None:
            newest = self.latest()
            if newest is None:
                raise InputError(
                    f"{self._directory} holds no complete checkpoint; train first, or give another --workdir."
                )
            return newest
        steps = verification.steps_in(self._directory)
        if step not in steps:
            known = ", ".join(map(str, steps)) or "another --workdir"
            raise InputError(f"{self._directory} holds no checkpoint of step {step}; give one of {known}.")
        if step not in self._trusted and step != self._newest:
            reason = verification.fault(self._directory / str(step))
            if reason is not None:
                raise self._unreadable(step, reason)
            self._trusted.add(step)
        return step

    def _read(self, step: int, item: str, args: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
        except Exception as error:
            if jax.process_count() > 1 and is_of_a_peer(error):
                raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            raise self._unreadable(step, reason) from error

    def _unreadable(self, step: int, reason: str) -> InputError:
        folder = self._directory / str(step)
        if not folder.is_dir():
            return InputError(
                f"{folder} was removed while it was read, as a run does that goes on; run the same command again."
            )
        others = ", ".join(str(other) for other in verification.steps_in(self._directory) if other != step)
        return InputError(
            f"{folder} cannot be read ({reason}); the run's other checkpoints: {others or 'none'}. To go on from "
            "another, move this one away."
        )

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if jax.process_count() > 1 and is_of_a_peer(error):
                raise
            reason = " ".join(str(error).split())[:200]
            older = f"that of step {self._newest} is intact" if self._newest is not None else "no older one exists"
            raise InputError(
                f"A checkpoint could not be written to {self._directory} ({type(error).__name__}: {reason}); {older}: "
                "free space or mend the folder, and run the same command again."
            ) from error
