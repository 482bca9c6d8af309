"""`ssljax show tracks`: what an encoder discovers and tracks in a video, as a video."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from ssljax.errors import InputError
from ssljax.evaluate.tracking import fit_frames, track_objects
from ssljax.objectives.dora import DoRA
from ssljax.report.figures import draw_tracks
from ssljax.report.inputs import are_unrelated, covered
from ssljax.report.picture import overlay_all, resize_to
from ssljax.report.subject import Subject, inputs_of, output_of, vit_of

_SIDE = {".mp4": 480, ".gif": 240}
_RATE = 10.0  # frames a second where nothing says when they were taken
_BT709 = 1


def show_tracks(
    subject: Subject,
    output: Path | None,
    *,
    inputs: Sequence[Path] = (),
    count: int = 48,
    seconds: Sequence[float] | None = None,
    size: int | None = None,
    layer: int | None = None,
    heads: Sequence[int] | None = None,
) -> Path:
    """Track objects through a clip as DoRA's teacher does, draw them over its frames, and return the file.

    Args:
        subject: Whose encoder is a ViT.
        output: FILE.mp4 or FILE.gif, or FILE.png of some frames; tracks.mp4 in the subject's folder by default.
        inputs: What to look at; see `inputs_of`. A folder of images is the frames of a video, in the order of names.
        count: The most frames.
        seconds: The part of a video.
        size: Short side in pixels at which they are encoded; twice the training's by default.
        layer: The block whose attention is used; by default the run's `tracker_layer`, or the last.
        heads: An object starts from each; by default the first ones, as many as the run has objects, or 3.

    Raises:
        InputError: The encoder is no ViT, the frames cannot be used, or a block or a head does not exist.
    """
    model, path = vit_of(subject, "a track"), output_of(subject, output, "tracks.mp4", (".mp4", ".gif", ".png"))
    settings: dict[str, Any] = {}
    number = min(3, model.heads)
    if isinstance(subject.objective, DoRA):
        number, settings = subject.objective.objects, {"layer": subject.objective.tracker_layer}
        settings |= {"epsilon": subject.objective.epsilon, "iterations": subject.objective.iterations}
    if layer is not None:
        settings["layer"] = layer
    if inputs and are_unrelated(inputs[0]):
        raise InputError(f"{inputs[0]} holds single images, no video; name a video, or a folder of its frames.")
    shown = inputs_of(subject, inputs, count, seconds)
    if not inputs and shown.times is None:
        raise InputError(
            "The run's own data are single images; name a video to track objects in, or a folder of frames."
        )
    if len(shown.images) < 2 or len({image.shape for image in shown.images}) > 1:
        raise InputError("Tracks need at least 2 frames, all of one size; give a video, or a folder of its frames.")
    size = 2 * subject.size if size is None else size
    frames = fit_frames(np.stack(shown.images), size=size, patch_size=model.patch_size)
    tracks = track_objects(subject.encoder, frames, list(range(number) if heads is None else heads), **settings)
    pictures = np.stack([covered(image, size=size, patch_size=model.patch_size) for image in shown.images])
    drawn = (pictures, tracks.maps, tracks.masks, tracks.grid, path)
    if path.suffix == ".png":
        draw_tracks(*drawn, times=shown.times)
    else:
        spacing = 1 / _RATE if shown.times is None else float(np.median(np.diff(shown.times)))
        draw_moving(*drawn, frames_per_second=1 / max(spacing, 0.02))
    return path


def draw_moving(
    frames: UInt8[np.ndarray, "t h w 3"],
    maps: Float[np.ndarray, "t k n"],
    masks: Bool[np.ndarray, "t k n"],
    grid: tuple[int, int],
    path: Path,
    *,
    frames_per_second: float = _RATE,
) -> None:
    """Draw tracks to a file that moves, all objects over the frames, each mask in its colour.

    Args:
        frames: What the patches cover, at any resolution.
        maps: Attention of each object over the patches.
        masks: Each object's patches.
        grid: Rows and columns of patches.
        path: FILE.mp4, H.264 that browsers play, or FILE.gif, which repeats for ever.
        frames_per_second: GIFs count in hundredths of a second.

    Raises:
        InputError: Another suffix, or PyAV was built without an H.264 encoder.
    """
    if path.suffix not in _SIDE:
        raise InputError(f"{path} is no kind of moving picture that can be written; give an .mp4 or .gif file.")
    side = _SIDE[path.suffix]
    pictures = [
        overlay_all(resize_to(frame, side), weights, kept, grid)
        for frame, weights, kept in zip(frames, maps, masks, strict=True)
    ]
    if path.suffix == ".mp4":
        write_video(pictures, path, frames_per_second=frames_per_second)
        return
    images = [Image.fromarray(picture).quantize(dither=Image.Dither.NONE) for picture in pictures]
    duration = round(100 / frames_per_second) * 10
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration, loop=0, optimize=True)


def write_video(pictures: Sequence[UInt8[np.ndarray, "h w 3"]], path: Path, *, frames_per_second: float) -> None:
    """Write pictures of one size as H.264 in 4:2:0 and BT.709, their last row and column left out where odd.

    Raises:
        InputError: PyAV was built without an H.264 encoder.
    """
    height, width = (side // 2 * 2 for side in pictures[0].shape[:2])
    with av.open(str(path.absolute()), "w", options={"movflags": "faststart"}) as container:
        try:
            stream = container.add_stream("libx264", rate=Fraction(frames_per_second).limit_denominator(1000))
        except (av.FFmpegError, ValueError) as error:
            raise InputError(f"{path} cannot be written ({error}); give a file that ends in .gif.") from error
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "18", "x264-params": "log-level=-1"}
        for name in ("colorspace", "color_primaries", "color_trc"):
            setattr(stream.codec_context, name, _BT709)
        for picture in pictures:
            cut = np.ascontiguousarray(picture[:height, :width])
            frame = av.VideoFrame.from_ndarray(cut, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode())
