"""Workers that take turns, and one that fails."""

import sys

import pytest

from benchmarks.workers import Worker, WorkerEnded, alternate, started

ADDS = """
from benchmarks import workers
def begin():
    count = iter(range(100))
    print("what a library says")
    return lambda: {"loss": STEP * next(count)}, {"step": STEP}
workers.serve(begin)
"""


def worker(name, program):
    return Worker(name, [sys.executable, "-c", program])


def test_workers_take_turns_and_end():
    with started() as workers:
        for step in (1, 10):
            workers.append(worker(str(step), ADDS.replace("STEP", str(step))))
        said = alternate(workers, 3)
        processes = [one._process for one in workers]
    assert [one.hello for one in workers] == [{"step": 1}, {"step": 10}]
    assert {name: [each["loss"] for each in said[name]] for name in said} == {"1": [0, 1, 2], "10": [0, 10, 20]}
    assert all(each["cpu_seconds"] >= 0 for each in said["1"])
    assert [process.returncode for process in processes] == [0, 0]


def test_what_a_worker_died_of_is_told():
    with pytest.raises(WorkerEnded, match="failing ended with code 1:(.|\n)*ZeroDivisionError"):
        worker("failing", "1 / 0")
