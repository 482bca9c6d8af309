"""Checkpoints of a run: state, position in the data, config and format version, written by orbax."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from ssljax.errors import InputError

FORMAT = 1
_STATE, _RECORD = "state", "record"


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


def check_best_metric(name: str, reported: Collection[str]) -> None:
    """Check that the metric which ranks checkpoints, if there is one, is among those that a run reports.

    Raises:
        InputError: It is not.
    """
    if name and name not in reported:
        raise InputError(
            f"checkpoint.best_metric is {name!r}, which this run does not report; give one of "
            f"{', '.join(sorted(reported))}."
        )


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
    """The checkpoints of one run, written in the background under a temporary name and renamed when complete."""

    def __init__(
        self,
        directory: Path,
        *,
        keep: int = 2,
        best_metric: str = "",
        best_mode: str = "min",
        keep_best: int = 1,
        read_only: bool = False,
    ) -> None:
        """Open or create the folder.

        Args:
            directory: `checkpoints/` of a run.
            keep: The latest ones kept.
            best_metric: Name of a metric by which more are kept, of those saved with it; none by default.
            best_mode: "min" or "max": which value of it is the best.
            keep_best: How many of the best are kept.
            read_only: Nothing is saved and nothing removed, so that the run may go on writing meanwhile.

        Raises:
            InputError: `best_mode` is neither.
        """
        if best_mode not in ("min", "max"):
            raise InputError(f'checkpoint.best_mode is {best_mode!r}; give "min" or "max".')
        policies: list[Any] = [checkpoint_managers.LatestN(keep)]
        worst = math.inf if best_mode == "min" else -math.inf  # what was saved when another metric ranked
        rank = (lambda metrics: metrics.get(best_metric, worst)) if best_metric else None
        if best_metric:
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=rank,
                    reverse=best_mode == "min",
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                )
            )
        options = ocp.CheckpointManagerOptions(
            best_fn=rank,  # without it no metric is stored, and the next process would forget the best
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            enable_async_checkpointing=True,
            # A reader that cleaned up would remove what the run is writing.
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            save_interval_steps=0 if read_only else 1,
            create=not read_only,
        )
        self._directory = directory.absolute()
        self._best_metric = best_metric
        with _without_warnings() if read_only else contextlib.nullcontext():
            self._manager = ocp.CheckpointManager(self._directory, options=options, item_names=(_STATE, _RECORD))

    def latest(self) -> int | None:
        """Return the newest complete checkpoint's step, None where there is none."""
        return self._manager.latest_step()

    @property
    def busy(self) -> bool:
        """Whether a save would have to wait for the one under way; does not wait itself."""
        return self._manager.is_saving_in_progress()

    def best(self) -> tuple[int, float] | None:
        """Return the step and the metric of the best checkpoint kept; None without a metric that ranks them."""
        step = self._manager.best_step() if self._best_metric else None
        metrics = self._manager.metrics(step) if step is not None else None
        return None if step is None or not metrics else (step, float(metrics[self._best_metric]))

    def save(self, step: int, state: Any, record: Record, metrics: Mapping[str, float]) -> None:
        """Start to save; the arrays may be donated once this returns. Does nothing where `step` is already saved.

        Where `metrics` lack the one that ranks checkpoints, or it is not finite, this is kept as the latest alone.

        Raises:
            InputError: This save, or the one before it, cannot be written; older checkpoints are intact.
        """
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            **{
                _STATE: ocp.args.StandardSave(state),
                _RECORD: ocp.args.JsonSave({"format": FORMAT, **record._asdict()}),
            }
        )
        value = metrics.get(self._best_metric, math.nan)
        kept = {self._best_metric: value} if math.isfinite(value) else None
        self._guarded(lambda: self._manager.save(step, args=items, metrics=kept, force=True))

    def wait(self) -> None:
        """Wait until everything is on disk.

        Raises:
            InputError: The save under way cannot be written; older checkpoints are intact.
        """
        self._guarded(self._manager.wait_until_finished)

    def record(self, step: int | None = None) -> tuple[int, Record]:
        """Return the step and the record of a checkpoint, the newest by default.

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
        """Release the folder; call `wait` before, to learn of failures."""
        self._manager.close()

    def _existing(self, step: int | None) -> int:
        steps = self._manager.all_steps()
        if not steps:
            raise InputError(f"{self._directory} holds no complete checkpoint; train first, or give another --workdir.")
        if step is not None and step not in steps:
            raise InputError(
                f"{self._directory} holds no checkpoint of step {step}; give one of "
                f"{', '.join(map(str, sorted(steps)))}."
            )
        return max(steps) if step is None else step

    def _read(self, step: int, item: str, args: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
        except Exception as error:
            folder = self._directory / str(step)
            if not folder.is_dir():
                raise InputError(
                    f"{folder} was removed while it was read, as a run does that goes on; run the same command again."
                ) from error
            others = ", ".join(str(other) for other in sorted(self._manager.all_steps()) if other != step)
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"{folder} cannot be read ({type(error).__name__}: {reason}); the run's other checkpoints: "
                f"{others or 'none'}. To go on from another, move this one away."
            ) from error

    def _guarded(self, write: Any) -> None:
        try:
            write()
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            intact = self._manager.latest_step()
            older = f"that of step {intact} is intact" if intact is not None else "no older one exists"
            raise InputError(
                f"A checkpoint could not be written to {self._directory} ({type(error).__name__}: {reason}); {older}: "
                "free space or mend the folder, and run the same command again."
            ) from error
