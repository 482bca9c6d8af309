"""A contact sheet of what the student and the teacher see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from ssljax.ops.augment import IMAGENET_MEAN, IMAGENET_STD
from ssljax.report.picture import labelled_grid

_SIDE = 144


def to_pixels(images: Float[np.ndarray, "*b 3"]) -> UInt8[np.ndarray, "*b 3"]:
    """Return normalised images as pixels again, the inverse of `ssljax.ops.augment.normalise`."""
    pixels = images.astype(np.float32) * np.asarray(IMAGENET_STD, np.float32) + np.asarray(IMAGENET_MEAN, np.float32)
    return np.clip(255.0 * pixels, 0, 255).round().astype(np.uint8)


def masked_view(image: Float[np.ndarray, "g g 3"], mask: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "g g 3"]:
    """Return the normalised image times the mask of its square grid of patches, which shows as mid-grey outside."""
    side = round(mask.size**0.5)
    pixels = cv2.resize(mask.reshape(side, side).astype(np.uint8), image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return image * pixels[..., None]


def draw_clip_views(
    canvas: UInt8[np.ndarray, "b t s s 3"],
    large: Float[np.ndarray, "b t g g 3"],
    masks: Bool[np.ndarray, "b t k n"] | None,
    small: Float[np.ndarray, "b t l c c 3"],
    path: Path,
    *,
    frames: int = 3,
    names: tuple[str, str] = ("teacher", "object"),
) -> None:
    """Draw clips to a PNG file, a row for each of the first `frames` frames of each.

    In a row: the canvas that the loader gives; the global view, which the teacher sees; the masked views and the local
    views, which the student sees.

    Args:
        canvas: Frames as the loader gives them.
        large: The global views, normalised.
        masks: The patches that the student sees of each object; None where the objective has none.
        small: The local views, normalised.
        path: Of the file.
        frames: The most rows for one clip.
        names: Of the global view and of a masked one.
    """
    objects = 0 if masks is None else masks.shape[2]
    rows, labels = [], []
    for clip in range(len(canvas)):
        for t in range(min(frames, canvas.shape[1])):
            row = [canvas[clip, t], to_pixels(large[clip, t])]
            if masks is not None:
                row += [to_pixels(masked_view(large[clip, t], mask)) for mask in masks[clip, t]]
            rows.append([*row, *to_pixels(small[clip, t])])
            labels.append(f"clip {clip + 1}\nframe {t + 1}")
    columns = ["loaded", names[0], *_numbered(names[1], objects)]
    _draw(rows, labels, columns + _numbered("local", small.shape[2]), path)


def draw_image_views(
    canvas: UInt8[np.ndarray, "b s s 3"],
    large: Float[np.ndarray, "b v g g 3"],
    small: Float[np.ndarray, "b l c c 3"],
    path: Path,
    *,
    seen: Bool[np.ndarray, "b v n"] | None = None,
) -> None:
    """Draw images to a PNG file, a row each: as loaded, its global and its local views (normalised).

    Args:
        canvas: Images as the loader gives them.
        large: The global views, normalised.
        small: The local views, normalised.
        path: Of the file.
        seen: The patches that the student sees of each global view, which is then drawn once more; None is all.
    """
    rows = []
    for i in range(len(canvas)):
        masked = [] if seen is None else [masked_view(view, mask) for view, mask in zip(large[i], seen[i], strict=True)]
        rows.append([canvas[i], *map(to_pixels, (*large[i], *masked, *small[i]))])
    columns = ["loaded", *_numbered("global", large.shape[1])]
    columns += _numbered("seen", 0 if seen is None else seen.shape[1]) + _numbered("local", small.shape[1])
    _draw(rows, _numbered("image", len(canvas)), columns, path)


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name} {i + 1}" for i in range(count)]


def _draw(rows: Sequence[Sequence[np.ndarray]], names: Sequence[str], columns: Sequence[str], path: Path) -> None:
    cells = [[fit_cell(image) for image in row] for row in rows]
    labelled_grid(cells, row_names=names, column_names=columns).save(path, optimize=True)


def fit_cell(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "p q 3"]:
    """Return the image at a sheet's cell size: smaller ones with whole pixels, so that their resolution shows."""
    shrinks = image.shape[0] > _SIDE
    return cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST)
