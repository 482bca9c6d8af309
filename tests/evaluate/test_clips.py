"""Videos by their frames: which frames are read, the lists of UCF-101 and Kinetics, k-NN of the means by hand."""

import jax
import numpy as np
import pytest
from videos import make_video, number_of, picture

from ssljax.data.clips import LabelledClips, LabelledVideo, find_videos, read_frames
from ssljax.data.images import evaluation_view
from ssljax.errors import InputError
from ssljax.evaluate.clips import Clips, clip_features
from ssljax.evaluate.encoders import Pixels
from ssljax.evaluate.knn import knn
from ssljax.mesh import make_mesh
from ssljax.objectives.base import Encoder

PIXELS = Encoder(Pixels(8), {})


@pytest.fixture(scope="module")
def ucf(tmp_path_factory):
    """Six videos of two classes, and the lists; the classes differ in which numbers their frames show."""
    folder = tmp_path_factory.mktemp("ucf")
    for name, first in (("Jump", 0), ("Run", 40)):
        (folder / "videos" / name).mkdir(parents=True)
        for i in range(3):
            codec = "mpeg4" if i == 2 else "libx264"  # as UCF-101 has it
            make_video(folder / "videos" / name / f"v_{i}.avi", first + 9 + i, gop=8, codec=codec)
    (folder / "train.txt").write_text(
        "".join(f"{c}/v_{i}.avi {n}\n" for n, c in ((1, "Jump"), (2, "Run")) for i in (0, 1))
    )
    (folder / "test.txt").write_text("Jump/v_2.avi\nRun/v_2.avi\n")
    return folder


def test_the_frames_are_the_middles_of_equal_parts(tmp_path):
    path = make_video(tmp_path / "v.mp4", 50, gop=20)
    assert [number_of(frame) for frame in read_frames(path, 5, 128)] == [5, 15, 25, 35, 45]
    assert [number_of(frame) for frame in read_frames(path, 1, 128)] == [25]
    short = make_video(tmp_path / "short.mp4", 3)
    assert [number_of(frame) for frame in read_frames(short, 6, 128)] == [0, 0, 1, 1, 2, 2]
    expected = evaluation_view(picture(25, 128, 128), 96).astype(int)
    assert np.abs(read_frames(path, 1, 96)[0] - expected).mean() < 6  # the loss of the video's coding


def test_lists_of_ucf(ucf):
    found = find_videos(ucf / "train.txt", ucf / "videos")
    assert [(video.path.name, video.label) for video in found][1:3] == [("v_1.avi", "Jump"), ("v_0.avi", "Run")]
    clips = LabelledClips(found, ["Jump", "Run"], frames=2, size=32, batch_size=3)
    (first, labels), (last, more) = list(clips)
    assert first.shape == (3, 2, 32, 32, 3) and last.shape[0] == 1 and first.dtype == np.uint8
    assert [*labels, *more] == [0, 0, 1, 1] and len(clips) == 4


def test_lists_of_kinetics(tmp_path):
    (tmp_path / "videos" / "b c").mkdir(parents=True)
    for place in ("a_000001_000011.mp4", "b c/d_000010_000020.webm"):
        (tmp_path / "videos" / place).write_bytes(b"x")
    listed = tmp_path / "validate.csv"
    listed.write_text("label,youtube_id,time_start,time_end,split\nx,a,1,11,validate\nb c,d,10.0,20.0,validate\n")
    first, second = find_videos(listed, tmp_path / "videos")
    assert first == LabelledVideo(tmp_path / "videos" / "a_000001_000011.mp4", "x")
    assert second == LabelledVideo(tmp_path / "videos" / "b c" / "d_000010_000020.webm", "b c")
    listed.write_text("label,youtube_id,time_start,time_end\nx,gone,1,11\n")
    with pytest.raises(InputError, match="gone_000001_000011.mp4 is missing, and so are 0 more of 1"):
        find_videos(listed, tmp_path / "videos")
    listed.write_text("label,youtube_id\nx,gone\n")
    with pytest.raises(InputError, match="line 2, is none of Kinetics"):
        find_videos(listed, tmp_path / "videos")


@pytest.mark.parametrize("devices", [1, 8])
def test_accuracy_is_knn_of_the_means(ucf, devices):
    arguments = dict(train=str(ucf / "train.txt"), test=str(ucf / "test.txt"), videos=str(ucf / "videos"))
    mesh = make_mesh("tensor=2" if devices > 1 else "", jax.devices()[:devices])
    result = Clips(**arguments, size=32, frames=3, batch_size=3)(PIXELS, mesh)
    means = []
    for name in ("train", "test"):
        videos = find_videos(ucf / f"{name}.txt", ucf / "videos")
        frames = np.stack([read_frames(video.path, 3, 32) for video in videos])
        flat = np.stack([[np.asarray(pooled_by_hand(frame)) for frame in clip] for clip in frames])
        means.append((flat.mean(1), np.array([["Jump", "Run"].index(video.label) for video in videos])))
    expected = knn(lambda features: features, [means[0]], [means[1]], make_mesh("", jax.devices()[:1]))
    assert result.metrics == {f"clips_{name}": value for name, value in expected.items()}
    found = np.asarray(clip_features(PIXELS, frames, "features"))
    np.testing.assert_allclose(found, means[1][0], rtol=1e-5, atol=1e-5)


def pooled_by_hand(frame):
    from ssljax.ops.augment import IMAGENET_MEAN, IMAGENET_STD

    return ((frame / 255 - IMAGENET_MEAN) / IMAGENET_STD).astype(np.float32).reshape(-1)


def test_bad_input(ucf, tmp_path):
    arguments = dict(train=str(ucf / "train.txt"), test=str(ucf / "test.txt"), videos=str(ucf / "videos"), size=32)
    for wrong, message in (
        (dict(pool="x"), "pool is 'x'"),
        (dict(frames=0), "give at least 1"),
        (dict(train=""), "does not exist|names no|is not"),
        (dict(videos=str(tmp_path)), "v_0.avi is missing, and so are 3 more of 4"),
    ):
        with pytest.raises((InputError, OSError), match=message):
            Clips(**arguments | wrong)
    (tmp_path / "list.txt").write_text("v_0.avi\n")
    with pytest.raises(InputError, match="names 'v_0.avi'"):
        find_videos(tmp_path / "list.txt", tmp_path)
    (tmp_path / "list.txt").write_text("Swim/v_0.avi\n")
    (tmp_path / "Swim").mkdir()
    (tmp_path / "Swim" / "v_0.avi").write_bytes(b"nothing")
    with pytest.raises(InputError, match="v_0.avi cannot be opened"):
        read_frames(tmp_path / "Swim" / "v_0.avi", 2, 32)
    for part in ("Jump", "Run"):
        (tmp_path / part).symlink_to(ucf / "videos" / part)
    with pytest.raises(InputError, match="has the class Swim, which"):
        Clips(**arguments | dict(test=str(tmp_path / "list.txt"), videos=str(tmp_path)))
    cut = (ucf / "videos" / "Run" / "v_0.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(cut[: len(cut) // 2] + bytes(len(cut) - len(cut) // 2))
    with pytest.raises(InputError, match="cut.avi"):
        read_frames(tmp_path / "cut.avi", 8, 32)
