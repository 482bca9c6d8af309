"""Whole runs: killed and continued, stopped, refused, out of disk."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from ssljax import build, configuration, lock, mesh
from ssljax.errors import InputError
from ssljax.in_flight import InFlight
from ssljax.log import Log
from ssljax.starts import first_start, record_start
from ssljax.together import Together
from ssljax.train import open_run, train

TESTS = Path(__file__).parent


def toy(**changes):
    config = configuration.load("toy")
    config.unlock()
    config.update_from_flattened_dict(changes)
    return config


def lines(workdir):
    """Return the logged losses by step."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def command(workdir, *overrides, limit=""):
    """Return the command of a run in a process of its own, on one device."""
    code = f"import sys; {limit}from ssljax.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["train", "--config", "toy", "--workdir", str(workdir), *overrides]
    environment = os.environ | {"PYTHONPATH": str(TESTS), "XLA_FLAGS": ""}
    return [sys.executable, "-c", code, *arguments], environment


def run(workdir, *overrides, limit=""):
    arguments, environment = command(workdir, *overrides, limit=limit)
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)


def start(workdir, *overrides):
    arguments, environment = command(workdir, *overrides)
    return subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_step(process, workdir, step):
    path = workdir / "metrics.jsonl"
    for _ in range(1200):
        if path.exists() and path.read_text().count("\n") >= step:
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    raise AssertionError(f"step {step} was never logged")


def test_killed_and_continued_ends_with_the_same_bits(tmp_path):
    more = "--config.epochs=40", "--config.checkpoint.every=7"
    process = start(tmp_path / "killed", *more)
    wait_for_step(process, tmp_path / "killed", int(np.random.default_rng(os.getpid()).integers(10, 40)))
    process.kill()
    process.communicate()
    before = lines(tmp_path / "killed")
    assert max(before) < 80
    assert run(tmp_path / "killed", *more).returncode == 0
    assert run(tmp_path / "whole", *more).returncode == 0
    assert lines(tmp_path / "killed") == lines(
        tmp_path / "whole"
    )  # the same losses: the same windows in the same order
    one, other = build.restore(tmp_path / "killed").state, build.restore(tmp_path / "whole").state
    assert int(one.step) == 80
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.long
def test_sigterm_saves_and_asks_to_be_started_again(tmp_path):
    process = start(tmp_path / "run", "--config.epochs=100000")
    wait_for_step(process, tmp_path / "run", 5)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 75, error
    assert "saved" in error
    saved = int(build.restore(tmp_path / "run").state.step)
    assert saved >= 5
    assert max(lines(tmp_path / "run")) == saved


@pytest.mark.long
def test_an_uninterrupted_run_continued_by_other_threads_and_meshes(tmp_path):
    whole = train(toy(), tmp_path / "whole")
    train(toy(epochs=4, **{"loader.threads": 1}), tmp_path / "parts")
    before = len(lines(tmp_path / "parts"))
    again = train(toy(mesh="fsdp=2", **{"loader.threads": 3}), tmp_path / "parts")  # already done: nothing changes
    assert len(lines(tmp_path / "parts")) == before == int(again.step) == 8
    jax.tree.map(np.testing.assert_array_equal, again, whole)


@pytest.mark.long
def test_another_configs_run_is_refused_and_left_alone(tmp_path):
    train(toy(epochs=1), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"holds a run of another config: optimizer.clip_norm \(3.0 there, 1.0 here\)"):
        train(toy(epochs=1, **{"optimizer.clip_norm": 1.0}), tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_starts_of_another_config_that_saved_nothing_do_not_count(tmp_path):
    for seed, counted in [(0, 1), (0, 2), (1, 1)]:
        open_run(tmp_path, configuration.plain(toy(seed=seed)), "data").close()
        record_start(tmp_path, 0, mesh.make_mesh(), began=100.0 * seed)
        assert first_start(tmp_path) == (100.0 * seed, counted)


HOLDER = """
import fcntl, json, os, socket, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print(json.dumps({"process": os.getpid(), "host": socket.gethostname()}), file=file, flush=True)
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.long
def test_a_folder_in_which_another_process_trains_is_refused_and_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("ssljax.lock._PATIENCE", 0.1)
    train(toy(epochs=1), tmp_path)
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path / ".training")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(InputError, match=rf"is being trained by process {other.pid} on host .*: wait, or stop"):
            train(toy(epochs=2), tmp_path)
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        other.kill()
    assert int(train(toy(epochs=1), tmp_path).step) > 0  # what was killed holds nothing


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with lock.training(tmp_path):
        assert "cannot be locked (No locks available); see to it that no other" in capsys.readouterr().err


def test_changed_data_is_refused(tmp_path, monkeypatch):
    import toy as module

    train(toy(epochs=1), tmp_path)
    monkeypatch.setattr(module, "VERSION", "other", raising=True)
    with pytest.raises(InputError, match="data differs"):
        train(toy(epochs=1), tmp_path)


def test_a_bad_loss_stops_with_its_windows_and_keeps_the_last_good_checkpoint(tmp_path):
    config = toy(epochs=10, **{"optimizer.learning_rate.start": 1e38, "checkpoint.every": 1})
    with pytest.raises(InputError, match=r"The loss of update \d+ is nan; its batch is listed in .*, the checkpoint"):
        train(config, tmp_path)
    (path,) = tmp_path.glob("bad_batch_*.json")
    listed = json.loads(path.read_text())
    positions = [sample["position"] for sample in listed["samples"]]
    assert positions == list(range((listed["update"] - 1) * 8, listed["update"] * 8))
    assert all({"video", "times"} <= set(sample) for sample in listed["samples"])
    assert max(lines(tmp_path)) == listed["update"] - 1
    assert int(build.restore(tmp_path).state.step) == listed["update"] - 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 12}, "multiple of 8"),
        ({"mesh": "fsdp=3"}, "mesh"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"log.every": 0}, "log.every is 0"),
        ({"seed": -1}, "seed is -1; give at least 0"),
        ({"loader.workers": -1}, "loader.workers is -1; give at least 0"),
        ({"optimizer.learning_rate.start": float("nan")}, "learning_rate.start is nan; give a finite number"),
        ({"optimizer.clip_norm": -1.0}, "clip_norm is -1.0"),
        ({"objective.epsilon": 0.0}, "epsilon is 0.0"),
        ({"checkpoint.every": -1}, "checkpoint.every is -1"),
        ({"models.head.prototypes": 0}, "prototypes is 0"),
        ({"models.encoder.patch_size": 7}, "patch size 7"),
        ({"objective.objects": 5}, "objects is 5"),
        ({"objective.threshold": "batch", "accumulate": 1, "objective.masks": "magic"}, "masks is 'magic'"),
        ({"optimizer.learning_rate.warmup_epochs": 100}, "warm-up"),
        ({"objective.frames": 3}, "expects"),
    ],
    ids=str,
)
def test_bad_values_are_told_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        train(toy(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    assert run(tmp_path, "--config.epochs=1", "--config.log.tensorboard=False").returncode == 0
    done = int(build.restore(tmp_path).state.step)
    (tmp_path / "config.json").unlink()  # the same run, made longer
    config = json.loads(json.dumps(toy(epochs=3).to_dict()))
    (tmp_path / "config.json").write_text(json.dumps(config))
    # A file may not grow beyond 12 kB: what writing to a full disk looks like to a process.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (12288, 12288)); "
    failed = run(tmp_path, "--config.epochs=3", "--config.log.tensorboard=False", limit=limit)
    assert failed.returncode == 2, failed.stderr
    (told,) = re.findall("ssljax: .*", failed.stderr)  # the bar of a slow machine may stand before it
    assert told.startswith("ssljax: A checkpoint could not be written to")
    assert f"step {done} is intact" in told
    assert int(build.restore(tmp_path).state.step) == done


@pytest.mark.long
def test_best_and_latest_checkpoints_are_kept(tmp_path):
    changes = {"checkpoint.every": 1, "checkpoint.share": 1.0, "checkpoint.keep": 2, "checkpoint.best_metric": "loss"}
    train(toy(epochs=5, **changes), tmp_path)
    losses = lines(tmp_path)
    best = min(losses, key=losses.get)
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    assert set(kept) == {best, 9, 10}
    assert int(build.restore(tmp_path, best).state.step) == best
    with pytest.raises(InputError, match="holds no checkpoint of step 77"):
        build.restore(tmp_path, 77)
    with pytest.raises(InputError, match="best_metric is 'accuracy'.*give one of .*loss"):
        train(toy(epochs=1, **{"checkpoint.best_metric": "accuracy"}), tmp_path / "other")
    assert not (tmp_path / "other").exists()


class Evaluation:
    """Reports an accuracy every third update and after the last, the best at the sixth."""

    def due(self, done, total):
        self.done = done
        return done % 3 == 0 or done == total

    def __call__(self, params, state):
        return {"accuracy": {3: 0.2, 6: 0.9, 8: 0.3, 9: 0.5, 12: 0.4}[self.done]}


@pytest.mark.long
def test_the_best_are_sought_among_the_evaluated(tmp_path, monkeypatch):
    """Seven of twelve saves have no accuracy, and the run that continues still knows the best."""
    monkeypatch.setattr(build, "evaluation", lambda *_: Evaluation())
    best = {"checkpoint.best_metric": "accuracy", "checkpoint.best_mode": "max"}
    changes = {"checkpoint.every": 1, "checkpoint.keep": 1} | best

    def kept():
        return sorted(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit())

    train(toy(epochs=4, **changes), tmp_path / "run")
    assert kept() == [6, 8]
    longer = toy(epochs=6, **changes)
    (tmp_path / "run" / "config.json").write_text(json.dumps(configuration.plain(longer)))  # the same run, made longer
    train(longer, tmp_path / "run")
    assert kept() == [6, 12]
    wrong = {"checkpoint.best_metric": "acuracy"}
    with pytest.raises(InputError, match="best_metric is 'acuracy'.*give one of accuracy, "):
        train(toy(epochs=4, **wrong), tmp_path / "other")


def test_the_rate_is_of_when_updates_ended(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ssljax.log.time.monotonic", lambda: now[0])
    settings = {"total": 11, "batch_size": 4, "unit": "samples", "schedules": {}, "config": {}, "writes": True}
    together = Together(mesh.make_mesh())
    with Log(tmp_path, start=0, every=5, **settings) as log:
        nothing = together.say(stop=False, busy=False, waited=0.0)
        updates = InFlight(log, together, lambda *_: None)
        for number in range(1, 12):
            now[0] += 2.0
            updates.add(number, {"loss": jax.block_until_ready(jax.numpy.ones(()))}, nothing)
            updates.settle(2)
        now[0] += 100.0
        updates.settle(0)  # the last two, which ended long ago, the very last in a line of its own
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10, 11]
    np.testing.assert_allclose([row["samples_per_second"] for row in rows], 2.0)


@pytest.mark.long
def test_memory_stays_flat_over_500_updates(tmp_path):
    code = """if True:
        import gc, resource, sys
        import numpy as np
        from ssljax import configuration, loop, train
        config = configuration.load("toy")
        config.epochs, config.checkpoint.every, config.log.every = 270, 100, 10
        seen = []
        class Probe(loop.Log):
            def update(self, step, metrics, *times):
                super().update(step, metrics, *times)
                if step % 20 == 0:
                    gc.collect()
                    seen.append(int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20)
        loop.Log = Probe
        train.train(config, __import__("pathlib").Path(sys.argv[1]))
        print(*seen)
    """
    environment = os.environ | {
        "PYTHONPATH": str(TESTS),
        "XLA_FLAGS": "",
        "NPROC": "2",
    }  # each thread keeps some memory
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    resident = np.array(done.stdout.split(), float)
    assert len(resident) == 27
    assert resident[-5:].mean() - resident[2:7].mean() < 30  # MiB, in 440 updates
