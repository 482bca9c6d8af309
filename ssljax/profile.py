"""A trace of some updates of a run, for TensorBoard's profiler, XProf and Perfetto."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax

from ssljax.errors import InputError
from ssljax.heartbeat import Heartbeat
from ssljax.in_flight import InFlight
from ssljax.meter import Meter


class Range(NamedTuple):
    """Updates to trace, numbered as `metrics.jsonl` numbers them, from 1; both ends are traced."""

    start: int
    stop: int


def parse_range(text: str) -> Range:
    """Return what START:STOP says.

    Raises:
        InputError: It says something else, or no update.
    """
    found = re.fullmatch(r"(\d+):(\d+)", text, re.ASCII)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--profile {text}: give START:STOP, the first and the last update to trace, such as 100:110.")
    return Range(int(found[1]), int(found[2]))


def check_range(asked: Range | None, total: int) -> None:
    """Raise InputError where a run ends before the last update to trace."""
    if asked and asked.stop > total:
        raise InputError(
            f"--profile {asked.start}:{asked.stop}: the run has {total} updates; give a range among those from 1 on."
        )


class Profiler:
    """Traces the updates of a range, or those of it that are left, into WORKDIR/profile; a context manager.

    Where there are several processes, each writes its own host's files into a folder of its own. Within the trace each
    update is a step ("update", with its number), which holds what the host did for it.
    """

    def __init__(
        self, workdir: Path, asked: Range | None, done: int, *, in_flight: InFlight, meter: Meter, heartbeat: Heartbeat
    ) -> None:
        """Prepare for a range, or, without one, to trace nothing; `done` updates were done before this start."""
        several = jax.process_count() > 1
        self._folder = workdir / "profile" / (f"process-{jax.process_index()}" if several else "")
        self._asked, self._on = asked, False
        self._in_flight, self._meter, self._heartbeat = in_flight, meter, heartbeat
        if asked and done >= asked.stop and jax.process_index() == 0:  # no mistake: a restart has the same arguments
            print(
                f"--profile {asked.start}:{asked.stop}: all of them are done already, none is traced.", file=sys.stderr
            )

    def __enter__(self) -> Profiler:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the trace that the run ended within, if there is one."""
        self._stop()

    @contextlib.contextmanager
    def update(self, number: int) -> Iterator[None]:
        """Mark what the host does for an update, and begin to trace where the range begins."""
        if self._asked is not None and not self._on and self._asked.start <= number <= self._asked.stop:
            self._in_flight.settle(0)  # none of those before is in the trace
            with self._meter.paused():
                self._start()
        with jax.profiler.StepTraceAnnotation("update", step_num=number):
            yield

    def after(self, number: int) -> None:
        """Write the trace if this update was the last of it."""
        if self._on and self._asked is not None and number >= self._asked.stop:
            self._in_flight.settle(0)
            self._heartbeat.other("writing a trace")
            with self._meter.paused():
                self._stop()

    def _start(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # noting every call of Python would take longer than what is measured
        jax.profiler.start_trace(self._folder, create_perfetto_trace=True, profiler_options=options)
        self._on = True

    def _stop(self) -> None:
        if not self._on:
            return
        self._on, self._asked = False, None
        try:
            jax.profiler.stop_trace()
        except Exception as error:  # a full disk, say: no reason to end a run, which would come here again
            reason = " ".join(str(error).split())[:160]
            print(
                f"WARNING: no trace was written to {self._folder} ({type(error).__name__}: {reason}).", file=sys.stderr
            )
