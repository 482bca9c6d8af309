"""What a run writes down, and when it warns."""

import json

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from ssljax import mesh
from ssljax.errors import InputError
from ssljax.log import Log
from ssljax.starts import record_start


def make(workdir, **changes):
    settings = {
        "start": 0,
        "total": 100,
        "batch_size": 8,
        "unit": "clips",
        "schedules": {},
        "config": {},
        "writes": True,
    }
    return Log(workdir, **(settings | {"every": 2} | changes))


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_lines_come_every_few_updates_and_at_the_end(tmp_path):
    with make(tmp_path, total=5, schedules={"learning_rate": lambda step: 0.1 * step}) as log:
        for step in range(1, 6):
            log.update(step, {"loss": float(step)}, waited=(0.0,))
    assert [row["step"] for row in rows(tmp_path)] == [2, 4, 5]
    assert [row["loss"] for row in rows(tmp_path)] == [2.0, 4.0, 5.0]
    np.testing.assert_allclose([row["learning_rate"] for row in rows(tmp_path)], [0.1, 0.3, 0.4])  # of that update
    assert all(0 <= row["data_wait_share"] <= 1 for row in rows(tmp_path))


def test_evaluations_have_their_lines_and_take_no_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ssljax.log.time.monotonic", lambda: now[0])
    with make(tmp_path, every=4, also=3) as log:
        for step in range(1, 5):
            now[0] += 1.0
            if step == 3:
                with log.meter.paused("evaluating"):
                    now[0] += 100.0
            log.update(step, {"loss": 1.0} | ({"knn_20": 0.5} if step == 3 else {}), waited=(0.0,))
    assert [row["step"] for row in rows(tmp_path)] == [3, 4]
    assert [row.get("knn_20") for row in rows(tmp_path)] == [0.5, None]
    assert [row["samples_per_second"] for row in rows(tmp_path)] == [8.0, 8.0]


def test_goodput_is_that_of_the_whole_run(tmp_path, monkeypatch):
    """Three starts against a plain account of what happened; of updates that are done twice only the second counts."""
    now, useful, starts = [1e9], {}, mesh.make_mesh()
    monkeypatch.setattr("ssljax.log.time.monotonic", lambda: now[0] - 9e8)
    monkeypatch.setattr("ssljax.log.time.time", lambda: now[0])

    def start(done, stop, *, seconds, waits):
        began, now[0] = now[0], now[0] + 30.0  # imports, restoring
        record_start(tmp_path, done, starts, began)
        with make(tmp_path, start=done, total=40) as log:
            for step in range(done + 1, stop + 1):
                if step == done + 1:
                    with log.meter.paused():
                        now[0] += 60.0  # compiling
                now[0] += seconds
                useful[step] = seconds - waits
                log.update(step, {"loss": 1.0}, waited=(0.0, waits))
                if step % 10 == 0:
                    with log.meter.paused("saving"):
                        now[0] += 0.5
            log.tell(stop)

    start(0, 17, seconds=2.0, waits=0.5)  # killed: its checkpoint is that of update 10
    now[0] += 3600.0
    start(10, 33, seconds=3.0, waits=0.0)
    now[0] += 7.0
    start(30, 40, seconds=1.0, waits=0.25)
    last = rows(tmp_path)[-1]
    wall = now[0] - 0.5 - 1e9  # its line comes before the last save
    assert last["restarts"] == 2
    np.testing.assert_allclose(last["productive_seconds"], sum(useful.values()))
    np.testing.assert_allclose(last["waiting_seconds"], 10 * 0.5 + 10 * 0.25)
    np.testing.assert_allclose(last["goodput"], sum(useful.values()) / wall)
    assert last["save_share"] == 0.0  # of this start alone
    assert [row["step"] for row in rows(tmp_path)] == list(range(2, 41, 2))


def test_runs_of_earlier_versions_go_on(tmp_path):
    (tmp_path / "starts.jsonl").write_text('{"step": 0, "devices": 8}\n')
    (tmp_path / "metrics.jsonl").write_text('{"step": 4, "loss": 1.0}\n')
    with make(tmp_path, start=4, total=6) as log:
        log.update(5, {"loss": 1.0}, waited=(0.0,))
        log.update(6, {"loss": 1.0}, waited=(0.0,))
    assert 0 <= rows(tmp_path)[-1]["goodput"] <= 1


def test_where_the_time_went_is_told_at_the_end(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("ssljax.log.time.monotonic", lambda: now[0])
    with make(tmp_path, total=2) as log:
        with log.meter.paused():
            now[0] += 20.0
        for step in (1, 2):
            now[0] += 35.0
            log.update(step, {"loss": 1.0}, waited=(5.0,))
        with log.meter.paused("saving"):
            now[0] += 4.0
        with log.meter.paused("evaluating"):
            now[0] += 6.0
        log.tell(2)
    assert (
        "2 of 2 updates in 0:01:40: goodput 60.0%; data 10.0%, saving 4.0%, evaluation 6.0%, starts and lost updates "
        "20.0%." in capsys.readouterr().err
    )


def test_where_there_is_no_terminal_a_line_a_minute_tells_how_far_the_run_is(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("ssljax.log.time.monotonic", lambda: now[0])
    with make(tmp_path, total=9, every=1) as log:
        for step in range(1, 10):
            now[0] += 20.0
            log.update(step, {"loss": step}, waited=(0.0,))
    told = capsys.readouterr().err
    assert "\r" not in told
    assert [line.partition(",")[0] for line in told.splitlines()] == [
        f"{step} of 9 updates: loss {step}.000" for step in (1, 4, 7)
    ]


def test_a_resumed_run_drops_the_lines_that_it_writes_again(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (2, 4, 6)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 8, "lo')  # a kill cut the last one
    with make(tmp_path, start=4) as log:
        log.update(5, {"loss": 2.0}, waited=(0.0,))
        log.update(6, {"loss": 3.0}, waited=(0.0,))
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(2, 1.0), (4, 1.0), (6, 3.0)]


def test_a_line_of_no_step_is_named_and_nothing_lost(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "loss": 1.0}\n{"step": "x", "loss": 1.0}\n')
    before = path.read_text()
    with pytest.raises(InputError, match="metrics.jsonl has a line whose step is no number"):
        make(tmp_path, start=4)
    assert path.read_text() == before


def test_tensorboard_gets_the_same_numbers(tmp_path):
    with make(tmp_path, total=2) as log:
        for step in (1, 2):
            log.update(step, {"loss": float(step)}, waited=(0.0,))
    (path,) = tmp_path.glob("events.*")
    data, found = path.read_bytes(), {}
    while data:  # records: length (8 bytes), its checksum (4), the event, its checksum (4)
        length = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        data = data[16 + length :]
    assert found["loss", 2] == 2.0
    assert ("data_wait_share", 2) in found


@pytest.mark.parametrize(("information", "warned"), [(0.001, True), (0.2, False)])
def test_collapse_is_told_once(tmp_path, capsys, information, warned):
    with make(tmp_path) as log:
        for step in range(1, 61):
            log.update(step, {"loss": 1.0, "teacher_information": information}, waited=(0.0,))
    assert capsys.readouterr().err.count("the representation has collapsed") == warned


def test_a_full_disk_is_told_by_the_name_of_the_file(tmp_path):
    with open("/dev/full", "w", buffering=1) as full:
        log = make(tmp_path, tensorboard=False)
        log._file, opened = full, log._file
        opened.close()
        with (
            pytest.raises(InputError, match=r"/dev/full cannot be written \(No space left on device\); free space"),
            log,
        ):
            log.update(2, {"loss": 1.0}, waited=(0.0,))


def test_other_processes_write_nothing(tmp_path):
    with make(tmp_path, writes=False) as log:
        log.update(2, {"loss": 1.0}, waited=(0.0,))
    assert list(tmp_path.iterdir()) == []


def test_weights_and_biases_must_be_there_when_asked_for(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(InputError, match="pip install wandb"):
        make(tmp_path, wandb_project="mine")
