"""The file that a supervisor looks at."""

import os
import time

import pytest

from ssljax.heartbeat import Heartbeat


def due(path):
    """Seconds from now until the next beat is due."""
    return path.stat().st_mtime - time.time()


def test_the_files_time_is_when_the_next_beat_is_due(tmp_path):
    heartbeat = Heartbeat(tmp_path, 1, 2, step=60.0, other=1000.0)
    path = tmp_path / "heartbeats" / "1"
    assert path.read_text() == "starting\n" and 990 < due(path) <= 1000
    heartbeat.update(7)
    assert path.read_text() == "update 7\n" and 50 < due(path) <= 60
    heartbeat.update(8)  # a moment later: not worth writing
    assert path.read_text() == "update 7\n"
    heartbeat.other("evaluating")
    assert path.read_text() == "evaluating\n" and 990 < due(path) <= 1000
    heartbeat.update(9)
    assert path.read_text() == "update 9\n"


def test_a_start_with_fewer_processes_removes_the_others_files(tmp_path):
    for process in range(4):
        Heartbeat(tmp_path, process, 4, step=60.0, other=1000.0)
    Heartbeat(tmp_path, 0, 2, step=60.0, other=1000.0)
    assert sorted(os.listdir(tmp_path / "heartbeats")) == ["0", "1"]


def test_a_full_disk_does_not_end_the_run(tmp_path, monkeypatch):
    heartbeat = Heartbeat(tmp_path, 0, 1, step=60.0, other=1000.0)
    path = tmp_path / "heartbeats" / "0"
    os.utime(path, (0, 0))
    monkeypatch.setattr("pathlib.Path.write_text", full)
    heartbeat.update(1)
    assert due(path) > 50
    path.unlink()
    with pytest.raises(OSError, match="No space"):
        heartbeat.other("evaluating")


def full(*_):
    raise OSError(28, "No space left on device")
