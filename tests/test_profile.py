"""Traces of some updates, and which are refused."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest
import toy  # noqa: F401  it takes configuration.load, which must not be a replaced one

from ssljax import configuration, mesh
from ssljax.cli import main
from ssljax.errors import InputError
from ssljax.heartbeat import Heartbeat
from ssljax.in_flight import InFlight
from ssljax.log import Log
from ssljax.profile import Profiler, Range, parse_range
from ssljax.together import Together
from ssljax.train import train


def config(epochs):
    config = configuration.load("toy")
    config.unlock()
    config.epochs = epochs
    return config


def traced(workdir):
    """Return the numbers of the updates in the newest trace, and how many events it has within their time."""
    trace = max((workdir / "profile" / "plugins" / "profile").iterdir())
    assert [path.stat().st_size > 0 for path in trace.glob("*.xplane.pb")] == [True]
    with gzip.open(trace / "perfetto_trace.json.gz") as file:
        events = [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]
    steps = [event for event in events if event["name"] == "update"]
    began, ended = steps[0]["ts"], max(step["ts"] + step["dur"] for step in steps)
    within = [event for event in events if event["name"] != "update" and began <= event["ts"] <= ended]
    return sorted(int(step["args"]["step_num"]) for step in steps), len(within)


@pytest.fixture
def restarted(tmp_path):
    """Return what makes a profiler of a run that goes on after so many updates."""
    settings = {"total": 9, "batch_size": 8, "unit": "clips", "schedules": {}, "config": {}, "writes": True}
    with Log(tmp_path, start=0, **settings) as log:
        parts = dict(in_flight=InFlight(log, Together(mesh.make_mesh()), lambda *_: None), meter=log.meter)
        parts |= dict(heartbeat=Heartbeat(tmp_path, 0, 1, step=1.0, other=1.0))
        yield lambda asked, done: Profiler(tmp_path, asked, done, **parts)


@pytest.mark.long
def test_a_trace_has_the_updates_of_its_range_alone(tmp_path):
    train(config(2), tmp_path, profile=Range(2, 3))
    numbers, events = traced(tmp_path)
    assert numbers == [2, 3] and events > 10


def test_a_restart_within_the_range_traces_what_is_left(tmp_path, restarted):
    with restarted(Range(3, 6), 4) as profiler:
        for number in range(5, 9):
            with profiler.update(number):
                jax.block_until_ready(jnp.ones(3) + number)
            profiler.after(number)
    assert traced(tmp_path)[0] == [5, 6]


def test_a_run_that_ends_within_the_range_leaves_its_trace(tmp_path, restarted):
    with restarted(Range(3, 6), 2) as profiler, profiler.update(3):
        jax.block_until_ready(jnp.ones(3) + 1)
    assert traced(tmp_path)[0] == [3]


def test_a_restart_after_the_range_says_that_nothing_is_traced(tmp_path, restarted, capsys):
    with restarted(Range(3, 6), 6) as profiler:
        with profiler.update(7):
            pass
        profiler.after(7)
    assert "--profile 3:6: all of them are done already" in capsys.readouterr().err
    assert not (tmp_path / "profile").exists()


def test_a_trace_that_cannot_be_written_ends_no_run(tmp_path, restarted, capsys):
    (tmp_path / "profile").write_text("a file where a folder should be")
    with restarted(Range(3, 3), 2) as profiler:
        with profiler.update(3):
            pass
        profiler.after(3)
    assert "WARNING: no trace was written to" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["5", "5:", ":5", "a:b", "6:5", "0:5", "-1:5", "1:2:3", "", "1.5:2"])
def test_what_is_no_range_is_told_before_anything_is_written(tmp_path, capsys, text):
    arguments = ["train", "--config", "toy", "--workdir", str(tmp_path / "run"), f"--profile={text}"]
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        f"ssljax: --profile {text}: give START:STOP, the first and the last update to trace, such as 100:110.\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_range_that_the_run_never_reaches_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="--profile 3:9: the run has 8 updates"):
        train(config(4), tmp_path / "run", profile=Range(3, 9))
    assert not (tmp_path / "run").exists()
    assert parse_range("3:9") == (3, 9)
