"""Where a run's numbers go: metrics.jsonl, TensorBoard, Weights & Biases, and the progress bar."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorboardX
from tqdm import tqdm

from ssljax.errors import InputError

_COLLAPSED = 0.01
_PATIENCE = 5


class Log:
    """Writes a run's metrics every few steps; a context manager. Only the first of several processes writes."""

    def __init__(
        self,
        workdir: Path,
        *,
        start: int,
        total: int,
        batch_size: int,
        unit: str,
        schedules: Mapping[str, Callable[[int], Any]],
        config: Mapping[str, Any],
        writes: bool,
        also: int = 0,
        every: int = 10,
        tensorboard: bool = True,
        wandb_project: str = "",
    ) -> None:
        """Open the sinks, dropping lines of updates that a resumed run does again.

        Args:
            workdir: The run's folder.
            start: Updates done before.
            total: Updates in all.
            batch_size: Samples an update, for the rate.
            unit: What a sample is called there.
            schedules: Values by name as functions of the step, logged beside the metrics.
            config: Handed to Weights & Biases.
            writes: False in all processes but one.
            also: Updates between lines that are written whatever `every` is: those of evaluations; 0 for none.
            every: Updates between lines.
            tensorboard: Whether to write event files.
            wandb_project: Weights & Biases project; none by default.

        Raises:
            InputError: Weights & Biases is asked for and not installed.
        """
        self.every, self.total, self.batch_size, self.unit, self._also = every, total, batch_size, unit, also
        self._schedules = schedules
        self._paused = 0.0
        self._waited, self._since, self._count = 0.0, self.now(), 0
        self._low, self._evaluated = 0, ""
        self._file = self._tensorboard = self._wandb = None
        if writes and wandb_project:
            self._wandb = _open_wandb(wandb_project, workdir, dict(config))
        self.bar = tqdm(
            total=total, initial=start, unit="step", disable=not writes, dynamic_ncols=True, file=sys.stderr
        )
        if not writes:
            return
        path = workdir / "metrics.jsonl"
        _drop_lines_after(path, start)
        self._file = path.open("a", buffering=1)
        if tensorboard:
            self._tensorboard = tensorboardX.SummaryWriter(str(workdir), purge_step=start)

    def __enter__(self) -> Log:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the sinks."""
        self.bar.close()
        for sink in (self._file, self._tensorboard):
            if sink is not None:
                sink.close()
        if self._wandb is not None:
            self._wandb.finish()

    def now(self) -> float:
        """Return the seconds on a clock that stands still while it is paused."""
        return time.monotonic() - self._paused

    def update(self, step: int, metrics: Mapping[str, float], waited: float, ended: float | None = None) -> None:
        """Count one update.

        Args:
            step: Updates done.
            metrics: Finite scalars.
            waited: Seconds that the devices stood idle before this update, waiting for its data.
            ended: When the devices were through with it, as of `now()`; by default this moment.
        """
        ended = self.now() if ended is None else ended
        self._waited, self._count = self._waited + waited, self._count + 1
        self.bar.update()
        if step % self.every and step != self.total and not (self._also and step % self._also == 0):
            return
        elapsed = max(ended - self._since, 1e-9)
        rate = self._count * self.batch_size / elapsed
        line = {**metrics, **{name: float(value(step - 1)) for name, value in self._schedules.items()}}
        line |= {"samples_per_second": rate, "data_wait_share": min(1.0, self._waited / elapsed)}
        self._evaluated = f", knn_20 {metrics['knn_20']:.1%}" if "knn_20" in metrics else self._evaluated
        self.bar.set_postfix_str(
            f"loss {metrics['loss']:.3f}, {rate:.1f} {self.unit}/s, waiting for data {line['data_wait_share']:.0%}"
            f"{self._evaluated}"
        )
        self._waited, self._since, self._count = 0.0, ended, 0
        self._write(step, line)
        self._warn_of_collapse(step, metrics)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave what happens inside out of the rate."""
        began = time.monotonic()
        yield
        self._paused += time.monotonic() - began

    def _write(self, step: int, line: Mapping[str, float]) -> None:
        if self._file is not None:
            finite = {name: value for name, value in line.items() if math.isfinite(value)}  # JSON knows no others
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
        if self._tensorboard is not None:
            for name, value in line.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(line), step=step)

    def _warn_of_collapse(self, step: int, metrics: Mapping[str, float]) -> None:
        """Warn once when the teacher has said the same of every sample for a while, the first tenth of the run over."""
        if step < self.total / 10 or "teacher_information" not in metrics:
            return
        self._low = self._low + 1 if metrics["teacher_information"] < _COLLAPSED else 0
        if self._low == _PATIENCE:
            self.bar.write(
                f"WARNING: the representation has collapsed by step {step}: the teacher gives every sample nearly the "
                f"same target (teacher_information {metrics['teacher_information']:.4f}). Lower the teacher's "
                "temperature or the learning rate, or raise the batch size or the teacher's momentum.",
                file=sys.stderr,
            )


def is_finite(metrics: Mapping[str, float]) -> bool:
    """Return whether the loss is a finite number."""
    return math.isfinite(metrics["loss"])


def _drop_lines_after(path: Path, step: int) -> None:
    """Keep the lines up to `step`; a line cut short by a kill goes too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except json.JSONDecodeError:
            continue
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)


def _open_wandb(project: str, workdir: Path, config: dict[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise InputError("log.wandb_project is set, but wandb is not installed; pip install wandb.") from error
    return wandb.init(project=project, dir=str(workdir), id=workdir.absolute().name, config=config, resume="allow")
