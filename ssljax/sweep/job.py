"""What a submitted job does: one run, by the commands that a user could type."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from ssljax.errors import STOPPED
from ssljax.sweep import folder as folders

RESTARTS = 30
"""How often a job on Slurm queues itself again."""

ENDS = 3
"""How often a job may end without a word and without a further checkpoint or evaluation."""

_ENDS = (signal.SIGTERM, signal.SIGUSR2)  # Slurm's own, and what submitit has it send before the time is over


class Job(NamedTuple):
    """A run to do.

    Attributes:
        folder: Of the run, absolute.
        directory: Where the commands are run.
        train: The command that trains.
        evaluate: The command that evaluates, to which the protocols to ask are added with their arguments, as JSON.
        protocols: Arguments by name of what is asked afterwards.
        updates: Of the whole run.
        slot: Where it runs on this machine.
        cores: It may use; empty for all.
        environment: Of the commands, besides what is there; None removes a variable.
    """

    folder: Path
    directory: Path
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    protocols: dict[str, Any]
    updates: int
    slot: int
    cores: tuple[int, ...]
    environment: dict[str, str | None]


def work(job: Job) -> str:
    """Train and evaluate a run, and write `finished.json` or `failed.json`; return how it ended.

    A run that another process works on is left to it. SIGTERM is passed on, so that the run saves; on Slurm it then
    queues itself again.
    """
    with folders.held(job.folder, patience=3) as lock:
        if lock is None:
            return "held"
        for name in ("failed.json", "finished.json"):
            (job.folder / name).unlink(missing_ok=True)
        try:
            commands = _Commands(job, lock)
            if _is_hopeless(job):
                _fail(job, 1, f"Its job ended {ENDS} times without a word at the same place (killed, out of memory?).")
                return folders.FAILED
            return _work(job, commands)
        except Exception as error:
            _fail(job, 1, f"{type(error).__name__}: {error}")
            raise


def _is_hopeless(job: Job) -> bool:
    """Count the jobs of the run that ended without a word and got no further; return whether they are too many."""
    path = job.folder / folders.BEGUN
    steps = [int(entry.name) for entry in (job.folder / "checkpoints").glob("*") if entry.name.isdigit()]
    missing = folders.missing_protocols(job.folder, job.protocols, job.updates)
    stands = {"step": max(steps, default=0), "missing": missing}
    before = folders.read_json(path)  # not there where the last one reported
    ends = before["ends"] + 1 if before is not None and before["stands"] == stands else 0
    folders.write_json(path, {"ends": ends, "stands": stands})
    return ends >= ENDS


def _work(job: Job, commands: _Commands) -> str:
    began = time.time()
    code = 0 if (job.folder / "checkpoints" / str(job.updates)).is_dir() else commands.run(job.train)
    missing = folders.missing_protocols(job.folder, job.protocols, job.updates)
    if code == 0 and missing and not commands.asked:
        code = commands.run([*job.evaluate, json.dumps({name: job.protocols[name] for name in missing})])
    seconds = (folders.read_json(job.folder / "spent.json") or 0.0) + round(time.time() - began, 1)
    folders.write_json(job.folder / "spent.json", seconds)  # of this and all earlier jobs of the run
    (job.folder / folders.BEGUN).unlink(missing_ok=True)
    if code == 0 and not folders.missing_protocols(job.folder, job.protocols, job.updates):
        ended = datetime.now(UTC).isoformat(timespec="seconds")
        folders.write_json(
            job.folder / "finished.json",
            {"updates": job.updates, "seconds": seconds, "ended": ended},
        )
        return folders.FINISHED
    if commands.asked or (code == STOPPED and _on_slurm()):
        _queue_again(job)
        return "stopped"
    if code == STOPPED:
        _fail(job, code, "Somebody stopped the run before its end; the same command continues it.")
    elif code < 0:
        _fail(job, code, _killed(job, signal.Signals(-code)))
    else:
        _fail(job, code, folders.last_sentence(job.folder) or f"ended with {code} and printed nothing")
    return folders.FAILED


def _fail(job: Job, code: int, sentence: str) -> None:
    folders.fail(job.folder, sentence, code)


def _killed(job: Job, number: signal.Signals) -> str:
    """Return how far a run came that a signal ended, which says nothing itself."""
    done, _ = folders.updates_done(job.folder)
    where = f"after {done} of {job.updates} updates" if done < job.updates else f"after its {job.updates} updates"
    return f"killed by {number.name} {where}" + " (out of memory?)" * (number == signal.SIGKILL)


class _Commands:
    """Runs commands as children that have the run's lock too, and passes signals on to the one that runs.

    Attributes:
        asked: Whether the job is to end.
    """

    def __init__(self, job: Job, lock: int) -> None:
        """Listen, and take the cores."""
        self.asked = False
        self._job, self._lock = job, lock
        self._child: subprocess.Popen[bytes] | None = None
        for number in _ENDS:
            signal.signal(number, self._end)
        self.asked = self.asked or (job.folder / folders.STOP).exists()  # asked while it was waiting in the queue
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal, and for who launched this job to pass on
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if job.cores:
            os.sched_setaffinity(0, job.cores)
        folders.tell_holder(lock, job.slot, os.getpid())  # from here on it may be asked

    def run(self, command: Sequence[str]) -> int:
        """Run a command to its end, its output at the end of log.txt; return its exit code.

        It has a session of its own: what a terminal, or Slurm, sends to all is for this process to pass on.
        """
        with (self._job.folder / "log.txt").open("ab") as log:
            for number in _ENDS:  # else a child would end of SIGUSR2, or of SIGTERM before Python listens
                signal.pthread_sigmask(signal.SIG_BLOCK, {number})
            try:
                if self.asked:
                    return STOPPED
                child = self._child = subprocess.Popen(
                    command,
                    cwd=self._job.directory,
                    env=_environment(self._job),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=(self._lock,),
                    preexec_fn=_as_a_child,
                )
                folders.tell_holder(self._lock, self._job.slot, os.getpid(), child.pid)
            finally:
                for number in _ENDS:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
            return child.wait()

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)


def _as_a_child() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, set(_ENDS))


def _environment(job: Job) -> dict[str, str]:
    given = {**os.environ, **job.environment}
    return {name: value for name, value in given.items() if value is not None}


def _on_slurm() -> bool:
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def _queue_again(job: Job) -> None:
    """Put a job of Slurm back into the queue, unless it was ended for good, or too often."""
    number = os.environ.get("SLURM_JOB_ID", "")
    if not _on_slurm() or (job.folder / folders.STOP).exists() or shutil.which("scontrol") is None:
        return
    if int(os.environ.get("SLURM_RESTART_COUNT", 0)) >= RESTARTS:
        _fail(job, STOPPED, f"Slurm started the job {RESTARTS + 1} times; the same command continues it.")
        return
    told = subprocess.run(
        ["scontrol", "--oneliner", "show", "job", number], capture_output=True, text=True, check=False
    )
    if "JobState=RUNNING" in told.stdout:  # else it was cancelled, or its time is over
        print(f"queued again: job {number}", file=sys.stderr)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        subprocess.run(["scontrol", "requeue", number], check=True)
        time.sleep(60)  # Slurm ends this process; a normal end would end the job
