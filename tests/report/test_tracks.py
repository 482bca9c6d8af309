"""Tracks as files that move: they open, have every frame, and the objects' colours."""

import functools
import json

import av
import jax
import numpy as np
import pytest
from PIL import Image

from ssljax.data.imageset import KIND
from ssljax.data.index import INDEX
from ssljax.errors import InputError
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder
from ssljax.report.picture import colour_of, overlay_all
from ssljax.report.subject import Subject
from ssljax.report.tracks import draw_moving, show_tracks


@pytest.fixture(scope="module")
def clip():
    """Five grey frames of 2 by 3 patches, and two objects: one patch that moves right, and the lower row."""
    frames = np.full((5, 33, 49, 3), 120, np.uint8)
    masks = np.zeros((5, 2, 2, 3), bool)
    for t in range(5):
        masks[t, 0, 0, t % 3] = True
    masks[:, 1, 1] = True
    masks = masks.reshape(5, 2, 6)
    return frames, masks / masks.sum(-1, keepdims=True), masks, (2, 3)


def test_an_mp4_plays_in_browsers_and_shows_the_objects(clip, tmp_path):
    path = tmp_path / "tracks.mp4"
    draw_moving(*clip, path, frames_per_second=12.5)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 12.5
        pictures = [frame.to_ndarray(format="rgb24") for frame in file.decode(stream)]
    assert len(pictures) == 5
    height, width = pictures[0].shape[:2]
    assert (height, width) == (480, 712)  # 713 wide, made even
    for t, picture in enumerate(pictures):
        inside = picture[120, round((t % 3 + 0.5) * width / 3)].astype(int)
        assert np.abs(inside - (60 + np.array(colour_of(0)) / 2)).max() < 12
        assert np.abs(picture[360, 100].astype(int) - (60 + np.array(colour_of(1)) / 2)).max() < 12
        outside = picture[120, round(((t + 1) % 3 + 0.5) * width / 3)].astype(int)
        assert np.abs(outside - 72).max() < 12


def test_a_gif_has_every_frame(clip, tmp_path):
    draw_moving(*clip, tmp_path / "tracks.gif", frames_per_second=5)
    with Image.open(tmp_path / "tracks.gif") as image:
        assert (image.n_frames, image.info["duration"], image.info["loop"]) == (5, 200, 0)
    with pytest.raises(InputError, match=r"\.mp4 or \.gif"):
        draw_moving(*clip, tmp_path / "tracks.avi")


def test_masks_that_overlap_mix_their_colours_and_keep_their_outlines():
    frame, both = np.zeros((200, 200, 3), np.uint8), np.ones((2, 4), bool)
    both[:, 0] = False
    drawn = overlay_all(frame, np.array([[0, 1, 1, 1], [0, 1, 1, 1.0]]), both, (2, 2))
    mean = (np.array(colour_of(0), float) + colour_of(1)) / 4
    np.testing.assert_allclose(drawn[150, 150], mean, atol=1)
    assert tuple(drawn[50, 100]) == colour_of(0) and tuple(drawn[50, 101]) == colour_of(1)
    assert not drawn[50, 50].any()


@pytest.mark.parametrize("name", ["tracks.gif", "tracks.png"])
def test_a_folder_of_frames_is_a_video(tmp_path, name):
    model = Pure(functools.partial(ViT, image_size=16, patch_size=4, width=24, depth=1, heads=2))
    subject = Subject(Encoder(model, model.init(jax.random.key(0))), 16, "tiny", tmp_path)
    folder = tmp_path / "frames"
    folder.mkdir()
    for t in range(3):
        pixels = np.random.default_rng(t).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{t}.png")
    assert show_tracks(subject, tmp_path / name, inputs=[folder], size=16).stat().st_size > 1000
    with pytest.raises(InputError, match="heads are 0 to 1"):
        show_tracks(subject, None, inputs=[folder], heads=[2])
    with pytest.raises(InputError, match="at least 2 frames"):
        show_tracks(subject, None, inputs=[folder / "0.png"])
    prepared = tmp_path / "set"
    prepared.mkdir()
    (prepared / INDEX).write_text(json.dumps({"kind": KIND}))
    for place in (prepared, tmp_path):  # the latter a folder of folders of images
        with pytest.raises(InputError, match="holds single images, no video"):
            show_tracks(subject, tmp_path / "out" / name, inputs=[place])
        (prepared / INDEX).unlink(missing_ok=True)
        (tmp_path / name).unlink(missing_ok=True)
    assert not (tmp_path / "tracks.mp4").exists()
