"""One order of windows, whoever reads it, from wherever; little is read before the first; memory stays flat."""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from videos import make_video

from data_prep.prepare import Settings, prepare
from ssljax.data import stream
from ssljax.data.index import read_index
from ssljax.data.loader import load
from ssljax.data.records import Records
from ssljax.data.windows import Windows

OPTIONS = dict(frames=2, gap=0.2, size=32, seed=5)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    folder = tmp_path_factory.mktemp("street")
    path = make_video(folder / "street.mp4")
    return path, prepare(path, folder / "street", Settings(2), segment_seconds=1).folder


@pytest.fixture(params=["records", "stream", "records, reuse"])
def make(request, street, monkeypatch):
    """A function that opens the same data set anew, as another process would."""
    monkeypatch.setattr(stream, "SECONDS", 1.0)
    path, folder = street
    changes = {
        "records": dict(video=folder),
        "stream": dict(video=path, source="stream", stream=dict(every=2)),
        "records, reuse": dict(video=folder, reuse=4),
    }
    return lambda: Windows(**OPTIONS | changes[request.param])


def take(dataset, count, **arguments):
    with load(dataset, **dict(rows=range(8), batch_size=8) | arguments) as batches:
        return list(itertools.islice(batches, count))


def together(parts):
    """The global batches from the parts of several processes."""
    return [np.concatenate([part[j]["frames"] for part in parts]) for j in range(len(parts[0]))]


def test_an_incomplete_last_batch_is_carried_into_the_next_epoch(street):
    """Batches of 7 run over the end of an epoch: none of its starts is left out, none comes twice."""
    windows = Windows(video=street[1], **OPTIONS)
    count = windows.windows
    assert count % 7
    batches = take(windows, -(-2 * count // 7), rows=range(7), batch_size=7)
    positions = np.concatenate([batch["position"] for batch in batches])[: 2 * count]
    times = [windows.describe(int(position))["times"][0] for position in positions]
    starts = sorted(windows.indexes[0].times[windows.starts[0]].tolist())
    assert sorted(times[:count]) == sorted(times[count:]) == starts


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_read_one_order(make, processes):
    whole = take(make(), 6)
    assert [batch["position"].tolist() for batch in whole] == np.arange(48).reshape(6, 8).tolist()
    rows = np.arange(8).reshape(processes, -1).tolist()
    parts = [take(make(), 6, rows=part, threads=1 + i, buffer=1 + 8 * i) for i, part in enumerate(rows)]
    np.testing.assert_array_equal(together(parts), [batch["frames"] for batch in whole])


def test_killed_and_continued_otherwise_repeats_and_skips_nothing(make):
    """Each life reads ahead of what it consumes, and the next one has other processes, threads and buffers."""
    expected = [batch["frames"] for batch in take(make(), 9)]
    first = [batch["frames"] for batch in take(make(), 2, threads=4, buffer=64)]
    rows = np.arange(8).reshape(2, 4).tolist()
    second = together([take(make(), 4, rows=part, threads=3, buffer=2, position=16) for part in rows])
    third = [batch["frames"] for batch in take(make(), 3, threads=1, buffer=1, position=48)]
    np.testing.assert_array_equal(first + second + third, expected)


def repeat(folder, output, times):
    """A prepared video that repeats another one's files, as links."""
    output.mkdir(parents=True)
    raw = json.loads((folder / "index.json").read_text())
    segments = []
    for _ in range(times):
        for segment in raw["segments"]:
            name = f"frames-{len(segments):05d}.array_record"
            os.link(folder / segment["file"], output / name)
            segments.append({**segment, "file": name})
    moments = [time + n * raw["duration"] for n in range(times) for time in raw["times"]]
    changed = {"name": output.name, "duration": times * raw["duration"], "times": moments, "segments": segments}
    (output / "index.json").write_text(json.dumps(raw | changed))


def test_nothing_but_the_index_is_read_before_the_first_batch(street, tmp_path, monkeypatch):
    """Ten videos of an hour: only the records of what is asked for are opened, and of what is read ahead."""
    for number in range(10):
        repeat(street[1], tmp_path / "hours" / f"{number}", 900)
    read, opened = [], []
    stored, reader = Records.stored, Records._reader
    monkeypatch.setattr(Records, "stored", lambda self, frame: read.append(frame) or stored(self, frame))
    monkeypatch.setattr(Records, "_reader", lambda self, number: opened.append(number) or reader(self, number))
    windows = Windows(video=tmp_path / "hours", **OPTIONS)
    assert sum(index.duration for index in windows.indexes) == pytest.approx(36_000)
    assert windows.windows > 400_000 and not read and not opened
    take(windows, 1, buffer=16)
    assert len(read) <= 2 * (8 + 16 + 2) and len(set(opened)) <= len(read), "a batch and what is read ahead"


@pytest.mark.long
def test_memory_stays_flat_over_4000_windows(street):
    """In a process of its own, which does nothing else."""
    code = """if True:
        import sys
        from ssljax.data.loader import load
        from ssljax.data.windows import Windows
        windows = Windows(video=sys.argv[1], frames=8, gap=0.2, size=224, reuse=int(sys.argv[2]))
        resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
        with load(windows, rows=range(16), batch_size=16) as batches:
            for number in range(250):
                next(batches)
                if number in (60, 249):
                    print(resident())
    """
    for reuse in ("1", "4"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(street[1]), reuse], capture_output=True, text=True, check=True
        )
        before, after = map(float, done.stdout.split())
        assert after < 1024 and after - before < 30  # MiB, in 3000 windows


def test_the_repeated_videos_are_sound(street, tmp_path):
    repeat(street[1], tmp_path / "a", 3)
    assert len(read_index(tmp_path / "a").times) == 150
