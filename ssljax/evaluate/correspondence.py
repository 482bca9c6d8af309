"""Semantic correspondence: is the nearest patch of another object of a category where the same point is?

Min, Lee, Ponce, Cho: SPair-71k: a large-scale benchmark for semantic correspondence, 2019 (arXiv 1908.10543); matched
without training as by Amir et al. 2022 (arXiv 2112.05814) and Zhang et al., NeurIPS 2023 (arXiv 2305.15347): by the
nearest patch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from ssljax.data.keypoints import PointPair, find_point_pairs
from ssljax.data.masks import read_image
from ssljax.errors import InputError
from ssljax.evaluate.encoders import encode
from ssljax.evaluate.result import Result
from ssljax.mesh import batch_parts, local_rows, replicate, to_mesh
from ssljax.objectives.base import Encoder

ALPHA = 0.1


class Correspondence:
    """PCK at 0.1 on SPair-71k: "pck_image", the mean over pairs, "pck_point", over points; by category in the details.

    Args:
        data: A folder of annotations such as SPair-71k/PairAnnotation/test.
        size: Side in pixels that images are resized to.
        batch_size: Images encoded at once.

    Raises:
        InputError: The data cannot be used, see `find_point_pairs`.
    """

    def __init__(self, *, data: str, size: int, batch_size: int = 16) -> None:
        if not data:
            raise InputError("Correspondence needs pairs of images; give a folder like SPair-71k/PairAnnotation/test.")
        if min(size, batch_size) < 1:
            raise InputError(f"size is {size} and batch_size {batch_size}; give at least 1.")
        self._pairs, self._size, self._batch = find_point_pairs(data), size, batch_size
        self.data = {"data": data, "pairs": len(self._pairs)}

    def __call__(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> Result:
        """Return PCK.

        Raises:
            InputError: An image cannot be read or has another size than its annotation says, or the patches are no
                square grid.
        """
        pairs: dict[str, list[PointPair]] = defaultdict(list)
        for pair in self._pairs:
            pairs[pair.category].append(pair)
        right: dict[str, list[np.ndarray]] = {}
        for category, some in pairs.items():  # a category's features are kept, not all images'
            shapes = {path: shape for pair in some for path, shape in zip(pair[2:4], pair.shapes, strict=True)}
            features = dict(self._features(encoder, shapes, mesh))
            right[category] = [_hits(pair, features[pair.source], features[pair.target]) for pair in some]
        everything = [one for hits in right.values() for one in hits]
        categories = {name: dict(zip(("image", "point"), pck(hits), strict=True)) for name, hits in right.items()}
        return Result(dict(zip(("pck_image", "pck_point"), pck(everything), strict=True)), {"categories": categories})

    def _features(
        self, encoder: Encoder, shapes: dict[Path, tuple[int, int]], mesh: jax.sharding.Mesh
    ) -> Iterator[tuple[Path, np.ndarray]]:
        """Yield each image's patch features [side, side, d], of unit length."""
        paths, size = list(shapes), -(-self._batch // batch_parts(mesh)) * batch_parts(mesh)
        rows = local_rows(mesh, size)
        with ThreadPoolExecutor(2) as pool, jax.set_mesh(mesh):
            for start in range(0, len(paths), self._batch):
                part = paths[start : start + self._batch]
                images = np.zeros((size, self._size, self._size, 3), np.uint8)
                images[: len(part)] = list(pool.map(lambda path: self._image(path, shapes[path]), part))
                patches = _whole(encode(encoder, to_mesh(mesh, images[rows], size)).patches)
                for path, features in zip(part, np.asarray(patches, np.float32), strict=False):
                    side = math.isqrt(len(features))
                    if side * side != len(features):
                        raise InputError(f"The encoder has {len(features)} patches, which are no square; take a ViT.")
                    norms = np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
                    yield path, (features / norms).reshape(side, side, -1)

    def _image(self, path: Path, shape: tuple[int, int]) -> np.ndarray:
        image = read_image(path)
        if image.shape[:2] != shape:
            (height, width), (h, w) = image.shape[:2], shape
            raise InputError(f"{path} has {width}x{height} pixels, but its annotations say {w}x{h}; fetch it again.")
        return np.asarray(Image.fromarray(image).resize((self._size, self._size), Image.Resampling.BICUBIC))


_whole = jax.jit(replicate)


def _hits(pair: PointPair, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    found = match(source, target, pair.source_points, *pair.shapes)
    return np.linalg.norm(found - pair.target_points, axis=1) <= ALPHA * pair.box


def match(
    source: Float[np.ndarray, "g g d"],
    target: Float[np.ndarray, "g g d"],
    points: Float[np.ndarray, "k 2"],
    source_shape: tuple[int, int],
    target_shape: tuple[int, int],
) -> Float[np.ndarray, "k 2"]:
    """Return where points of a source image are in a target image: the middles of the nearest patches by cosine.

    The feature of a point is interpolated bilinearly between the middles of patches.

    Args:
        source: Features of unit length of patches, row by row.
        target: The other image's.
        points: (x, y) in pixels of the source image, the middle of the first pixel being 0.
        source_shape: Height and width in pixels of the source image.
        target_shape: Height and width in pixels of the target image.
    """
    side = source.shape[0]
    scale = np.array([side / source_shape[1], side / source_shape[0]])
    at = np.clip((points + 0.5) * scale - 0.5, 0, side - 1)
    low = np.minimum(at.astype(int), max(side - 2, 0))
    high, (x, y) = np.minimum(low + 1, side - 1), (at - low).T[:, :, None]
    upper = (1 - x) * source[low[:, 1], low[:, 0]] + x * source[low[:, 1], high[:, 0]]
    lower = (1 - x) * source[high[:, 1], low[:, 0]] + x * source[high[:, 1], high[:, 0]]
    queries = (1 - y) * upper + y * lower
    best = np.argmax(queries @ target.reshape(side * side, -1).T, axis=1)
    middles = np.stack([best % side, best // side], axis=1) + 0.5
    return middles * [target_shape[1] / side, target_shape[0] / side] - 0.5


def pck(hits: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the share of points that were found: the mean over pairs of their shares, and over all points at once."""
    shares: list[Any] = [np.mean(one) for one in hits]
    return float(np.mean(shares)), float(np.mean(np.concatenate(hits)))
