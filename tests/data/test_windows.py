"""Windows hold the right frames, read back from the numbers in their pixels."""

import pickle

import numpy as np
import pytest
from videos import make_video, number_of

from data_prep.prepare import Settings, prepare
from ssljax.data.crops import crop_box
from ssljax.data.index import read_index
from ssljax.data.records import Records, read_frames, read_span
from ssljax.data.windows import Windows, window_starts
from ssljax.errors import InputError


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    """4 s, all 100 frames stored."""
    folder = tmp_path_factory.mktemp("street")
    return prepare(make_video(folder / "street.mp4"), folder / "street", Settings(1), segment_seconds=1).folder


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Frames at uneven times: the folder and the seconds of each number."""
    folder = tmp_path_factory.mktemp("uneven")
    times = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.06, 100))
    make_video(folder / "uneven.mp4", times=times.tolist())
    index = prepare(folder / "uneven.mp4", folder / "uneven", Settings(1))
    np.testing.assert_allclose(index.times, times - times[0], atol=1e-4)
    return index.folder, index.times


def shown(sample):
    return [number_of(frame) for frame in sample["frames"]]


WHOLE = dict(size=64, ratio=None)


def test_an_epoch_holds_each_window_once(street):
    windows = Windows(video=street, frames=4, gap=0.2, **WHOLE)
    assert windows.windows == 100 - 15
    epoch = [shown(windows[p]) for p in range(windows.windows)]
    assert sorted(epoch) == [[s, s + 5, s + 10, s + 15] for s in range(85)]
    assert epoch != sorted(epoch)
    sample = windows[3]
    assert sample["frames"].shape == (4, 64, 64, 3) and sample["frames"].dtype == np.uint8
    assert sample["position"] == 3 and sample["position"].dtype == np.uint32
    assert np.rint(np.multiply(windows.describe(3)["times"], 25)).tolist() == shown(sample)


def test_seconds_and_stride(street):
    windows = Windows(video=street, frames=3, gap=0.2, seconds=(1, 2), **WHOLE)
    frames = sorted(shown(windows[p]) for p in range(windows.windows))
    assert frames == [[s, s + 5, s + 10] for s in range(25, 40)], "every frame lies in 1 <= t < 2"
    windows = Windows(video=street, frames=3, gap=0.2, seconds=(2, None), stride=0.5, **WHOLE)
    starts = sorted(shown(windows[p])[0] for p in range(windows.windows))
    assert np.abs(np.array(starts) / 25 - [2, 2.5, 3, 3.5]).max() <= 0.021


def test_uneven_times_take_the_nearest_frame(uneven):
    folder, times = uneven
    windows = Windows(video=folder, frames=4, gap=0.3, **WHOLE)
    spacing = np.median(np.diff(times))
    expected = []
    for start in range(100):
        targets = times[start] + 0.3 * np.arange(4)
        distance = np.abs(targets[:, None] - times)
        if distance.min(1).max() <= spacing / 2 + 1e-4:
            expected.append(distance.argmin(1).tolist())
    got = sorted(shown(windows[p]) for p in range(windows.windows))
    assert 20 < len(expected) < 95 and got == sorted(expected)


def test_no_window_reaches_over_a_dropped_span(tmp_path):
    path = make_video(tmp_path / "a.mp4")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    path.write_bytes(data)
    index = prepare(path, tmp_path / "out", Settings(1))
    ((a, b),) = index.dropped
    windows = Windows(video=index.folder, frames=3, gap=0.2, **WHOLE)
    frames = [shown(windows[p]) for p in range(windows.windows)]
    assert frames and all(max(window) / 25 < a or min(window) / 25 >= b for window in frames)


def test_several_videos(street, uneven):
    windows = Windows(video=[street, uneven[0]], frames=2, gap=0.2, weights=[3, 1], **WHOLE)
    names = [windows.describe(p)["video"] for p in range(40)]
    assert names.count(str(street)) == 30 and names.count(str(uneven[0])) == 10
    assert windows.checksum != Windows(video=[uneven[0], street], frames=2, gap=0.2, **WHOLE).checksum
    parent = Windows(video=street.parent, frames=2, gap=0.2, **WHOLE) if not (street.parent / "x").exists() else None
    assert parent is not None and parent.checksum == Windows(video=street, frames=2, gap=0.2, **WHOLE).checksum


def bilinear(image, box, size):
    """Resize by bilinear interpolation between pixel centres, edges repeated, in float64."""
    top, left, h, w = box
    crop = image[top : top + h, left : left + w].astype(np.float64)

    def weights(n):
        place = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
        return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(n)))

    return np.einsum("yi,xj,ijc->yxc", weights(h), weights(w), crop, optimize=True)


def test_one_box_for_a_window(street):
    windows = Windows(video=street, frames=4, gap=0.2, size=80, scale=(0.2, 1.0), antialias=False)
    boxes = set()
    for position in range(10):
        where = windows.describe(position)
        boxes.add(tuple(where["box"]))
        frames, times = read_frames(street, where["times"])
        assert times.tolist() == where["times"]
        expected = np.stack([bilinear(frame, where["box"], 80) for frame in frames])
        assert np.abs(windows[position]["frames"] - expected).max() <= 1.0
    assert len(boxes) == 10


def test_antialiasing_is_nearer_to_the_area_mean(tmp_path):
    path = make_video(tmp_path / "large.mp4", 40, size=(512, 512))
    folder = prepare(path, tmp_path / "out", Settings(1)).folder
    frame = read_frames(folder, [0])[0][0]
    expected = frame.reshape(64, 8, 64, 8, 3).mean((1, 3))
    index = read_index(folder)
    errors = []
    for antialias in (True, False):
        windows = Windows(video=folder, frames=1, gap=1.0, antialias=antialias, **WHOLE)
        place = next(p for p in range(windows.windows) if windows.describe(p)["times"][0] == index.times[0])
        errors.append(np.square(windows[place]["frames"][0] - expected).mean())
    psnr = 10 * np.log10(255**2 / np.array(errors))
    assert psnr[0] > 38 and psnr[0] > psnr[1] + 6


def test_every_choice_comes_from_seed_and_position(street):
    make = lambda seed: Windows(video=street, frames=2, gap=0.2, size=32, seed=seed)  # noqa: E731
    a, b, c = make(1), pickle.loads(pickle.dumps(make(1))), make(2)
    for position in (5, 0, 4_000_000_000):
        np.testing.assert_array_equal(a[position]["frames"], b[position]["frames"])
        assert a.describe(position) == b.describe(position) != c.describe(position)
    assert a.checksum == c.checksum == Windows(video=street, frames=3, gap=0.3, size=8).checksum


def test_crop_boxes():
    """Inside the frame, area and ratio uniform (in logarithms) over their ranges."""
    boxes = np.array([crop_box(np.random.default_rng(i), 540, 960, (0.2, 0.5), (3 / 4, 4 / 3)) for i in range(3000)])
    top, left, h, w = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= 540).all() and (left + w <= 960).all()
    area, ratio = h * w / (540 * 960), np.log(w / h)
    assert 0.199 < area.min() < 0.21 and 0.49 < area.max() < 0.501
    assert abs(area.mean() - 0.35) < 0.01 and abs(ratio.mean()) < 0.02
    assert abs(ratio.std() - np.log(16 / 9) / np.sqrt(12)) < 0.01
    assert abs((left / np.maximum(960 - w, 1)).mean() - 0.5) < 0.02
    assert crop_box(np.random.default_rng(0), 100, 400, (1, 1), (3 / 4, 4 / 3)) == (0, 133, 100, 133)
    assert crop_box(np.random.default_rng(0), 100, 400, (1, 1), None) == (0, 150, 100, 100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(frames=30), r"has 4.00 s, shorter than one window of 30 frames 0.2 s apart \(5.8 s\)"),
        (dict(seconds=(3.9, None)), "has 0.10 s within seconds 3.9 to inf, shorter"),
        (dict(gap=0.01), "stores a frame every 0.04 s, too few for frames 0.01 s apart"),
        (dict(scale=(0.2, 1.5)), "a crop larger than the frame"),
        (dict(scale=(0.5, 0.2)), "two rising numbers"),
        (dict(ratio=(2, 1)), "ratio"),
        (dict(frames=0), "frames"),
        (dict(gap=0), "gap"),
        (dict(stride=-1), "stride"),
        (dict(weights=[1, 2]), "2 weights were given for 1 videos"),
        (dict(video="nowhere"), "nowhere is not a folder"),
        (dict(video=[]), "no video was named"),
    ],
)
def test_bad_arguments(street, change, message):
    with pytest.raises(InputError, match=message):
        Windows(**dict(video=street, frames=4, gap=0.2, size=32) | change)


def test_a_damaged_record_is_named(street, tmp_path):
    index = read_index(street)
    records = Records(index)
    records.stored = lambda frame: b"\xff\xd8 not a picture"
    with pytest.raises(InputError, match=r"frame 30 \(1.200 s\) of .*frames-00000.array_record cannot be read"):
        records.decode(30)


def test_starts_are_rising(street):
    assert (np.diff(window_starts(read_index(street), 2, 0.5, stride=0.12)) > 0).all()


def test_frames_of_a_part_are_evenly_spaced(street):
    index = read_index(street)
    frames, times = read_span(index, 1.0, 2.0, most=25)
    assert [number_of(frame) for frame in frames] == list(range(25, 50))
    frames, times = read_span(index, 1.0, 2.0, most=10)  # 25 frames: every third is at most 10
    assert [number_of(frame) for frame in frames] == list(range(25, 50, 3))
    np.testing.assert_allclose(times, index.times[25:50:3])
    with pytest.raises(InputError, match="has 1 frames in seconds 3.95 to inf of its 4.0; give other seconds"):
        read_span(index, 3.95, float("inf"), most=10)
