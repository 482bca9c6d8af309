"""Windows from an original video are those of its preparation, each once an epoch, whatever reads them."""

import itertools
import threading

import numpy as np
import pytest
from videos import make_video, number_of

from data_prep.prepare import Settings, prepare
from ssljax.data import stream
from ssljax.data.crops import cut
from ssljax.data.loader import load
from ssljax.data.order import BlockOrder
from ssljax.data.records import Records
from ssljax.data.windows import Windows
from ssljax.errors import InputError

OPTIONS = dict(source="stream", frames=3, gap=0.2, size=48, seed=1)


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(stream, "SECONDS", 1.0)  # two groups of pictures each: 1.6 s, 40 frames


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """A video of 4 s, and the same prepared."""
    folder = tmp_path_factory.mktemp("street")
    path = make_video(folder / "street.mp4", size=(320, 240))
    return path, prepare(path, folder / "street", Settings(2), segment_seconds=10)


def windows(path, **changes):
    return Windows(**dict(video=path, stream=dict(every=2)) | OPTIONS | changes)


def shown(sample):
    return [number_of(frame) for frame in sample["frames"]]


def test_a_window_is_the_prepared_one_bit_for_bit(street):
    path, index = street
    streamed, records = windows(path), Records(index)
    np.testing.assert_array_equal(streamed.indexes[0].times, index.times)
    for position in range(streamed.windows):
        place = streamed.describe(position)
        assert place["video"] == str(path)
        expected = np.empty((3, 48, 48, 3), np.uint8)
        for out, time in zip(expected, place["times"], strict=True):
            (number,) = np.flatnonzero(index.times == time)
            cut(records, int(number), [tuple(place["box"])], [out], True)
        np.testing.assert_array_equal(streamed[position]["frames"], expected)
    streamed.close()


def test_an_epoch_holds_each_window_once_block_after_block(street):
    path, index = street
    streamed, prepared = windows(path, ratio=None), windows(index.folder, source="records", ratio=None)
    count = streamed.windows
    assert count == prepared.windows
    epochs = [[shown(streamed[p]) for p in range(e * count, (e + 1) * count)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(shown(prepared[p]) for p in range(count))
    assert epochs[0] != epochs[1]
    blocks = [[window[0] // 40 for window in epoch] for epoch in epochs]
    assert blocks[0] == blocks[1] == sorted(blocks[0]) and epochs[0] != sorted(epochs[0])
    streamed.close()


def test_each_frame_is_decoded_once_an_epoch(street, monkeypatch):
    converted = []
    original = stream.to_record
    monkeypatch.setattr(stream, "to_record", lambda frame, **k: converted.append(frame.pts) or original(frame, **k))
    streamed = windows(street[0])
    del converted[:]  # the first picture, looked at beforehand
    with load(streamed, rows=range(streamed.windows), batch_size=streamed.windows, threads=3, buffer=4) as batches:
        next(batches)
    assert set(converted) == {1024 * number for number in range(50)}
    assert len(converted) <= 50 + 40, "but for what the next epoch begins with"


def test_any_access_gives_the_same(street):
    one, other = windows(street[0]), windows(street[0])
    expected = [one[position]["frames"] for position in range(60)]
    for position in reversed(range(60)):
        np.testing.assert_array_equal(other[position]["frames"], expected[position])
    for dataset in (one, other):
        dataset.close()
    continued = load(windows(street[0]), rows=range(5), batch_size=5, position=25, threads=4, buffer=7)
    with continued as batches:
        got = np.concatenate([batch["frames"] for batch in itertools.islice(batches, 7)])
    np.testing.assert_array_equal(got, expected[25:])


def test_closing_the_loader_stops_the_thread(street):
    before = set(threading.enumerate())
    dataset = windows(street[0])
    with load(dataset, rows=[0], batch_size=1) as batches:
        next(batches)
        assert [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("decode")]
    assert not [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("decode")]
    with pytest.raises(RuntimeError, match="closed"):
        dataset[0]


def test_several_videos_one_after_the_other(street, tmp_path):
    other = make_video(tmp_path / "other.mp4", 30)
    both = windows([street[0], other])
    names = [both.describe(p)["video"] for p in range(both.windows)]
    assert [name for name, _ in itertools.groupby(names)] == [str(street[0]), str(other)]
    assert both.checksum != windows([other, street[0]]).checksum
    both.close()


def test_a_damaged_group_of_pictures(street, tmp_path, capsys):
    path = tmp_path / "broken.mp4"
    data = bytearray(street[0].read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    path.write_bytes(data)
    index = prepare(path, tmp_path / "broken", Settings(2))
    ((a, b),) = index.dropped
    sound, broken = windows(street[0], ratio=None), windows(path, ratio=None, bad_share=1)
    replaced = 0
    for position in range(sound.windows):
        expected, got = shown(sound[position]), shown(broken[position])
        assert not any(a <= number / 25 < b for number in got)
        assert abs(got[0] // 40 - expected[0] // 40) == 0, "replaced by a window of its block"
        if got != expected:
            assert any(a <= number / 25 < b for number in expected)
            replaced += 1
    assert replaced
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "damaged between" in line]
    assert f"the keyframes at {a:.3f} s and {b:.3f} s: prepare it, which leaves that out" in told
    with pytest.raises(InputError, match="had a damaged frame, more than bad_share"):
        drain(windows(path, bad_share=0))


def drain(dataset):
    for position in range(dataset.windows):
        dataset[position]


def test_the_order_of_blocks():
    blocks = [(0, 0, 5), (0, 5, 5), (0, 5, 9), (1, 0, 3)]
    order = BlockOrder(blocks, seed=3)
    for epoch in range(3):
        places = [order[12 * epoch + i] for i in range(12)]
        parts = [sorted(places[:5]), sorted(places[5:9]), sorted(places[9:])]
        assert parts == [[(0, i) for i in range(5)], [(0, i) for i in range(5, 9)], [(1, i) for i in range(3)]]
    random = np.random.default_rng(0)
    assert {order.another(6, random) for _ in range(50)} == {5, 6, 7, 8}
    assert [order[i] for i in range(24)] != [BlockOrder(blocks, seed=4)[i] for i in range(24)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(source="records"), r"street.mp4 is a file: prepare it .* or read the file itself with .*source=stream"),
        (dict(source="tape"), "source is 'tape'; give one of records, stream, device"),
        (dict(video=[]), "at least one video file"),
        (dict(weights=[1]), "weights need data.source=records"),
        (dict(stream=dict(every=0)), "every 0 must be at least 1"),
        (dict(frames=30), r"street.mp4 has 4.00 s, shorter than one window"),
    ],
)
def test_bad_arguments(street, change, message):
    with pytest.raises(InputError, match=message):
        windows(**dict(path=street[0]) | change)


def test_the_wrong_kinds(street, tmp_path):
    with pytest.raises(InputError, match="is a folder: data.source=stream takes video files"):
        windows(street[1].folder)
    cut_short = tmp_path / "short.mkv"
    whole = make_video(tmp_path / "whole.mkv").read_bytes()
    cut_short.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cut short or damaged"):
        windows(cut_short)
    with pytest.raises(InputError, match=r"loader.workers is 2, but this data.source is read in one process"):
        load(windows(street[0]), rows=[0], batch_size=1, workers=2)


def test_no_keyframes(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_LONGEST", 3)
    with pytest.raises(InputError, match="no keyframe for 4 s, too long to keep in memory: prepare it instead"):
        windows(make_video(tmp_path / "a.mp4", gop=100))
