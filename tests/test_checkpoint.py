"""Checkpoints are trusted only when they hold what was written, and one that is damaged costs nothing but itself."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import verification
from ssljax.checkpoint import Checkpoints, Record
from ssljax.errors import InputError


def state(step):
    return {"w": jax.random.normal(jax.random.key(step), (40, 50)), "n": jnp.asarray(step), "empty": {}}


ABSTRACT = jax.eval_shape(state, 0)


def save(directory, *steps, metrics=None, **settings):
    with contextlib.closing(Checkpoints(directory, **{"keep": 9} | settings)) as checkpoints:
        for step in steps:
            given = {} if metrics is None else {"loss": metrics[step]}
            checkpoints.save(step, state(step), Record(step * 8, "data", {"seed": 0}), given)
        checkpoints.wait()


def restored(directory, step=None, **settings):
    """Return the step and the state that a process gets which opens the folder."""
    with contextlib.closing(Checkpoints(directory, **settings)) as checkpoints:
        step, record = checkpoints.record(step)
        assert record.samples == step * 8
        return step, checkpoints.restore(step, ABSTRACT)


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def cut(folder):
    os.truncate(largest(folder), largest(folder).stat().st_size // 2)


def flip(folder):
    path = largest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def lose_metadata(folder):
    for name in ("_CHECKPOINT_METADATA", "checksums.json"):
        (folder / name).unlink()


def garble_metadata(folder):
    (folder / "_CHECKPOINT_METADATA").write_text('{"item_han')


def half_renamed(folder):
    for name in ("checksums.json", "state/_METADATA"):
        (folder / name).unlink()


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = {
    cut: r"has \d+ bytes instead of \d+",
    flip: "the bytes of state/.* are not those that were written",
    lambda folder: largest(folder).unlink(): "state/.* is missing",
    lambda folder: (folder / "checksums.json").write_text("{"): "checksums.json cannot be read",
    lambda folder: (folder / "checksums.json").write_text('{"files": [1]}'): "checksums.json is not what was written",
    lose_metadata: "cannot be read: FileNotFoundError: .*_CHECKPOINT_METADATA",
    garble_metadata: "_CHECKPOINT_METADATA has 10 bytes",
    half_renamed: "cannot be read: .*_METADATA",
    empty: "cannot be read",
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.items(), ids=range(len(DAMAGES)))
def test_a_damaged_newest_is_moved_aside_and_the_one_before_is_used(tmp_path, capsys, damage, reason):
    save(tmp_path, 1, 2, 3)
    damage(tmp_path / "3")
    left = sorted(path.name for path in (tmp_path / "3").rglob("*"))
    step, values = restored(tmp_path)
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, values, state(2))
    (line,) = capsys.readouterr().err.splitlines()
    told = rf"the checkpoint .*/3 is damaged \(.*{reason}.*\) and was moved to .*/damaged/3; that of step 2 is used"
    assert re.search(told, line)
    assert left == sorted(path.name for path in (tmp_path / "damaged/3").rglob("*"))  # nothing is lost
    save(tmp_path, 3)  # the run goes on, and may save that step again
    assert restored(tmp_path)[0] == 3
    assert not capsys.readouterr().err


def test_two_damaged_ones_are_told_one_by_one(tmp_path, capsys):
    save(tmp_path, 1, 2, 3)
    cut(tmp_path / "2")
    flip(tmp_path / "3")
    assert restored(tmp_path)[0] == 1
    assert len(capsys.readouterr().err.splitlines()) == 2
    save(tmp_path, 3)
    flip(tmp_path / "3")
    assert restored(tmp_path)[0] == 1
    assert {path.name for path in (tmp_path / "damaged").iterdir()} == {"2", "3", "3-2"}


def test_where_none_is_sound_all_stay_and_one_sentence_says_so(tmp_path, capsys):
    save(tmp_path, 1, 2)
    cut(tmp_path / "1")
    flip(tmp_path / "2")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for settings in ({}, {"read_only": True}):
        with pytest.raises(InputError, match=r"All checkpoints in .* are damaged \(2: the bytes of .*restore one from"):
            restored(tmp_path, **settings)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert not capsys.readouterr().err


def test_one_without_checksums_is_read_instead_and_gets_them(tmp_path, capsys):
    save(tmp_path, 1, 2)
    (tmp_path / "2/checksums.json").unlink()  # killed before they were written, or an older version's
    assert restored(tmp_path, read_only=True)[0] == 2
    assert not (tmp_path / "2/checksums.json").exists()
    assert restored(tmp_path)[0] == 2
    assert verification.fault(tmp_path / "2") is None
    assert (tmp_path / "2/checksums.json").exists()
    (tmp_path / "2/checksums.json").unlink()
    cut(tmp_path / "2")
    assert restored(tmp_path)[0] == 1
    assert "it cannot be read: " in capsys.readouterr().err


def test_who_only_reads_moves_nothing(tmp_path, capsys):
    save(tmp_path, 1, 2, 3)
    flip(tmp_path / "3")
    assert restored(tmp_path, read_only=True)[0] == 2
    assert re.search(r"/3 is damaged \(.*\); that of step 2 is used", capsys.readouterr().err)
    with pytest.raises(InputError, match=r"/3 cannot be read \(the bytes of .*; the run's other checkpoints: 1, 2. To"):
        restored(tmp_path, 3, read_only=True)
    assert restored(tmp_path, 1, read_only=True)[0] == 1
    assert not (tmp_path / "damaged").exists()


def test_the_last_sound_one_is_never_removed_for_a_damaged_one(tmp_path, capsys):
    save(tmp_path, 1, 2, keep=1)
    assert verification.steps_in(tmp_path) == [2]
    with contextlib.closing(Checkpoints(tmp_path, keep=2)) as checkpoints:
        checkpoints.save(3, state(3), Record(24, "", {}), {})
        checkpoints.wait()
        cut(tmp_path / "3")
        checkpoints.save(4, state(4), Record(32, "", {}), {})
        checkpoints.wait()
    assert verification.steps_in(tmp_path) == [2, 4]  # and not 4 alone, with what is left of 3
    assert re.search("/3 is damaged .*/damaged/3; that of step 4 is used", capsys.readouterr().err)


def test_nothing_is_removed_before_the_new_one_has_its_checksums(tmp_path, monkeypatch):
    begun, go = threading.Event(), threading.Event()
    write = verification.write_checksums

    def slow(folder):
        begun.set()
        go.wait()
        write(folder)

    save(tmp_path, 1, keep=1)
    monkeypatch.setattr(verification, "write_checksums", slow)
    with contextlib.closing(Checkpoints(tmp_path, keep=1, share=0.5)) as checkpoints:
        checkpoints.save(2, state(2), Record(16, "", {}), {})
        begun.wait()
        assert checkpoints.busy
        assert verification.steps_in(tmp_path) == [1, 2]
        go.set()
        checkpoints.wait()
        assert verification.steps_in(tmp_path) == [2]


def test_saving_is_busy_beyond_its_share(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("ssljax.checkpoint.time.monotonic", lambda: now[0])
    checkpoints = {share: Checkpoints(tmp_path / str(share), share=share) for share in (0.1, 1.0)}
    for share, one in checkpoints.items():
        now[0] = 0.0
        save_to, one._manager.save = one._manager.save, lambda *a, **k: now.__setitem__(0, now[0] + 3.0)
        one.save(1, state(1), Record(8, "", {}), {})
        del one._manager.save, save_to
        one._verifying.join()
        assert one.blocked_seconds == 3.0
        one._failure = None  # nothing was written
        for seconds, busy in ((4.0, True), (29.0, True), (31.0, False)):
            now[0] = seconds
            assert one.busy == (busy and share < 1)
        one.close()


def test_a_failed_verification_is_told_as_a_failed_save(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(verification, "write_checksums", full)
    with pytest.raises(InputError, match="could not be written .*No space left.* step 1 is intact"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert restored(tmp_path)[0] == 2  # it had been written, and is read instead


def test_damaged_metrics_rank_nothing_and_break_nothing(tmp_path):
    ranked = {"best_metric": "loss", "keep": 1}
    losses = {1: 0.5, 2: 0.1, 3: 0.7, 4: 0.6}
    save(tmp_path, 1, 2, 3, metrics=losses, **ranked)
    assert verification.steps_in(tmp_path) == [2, 3]
    (tmp_path / "2/metrics/metrics").write_text("{")
    assert restored(tmp_path, **ranked)[0] == 3
    with contextlib.closing(Checkpoints(tmp_path, read_only=True, **ranked)) as checkpoints:
        assert checkpoints.best() == (3, 0.7)
    save(tmp_path, 4, metrics=losses, **ranked)
    assert verification.steps_in(tmp_path) == [4]
    assert (tmp_path / "damaged/2/metrics/metrics").read_text() == "{"


def test_what_a_kill_left_of_a_removal_goes(tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / "1").rename(tmp_path / ".removed-1")
    (tmp_path / "5.orbax-checkpoint-tmp").mkdir()  # and of a save
    assert restored(tmp_path, read_only=True)[0] == 2
    save(tmp_path, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"2", "3"}


TWO = """
import sys, contextlib, json, jax, numpy as np
from pathlib import Path
port, number, directory = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
jax.distributed.initialize(f"127.0.0.1:{port}", 2, number, cluster_detection_method="deactivate")
from ssljax.checkpoint import Checkpoints, Record
from ssljax.errors import InputError
told = []
mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
place = jax.sharding.NamedSharding(mesh, jax.P("d"))
whole = np.arange(2000, dtype=np.float32)
make = lambda step: {"w": jax.make_array_from_callback((2000,), place, lambda i: (whole * step)[i])}
abstract = {"w": jax.ShapeDtypeStruct((2000,), np.float32, sharding=place)}
for part in range(2):
    try:
        with contextlib.closing(Checkpoints(directory / str(part), keep=9)) as checkpoints:
            step = checkpoints.latest()
            if step is not None:
                values = checkpoints.restore(step, abstract)["w"].addressable_shards[0].data
                told.append([step, bool((values == (whole * step)[number * 1000:(number + 1) * 1000]).all())])
            for new in range((step or 0) + 1, 4):
                checkpoints.save(new, make(new), Record(new, "", {}), {})
            checkpoints.wait()
    except InputError as error:
        told.append(str(error))
print("TOLD", json.dumps(told))
"""


@pytest.mark.long
def test_two_processes_use_the_same_one(tmp_path):
    def both():
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
        commands = [[sys.executable, "-c", TWO, str(port), str(number), str(tmp_path)] for number in range(2)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
        ends = [one.communicate(timeout=120) for one in [subprocess.Popen(command, **pipes) for command in commands]]
        return [json.loads(out.split("TOLD")[1]) for out, _ in ends], [err for _, err in ends]

    assert both()[0] == [[], []]
    flip(tmp_path / "0/3")
    for step in (1, 2, 3):
        flip(tmp_path / f"1/{step}")
    told, errors = both()
    assert told[0][0] == told[1][0] == [2, True]
    assert all("All checkpoints in" in one[1] for one in told)
    assert ["/3 is damaged" in error for error in errors] == [True, False]
