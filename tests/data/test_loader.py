"""The loader's batches are a pure function of the position, whatever runs them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from videos import make_video

from data_prep.prepare import Settings, prepare
from ssljax.data.loader import load
from ssljax.data.windows import Windows
from ssljax.errors import InputError


class Counted:
    """Samples that are their position; fails at one position."""

    checksum = "counted"

    def __init__(self, bad=-1):
        self.bad = bad

    def __getitem__(self, position):
        if position == self.bad:
            raise InputError(f"sample {position} is bad")
        return {"value": np.full((2,), 3 * position), "position": np.uint32(position)}

    def describe(self, position):
        return {"position": position}


def take(batches, n):
    with batches:
        return [next(batches) for _ in range(n)]


def positions(dataset, n, **arguments):
    return [batch["position"].tolist() for batch in take(load(dataset, **arguments), n)]


def test_batches():
    batches = take(load(Counted(), rows=range(4), batch_size=4), 3)
    assert [batch["position"].tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert batches[1]["position"].dtype == np.uint32
    np.testing.assert_array_equal(batches[1]["value"], 3 * np.array([[4, 4], [5, 5], [6, 6], [7, 7]]))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_any_number_of_processes_reads_one_order(processes):
    rows = np.arange(8).reshape(processes, -1).tolist()
    parts = [positions(Counted(), 5, rows=r, batch_size=8, position=16) for r in rows]
    whole = [[position for part in parts for position in part[j]] for j in range(5)]
    assert whole == np.arange(16, 56).reshape(5, 8).tolist()


def test_rows_need_not_be_neighbours():
    assert positions(Counted(), 2, rows=[5, 0], batch_size=6) == [[5, 0], [11, 6]]


def test_continued_from_a_position():
    whole = positions(Counted(), 6, rows=range(4), batch_size=4)
    assert positions(Counted(), 3, rows=range(4), batch_size=4, position=12) == whole[3:]
    assert positions(Counted(), 1, rows=[0], batch_size=4, position=7) == [[7]], "any position, any batch size"


@pytest.mark.parametrize(("threads", "buffer"), [(1, 1), (2, 4), (5, 3), (4, 64)])
def test_threads_and_buffer_change_nothing(threads, buffer):
    arguments = dict(rows=[1, 3], batch_size=4, position=100)
    assert positions(Counted(), 40, threads=threads, buffer=buffer, **arguments) == [
        [100 + 4 * j + 1, 100 + 4 * j + 3] for j in range(40)
    ]


def test_an_error_is_raised_and_stays():
    batches = load(Counted(bad=9), rows=range(4), batch_size=4)
    assert next(batches)["position"].tolist() == [0, 1, 2, 3]
    assert next(batches)["position"].tolist() == [4, 5, 6, 7]
    for _ in range(3):
        with pytest.raises(InputError, match="sample 9 is bad"):
            next(batches)
    batches.close()


def test_closed_is_closed():
    batches = load(Counted(), rows=[0], batch_size=1)
    next(batches)
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


@pytest.mark.parametrize("rows", [[], [4], [-1]])
def test_bad_rows(rows):
    with pytest.raises(ValueError, match="must lie in a batch"):
        load(Counted(), rows=rows, batch_size=4)


@pytest.mark.long
def test_worker_processes_change_nothing(tmp_path):
    folder = prepare(make_video(tmp_path / "a.mp4"), tmp_path / "a", Settings(1)).folder
    windows = Windows(video=folder, frames=2, gap=0.2, size=32)
    windows[0]  # the readers of this process must not travel
    arguments = dict(rows=[0, 2, 3], batch_size=4, position=10)
    expected = take(load(windows, **arguments), 7)
    for workers in (1, 2, 3):
        got = take(load(windows, workers=workers, threads=1, buffer=2, **arguments), 7)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a["position"], b["position"])
            np.testing.assert_array_equal(a["frames"], b["frames"])
    batches = load(Counted(bad=4), rows=[0], batch_size=1, workers=2)
    assert [next(batches)["position"][0] for _ in range(4)] == [0, 1, 2, 3]
    for _ in range(3):
        with pytest.raises(Exception, match="sample 4 is bad"):
            next(batches)
    batches.close()


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_outlive_a_signal_to_the_whole_group(number):
    with load(Counted(), rows=[0], batch_size=1, workers=1) as batches:
        next(batches)
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, number)
        assert [next(batches)["position"][0] for _ in range(30)] == list(range(1, 31))
    assert not worker.is_alive()


_KILLED = """
import multiprocessing, os, signal
import numpy as np
from ssljax.data.loader import load

class Counted:
    checksum = "counted"

    def __getitem__(self, position):
        return {"position": np.uint32(position)}

if __name__ == "__main__":
    batches = load(Counted(), rows=[0], batch_size=1, workers=1)
    next(batches)
    print(*[worker.pid for worker in multiprocessing.active_children()], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.long
def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    program = tmp_path / "killed.py"
    program.write_text(_KILLED)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    output = tmp_path / "output"
    with output.open("w") as file:
        subprocess.run([sys.executable, program], stdout=file, stderr=subprocess.DEVNULL, env=environment)
    (worker,) = map(int, output.read_text().split())
    for _ in range(100):
        if not _runs(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker is left over")


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
