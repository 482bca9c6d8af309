"""The numbers of a run are those of its checkpoint, its metrics and its starts."""

import json

import jax
import jax.numpy as jnp
import pytest
import toy  # noqa: F401  it takes configuration.load, which must not be a replaced one

from ssljax import build, configuration, mesh
from ssljax.checkpoint import Checkpoints, Record
from ssljax.errors import InputError
from ssljax.report.numbers import _made_by, run_numbers
from ssljax.starts import read_starts, record_start
from ssljax.step import TrainState


def test_numbers_are_those_of_the_run(tmp_path):
    config = configuration.load("configs/mae.py:smoke")
    params = {"encoder": {"a": jnp.zeros((2, 3))}, "decoder": {"b": jnp.zeros(5)}}
    state = TrainState(jnp.asarray(2, "int32"), params, {}, None)
    metrics = [
        {"step": 1, "samples_per_second": 4.0, "data_wait_share": 0.1},
        {"step": 2, "samples_per_second": 2.0, "data_wait_share": 0.3, "mfu": 0.4, "goodput": 0.9, "restarts": 2.0},
    ]
    record_start(tmp_path, 0, mesh.make_mesh("data=2,fsdp=4"), 0.0)
    numbers = run_numbers(tmp_path, build.Restored(config, build.objective(config), state), metrics)
    assert numbers["objective"] == "MAE"
    assert numbers["checkpoint shown"] == "update 2 of 2"
    assert numbers["samples seen"] == "16 (batches of 8)"
    assert numbers["time of training"] == "0:00:06"  # 8 / 4 + 8 / 2 seconds
    assert numbers["samples a second, median"] == "3.0"
    assert numbers["waiting for data, median"] == "20.0 % of the time"
    assert numbers["MFU, median"] == "40.0 %"
    assert numbers["goodput"] == "90.0 % of the time since the first start; 2 restarts"
    assert (numbers["parameters trained"], numbers["parameters of the encoder"]) == ("11", "6")
    assert numbers["devices"] == f"8 × cpu (data=2, fsdp=4; JAX {jax.__version__})"
    assert "best checkpoint" not in numbers


def test_numbers_say_by_what_code_a_run_was_made(tmp_path):
    start = {"step": 0, "devices": 1, "kind": "cpu", "mesh": {}, "processes": 1, "jax": "1"}
    code = {"command": ["ssljax", "train", "--config.data.video=my video"], "packages": {"ssljax": "0.1.0"}}
    commits = [("a" * 40, None), ("a" * 40, None), ("b" * 40, "source/b.diff"), (None, None)]
    lines = [start, *(start | code | {"commit": commit, "dirty": dirty} for commit, dirty in commits)]
    (tmp_path / "starts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = _made_by(tmp_path)
    assert said["commit"] == (
        "aaaaaaaaaaaa; bbbbbbbbbbbb, with the changes in source/b.diff; none: ssljax 0.1.0 as installed"
    )
    assert said["command"] == "ssljax train '--config.data.video=my video'"


def test_the_best_checkpoint_kept_is_told_to_another_process(tmp_path):
    settings = {"best_metric": "knn_20", "best_mode": "max"}
    checkpoints = Checkpoints(tmp_path, keep=1, **settings)
    for step, value in ((1, 0.25), (2, 0.5), (3, 0.125)):
        checkpoints.save(step, {"a": jnp.zeros(2)}, Record(step, "", {}), {"knn_20": value})
    checkpoints.wait()
    checkpoints.close()
    for given, best in ((settings, (2, 0.5)), ({}, None)):
        again = Checkpoints(tmp_path, **given)
        assert again.best() == best
        again.close()


def test_starts_are_told_once_each_and_in_order(tmp_path):
    assert read_starts(tmp_path) == []
    for step, layout in enumerate(["data=8", "data=8", "fsdp=8"]):
        record_start(tmp_path, step, mesh.make_mesh(layout), 0.0)
    assert [start.split(";")[0] for start in read_starts(tmp_path)] == ["8 × cpu (data=8", "8 × cpu (fsdp=8"]
    assert [json.loads(line)["step"] for line in (tmp_path / "starts.jsonl").read_text().splitlines()] == [0, 1, 2]


@pytest.mark.parametrize("text", ["{\n", '{"step": 1}\n', "[1]\n"])
def test_a_damaged_record_of_starts_is_named(tmp_path, text):
    (tmp_path / "starts.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"starts\.jsonl"):
        read_starts(tmp_path)


def test_a_start_that_a_kill_cut_is_left_out(tmp_path):
    record_start(tmp_path, 0, mesh.make_mesh("data=8"), 0.0)
    path = tmp_path / "starts.jsonl"
    path.write_text(path.read_text() + '{"step": 3, "dev')
    assert len(read_starts(tmp_path)) == 1
    record_start(tmp_path, 3, mesh.make_mesh("fsdp=8"), 0.0)
    assert len(read_starts(tmp_path)) == 2
