"""`ssljax show features`: patch features as colours, the same for the same feature in all images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from ssljax.errors import InputError
from ssljax.evaluate.encoders import encode
from ssljax.evaluate.tracking import fit_frames
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder
from ssljax.report.inputs import covered
from ssljax.report.picture import enlarged, labelled_grid, resize_to, stacked, with_note
from ssljax.report.subject import Subject, inputs_of, output_of

_SIDE = 176
_PER_ROW = 4
_PERCENTILES = (1, 99)


def show_features(
    subject: Subject,
    output: Path | None,
    *,
    inputs: Sequence[Path] = (),
    count: int = 8,
    seconds: Sequence[float] | None = None,
    size: int | None = None,
    foreground: bool = False,
) -> Path:
    """Draw the principal components of patch features over images, and return the file.

    Args:
        subject: Whose encoder gives features of patches.
        output: The PNG file; features.png in the subject's folder by default.
        inputs: What to look at; see `inputs_of`.
        count: The most images.
        seconds: The part of a video.
        size: Short side in pixels at which they are encoded; twice the training's by default.
        foreground: See `principal_colours`.

    Raises:
        InputError: The encoder has no patches, or the images cannot be used.
    """
    path = output_of(subject, output, "features.png")
    size = 2 * subject.size if size is None else size
    shown = inputs_of(subject, inputs, count, seconds)
    features = patch_features(subject.encoder, shown.images, size=size)
    side = patch_side(subject.encoder, size)
    pictures = [covered(image, size=size, patch_size=side) for image in shown.images]
    draw_features(pictures, features, path, names=shown.names, foreground=foreground, note=f"{subject.name}: ")
    return path


def patch_side(encoder: Encoder, size: int) -> int:
    """Return the side in pixels of what one patch feature stands for: a ViT's patch, a ResNet's stride.

    Raises:
        InputError: The encoder returns no features of patches.
    """
    if isinstance(encoder.model.abstract, ViT):
        return encoder.model.abstract.patch_size
    out = jax.eval_shape(encoder.model, encoder.params, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))
    if not hasattr(out, "patches"):
        raise InputError(
            f"{type(encoder.model.abstract).__name__} returns no features of patches; take a ViT or ResNet."
        )
    return round(size / out.patches.shape[1] ** 0.5)


def patch_features(
    encoder: Encoder, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], *, size: int
) -> list[Float[np.ndarray, "_ _ d"]]:
    """Return the features of each image's patches, by row and column; float32.

    Args:
        encoder: See `patch_side`.
        images: Of any sizes.
        size: Short side in pixels at which they are encoded; edges are cut to whole patches, see `fit_frames`.

    Raises:
        InputError: The encoder returns none, or `size` is less than a patch.
    """
    side, features = patch_side(encoder, size), []
    for image in images:
        fitted = fit_frames(image[None], size=size, patch_size=side)
        patches = np.asarray(jax.device_get(encode(encoder, fitted).patches[0]), np.float32)
        features.append(patches.reshape(*(length // side for length in fitted.shape[1:3]), -1))
    return features


def principal_colours(
    features: Sequence[Float[np.ndarray, "_ _ d"]], *, foreground: bool = False
) -> list[UInt8[np.ndarray, "_ _ 3"]]:
    """Return the three first principal components of all images' features as red, green and blue.

    Each component runs from its 1st to its 99th percentile over all patches; features that are all the same are grey. With `foreground`, as DINOv2's figure 1
    (Oquab et al. 2024), patches on the smaller side of a first analysis' first component are black, and those that are
    left are analysed anew; its sign, which means nothing, is chosen so that the images' edges are background.

    Raises:
        InputError: There are fewer than three patches or features.
    """
    shapes = [image.shape[:2] for image in features]
    flat = np.concatenate([image.reshape(-1, image.shape[-1]) for image in features]).astype(np.float64)
    kept = np.ones(len(flat), bool)
    if foreground:
        first = _components(flat, 1)[:, 0]
        edges = np.concatenate([_edge(shape).reshape(-1) for shape in shapes])
        kept = first * (-1 if first[edges].mean() > 0 else 1) > 0
    components = _components(flat[kept], 3)
    low, high = np.percentile(components, _PERCENTILES, axis=0)
    colours = np.zeros((len(flat), 3))
    colours[kept] = np.where(high > low, np.clip((components - low) / np.maximum(high - low, 1e-12), 0, 1), 0.5)
    ends = np.cumsum([rows * columns for rows, columns in shapes])[:-1]
    pixels = np.split((255 * colours).round().astype(np.uint8), ends)
    return [part.reshape(*shape, 3) for part, shape in zip(pixels, shapes, strict=True)]


def draw_features(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    features: Sequence[Float[np.ndarray, "_ _ d"]],
    path: Path,
    *,
    names: Sequence[str] = (),
    foreground: bool = False,
    note: str = "",
) -> None:
    """Draw images to a PNG file, below each its patch features as `principal_colours` has them.

    Args:
        images: What the patches cover, at any resolution.
        features: Of each, by row and column.
        path: Of the file.
        names: Of the images.
        foreground: See `principal_colours`.
        note: What comes first in the line below.

    Raises:
        InputError: See `principal_colours`.
    """
    colours = principal_colours(features, foreground=foreground)
    large = [resize_to(image, _SIDE) for image in images]
    painted = [enlarged(c, image.shape[:2], smooth=False) for c, image in zip(colours, large, strict=True)]
    names, sheets = names or [""] * len(images), []
    per_row = -(-len(images) // -(-len(images) // _PER_ROW))  # rows alike, none with a single one left over
    for start in range(0, len(images), per_row):
        part = slice(start, start + per_row)
        sheets.append(labelled_grid([large[part], painted[part]], row_names=["", ""], column_names=names[part]))
    sheet = stacked(sheets)
    with_note(sheet, f"{note}first three principal components of the patch features.").save(path, optimize=True)


def _components(flat: np.ndarray, count: int) -> np.ndarray:
    if min(flat.shape) < count:
        raise InputError(
            f"{flat.shape[0]} patches of {flat.shape[1]} features have no {count} principal components; give more "
            "or larger images, or another encoder."
        )
    from sklearn.decomposition import PCA  # takes a second, and few pictures need it

    if not np.ptp(flat, axis=0).any():  # a collapsed encoder, of which PCA would divide by nothing
        return np.zeros((len(flat), count))
    return PCA(count, svd_solver="full").fit_transform(flat)


def _edge(shape: tuple[int, int]) -> np.ndarray:
    edge = np.ones(shape, bool)
    edge[1:-1, 1:-1] = False
    return edge
