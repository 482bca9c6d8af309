"""Where a run's numbers go: metrics.jsonl, TensorBoard, Weights & Biases, and the progress bar."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorboardX
from tqdm import tqdm

from ssljax.errors import InputError
from ssljax.meter import ACCOUNTS, UNKNOWN, Meter, Work
from ssljax.starts import first_start

_LINES = 60.0  # seconds between lines where standard error is no terminal
_COLLAPSED = 0.01
_PATIENCE = 5
_SECONDS = "_seconds"  # ends the names of what the file alone has: the accounts of the meter, for the next start


class Log:
    """Writes a run's metrics every few steps; a context manager. Only the first of several processes writes.

    Attributes:
        bar: The progress bar, which shows on a terminal; elsewhere there are lines.
        meter: Times the updates.
    """

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
        work: Work = UNKNOWN,
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
            work: The arithmetic of an update, for the utilisation of the devices.

        Raises:
            InputError: Weights & Biases is asked for and not installed.
        """
        self.every, self.total, self.unit, self._also = every, total, unit, also
        self._schedules, self._writes = schedules, writes
        self._low, self._evaluated = 0, ""
        self._file = self._tensorboard = self._wandb = None
        if writes and wandb_project:
            self._wandb = _open_wandb(wandb_project, workdir, dict(config))
        self._next = 0.0 if writes and not sys.stderr.isatty() else math.inf
        self.bar = tqdm(
            total=total, initial=start, unit="step", disable=not writes or None, dynamic_ncols=True, file=sys.stderr
        )
        measured: dict[str, Any] = dict(samples=batch_size, work=work)
        if not writes:
            self.meter = Meter(**measured)
            return
        path = workdir / "metrics.jsonl"
        last = _drop_lines_after(path, start)
        began, starts = first_start(workdir)
        self.meter = Meter(
            before=0.0 if began is None else max(0.0, time.time() - began),
            restarts=max(0, starts - 1),
            spent={name: last.get(name + _SECONDS, 0.0) for name in ACCOUNTS},
            **measured,
        )
        self._file = path.open("a", buffering=1)
        if tensorboard:
            self._tensorboard = tensorboardX.SummaryWriter(str(workdir), purge_step=start)

    def __enter__(self) -> Log:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the sinks."""
        self.bar.close()
        # On a full disk a file cannot even be closed, which is told already.
        with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
            for sink in (self._tensorboard, self._file):
                if sink is not None:
                    sink.close()
        if self._wandb is not None:
            self._wandb.finish()

    def update(
        self, step: int, metrics: Mapping[str, float], waited: Sequence[float], ended: float | None = None
    ) -> None:
        """Count one update.

        Args:
            step: Updates done.
            metrics: Finite scalars.
            waited: Seconds that the devices stood idle before this update, waiting for its data, by process.
            ended: When the devices were through with it, as of `meter.now()`; by default this moment.
        """
        self.meter.update(self.meter.now() if ended is None else ended, waited)
        self.bar.update()
        if step % self.every and step != self.total and not (self._also and step % self._also == 0):
            return
        found = self.meter.metrics()
        line = {**metrics, **{name: float(value(step - 1)) for name, value in self._schedules.items()}, **found}
        self._evaluated = f", knn_20 {metrics['knn_20']:.1%}" if "knn_20" in metrics else self._evaluated
        restarts = f", goodput {found['goodput']:.0%} ({_restarts(self.meter)})" if self.meter.restarts else ""
        told = (
            f"loss {metrics['loss']:.3f}, {found['samples_per_second']:.1f} {self.unit}/s, waiting for data "
            f"{found['data_wait_share']:.0%}{self._evaluated}{restarts}"
        )
        self.bar.set_postfix_str(told)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINES
            print(f"{step} of {self.total} updates: {told}", file=sys.stderr, flush=True)
        self._write(step, line)
        self._warn_of_collapse(step, metrics)

    def tell(self, step: int) -> None:
        """Say how far the run has come and where its time went."""
        if not self._writes:
            return
        shares = self.meter.shares()
        named = {"data": "waiting", "saving": "saving", "evaluation": "evaluating"}
        rest = [f"{name} {shares[account]:.1%}" for name, account in named.items()]
        others = max(0.0, 1 - sum(shares.values()))
        restarts = f", {_restarts(self.meter)}" * bool(self.meter.restarts)
        self.bar.write(
            f"{step} of {self.total} updates in {datetime.timedelta(seconds=round(self.meter.wall()))}{restarts}: "
            f"goodput {shares['productive']:.1%}; {', '.join(rest)}, starts and lost updates {others:.1%}.",
            file=sys.stderr,
        )

    def _write(self, step: int, line: Mapping[str, float]) -> None:
        if self._file is not None:
            spent = {name + _SECONDS: seconds for name, seconds in self.meter.spent().items()}
            finite = {name: value for name, value in line.items() if math.isfinite(value)}  # JSON knows no others
            try:
                self._file.write(json.dumps({"step": step, **finite, **spent}) + "\n")
            except OSError as error:
                raise InputError(
                    f"{self._file.name} cannot be written ({error.strerror}); free space or mend the folder, and run "
                    "the same command again."
                ) from error
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


def _restarts(meter: Meter) -> str:
    return f"{meter.restarts} restart{'s' * (meter.restarts > 1)}"


def _drop_lines_after(path: Path, step: int) -> dict[str, Any]:
    """Keep the lines up to `step`, and return the last; a line cut short by a kill goes too.

    Raises:
        InputError: A line is whole, but of no step.
    """
    if not path.exists():
        return {}
    kept, last = [], {}
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if not isinstance(line, dict) or not isinstance(line.get("step"), int | float):
            raise InputError(f"{path} has a line whose step is no number, {text[:80]!r}; mend or remove that line.")
        if line["step"] <= step:
            kept.append(text + "\n")
            last = line
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)
    return last


def _open_wandb(project: str, workdir: Path, config: dict[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise InputError("log.wandb_project is set, but wandb is not installed; pip install wandb.") from error
    name = os.environ.get("WANDB_RUN_ID") or workdir.absolute().name
    return wandb.init(project=project, dir=str(workdir), id=name, config=config, resume="allow")
