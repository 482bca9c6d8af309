"""Processes that each do one update when they are asked to, so that what they are can be timed in turns.

A worker says one line of JSON when its first update is done, and one after each line of its standard input. Each has
its own memory and CPU time; while one works the others wait.
"""

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_STARTED = "SSLJAX_BENCHMARK_STARTED"
_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""On Linux, memory in pages of 2 MiB: an update's arrays are new memory, which the kernel hands out page by page."""


class WorkerEnded(Exception):
    """A worker ended before it was told to; what it wrote last to standard error says why."""


class Worker:
    """The parent's side of a worker.

    Attributes:
        name: Of its row.
        hello: What it said when its first update was done.
    """

    def __init__(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> None:
        """Start it, and wait until its first update is done."""
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by `stop`
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=_HUGE_PAGES | os.environ | (environment or {}) | {_STARTED: str(time.time())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.hello = self._heard()

    def step(self) -> dict[str, Any]:
        """Have it do one update; return what it says of it."""
        with contextlib.suppress(BrokenPipeError):  # said below, with the reason
            self._process.stdin.write("step\n")
            self._process.stdin.flush()
        return self._heard()

    def stop(self) -> None:
        """End it and wait for that; do nothing where it is ended."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _heard(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        self._errors.seek(0)
        last = "\n".join(self._errors.read().splitlines()[-15:])
        self.stop()
        raise WorkerEnded(f"{self.name} ended with code {code}:\n{last}")


@contextlib.contextmanager
def started() -> Iterator[list[Worker]]:
    """Yield a list of workers, to be filled; they are stopped at the end."""
    workers: list[Worker] = []
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def alternate(workers: list[Worker], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Return what each worker said, round by round, all working once in every round, one after the other."""
    said: dict[str, list[dict[str, Any]]] = {worker.name: [] for worker in workers}
    for _ in range(rounds):
        for worker in workers:
            said[worker.name].append(worker.step())
    return said


def serve(begin: Callable[[], tuple[Callable[[], dict[str, Any]], dict[str, Any]]]) -> None:
    """Be a worker: `begin` does the first update, and returns the function of the others and what to say first.

    What that function returns is said, with the seconds and CPU seconds that it took, the latter of all threads.
    """
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def say(what: dict[str, Any]) -> None:
        channel.write(json.dumps(what) + "\n")
        channel.flush()

    step, hello = begin()
    say(hello)
    for _ in sys.stdin:
        began = time.perf_counter(), time.process_time()
        found = step()
        seconds, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        say({"seconds": seconds, "cpu_seconds": cpu} | found)


def since_start() -> float:
    """Return the seconds since the parent started this process."""
    return time.time() - float(os.environ[_STARTED])


def best_rate(products: list[Callable[[], Any]], operations: list[float], seconds: float = 0.3) -> float:
    """Return the largest number of operations a second of any product, each done again and again for some time.

    Args:
        products: Each does one, and returns when it is done.
        operations: Of each.
        seconds: For each.
    """
    best = 0.0
    for product, count in zip(products, operations, strict=True):
        product()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            product()
            best = max(best, count / (time.perf_counter() - began))
    return best


def resident_bytes() -> int:
    """Return the most bytes of memory that this process has held at once."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
