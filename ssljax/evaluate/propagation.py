"""Labels of patches carried from frame to frame by the similarity of their features.

Jabri, Owens, Efros: Space-time correspondence as a contrastive random walk, NeurIPS 2020, section 3.1, as the released
code of Caron et al. 2021 (arXiv 2104.14294, section 4.2.1) does it.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from ssljax.ops import arrays
from ssljax.ops.resample import resample, resample_matrix

_PRECISION = jax.lax.Precision.HIGHEST  # which patches are the nearest hangs on the last digits


class References(NamedTuple):
    """The first frame, and of those before the target as many as the queue holds.

    Attributes:
        features: [r, h, w, d], each of length 1; slot 0 is the first frame's.
        labels: [r, h, w, c], shares of the classes.
        steps: How many frames were put into the queue.
    """

    features: Float[Array, "r h w d"]
    labels: Float[Array, "r h w c"]
    steps: Int[Array, ""]


@functools.partial(jax.jit, static_argnames=("queue",))
def first_frame(
    features: Float[arrays.Array, "h w d"], labels: Float[arrays.Array, "h w c"], *, queue: int
) -> References:
    """Return the references of the second frame: the first frame, and a queue with room for `queue` others."""

    def alone(x: Array) -> Array:
        return jnp.concatenate([x[None], jnp.zeros((queue, *x.shape))])

    return References(alone(_unit(jnp.asarray(features))), alone(jnp.asarray(labels)), jnp.int32(0))


@functools.partial(jax.jit, static_argnames=("top_k", "neighbourhood", "temperature"))
def next_frame(
    references: References,
    features: Float[arrays.Array, "h w d"],
    *,
    top_k: int = 5,
    neighbourhood: int = 12,
    temperature: float = 0.1,
) -> tuple[References, Float[Array, "h w c"]]:
    """Return the labels of the next frame, and the references of the one after it.

    The frame takes the place of the oldest in the queue, its labels as soft as they were propagated.

    Args:
        references: As `first_frame` or the last call returned them.
        features: Of the frame's patches, of any length.
        top_k: See `propagate`.
        neighbourhood: See `propagate`.
        temperature: See `propagate`.
    """
    count, target = len(references.features), _unit(jnp.asarray(features))
    labels = propagate(
        references.features,
        references.labels,
        target,
        jnp.arange(count) <= references.steps,
        top_k=top_k,
        neighbourhood=neighbourhood,
        temperature=temperature,
    )
    slot = 1 + references.steps % (count - 1)
    new = References(
        references.features.at[slot].set(target), references.labels.at[slot].set(labels), references.steps + 1
    )
    return new, labels


def propagate(
    references: Float[arrays.Array, "r h w d"],
    labels: Float[arrays.Array, "r h w c"],
    target: Float[arrays.Array, "h w d"],
    valid: Bool[arrays.Array, " r"],
    *,
    top_k: int = 5,
    neighbourhood: int = 12,
    temperature: float = 0.1,
) -> Float[Array, "h w c"]:
    """Return each target patch's labels: a mean of those of its nearest reference patches.

    Weights are exp(cosine / temperature), normalised. Nearest are the `top_k` of all references' patches together, and
    what is as near as the last of them, which happens where nothing moves. The rows of the target are compared one
    after the other, each with the rows that its neighbourhood spans: memory grows with r * w * w, not with the square
    of the number of patches.

    Args:
        references: Features of patches, of length 1.
        labels: Shares of the classes.
        target: Features of patches, of length 1.
        valid: Which references count.
        top_k: How many patches are averaged.
        neighbourhood: By how many rows and columns a reference patch may lie off the target patch.
        temperature: Of the weights.
    """
    _, height, width, depth = references.shape
    references, labels, target = jnp.asarray(references), jnp.asarray(labels), jnp.asarray(target)
    band = min(2 * neighbourhood + 1, height)
    columns = jnp.arange(width)
    beside = jnp.abs(columns[:, None] - columns[None, :]) <= neighbourhood

    def row(number: Array) -> Array:
        top = jnp.clip(number - neighbourhood, 0, height - band)
        features = jax.lax.dynamic_slice_in_dim(references, top, band, axis=1).reshape(-1, depth)
        shares = jax.lax.dynamic_slice_in_dim(labels, top, band, axis=1).reshape(len(features), -1)
        cosines = jnp.matmul(target[number], features.T, precision=_PRECISION)
        near = jnp.abs(top + jnp.arange(band) - number) <= neighbourhood
        compared = valid[None, :, None, None] & near[None, None, :, None] & beside[:, None, None, :]
        cosines = jnp.where(compared.reshape(cosines.shape), cosines, -jnp.inf)
        # Seen through, the slices of a top-k are compiled into a sort of everything on CPUs: six times the time of all.
        nearest = jax.lax.optimization_barrier(jax.lax.top_k(cosines, min(top_k, len(features)))[0])
        # Relative to the nearest: the same weights, and nothing overflows.
        weights = jnp.exp((cosines - nearest[:, :1]) / temperature)
        weights = jnp.where(cosines >= nearest[:, -1:], weights, 0.0)
        weights /= jnp.sum(weights, axis=1, keepdims=True)
        return jnp.matmul(weights, shares, precision=_PRECISION)

    return jax.lax.map(row, jnp.arange(height))


@functools.partial(jax.jit, static_argnames=("size",))
def to_mask(labels: Float[arrays.Array, "h w c"], *, size: tuple[int, int]) -> UInt8[Array, "p q"]:
    """Return the class of every pixel of a frame of `size` (rows, columns) from the labels of its patches.

    Labels are interpolated bilinearly, each class is stretched to reach from 0 to 1 in the frame, and the largest wins;
    of equal ones the first.
    """
    height, width, _ = labels.shape
    rows, columns = (
        resample_matrix(new, old, method="linear", antialias=False)
        for new, old in zip(size, (height, width), strict=True)
    )
    pixels = resample(jnp.asarray(labels), rows, columns)
    low, high = (jnp.asarray(f(pixels, axis=(0, 1), keepdims=True)) for f in (jnp.min, jnp.max))
    # A class without a patch is all 0; one that is everywhere the same says nothing about where it is.
    pixels = (pixels - low) / jnp.where(high > low, high - low, 1.0)
    return jnp.argmax(pixels, axis=-1).astype(jnp.uint8)


def one_hot(mask: UInt8[np.ndarray, "h w"], classes: int) -> Float[np.ndarray, "h w {classes}"]:
    """Return a mask of class numbers as shares of the classes."""
    return np.eye(classes, dtype=np.float32)[mask]


def _unit(features: Float[Array, "h w d"]) -> Float[Array, "h w d"]:
    features = features.astype(jnp.float32)
    return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
