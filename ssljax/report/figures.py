"""Pictures for people: tracks through time, still and moving."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from ssljax.report.picture import colour_of, labelled_grid, overlay, resize_to

_SIDE_STILL = 160
_SIDE_MOVING = 128


def draw_tracks(
    frames: UInt8[np.ndarray, "t h w 3"],
    maps: Float[np.ndarray, "t k n"],
    masks: Bool[np.ndarray, "t k n"],
    grid: tuple[int, int],
    path: Path,
    *,
    times: Sequence[float] | None = None,
    columns: int = 5,
) -> None:
    """Draw tracks to a PNG file: the frames in the first row, below it a row an object, evenly spaced in time.

    Args:
        frames: Of any size that shows what the patches cover, perhaps finer than what the encoder saw.
        maps: Attention of each object over the patches.
        masks: Each object's patches.
        grid: Rows and columns of patches.
        times: Of the frames in seconds, for the labels; without, their numbers.
        columns: The most frames drawn.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int))
    large = [resize_to(frames[t], _SIDE_STILL) for t in chosen]
    objects = range(maps.shape[1])
    rows = [
        [overlay(image, maps[t, k], masks[t, k], grid, colour_of(k)) for t, image in zip(chosen, large, strict=True)]
        for k in objects
    ]
    labelled_grid(
        [large, *rows],
        row_names=["frame", *(f"object {k + 1}" for k in objects)],
        column_names=[f"frame {t}" if times is None else f"{times[t]:.1f} s" for t in chosen],
        colours=[None, *(colour_of(k) for k in objects)],
    ).save(path, optimize=True)


def draw_animation(
    frames: UInt8[np.ndarray, "t h w 3"],
    maps: Float[np.ndarray, "t k n"],
    masks: Bool[np.ndarray, "t k n"],
    grid: tuple[int, int],
    path: Path,
    *,
    frames_per_second: float = 10.0,
) -> None:
    """Draw tracks to an animated GIF that repeats for ever: the video and, beside and below it, each object.

    Args:
        frames: Of any size that shows what the patches cover, perhaps finer than what the encoder saw.
        maps: Attention of each object over the patches.
        masks: Each object's patches.
        grid: Rows and columns of patches.
        frames_per_second: GIFs count in hundredths of a second; browsers show at most 50.
    """
    objects = range(maps.shape[1])
    columns = math.ceil(math.sqrt(1 + len(objects)))
    pictures = []
    for t, frame in enumerate(frames):
        large = resize_to(frame, _SIDE_MOVING)
        cells = [large, *(overlay(large, maps[t, k], masks[t, k], grid, colour_of(k)) for k in objects)]
        rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
        # Median cut would give all colours to the grey and none to a small object.
        picture = labelled_grid(rows, row_names=[""] * len(rows), column_names=[""] * columns)
        pictures.append(picture.quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
    duration = round(100 / frames_per_second) * 10
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration, loop=0, optimize=True)
