"""Object discovery without labels: one box an image from the similarities of its patches, and how often it is right.

Siméoni, Puy, Vo, Roburin, Gidaris, Bursuc, Pérez, Marlet, Ponce: Localizing objects with self-supervised transformers
and no labels ("LOST"), BMVC 2021, section 3.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ssljax.data.boxes import Boxed, find_boxed
from ssljax.data.masks import read_image
from ssljax.errors import InputError
from ssljax.evaluate.result import Result
from ssljax.mesh import batch_parts, local_rows, replicate, to_mesh
from ssljax.objectives.base import Encoder
from ssljax.ops.augment import normalise

NEIGHBOURS = 100


class Discovery:
    """CorLoc of LOST, "discovery_corloc": the share of images whose one box overlaps any object's by at least a half.

    That is PASCAL's criterion, intersection over union of 0.5, as LOST's released code applies it: exactly 0.5 counts.
    Images are encoded as large as they are, with zeros up to whole patches. Those without any object are left out; the
    details say how many.

    Args:
        data: A list of VOC or a folder of images with masks, see `find_boxed`.
        binary: Of the masks, see `find_boxed`.
        short_side: Images are resized to it, in pixels; 0 leaves them as they are, which is the paper's procedure.
        neighbours: Patches that a seed may be joined by, the paper's k.
        batch_size: Images encoded at once, of those of one size.

    Raises:
        InputError: The data cannot be used, or a number is too small.
    """

    def __init__(
        self, *, data: str, binary: bool = False, short_side: int = 0, neighbours: int = NEIGHBOURS, batch_size: int = 8
    ) -> None:
        if not data:
            raise InputError("Discovery needs images with boxes; give a list of VOC or a folder of images with masks.")
        if short_side < 0 or min(neighbours, batch_size) < 1:
            raise InputError(
                f"short_side is {short_side}, neighbours {neighbours}, batch_size {batch_size}; give at least 0, 1, 1."
            )
        self._images, self._short, self._neighbours = find_boxed(data, binary=binary), short_side, neighbours
        self._batch = batch_size
        self.data = {"data": data, "images": len(self._images)}

    def __call__(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> Result:
        """Return CorLoc.

        Raises:
            InputError: An image or its annotation cannot be used, no image has objects, or the encoder has no patches
                of a known size, as ViTs have.
        """
        right, counted = 0, 0
        for boxed, found, scale in self._found(encoder, mesh):
            boxes = boxed.boxes()
            counted += bool(len(boxes))
            right += bool(np.any(overlaps(found * scale, boxes) >= 0.5))
        if not counted:
            raise InputError(f"No image of {self.data['data']} has an object; give annotations of other images.")
        return Result({"discovery_corloc": right / counted}, {"without_objects": len(self._images) - counted})

    def _found(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> Iterator[tuple[Boxed, np.ndarray, float]]:
        """Yield each image, the box found in the resized one, and what takes it to the pixels of the original."""
        patch = patch_size_of(encoder)
        if 0 < self._short < patch:
            raise InputError(
                f"short_side is {self._short}, less than one patch of {patch} pixels; give more, or 0 for images as "
                "large as they are."
            )
        groups: dict[tuple[int, int], list[tuple[Boxed, tuple[int, int]]]] = {}
        for boxed in self._images:
            shape = _resized(boxed.shape, self._short)
            padded = -(-shape[0] // patch) * patch, -(-shape[1] // patch) * patch
            groups.setdefault(padded, []).append((boxed, shape))
        with ThreadPoolExecutor(2) as pool, jax.set_mesh(mesh):
            for (height, width), members in groups.items():
                for start in range(0, len(members), self._batch):
                    part = members[start : start + self._batch]
                    images = list(pool.map(_read, *zip(*part, strict=True)))
                    keys = _keys(encoder, images, (height, width), self._batch, mesh)
                    for (boxed, shape), features in zip(part, keys, strict=False):
                        top, left, bottom, right = lost(
                            features, (height // patch, width // patch), neighbours=self._neighbours
                        ).box
                        box = np.array([left, top, right, bottom], np.float64) * patch
                        box = np.minimum(box, [shape[1], shape[0]] * 2)
                        yield boxed, box, boxed.shape[0] / shape[0]


class Found(NamedTuple):
    """What LOST finds in an image.

    Attributes:
        mask: The patches of the object.
        box: (top, left, bottom, right) around them, in patches, the ends outside.
        seed: Row and column of the patch that it grew from.
    """

    mask: Bool[np.ndarray, "rows columns"]
    box: tuple[int, int, int, int]
    seed: tuple[int, int]


def lost(features: Float[np.ndarray, "n d"], grid: tuple[int, int], *, neighbours: int = NEIGHBOURS) -> Found:
    """Return the object that LOST finds.

    Patches are joined where the product of their features is positive. The seed is the patch with the fewest such
    others (equation 2), the first of equals. Those of the k patches with the fewest that are joined to the seed stand
    for the object (section 3.3), and the patches whose products with these add up to more than zero belong to it
    (equation 4): of them those that hang together with the seed, side by side. A seed without any feature is alone.

    Args:
        features: Of the patches row by row: the keys of the last block's attention, all heads in a row.
        grid: Rows and columns.
        neighbours: k.
    """
    products = features @ features.T
    degrees = np.sum(products > 0, axis=1) - (np.diagonal(products) > 0)
    order = np.argsort(degrees, kind="stable")
    seed, candidates = int(order[0]), order[:neighbours]
    joined = candidates[products[seed, candidates] > 0]
    similar = np.sum(products[joined], axis=0) > 0
    similar[seed] = True
    _, components = cv2.connectedComponents(similar.reshape(grid).astype(np.uint8), connectivity=4)
    mask = components == components.flat[seed]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
    return Found(mask, box, (seed // grid[1], seed % grid[1]))


def overlaps(box: Float[np.ndarray, "4"], boxes: Float[np.ndarray, "k 4"]) -> Float[np.ndarray, " k"]:
    """Return the intersection over union of a box with others; all are (left, top, right, bottom), none is empty."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = np.prod(np.maximum(sides, 0.0), axis=1)
    return common / (np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - common)


def patch_size_of(encoder: Encoder) -> int:
    """Return the side in pixels of an encoder's patches; InputError if it has none of a fixed size."""
    patch = getattr(getattr(encoder.model, "abstract", encoder.model), "patch_size", None)
    if patch is None:
        raise InputError("The encoder has no patches of a fixed size; take a ViT.")
    return patch


def _resized(shape: tuple[int, int], short: int) -> tuple[int, int]:
    scale = short / min(shape) if short else 1.0
    return max(round(shape[0] * scale), 1), max(round(shape[1] * scale), 1)


def _read(boxed: Boxed, shape: tuple[int, int]) -> np.ndarray:
    image = read_image(boxed.image)
    method = cv2.INTER_AREA if shape[0] < image.shape[0] else cv2.INTER_CUBIC
    return image if image.shape[:2] == shape else cv2.resize(image, shape[::-1], interpolation=method)


def _keys(
    encoder: Encoder, images: list[np.ndarray], padded: tuple[int, int], batch_size: int, mesh: jax.sharding.Mesh
) -> np.ndarray:
    """Return the features [b, n, d] of images within one padded shape, and of some more that fill the batch."""
    size = -(-batch_size // batch_parts(mesh)) * batch_parts(mesh)
    rows = local_rows(mesh, size)
    pixels, shapes = np.zeros((size, *padded, 3), np.uint8), np.zeros((size, 2), np.int32)
    for i, image in enumerate(images):
        pixels[i, : image.shape[0], : image.shape[1]], shapes[i] = image, image.shape[:2]
    arrays = to_mesh(mesh, (pixels[rows], shapes[rows]), size)
    return np.asarray(_encoded(encoder.model, encoder.params, *arrays))


@functools.partial(jax.jit, static_argnums=0)
def _encoded(model: Any, params: Any, images: Array, shapes: Array) -> Array:
    """Return the last block's keys; of what has no attention its patches, less the image's mean over its deviation."""
    _, height, width, _ = images.shape
    rows = jnp.arange(height)[None, :, None, None] < shapes[:, :1, None, None]
    columns = jnp.arange(width)[None, None, :, None] < shapes[:, 1:, None, None]
    images = jnp.where(rows & columns, normalise(images.astype(jnp.float32) / 255.0), 0.0)
    if hasattr(getattr(model, "abstract", None), "heads"):
        keys = model(params, images, probe=-1).probe.keys
        return replicate(jnp.swapaxes(keys, 1, 2).reshape(len(images), keys.shape[2], -1).astype(jnp.float32))
    patches = model(params, images).patches.astype(jnp.float32)
    mean, variance = (f(patches, axis=(1, 2), keepdims=True) for f in (jnp.mean, jnp.var))
    return replicate((patches - mean) * jax.lax.rsqrt(variance + 1e-5))
