"""Where jobs run: on this machine, so many at once, or on Slurm; both by submitit."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssljax.errors import InputError
from ssljax.sweep import folder as folders
from ssljax.sweep.job import Job, work

MEMORY = 4 * 2**30
"""Bytes that a run on a CPU is given."""

_PROBE = "import jax; found = jax.local_devices(); print('found', found[0].platform, len(found))"


class Refused(Exception):
    """What Slurm does not do and why, without a full stop."""


class Slot(NamedTuple):
    """What a run has for itself.

    Attributes:
        cores: Numbers of them; empty for all.
        environment: Of its commands.
    """

    cores: tuple[int, ...]
    environment: dict[str, str | None]


def slots(jobs: int | None) -> list[Slot]:
    """Return the places for runs on this machine, at most `jobs`, by the devices that JAX finds.

    Raises:
        InputError: More jobs than accelerators are asked for.
    """
    platform, count = _devices()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    unchanged: dict[str, str | None] = {"CUDA_VISIBLE_DEVICES": visible}  # which submitit would hide
    if platform == "cpu":
        cores = sorted(os.sched_getaffinity(0))
        jobs = max(1, min(len(cores), _memory() // MEMORY)) if jobs is None else jobs
        each = max(1, len(cores) // jobs)
        return [
            Slot(tuple(cores[(slot * each + core) % len(cores)] for core in range(each)), unchanged)
            for slot in range(jobs)
        ]
    most = 1 if platform == "tpu" else count
    jobs = most if jobs is None else jobs
    if jobs > most:
        raise InputError(f"--jobs is {jobs}, but this machine's {platform} takes {most} at once; give at most that.")
    if platform == "tpu":
        return [Slot((), unchanged)]
    names, each = visible.split(",") if visible else [str(number) for number in range(count)], count // jobs
    return [
        Slot((), {"CUDA_VISIBLE_DEVICES": ",".join(names[slot * each : (slot + 1) * each])}) for slot in range(jobs)
    ]


def _devices() -> tuple[str, int]:
    """Return what JAX runs on and how many there are: in another process, which lets go of them when it ends."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return "cpu", 1
    told = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    found = [line.split()[1:] for line in told.stdout.splitlines() if line.startswith("found ")]
    if told.returncode or not found:
        raise InputError(f"JAX finds no device to run on ({told.stderr.strip().splitlines()[-1:]}); mend that.")
    return found[0][0], int(found[0][1])


def _memory() -> int:
    """Return the bytes of memory that processes may have here together."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(found, int(text)) if text.isdigit() else found


def _submitit() -> Any:
    """Return the module, which would close and replace the log handlers of this process where that is not forbidden."""
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "NOCONFIG")
    import submitit

    return submitit


class Local:
    """Jobs as processes of this machine, which survive the one that submits them.

    Attributes:
        slots: One for each job at once.
        pause: Seconds between looks at the jobs.
    """

    pause = 0.5

    def __init__(self, folder: Path, slots: Sequence[Slot]) -> None:
        """Take the folder for submitit's files."""
        self.slots = slots
        self._executor = _submitit().LocalExecutor(folder)
        self._executor.update_parameters(timeout_min=10 * 525_600)

    def submit(self, job: Job) -> Any:
        """Start a job, and return it as submitit has it."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what it starts inherits that: a terminal's Ctrl-C
        try:  # would end submitit's processes before the run has saved
            return self._executor.submit(work, job)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def alive(self, submitted: Sequence[Any]) -> list[bool]:
        """Return whether jobs have not ended."""
        return [not job.done() for job in submitted]

    def known(self, folder: Path) -> Any:
        """Return the job of a run's folder that waits in a queue since an earlier start; none does here."""
        return None

    def stop(self, folder: Path, submitted: Any) -> bool:
        """Ask a run to save and end; return whether it was there to be asked."""
        process, _ = folders.holder(folder)
        if process is None or not folders.is_held(folder):
            return False
        os.kill(process, signal.SIGTERM)
        return True


class Slurm:
    """Jobs of Slurm, all submitted at once.

    Attributes:
        slots: Empty: the queue is Slurm's.
        pause: Seconds between looks at the queue.
    """

    slots: Sequence[Slot] = ()
    pause = 5.0

    def __init__(self, folder: Path, parameters: Sequence[str]) -> None:
        """Take the folder for submitit's files and KEY=VALUE of sbatch.

        Raises:
            InputError: There is no Slurm here, or a parameter cannot be used.
        """
        for program in ("sbatch", "srun", "squeue", "scancel"):
            if shutil.which(program) is None:
                raise InputError(f"--executor slurm: {program} is not found; start the sweep where Slurm is installed.")
        self._executor = _submitit().SlurmExecutor(folder)
        self._executor.update_parameters(**_parameters(parameters))

    def submit(self, job: Job) -> Any:
        """Put a job into the queue, and return it as submitit has it.

        Raises:
            Refused: Slurm does not take it.
        """
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # where submitit prints what the error has, too
                submitted = self._executor.submit(work, job)
        except (_submitit().core.utils.FailedJobError, OSError) as error:
            raise Refused(f"Slurm refuses the job of {job.folder} ({_one_line(error)})") from error
        folders.write_json(job.folder / "job.json", {"slurm": submitted.job_id})
        return submitted.job_id

    def alive(self, submitted: Sequence[Any]) -> list[bool]:
        """Return whether jobs are in the queue, waiting or running.

        Raises:
            Refused: The queue cannot be asked.
        """
        try:
            told = subprocess.run(["squeue", "--noheader", "--format=%i"], capture_output=True, text=True, check=True)
        except (subprocess.CalledProcessError, OSError) as error:
            reason = _one_line(getattr(error, "stderr", "") or error)
            raise Refused(f"Slurm does not say which jobs are in its queue ({reason})") from error
        return [number in told.stdout.split() for number in submitted]

    def known(self, folder: Path) -> Any:
        """Return the newest job that was submitted for a run's folder, None if none was; it may be gone."""
        return (folders.read_json(folder / "job.json") or {}).get("slurm")

    def stop(self, folder: Path, submitted: Any) -> bool:
        """Take a run out of the queue; if it runs, ask it to save and end."""
        if submitted is None:
            return False
        (folder / folders.STOP).touch()
        subprocess.run(["scancel", "--quiet", "--state=PENDING", submitted], check=False)
        subprocess.run(["scancel", "--quiet", "--signal=TERM", submitted], check=False)
        return True


def _one_line(error: Any) -> str:
    """Return what a program of Slurm said, without its name and what kind of message that is."""
    return re.sub(r"\b\w+: error: ", "", " ".join(str(error).split()))


_LISTS = ("setup", "teardown", "srun_args")


def _parameters(given: Sequence[str]) -> dict[str, Any]:
    """Return what --slurm says as submitit takes it; what submitit has no name for goes to sbatch as it is."""
    parameters: dict[str, Any] = {"job_name": "ssljax", "signal_delay_s": 300}
    more: dict[str, Any] = {"requeue": True}
    for argument in given:
        key, equals, text = argument.partition("=")
        name = key.lstrip("-").replace("-", "_")
        if not equals or not name:
            raise InputError(f"--slurm {argument}: give KEY=VALUE as sbatch has it, such as time=240 or partition=gpu.")
        if name in ("nodes", "ntasks", "ntasks_per_node", "array") and text != "1":
            raise InputError(f"--slurm {argument}: a run of a sweep is one process; leave that out.")
        value: Any = int(text) if text.isdigit() else text
        if name in _submitit().SlurmExecutor._valid_parameters() - {"additional_parameters"}:
            words = shlex.split(text) if name == "srun_args" else [text]
            parameters[name] = parameters.get(name, []) + words if name in _LISTS else value
        else:
            more[name.replace("_", "-")] = value
    if "time" not in parameters:
        raise InputError(
            "--executor slurm: say how long a job may take, such as --slurm time=240 (minutes) or 1-00:00:00."
        )
    return parameters | {"additional_parameters": more}
