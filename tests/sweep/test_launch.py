"""Jobs on this machine: started once, watched, stopped; with stand-ins for training, real locks and real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweep import launching

from ssljax.sweep import folder as folders
from ssljax.sweep.executors import Slot, slots

TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))


def begin(folder, *runs):
    command = [sys.executable, "-m", "sweep.launching", str(folder), *runs]
    return subprocess.Popen(command, cwd=TESTS, start_new_session=True)


def wait(condition, seconds=60):
    for _ in range(20 * seconds):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it never came")


def test_one_that_fails_stops_no_other_and_nothing_is_done_twice(tmp_path, capsys):
    core = min(os.sched_getaffinity(0))
    places = [Slot((core,), {"CUDA_VISIBLE_DEVICES": "3"})]
    modes = {"a/seed-0": "good", "b/seed-0": "bad", "c/seed-0": "killed"}
    states, ended = launching.launch(tmp_path, modes, places)
    assert ended and states == {"a/seed-0": "finished", "b/seed-0": "failed", "c/seed-0": "failed"}
    told = capsys.readouterr().err
    assert "failed   b/seed-0: the data are bad\n" in told and "finished a/seed-0\n" in told
    assert json.loads((tmp_path / "a/seed-0/finished.json").read_text())["updates"] == 3
    assert json.loads((tmp_path / "b/seed-0/failed.json").read_text()) == {"error": "the data are bad", "code": 2}
    error = json.loads((tmp_path / "c/seed-0/failed.json").read_text())["error"]
    assert error == "killed by SIGKILL after 2 of 3 updates (out of memory?)"
    assert [start[1:] for start in launching.starts(tmp_path / "a/seed-0")] == [[[core], "slot 0"]]

    before = (tmp_path / "a/seed-0/finished.json").stat().st_mtime_ns
    (tmp_path / "b/seed-0/spent.json").write_text("1000.0")  # by the job that failed
    states, _ = launching.launch(tmp_path, modes | {"b/seed-0": "good"})
    assert states == {"a/seed-0": "finished", "b/seed-0": "finished", "c/seed-0": "failed"}
    assert (tmp_path / "a/seed-0/finished.json").stat().st_mtime_ns == before
    assert [len(launching.starts(tmp_path / name)) for name in modes] == [1, 2, 2]
    assert not (tmp_path / "b/seed-0/failed.json").exists()
    assert json.loads((tmp_path / "b/seed-0/finished.json").read_text())["seconds"] >= 1000


def test_a_sweep_that_was_killed_finds_its_runs_and_starts_none_twice(tmp_path):
    """Of one run the job is killed, too: what it started still holds the run's lock."""
    runs = ["a/seed-0", "b/seed-0"]
    first = begin(tmp_path, *(f"{name}=long" for name in runs))
    wait(lambda: all(launching.starts(tmp_path / name) for name in runs))
    first.kill()
    first.wait()
    job, _ = folders.holder(tmp_path / "a/seed-0")
    os.kill(job, signal.SIGKILL)
    wait(lambda: folders.holder(tmp_path / "a/seed-0")[0] == launching.starts(tmp_path / "a/seed-0")[0][0])
    assert [folders.state(tmp_path / name) for name in runs] == ["running", "running"]
    second = begin(tmp_path, *(f"{name}=long" for name in runs))
    time.sleep(2)
    (tmp_path / "go").touch()
    assert second.wait(60) == 0
    assert [len(launching.starts(tmp_path / name)) for name in runs] == [1, 1]
    assert [folders.state(tmp_path / name) for name in runs] == ["finished", "finished"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_sweep_that_is_stopped_lets_its_runs_save(number, tmp_path):
    first = begin(tmp_path, "a/seed-0=long", "b/seed-0=long", "c/seed-0=good")
    wait(lambda: all(launching.starts(tmp_path / name) for name in ("a/seed-0", "b/seed-0")))
    if number == signal.SIGINT:
        os.killpg(first.pid, number)  # as a terminal does
    else:
        first.send_signal(number)
    assert first.wait(60) == 75
    for name in ("a/seed-0", "b/seed-0"):
        assert (tmp_path / name / "told").read_text() == "SIGTERM "
        assert folders.state(tmp_path / name) == "waiting"
    assert not launching.starts(tmp_path / "c/seed-0")
    (tmp_path / "go").touch()
    assert begin(tmp_path, "a/seed-0=long", "b/seed-0=long", "c/seed-0=good").wait(60) == 0


ONE_JOB = """
import pathlib, sys
from sweep import launching
from ssljax.sweep.job import work
print(work(launching.job(pathlib.Path(sys.argv[1]), sys.argv[2], launching.ONE, 0)))
"""


def one_job(run, mode):
    command = [sys.executable, "-c", ONE_JOB, run, mode]
    told = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False).stdout.strip()
    wait(lambda: not folders.is_held(run))  # what a job that was killed had started ends a moment later
    return told


def test_a_run_whose_jobs_are_killed_with_it_is_given_up_after_three_at_the_same_place(tmp_path):
    run = tmp_path / "a/seed-0"
    assert one_job(run, "with its job") == "" and folders.state(run) == "waiting"
    begun = json.loads((run / folders.BEGUN).read_text())
    assert begun["ends"] == 0
    folders.write_json(run / folders.BEGUN, begun | {"ends": 1})
    (run / "checkpoints" / "1").mkdir(parents=True)  # it got further meanwhile
    assert one_job(run, "with its job") == ""
    begun = json.loads((run / folders.BEGUN).read_text())
    assert begun["ends"] == 0 and begun["stands"]["step"] == 1
    folders.write_json(run / folders.BEGUN, begun | {"ends": 1})
    assert one_job(run, "with its job") == "" and len(launching.starts(run)) == 3
    assert one_job(run, "good") == "failed" and len(launching.starts(run)) == 3
    assert "ended 3 times without a word" in json.loads((run / "failed.json").read_text())["error"]
    assert one_job(run, "good") == "finished" and not (run / folders.BEGUN).exists()


def test_a_job_that_was_asked_to_stop_before_it_began_does_nothing(tmp_path):
    run = tmp_path / "a/seed-0"
    run.mkdir(parents=True)
    (run / folders.STOP).touch()
    assert one_job(run, "good") == "stopped" and not launching.starts(run) and folders.state(run) == "waiting"
    states, _ = launching.launch(tmp_path, {"a/seed-0": "good"})  # a new start of the sweep asks for it again
    assert states == {"a/seed-0": "finished"}


def test_slots_share_what_there_is(monkeypatch):
    cores = sorted(os.sched_getaffinity(0))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = slots(len(cores))
    assert [slot.cores for slot in found] == [(core,) for core in cores]
    assert found[0].environment == {"CUDA_VISIBLE_DEVICES": None}
    assert slots(1)[0].cores == tuple(cores)
    monkeypatch.setattr("ssljax.sweep.executors._devices", lambda: ("gpu", 4))
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots(2)] == ["0,1", "2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots(None)] == ["4", "5", "6", "7"]
    with pytest.raises(ValueError, match="--jobs is 5, but this machine's gpu takes 4 at once"):
        slots(5)
