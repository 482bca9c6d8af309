"""From runs to jobs: started as there is room, watched, and asked to stop."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ssljax.errors import InputError
from ssljax.stop import Stop
from ssljax.sweep import folder as folders
from ssljax.sweep.executors import Local, Refused, Slurm
from ssljax.sweep.job import Job
from ssljax.sweep.progress import Progress

LOST = 60.0
"""Seconds after which a job that left Slurm's queue without a word is given up: a network's folders are late."""


RETRY = 60.0
"""Seconds between submissions where one was refused, if no job ends meanwhile."""

PATIENCE = 3600.0
"""Seconds for which Slurm may refuse jobs, or not be there to be asked, while no run is known to run."""


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
        self._unsure: set[str] = set()  # whose job an earlier start submitted, and is not yet found in the queue
        self._next = 0.0  # when to submit again
        self._troubles: dict[str, float] = {}  # since when by what fails
        self.states = dict.fromkeys(finished, folders.FINISHED) | dict.fromkeys(jobs, folders.WAITING)
        for name in jobs:
            submitted = executor.known(folder / name)
            if submitted is not None or folders.is_held(folder / name):
                self._watch(name, submitted)
                if submitted is not None:
                    self._unsure.add(name)
            else:
                self._waiting.append(name)
        self._submitted = bool(self._running)

    def run(self, progress: Progress) -> bool:
        """Start and watch jobs until all have ended; return False if somebody asked to stop first.

        What Slurm refuses while jobs of the sweep wait or run is submitted again later.

        Raises:
            InputError: Slurm refuses the first job, or jobs for long, or cannot be asked, while no run runs.
        """
        with Stop() as stop:
            while True:
                self._look(stop.asked, progress)
                if stop.asked:
                    self._waiting.clear()
                    self._stop(progress)
                elif self._waiting and time.monotonic() >= self._next:
                    self._start(progress)
                progress.show(self.states)
                if not self._running and not self._waiting:
                    return not stop.asked
                time.sleep(self._executor.pause)

    def _watch(self, name: str, submitted: Any) -> None:
        self._running[name] = _Running(submitted, folders.holder(self._folder / name)[1])
        if submitted is None:
            self.states[name] = folders.RUNNING

    def _start(self, progress: Progress) -> None:
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
            try:
                self._running[name] = _Running(self._executor.submit(self._jobs[name](slot)), slot)
            except Refused as error:
                if not self._submitted:
                    raise InputError(f"{error}; mend --slurm.") from error
                self._waiting.appendleft(name)
                self._next = time.monotonic() + RETRY
                self._bear("sbatch", error, bool(self._running), progress)
                return
            self._submitted = True
            if "sbatch" in self._troubles:
                self._troubles["sbatch"] = time.monotonic()

    def _bear(self, what: str, error: Refused, is_at_work: bool, progress: Progress) -> None:
        """Tell of a trouble when it begins.

        Raises:
            InputError: It lasts, and nothing is at work.
        """
        now = time.monotonic()
        if what not in self._troubles:
            progress.say(f"{error}; that is tried again, and what was submitted goes on.")
        since = self._troubles.setdefault(what, now)
        if is_at_work:
            self._troubles[what] = now
        elif now - since >= PATIENCE:
            minutes = f"{PATIENCE / 60:g} minutes"
            raise InputError(f"{error}, for {minutes} in which no run ran; the same command goes on.") from error

    def _alive(self, progress: Progress) -> set[str]:
        """Return the runs whose jobs wait or run; if that cannot be asked, those that have not said how they ended."""
        submitted = {name: each.submitted for name, each in self._running.items() if each.submitted is not None}
        try:
            found = self._executor.alive(list(submitted.values())) if submitted else []
        except Refused as error:
            states = {name: folders.state(self._folder / name) for name in self._running}
            self._bear("squeue", error, folders.RUNNING in states.values(), progress)
            return {name for name in submitted if states[name] in (folders.RUNNING, folders.WAITING)}
        self._troubles.pop("squeue", None)
        alive = {name for name, lives in zip(submitted, found, strict=True) if lives}
        self._unsure -= alive
        return alive

    def _look(self, stopping: bool, progress: Progress) -> None:
        """Take in which jobs run, and which have ended and how."""
        alive = self._alive(progress)
        for name, running in list(self._running.items()):
            ended = folders.state(self._folder / name)
            if ended == folders.RUNNING or name in alive:
                self.states[name] = ended
                self._missing.pop(name, None)
                if ended == folders.RUNNING:
                    self._unsure.discard(name)
                if name not in alive:  # its job is gone, or left it to another one, and what works on it lives
                    self._running[name] = running._replace(submitted=None)
                continue
            if name in self._unsure:  # nothing of an earlier start works on it
                ended = folders.WAITING
            elif ended == folders.WAITING and not stopping and running.submitted is not None:
                if self._is_late(name):
                    continue
                ended = self._lost(name)
            del self._running[name]
            self._unsure.discard(name)
            self._next = 0.0
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
        folders.fail(self._folder / name, error, -9)
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
