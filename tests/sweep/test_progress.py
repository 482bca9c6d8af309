"""What a sweep shows while it runs."""

import json

import pytest

from ssljax.sweep.progress import Progress


@pytest.fixture
def folder(tmp_path):
    """Runs a and b of 10 updates: a has done 4, whose last line is being written, b has failed."""
    for name in "ab":
        (tmp_path / name).mkdir()
    line = json.dumps({"step": 4, "loss": 2.5}) + "\n"
    (tmp_path / "a" / "metrics.jsonl").write_text(line + line.replace("4", "5")[:10])
    (tmp_path / "b" / "failed.json").write_text(json.dumps({"error": "the data are bad", "code": 2}))
    return tmp_path


STATES = [{"a": "running", "b": "waiting"}, {"a": "running", "b": "failed"}, {"a": "finished", "b": "failed"}]


def test_without_a_terminal_a_line_tells_of_each_change_and_of_each_minute(folder, capsys, monkeypatch):
    monkeypatch.setattr("ssljax.sweep.progress.MINUTE", 1e9)
    with Progress(folder, {"a": 10, "b": 10}, terminal=False) as progress:
        for states in STATES[:2]:
            for _ in range(2):
                progress.show(states)
        monkeypatch.setattr("ssljax.sweep.progress.MINUTE", 0.0)
        progress.show(STATES[1])
    assert capsys.readouterr().err.splitlines() == [
        "running  a",
        "failed   b: the data are bad",
        "1 running, 1 failed of 2; a 4/10 (loss 2.500)",
    ]


def test_on_a_terminal_there_is_a_bar_for_all_and_one_for_each_running_run(folder, capsys):
    with Progress(folder, {"a": 10, "b": 10}, terminal=True) as progress:
        for states in STATES:
            progress.show(states)
            progress._all.refresh()
        assert not progress._bars
    told = capsys.readouterr().err
    assert "a:  40%" in told and "4/10" in told and "loss 2.500" in told
    assert "2/2" in told and "1 finished, 1 failed of 2" in told
