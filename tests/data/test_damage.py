"""Records whose bits were flipped after they were written."""

import itertools
import pickle
import shutil

import numpy as np
import pytest
from videos import flip, make_video, number_of

from data_prep.prepare import Settings, prepare
from ssljax.data.damage import DamagedFrame
from ssljax.data.index import read_index
from ssljax.data.loader import load
from ssljax.data.records import Records
from ssljax.data.windows import Windows
from ssljax.errors import InputError

OPTIONS = dict(frames=2, gap=0.2, size=64, ratio=None, bad_share=0.5)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    return prepare(make_video(folder / "a.mp4"), folder / "a", Settings(1), segment_seconds=10).folder


@pytest.fixture
def broken(sound, tmp_path):
    """A copy in which frames 30 and 31 of 100 are damaged."""
    folder = shutil.copytree(sound, tmp_path / "a")
    flip(folder, 30)
    flip(folder, 31)
    return folder


def test_no_flipped_bit_gets_through(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "a")
    file, random = folder / "frames-00000.array_record", np.random.default_rng(0)
    whole, records = file.read_bytes(), Records(read_index(sound))
    expected, damaged = [records.stored(i) for i in range(100)], 0
    for _ in range(40):
        data = bytearray(whole)
        data[random.integers(len(data))] ^= 1 << random.integers(8)
        file.write_bytes(data)
        records = Records(read_index(folder))
        for i in range(100):
            try:
                assert records.stored(i) == expected[i]
            except DamagedFrame:
                damaged += 1
    assert damaged >= 20


def test_replaced_named_and_counted(sound, broken, capsys):
    whole, windows = Windows(video=sound, **OPTIONS), Windows(video=broken, **OPTIONS)
    expected = [[number_of(frame) for frame in whole[p]["frames"]] for p in range(95)]
    got = [[number_of(frame) for frame in windows[p]["frames"]] for p in range(95)]
    bad = [p for p, pair in enumerate(expected) if {30, 31} & set(pair)]
    assert len(bad) == 4 and all(b - a == 5 and not {30, 31} & {a, b} for a, b in got)
    assert [p for p in range(95) if got[p] != expected[p]] == bad
    assert [round(time * 25) for time in windows.describe(bad[0])["times"]] == got[bad[0]]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2, "once for each frame"
    told = "".join(lines)
    assert "frame 30 (1.200 s)" in told and "frame 31 (1.240 s)" in told and "frames-00000.array_record" in told
    assert "another window takes its place (1 replaced for" in lines[0]


def test_the_same_whatever_reads(broken):
    windows = Windows(video=broken, **OPTIONS)
    expected = [windows[p]["frames"] for p in range(95)]
    backwards = pickle.loads(pickle.dumps(windows))
    for p in reversed(range(95)):
        np.testing.assert_array_equal(backwards[p]["frames"], expected[p])
    with load(Windows(video=broken, **OPTIONS), rows=[0, 1], batch_size=2, threads=4) as batches:
        got = np.concatenate([batch["frames"] for batch in itertools.islice(batches, 47)])
    np.testing.assert_array_equal(got, expected[:94])


@pytest.mark.long
def test_the_same_in_worker_processes(broken):
    windows = Windows(video=broken, **OPTIONS)
    with load(windows, rows=[0], batch_size=1, threads=1, workers=2) as batches:
        for p in range(95):
            np.testing.assert_array_equal(next(batches)["frames"][0], windows[p]["frames"])


def test_too_many_end_the_run(broken):
    with pytest.raises(InputError, match="for [0-9]+ window.s. 1 had a damaged frame, more than bad_share .0. allows"):
        drain(Windows(video=broken, **OPTIONS | dict(bad_share=0)))
    with pytest.raises(InputError, match=r"11 had a damaged .* frame 3[01] .* copy it again"):
        drain(Windows(video=broken, **OPTIONS | dict(bad_share=0.001)))
    drain(Windows(video=broken, **OPTIONS | dict(bad_share=0.2)))


def test_a_video_of_damage_ends_too(sound, tmp_path, capsys):
    folder = shutil.copytree(sound, tmp_path / "a")
    file = folder / "frames-00000.array_record"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(InputError, match="for 1 window.s. 11 had a damaged frame"):
        Windows(video=folder, **OPTIONS)[0]


def drain(windows):
    for p in range(400):
        windows[p]


def test_bad_share(sound):
    with pytest.raises(InputError, match="bad_share"):
        Windows(video=sound, **OPTIONS | dict(bad_share=2))
