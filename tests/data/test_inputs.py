"""Everything that was named is found, in order, with its names, times and labels."""

import os

import numpy as np
import pytest
from pictures import encode, make_folder, smooth
from videos import flip, make_video, number_of

from data_prep.images import main as prepare_images
from data_prep.prepare import Settings, prepare
from ssljax.data.imagefile import read_image
from ssljax.data.inputs import find_inputs
from ssljax.errors import InputError


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A video of 4 s, the same prepared, a folder of classes, and the same prepared."""
    folder = tmp_path_factory.mktemp("places")
    prepare(make_video(folder / "street.mp4"), folder / "videos" / "street", Settings(5))
    raw = make_folder(folder / "raw", {"red": 2, "green": 1}, side=24)
    assert prepare_images([str(raw), "--output", str(folder / "flowers")]) == 0
    return folder


def items(places, **keywords):
    return [item for each in find_inputs(places, **keywords) for item in each.items()]


def test_folders_are_searched_to_the_bottom_and_are_classes_where_they_can_be(places, tmp_path):
    found = items([places / "raw"])
    assert [item.name for item in found] == ["green/000.png", "red/000.png", "red/001.png"]
    assert [item.label for item in found] == ["green", "red", "red"]
    np.testing.assert_array_equal(found[2].read(), read_image(places / "raw" / "red" / "001.png"))
    prepared = items([places / "flowers"])
    assert [(item.name, item.label) for item in prepared] == [(item.name, item.label) for item in found]
    np.testing.assert_array_equal(prepared[2].read(), found[2].read())
    deep = tmp_path / "deep"
    (deep / "a" / "b").mkdir(parents=True)
    (deep / ".hidden").mkdir()
    for name in ("a/b/1.PNG", "0.png", "notes.txt", ".hidden/2.png", "a/.3.png"):
        (deep / name).write_bytes(encode(smooth(0), "PNG"))
    os.symlink(deep, deep / "a" / "back")
    assert [(item.name, item.label) for item in items([deep])] == [("0.png", None), ("a/b/1.PNG", None)]
    both = items([deep / "0.png", places / "raw"])
    assert [item.name for item in both][:2] == [str(deep / "0.png"), str(places / "raw" / "green" / "000.png")]


def test_frames_of_a_video_and_of_the_same_prepared(places):
    for every, expected in ((None, [0, 25, 50, 75]), (0.5, [0, 15, 25, 40, 50, 65, 75, 90]), (3, [0, 75])):
        found = items([places / "videos"], every=every)
        assert [number_of(item.read()) for item in found] == expected
        assert [item.time for item in found] == pytest.approx([number / 25 for number in expected])
        assert {item.name for item in found} == {"street"}
    found = items([places / "street.mp4"], every=0.5)
    assert [number_of(item.read()) for item in found] == [0, 13, 25, 38, 50, 63, 75, 88]
    assert {item.name for item in found} == {"street.mp4"}
    assert len(items([places / "street.mp4"], every=0.001)) == 100


def test_times_with_holes_give_each_frame_once(tmp_path):
    path = make_video(tmp_path / "holes.mp4", 20, times=[i / 10 + (5 if i >= 10 else 0) for i in range(20)], gop=5)
    found = items([path], every=1)
    assert [number_of(item.read()) for item in found] == [0, 10]


def test_damaged_frames_are_told_when_they_are_read(places, tmp_path):
    index = prepare(make_video(tmp_path / "clip.mp4", 20), tmp_path / "clip", Settings(5))
    flip(tmp_path / "clip", 0)
    assert len(index.times) == 4
    found = items([tmp_path / "clip"], every=0.2)
    with pytest.raises(InputError, match="frame 0 .* cannot be read"):
        found[0].read()
    assert number_of(found[1].read()) == 5


@pytest.mark.parametrize(
    ("place", "every", "message"),
    [
        ("nowhere", None, "does not exist"),
        ("text.mp4", None, "not a video"),
        ("empty", None, "holds no images"),
        ("raw", 1.0, "--every is about videos"),
        ("street.mp4", 0.0, "--every is 0"),
    ],
)
def test_what_cannot_be_used_is_told_at_once(places, place, every, message):
    (places / "text.mp4").write_text("no picture")
    (places / "empty").mkdir(exist_ok=True)
    with pytest.raises(InputError, match=message):
        find_inputs([places / place], every=every)
