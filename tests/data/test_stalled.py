"""Data that do not come are named, and end the run instead of hanging it."""

import os
import shutil
import threading
import time

import jax
import numpy as np
import pytest
from pictures import make_folder
from videos import make_video

from data_prep.images import main
from data_prep.prepare import Settings, prepare
from ssljax import mesh
from ssljax.ahead import Ahead
from ssljax.data.frames import Frames
from ssljax.data.images import Images
from ssljax.data.loader import load
from ssljax.data.windows import Windows
from ssljax.errors import Stalled


class Held:
    """Samples that are their position; one of them is not given before it is let go."""

    checksum = "held"

    def __init__(self, at):
        self.at, self.go = at, threading.Event()

    def __getitem__(self, position):
        if position == self.at:
            self.go.wait()
        return {"position": np.uint32(position)}

    def where(self, position):
        return f"part {position} of a file"

    def describe(self, position):
        return {"position": position}


class Nameless:
    """The same without `where`, which a data set need not have."""

    checksum = "nameless"

    def __init__(self, at):
        self.held = Held(at)
        self.go = self.held.go

    def __getitem__(self, position):
        return self.held[position]

    def describe(self, position):
        return {"position": position}


class Slow(Held):
    """One sample takes some seconds; it can be sent to a worker."""

    def __init__(self, at):
        self.at = at

    def __getitem__(self, position):
        if position == self.at:
            time.sleep(8)
        return {"position": np.uint32(position)}


def take(batches, count, error=None):
    """Return the positions of so many batches, as a loop gets them; or end it with an error after them."""
    with batches, Ahead(mesh.make_mesh(devices=jax.devices()[:1]), batches, 8) as ahead:
        taken = [np.asarray(next(ahead)["position"]).tolist() for _ in range(count)]
        if error is not None:
            raise error
    return taken


@pytest.mark.parametrize(
    ("kind", "told"),
    [(Held, "still reading part 13 of a file, of position 13"), (Nameless, "still reading a sample of the data set")],
)
def test_the_run_ends_with_what_is_being_read(kind, told, capsys):
    held = kind(13)
    batches = load(held, rows=range(8), batch_size=8, threads=2, buffer=4, timeout=0.5)
    with pytest.raises(Stalled, match=f"No data came for 0.5 s: {told}.*; look at the disk"):
        take(batches, 2)
    assert capsys.readouterr().err.count("waiting for data for 0.05 s so far: still reading") == 1
    held.go.set()


def test_a_slow_batch_is_warned_of_once(capsys):
    held = Held(13)
    batches = load(held, rows=range(8), batch_size=8, timeout=10.0)
    threading.Timer(2, held.go.set).start()
    assert take(batches, 2) == [list(range(8)), list(range(8, 16))]
    told = "ssljax: waiting for data for 1 s so far: still reading part 13 of a file, of position 13.\n"
    assert capsys.readouterr().err == told


def test_who_waits_can_be_stopped():
    held = Held(13)
    batches = load(held, rows=range(8), batch_size=8)
    asked = []
    with batches, Ahead(mesh.make_mesh(devices=jax.devices()[:1]), batches, 8) as ahead:
        next(ahead)
        assert ahead.next_unless(lambda: asked.append(0) or len(asked) > 2) is None
        held.go.set()
        assert np.asarray(next(ahead)["position"]).tolist() == list(range(8, 16))


def test_closing_does_not_wait_for_ever():
    """Another error, or the end, while a batch that is read ahead does not come."""
    for error in (None, RuntimeError("the loss is bad")):
        held = Held(13)
        batches = load(held, rows=range(8), batch_size=8, timeout=0.5)
        with pytest.raises(Stalled, match="^the loss is bad .No data came for" if error else "^No data came"):
            take(batches, 1, error)
        held.go.set()


@pytest.mark.long
def test_of_worker_processes_the_batch_is_named():
    batches = load(Slow(13), rows=range(8), batch_size=8, workers=1)
    next(batches)  # however long a worker takes to start
    batches.timeout = 0.5
    with pytest.raises(Stalled, match="part 8 of a file, of position 8 .and of positions 9, 10, 11, 12, 13, 14, 15"):
        take(batches, 1)
    batches._abandoned = False
    batches.close()


def test_a_record_file_that_does_not_answer_is_named(tmp_path):
    folder = prepare(make_video(tmp_path / "a.mp4"), tmp_path / "a", Settings(1)).folder
    windows = Windows(video=folder, frames=2, gap=0.2, size=32)
    file = folder / "frames-00000.array_record"
    shutil.move(file, tmp_path / "away")
    os.mkfifo(file)  # whoever opens it waits for somebody to write: as a network's folder does whose server is gone
    batches = load(windows, rows=range(8), batch_size=8, threads=1, timeout=0.5)
    with pytest.raises(Stalled, match=r"still reading frames \d+ to \d+ .* s\) of .*frames-00000.array_record, of pos"):
        take(batches, 1)
    writer = os.open(file, os.O_WRONLY | os.O_NONBLOCK)  # now whoever waits may go on
    file.unlink()
    shutil.move(tmp_path / "away", file)
    os.close(writer)


def test_where_says_what_describe_says(tmp_path):
    folder = prepare(make_video(tmp_path / "a.mp4"), tmp_path / "a", Settings(1)).folder
    windows = Windows(video=folder, frames=3, gap=0.2, size=32, reuse=2)
    frames = Frames(video=folder, size=32)
    for position in range(5):
        times = windows.describe(position)["times"]
        assert f"({times[0]:.3f} to {times[-1]:.3f} s) of {folder}" in windows.where(position)
        assert f"frame {round(frames.describe(position)['times'][0] * 25)} (" in frames.where(position)
    assert main([str(make_folder(tmp_path / "pictures", {"a": 3, "b": 4})), "--output", str(tmp_path / "set")]) == 0
    images = Images(data=tmp_path / "set", size=32)
    for position in range(5):
        assert f"({images.describe(position)['image']}) of {tmp_path}" in images.where(position)
