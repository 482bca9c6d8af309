"""`ssljax show attention`: where the CLS token looks, head by head (Caron et al. 2021, figures 1 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8

from ssljax.errors import InputError
from ssljax.evaluate.encoders import encode
from ssljax.evaluate.tracking import fit_frames
from ssljax.objectives.base import Encoder
from ssljax.report.inputs import covered
from ssljax.report.picture import enlarged, labelled_grid, resize_to, with_note
from ssljax.report.subject import Subject, inputs_of, output_of, vit_of

_SIDE = 160
_DIM = 0.5


def show_attention(
    subject: Subject,
    output: Path | None,
    *,
    inputs: Sequence[Path] = (),
    count: int = 4,
    seconds: Sequence[float] | None = None,
    size: int | None = None,
    layer: int = -1,
    heads: Sequence[int] | None = None,
    threshold: float | None = None,
) -> Path:
    """Draw the CLS attention of a block's heads over images, and return the file.

    Args:
        subject: Whose encoder is a ViT.
        output: The PNG file; attention.png in the subject's folder by default.
        inputs: What to look at; see `inputs_of`.
        count: The most images.
        seconds: The part of a video.
        size: Short side in pixels at which they are encoded; twice the training's by default.
        layer: The block, negative ones from the end.
        heads: Those drawn; all by default.
        threshold: See `draw_attention`.

    Raises:
        InputError: The encoder is no ViT, the images cannot be used, or a block or a head does not exist.
    """
    model, path = vit_of(subject, "attention"), output_of(subject, output, "attention.png")
    chosen = list(range(model.heads) if heads is None else heads)
    if not chosen or not all(0 <= head < model.heads for head in chosen):
        raise InputError(
            f"--heads is {chosen}, but the encoder's heads are 0 to {model.heads - 1}; give some of those."
        )
    size = 2 * subject.size if size is None else size
    shown = inputs_of(subject, inputs, count, seconds)
    attention = attention_maps(subject.encoder, shown.images, size=size, layer=layer)
    pictures = [covered(image, size=size, patch_size=model.patch_size) for image in shown.images]
    note = f"{subject.name}: CLS attention in block {layer % model.depth} of 0 to {model.depth - 1}. "
    draw_attention(pictures, attention, path, heads=chosen, names=shown.names, threshold=threshold, note=note)
    return path


def attention_maps(
    encoder: Encoder, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], *, size: int, layer: int = -1
) -> list[Float[np.ndarray, "heads _ _"]]:
    """Return the attention of CLS over the patches of each image, by head, row and column; float32.

    Args:
        encoder: A ViT with its parameters.
        images: Of any sizes.
        size: Short side in pixels at which they are encoded; edges are cut to whole patches, see `fit_frames`.
        layer: The block whose attention is taken, negative ones from the end.

    Raises:
        InputError: The block does not exist, or `size` is less than a patch.
    """
    patch_size, maps = encoder.model.abstract.patch_size, []
    for image in images:
        fitted = fit_frames(image[None], size=size, patch_size=patch_size)
        attention = np.asarray(jax.device_get(encode(encoder, fitted, probe=layer).probe.cls_attention[0]), np.float32)
        maps.append(attention.reshape(-1, *(side // patch_size for side in fitted.shape[1:3])))
    return maps


def draw_attention(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    attention: Sequence[Float[np.ndarray, "heads _ _"]],
    path: Path,
    *,
    heads: Sequence[int] | None = None,
    names: Sequence[str] = (),
    threshold: float | None = None,
    note: str = "",
) -> None:
    """Draw a row for each image to a PNG file: itself, the mean over heads, and each head's attention as heat.

    Args:
        images: What the patches cover, at any resolution.
        attention: Of each, by head, row and column.
        path: Of the file.
        heads: Numbers of those drawn, all by default; the mean is over all.
        names: Of the images.
        threshold: The share of a map's sum that is kept, its largest patches; what is left is grey. None keeps all.
        note: What comes first in the line below.

    Raises:
        InputError: `threshold` is no share.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise InputError(f"--threshold is {threshold:g}; give a share from above 0 to 1, such as 0.6.")
    chosen = list(range(len(attention[0])) if heads is None else heads)
    rows = []
    for image, maps in zip(images, attention, strict=True):
        large = resize_to(image, _SIDE)
        drawn = [maps.mean(axis=0), *(maps[head] for head in chosen)]
        rows.append([large, *(heated(large, values, threshold) for values in drawn)])
    columns = ["", "mean", *(f"head {head}" for head in chosen)]
    sheet = labelled_grid(rows, row_names=names or [""] * len(rows), column_names=columns)
    kept = "" if threshold is None else f" Kept: the patches that hold {threshold:.0%} of it."
    with_note(sheet, f"{note}Each map from its smallest (dark) to its largest value (bright).{kept}").save(
        path, optimize=True
    )


def heated(
    image: UInt8[np.ndarray, "h w 3"], values: Float[np.ndarray, "_ _"], threshold: float | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image in grey under the heat of its patches' values, those that are kept; see `draw_attention`."""
    low, high = float(values.min()), float(values.max())
    scaled = np.asarray((values - low) / max(high - low, 1e-12), np.float32)
    heat = np.clip(enlarged(scaled, image.shape[:2], smooth=True), 0, 1)
    colours = 255 * matplotlib.colormaps["inferno"](0.2 + 0.8 * heat)[..., :3]
    grey = _DIM * image.mean(axis=-1, keepdims=True)
    alpha = 0.3 + 0.6 * heat[..., None]
    picture = (1 - alpha) * grey + alpha * colours
    if threshold is not None:
        kept = enlarged(kept_mass(values, threshold).astype(np.float32), image.shape[:2], smooth=False) > 0.5
        picture = np.where(kept[..., None], picture, grey)
    return picture.round().astype(np.uint8)


def kept_mass(values: Float[np.ndarray, "r c"], share: float) -> Bool[np.ndarray, "r c"]:
    """Return the fewest patches, the largest first, that hold at least `share` of the sum."""
    order = np.argsort(-values, axis=None, kind="stable")
    before = np.cumsum(values.reshape(-1)[order], dtype=np.float64)
    mask = np.zeros(values.size, bool)
    mask[order[: 1 + np.searchsorted(before, share * before[-1] * (1 - 1e-9))]] = True
    return mask.reshape(values.shape)
