"""From runs to jobs: started as there is room, watched, and asked to stop."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ssljax.stop import Stop
from ssljax.sweep import folder as folders
from ssljax.sweep.executors import Local, Slurm
from ssljax.sweep.job import Job
from ssljax.sweep.progress import Progress

LOST = 60.0
"""Seconds after which a job that left Slurm's queue without a word is given up: a network's folders are late."""


class _Running(NamedTuple):
    """A run that is not to be started.

    Attributes:
        submitted: Its job; None of a run that an earlier start of the sweep, or somebody else, works on.
        slot: Where it runs.
    """

    submitted: Any
    slot: int


class Launcher:
    """Runs of a sweep and how they stand.

    Attributes:
        states: Of all runs by name.
    """

    def __init__(
        self, folder: Path, finished: list[str], jobs: Mapping[str, Callable[[int], Job]], executor: Local | Slurm
    ):
        """Find out which runs are worked on already.

        Args:
            folder: Of the sweep.
            finished: Names of runs with nothing left to do.
            jobs: What makes the job of each other run for a slot, by name.
            executor: `Local` or `Slurm`.
        """
        self._folder, self._jobs, self._executor = folder, jobs, executor
        self._running: dict[str, _Running] = {}
        self._waiting: collections.deque[str] = collections.deque()
        self._missing: dict[str, float] = {}
        self._asked: set[str] = set()
        self.states = dict.fromkeys(finished, folders.FINISHED) | dict.fromkeys(jobs, folders.WAITING)
        for name in jobs:
            submitted = executor.known(folder / name)
            if submitted is not None or folders.is_held(folder / name):
                self._watch(name, submitted)
            else:
                self._waiting.append(name)

    def run(self, progress: Progress) -> bool:
        """Start and watch jobs until all have ended; return False if somebody asked to stop first."""
        with Stop() as stop:
            while True:
                self._look(stop.asked)
                if stop.asked:
                    self._waiting.clear()
                    self._stop(progress)
                elif self._waiting:
                    self._start()
                progress.show(self.states)
                if not self._running and not self._waiting:
                    return not stop.asked
                time.sleep(self._executor.pause)

    def _watch(self, name: str, submitted: Any) -> None:
        self._running[name] = _Running(submitted, folders.holder(self._folder / name)[1])
        if submitted is None:
            self.states[name] = folders.RUNNING

    def _start(self) -> None:
        slots = self._executor.slots
        taken = [running.slot for running in self._running.values()]
        free = [slot for slot in range(len(slots)) if slot not in taken][: max(0, len(slots) - len(taken))]
        while self._waiting and (free or not slots):
            name = self._waiting.popleft()
            if folders.is_held(self._folder / name):  # another start of this sweep was quicker
                self._watch(name, None)
                return
            slot = free.pop(0) if slots else 0
            for file in ("failed.json", "finished.json", folders.STOP):  # what is there from now on is of this job
                (self._folder / name / file).unlink(missing_ok=True)
            self._running[name] = _Running(self._executor.submit(self._jobs[name](slot)), slot)

    def _look(self, stopping: bool) -> None:
        """Take in which jobs run, and which have ended and how."""
        submitted = {name: each.submitted for name, each in self._running.items() if each.submitted is not None}
        found = self._executor.alive(list(submitted.values())) if submitted else []
        alive = {name for name, lives in zip(submitted, found, strict=True) if lives}
        for name, running in list(self._running.items()):
            ended = folders.state(self._folder / name)
            if ended == folders.RUNNING or name in alive:
                self.states[name] = ended
                self._missing.pop(name, None)
                if name not in alive:  # its job is gone, or left it to another one, and what works on it lives
                    self._running[name] = running._replace(submitted=None)
                continue
            if ended == folders.WAITING and not stopping and running.submitted is not None:
                if self._is_late(name):
                    continue
                ended = self._lost(name)
            del self._running[name]
            self.states[name] = ended
            if ended == folders.WAITING and not stopping:  # who worked on it did not come to the end
                self._waiting.append(name)

    def _is_late(self, name: str) -> bool:
        """Return whether a job that is gone may have written what is not yet seen here."""
        since = self._missing.setdefault(name, time.monotonic())
        return isinstance(self._executor, Slurm) and time.monotonic() - since < LOST

    def _lost(self, name: str) -> str:
        """Note that a run failed whose job is gone and has written nothing about that; return that state."""
        error = f"Its job ended without a word (killed, out of memory or time?); see {self._folder / '.jobs'}."
        folders.write_json(self._folder / name / "failed.json", {"error": error, "code": -9})
        return folders.FAILED

    def _stop(self, progress: Progress) -> None:
        """Ask the running jobs to save and end, each once; leave those alone that nobody here can ask."""
        for name, running in list(self._running.items()):
            if name in self._asked:
                continue
            if self._executor.stop(self._folder / name, running.submitted):
                self._asked.add(name)
            elif running.submitted is None:
                progress.say(f"{name} is run from elsewhere, and goes on.")
                del self._running[name]
