"""The supervisor of several processes on one host, against processes that end, hang and stop in every way."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from stand_in import executable

SCRIPT = Path(__file__).parents[2] / "launch" / "local.sh"


@pytest.fixture
def launch(tmp_path, environment):
    """Start the script for two processes, whose words by start and process are given; `finish` waits for its end."""

    def start(*plans, count=2, arguments=(), **variables):
        (tmp_path / "run").mkdir(exist_ok=True)
        for number, plan in enumerate(plans, 1):
            for process, action in enumerate(plan):
                (tmp_path / "run" / f"plan-{number}-{process}").write_text(action)
        # What nohup or a shell's & has the tests ignore is taken back: a shell cannot trap what it came to ignore.
        command = [
            "env",
            "--default-signal=INT,HUP",
            "bash",
            SCRIPT,
            str(count),
            "--workdir",
            tmp_path / "run",
            *arguments,
        ]
        told = dict(stderr=subprocess.PIPE, text=True)
        return subprocess.Popen(command, env=environment | variables, **told)

    return start


def finish(script):
    """Return the exit code and what was told."""
    told = script.communicate(timeout=60)[1]
    return script.returncode, told


def started(tmp_path, process=0):
    """Return of each start of a process its number, its GPUs and its arguments."""
    path = tmp_path / "run" / f"started-{process}"
    return [line.split(" ", 2) for line in path.read_text().splitlines()] if path.exists() else []


def starts(tmp_path):
    """Return how often each process was started, whether it lived to note it or not."""
    return [
        (tmp_path / "run" / "logs" / f"process-{process}.log").read_text().count("== start") for process in range(2)
    ]


def wait_for_starts(tmp_path, count):
    deadline = time.monotonic() + 30
    while not all((tmp_path / "run" / "heartbeats" / str(i)).exists() for i in range(count)):
        assert time.monotonic() < deadline, "the processes never started"
        time.sleep(0.05)


def assert_all_ended(tmp_path):
    for process in range(2):
        for number, *_ in started(tmp_path, process):
            with pytest.raises(ProcessLookupError):
                os.kill(int(number), 0)


def test_a_run_that_finishes_is_started_once(tmp_path, launch):
    code, told = finish(launch(arguments=["--config", "toy"]))
    assert code == 0, told
    rows = [started(tmp_path, process) for process in range(2)]
    assert [len(row) for row in rows] == [1, 1]
    assert len({re.search(r"--coordinator (127.0.0.1:[0-9]+) --processes 2 ", row[0][2])[1] for row in rows}) == 1
    for process, row in enumerate(rows):
        assert f"--process {process} --workdir {tmp_path / 'run'} --config toy" in row[0][2]
    assert "doing 0" in (tmp_path / "run" / "logs" / "process-1.log").read_text()


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ("killed", "process 1 ended with 137"),
        ("1", "process 1 ended with 1"),
        ("stuck", "process 1 is stuck, at: update 3"),
        ("stopped", "process 1 is stuck, at: update 3"),
    ],
)
def test_all_are_killed_and_started_again_when_one_dies_or_hangs(tmp_path, launch, action, reason):
    code, told = finish(launch(["serve", action]))
    assert code == 0, told
    assert reason in told
    assert f"doing {action}" in told  # the end of the log is shown
    assert starts(tmp_path) == [2, 2]
    assert_all_ended(tmp_path)


def test_a_process_without_any_sign_of_life_is_stuck(tmp_path, launch):
    (tmp_path / "run" / "heartbeats").mkdir(parents=True)
    (tmp_path / "run" / "heartbeats" / "0").write_text("of an earlier start")
    os.utime(tmp_path / "run" / "heartbeats" / "0", (0, 0))
    # A pipe that nobody reads: the stand-in hangs before its first sign of life.
    os.mkfifo(tmp_path / "run" / "plan-1-0")
    code, told = finish(launch(START_SECONDS="1"))
    assert code == 0, told
    assert "process 0 is stuck, at: \n" in told
    assert starts(tmp_path) == [2, 2]


def test_refused_input_is_not_tried_again(tmp_path, launch):
    code, told = finish(launch(["2", "serve"]))
    assert code == 2
    assert "process 0 ended with 2" in told
    assert starts(tmp_path) == [1, 1]
    assert_all_ended(tmp_path)


def test_restarts_are_bounded_and_the_first_code_is_returned(tmp_path, launch):
    code, told = finish(launch(*[["3", "serve"]] * 9, RESTARTS="2"))
    assert code == 3
    assert "start 3 of at most 3" in told and "gave up after 2 restarts" in told
    assert starts(tmp_path) == [3, 3]


def test_a_run_that_something_else_stopped_goes_on(tmp_path, launch):
    code, told = finish(launch(["75", "75"]))
    assert code == 0, told
    assert starts(tmp_path) == [2, 2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_told_to_stop_it_lets_them_save_and_does_not_restart(tmp_path, launch, number):
    script = launch(["serve", "serve"])
    wait_for_starts(tmp_path, 2)
    script.send_signal(number)
    code, told = finish(script)
    assert code == 75, told
    assert "stopped and saved" in told
    assert starts(tmp_path) == [1, 1]
    assert_all_ended(tmp_path)


def test_saving_may_not_take_for_ever(tmp_path, launch):
    script = launch(["serve", "serve"], STOP_SECONDS="1")
    wait_for_starts(tmp_path, 2)
    (pid, *_), *_ = started(tmp_path, 1)
    os.kill(int(pid), signal.SIGSTOP)
    script.send_signal(signal.SIGTERM)
    code, told = finish(script)
    assert code == 137 and "saving took too long" in told
    assert starts(tmp_path) == [1, 1]
    assert_all_ended(tmp_path)


def test_killed_itself_it_leaves_nothing_behind(tmp_path, launch):
    script = launch(["serve", "serve"])
    wait_for_starts(tmp_path, 2)
    script.kill()
    script.communicate()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{started(tmp_path, process)[0][0]}").exists() for process in range(2)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_gpus_are_shared_out(tmp_path, launch):
    assert finish(launch(CUDA_VISIBLE_DEVICES="4,5,6,7"))[0] == 0
    assert [started(tmp_path, process)[0][1] for process in range(2)] == ["4,5", "6,7"]
    code, told = finish(launch(CUDA_VISIBLE_DEVICES="4,5,6"))
    assert code == 2 and "3 GPUs cannot be shared out evenly to 2 processes" in told


def test_one_hosts_part_of_a_larger_run(tmp_path, launch):
    (tmp_path / "run" / "heartbeats").mkdir(parents=True)
    code, told = finish(launch(count=1, arguments=["--distributed"], PROCESS="3"))
    assert code == 0, told
    assert started(tmp_path)[0][2] == f"train --workdir {tmp_path / 'run'} --distributed"
    assert (tmp_path / "run" / "logs" / "process-3.log").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "not a number of processes"),
        (["--config", "x"], "not a number of processes"),
        (["2", "--config", "x"], "--workdir is missing"),
    ],
)
def test_wrong_usage_is_told(environment, arguments, message):
    told = subprocess.run(["bash", SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert message in told.stderr


@pytest.mark.parametrize("program", ["touch", "mv"])
@pytest.mark.parametrize("code", [0, 1])
def test_a_folder_like_a_buckets_is_refused(tmp_path, launch, program, code):
    executable(tmp_path / "bin" / program, f"#!/bin/sh\nexit {code}\n")  # it does nothing, and says so or not
    ended, told = finish(launch())
    assert ended == 2
    assert "times of modification to come" in told and "not on a bucket" in told
    assert not started(tmp_path) and not list((tmp_path / "run").glob("probe-*"))
