"""Traces of some updates, and which are refused."""

import gzip
import json

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


def test_a_trace_has_the_updates_of_its_range_alone_also_after_a_restart(tmp_path):
    train(config(2), tmp_path, profile=Range(2, 3))
    numbers, events = traced(tmp_path)
    assert numbers == [2, 3] and events > 10
    longer = config(4)  # the same run, made longer
    (tmp_path / "config.json").write_text(json.dumps(json.loads(json.dumps(longer.to_dict()))))
    train(longer, tmp_path, profile=Range(3, 6))
    assert traced(tmp_path)[0] == [5, 6]  # four were done before


def test_a_restart_after_the_range_says_that_nothing_is_traced(tmp_path, capsys):
    settings = {"total": 9, "batch_size": 8, "unit": "clips", "schedules": {}, "config": {}, "writes": True}
    with Log(tmp_path, start=6, **settings) as log:
        in_flight = InFlight(log, Together(mesh.make_mesh()), str)
        heartbeat = Heartbeat(tmp_path, 0, 1, update=1.0, other=1.0)
        with Profiler(tmp_path, Range(3, 6), 6, in_flight=in_flight, meter=log.meter, heartbeat=heartbeat) as profiler:
            with profiler.update(7):
                pass
            profiler.after(7)
    assert "--profile 3:6: all of them are done already" in capsys.readouterr().err
    assert not (tmp_path / "profile").exists()


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
