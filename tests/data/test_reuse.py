"""Windows that share their frames are the windows that each would be alone."""

import itertools
import shutil

import numpy as np
import pytest
from videos import flip, make_video, number_of

from data_prep.prepare import Settings, prepare
from ssljax.data import crops
from ssljax.data.frames import Frames
from ssljax.data.loader import load
from ssljax.data.records import Records
from ssljax.data.windows import Windows
from ssljax.errors import InputError

OPTIONS = dict(frames=3, gap=0.2, size=48, seed=1)


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    folder = tmp_path_factory.mktemp("street")
    path = make_video(folder / "street.mp4", size=(320, 240))
    return prepare(path, folder / "street", Settings(1), segment_seconds=10).folder


def batches(dataset, count, rows=range(8), **arguments):
    with load(dataset, **dict(rows=rows, batch_size=8) | arguments) as loaded:
        return list(itertools.islice(loaded, count))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [48, 160])
def test_a_group_holds_the_windows_that_each_would_be_alone(street, size, antialias):
    """A small canvas lets the decoder halve some boxes more often than others of the same group."""
    windows = Windows(video=street, reuse=8, **OPTIONS | dict(size=size, antialias=antialias))
    factors = set()
    for group in range(6):
        positions = range(8 * group, 8 * group + 8)
        read = windows.read(positions)
        places = [windows.describe(p) for p in positions]
        assert len({tuple(place["times"]) for place in places}) == 1
        assert len({tuple(place["box"]) for place in places}) == 8
        factors |= {crops._factor(240, 320, tuple(place["box"]), size) for place in places}
        for position, sample in zip(positions, read, strict=True):
            np.testing.assert_array_equal(sample["frames"], windows[position]["frames"])
            assert sample["position"] == position
    assert factors == ({2, 4} if size == 48 else {1})


def test_the_order_of_frames_is_that_without_reuse(street):
    options = OPTIONS | dict(ratio=None)
    plain, shared = Windows(video=street, **options), Windows(video=street, reuse=4, **options)
    for group in range(20):
        expected = [number_of(frame) for frame in plain[group]["frames"]]
        assert all([number_of(f) for f in shared[4 * group + i]["frames"]] == expected for i in range(4))


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_whatever_reads_the_samples_are_the_same(street, processes):
    windows = Windows(video=street, reuse=4, **OPTIONS)
    for position in (0, 16):
        rows = np.arange(8).reshape(processes, -1).tolist()
        parts = [batches(windows, 2, r, threads=1 + i % 3, buffer=1 + 5 * i, position=position)
                 for i, r in enumerate(rows)]  # fmt: skip
        for j in range(2):
            whole = np.concatenate([part[j]["frames"] for part in parts])
            expected = [windows[position + 8 * j + i]["frames"] for i in range(8)]
            np.testing.assert_array_equal(whole, expected)


def test_any_position_and_rows(street):
    windows = Windows(video=street, reuse=4, **OPTIONS)
    (batch,) = batches(windows, 1, [7, 0, 1, 2, 5], position=3)
    assert batch["position"].tolist() == [10, 3, 4, 5, 8]
    np.testing.assert_array_equal(batch["frames"], [windows[p]["frames"] for p in (10, 3, 4, 5, 8)])


@pytest.mark.parametrize("reuse", [1, 2, 4, 8])
def test_each_frame_is_decoded_once_for_a_group(street, monkeypatch, reuse):
    decoded = []
    original = Records.decode
    monkeypatch.setattr(Records, "decode", lambda *a, **k: decoded.append(a[1]) or original(*a, **k))
    windows = Windows(video=street, reuse=reuse, antialias=False, **OPTIONS)
    batches(windows, 1, threads=1, buffer=1)
    most = 2 * reuse + 8  # what is read ahead: a block of the next batch or two
    assert 8 // reuse * 3 <= len(decoded) <= (8 + most) // reuse * 3


def test_a_damaged_frame_replaces_the_whole_group(street, tmp_path, capsys):
    folder = shutil.copytree(street, tmp_path / "a")
    flip(folder, 30)
    options = OPTIONS | dict(ratio=None, reuse=4, bad_share=0.5)
    whole, windows = Windows(video=street, **options), Windows(video=folder, **options)
    replaced = 0
    for group in range(90):
        expected = [number_of(frame) for frame in whole[4 * group]["frames"]]
        got = [[number_of(f) for f in sample["frames"]] for sample in windows.read(range(4 * group, 4 * group + 4))]
        assert all(frames == got[0] for frames in got) and 30 not in got[0]
        assert (got[0] == expected) == (30 not in expected)
        if 30 in expected:
            replaced += 1
            alone = [number_of(frame) for frame in windows[4 * group + 3]["frames"]]
            assert alone == got[0], "whichever of the group is read, and alone too"
    assert replaced == 3
    assert "frame 30" in capsys.readouterr().err


def test_images_share_frames_too(street):
    frames = Frames(video=street, size=32, reuse=2)
    (batch,) = batches(frames, 1)
    np.testing.assert_array_equal(batch["image"], [frames[p]["image"] for p in range(8)])


def test_a_batch_holds_whole_groups(street):
    with pytest.raises(InputError, match=r"batch_size 8 does not divide into groups of data.reuse=3"):
        load(Windows(video=street, reuse=3, **OPTIONS), rows=range(8), batch_size=8)
    with pytest.raises(InputError, match=r"reuse \(0\)"):
        Windows(video=street, reuse=0, **OPTIONS)
