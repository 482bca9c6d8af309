"""Linear segmentation: a batch norm and a 1x1 convolution trained on frozen patch features.

The head and its training are those of iBOT (Zhou et al., ICLR 2022, section 4.2) and DINOv2 (Oquab et al., TMLR 2024,
section 7.4), which train for 40,000 steps of 16 images with AdamW; of their augmentations the flip alone.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from ssljax.data.masks import IGNORED, Segmented
from ssljax.errors import InputError
from ssljax.evaluate.encoders import encode
from ssljax.evaluate.heads import check_rates
from ssljax.evaluate.masks import confusions, grid_side, intersection_over_union, on_mesh, segmented_pair
from ssljax.evaluate.numbers import check_decay, check_seed
from ssljax.evaluate.result import Result
from ssljax.evaluate.segmentation import Encode
from ssljax.mesh import check_batch, local_rows, to_mesh
from ssljax.objectives.base import Encoder
from ssljax.ops import keys as rng
from ssljax.ops.resample import resample, resample_matrix

STEPS = 40_000
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-4
_WARM_UP = 1500 / 40_000  # of the steps
_NORM_MOMENTUM, _NORM_EPS = 0.1, 1e-5
_CHECK_EVERY = 100


class LinearSegmentation:
    """Linear segmentation: "linear_segmentation_miou", and IoU by class in the details.

    Args:
        train: Images with masks that the head is trained on; see `find_pairs`.
        test: Others to segment.
        classes: Their number, without what is ignored.
        size: Side in pixels that images and masks are resized to; the papers' is 512.
        labels: What the values of masks are, see `Segmented`.
        steps: See `segment_linearly`.
        learning_rate: See there.
        weight_decay: See there.
        batch_size: Images of an update.
        seed: See there.

    Raises:
        InputError: The data cannot be used, or a number is out of its range.
    """

    def __init__(
        self,
        *,
        train: str,
        test: str,
        classes: int,
        size: int,
        labels: str = "index",
        steps: int = STEPS,
        learning_rate: float = LEARNING_RATE,
        weight_decay: float = WEIGHT_DECAY,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        _check(steps, learning_rate, weight_decay, seed)
        more: dict[str, Any] = dict(classes=classes, size=size, labels=labels, batch_size=batch_size)
        self._train, self._test, self.data = segmented_pair(train, test, **more)
        self._more: dict[str, Any] = dict(
            steps=steps, learning_rate=learning_rate, weight_decay=weight_decay, seed=seed
        )

    def __call__(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> Result:
        """Return mIoU."""
        confusion = segment_linearly(
            lambda images: encode(encoder, images).patches, self._train, self._test, mesh, **self._more
        )
        mean, shares = intersection_over_union(confusion)
        return Result({"linear_segmentation_miou": mean}, {"iou": shares})


class Head(NamedTuple):
    """Scores = ((x - mean) / sqrt(variance + 1e-5) * scale + shift) kernel + bias, for every patch x.

    Attributes:
        scale: Of the batch norm.
        shift: Of the batch norm.
        kernel: Starts normal with deviation 0.01.
        bias: Starts at zero.
    """

    scale: Float[Array, " d"]
    shift: Float[Array, " d"]
    kernel: Float[Array, "d c"]
    bias: Float[Array, " c"]


class Moments(NamedTuple):
    """Mean and variance of each channel of the features."""

    mean: Float[Array, " d"]
    variance: Float[Array, " d"]


def segment_linearly(
    encode: Encode,
    train: Segmented,
    test: Iterable[tuple[np.ndarray, np.ndarray]],
    mesh: jax.sharding.Mesh,
    *,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    weight_decay: float = WEIGHT_DECAY,
    seed: int = 0,
) -> np.ndarray:
    """Train a head on `train`; return the confusion matrix int64 [label, prediction] of `test`'s labelled pixels.

    The loss is the cross-entropy at the masks' resolution, the scores being upsampled bilinearly: its mean over the
    batch's labelled pixels. AdamW, its rate rising linearly over the first 3.75 % of the steps, then falling to zero.
    The batch norm uses the batch's moments while training, and their running mean (momentum 0.1) for `test`.

    Args:
        encode: See `Encode`.
        train: Images in a new order each time; a batch is of its `batch_size`.
        test: Batches of images and masks, as `Segmented` gives them.
        mesh: Whose devices hold a batch.
        steps: Updates of the head.
        learning_rate: The largest.
        weight_decay: Of all parameters.
        seed: Of the kernel's start, the order and the flips.

    Raises:
        InputError: A number is out of its range, the batch does not divide over the mesh, nothing is labelled, the
            loss is not finite, or the encoder's patches are no grid that masks divide into.
    """
    _check(steps, learning_rate, weight_decay, seed)
    check_batch(mesh, train.batch_size)
    with jax.set_mesh(mesh):
        head, moments = _trained(encode, train, mesh, steps, learning_rate, weight_decay, seed)
        confusion = np.zeros((train.classes, train.classes), np.int64)
        for images, masks, _ in on_mesh(test, mesh):
            confusion += np.asarray(confusions(_scores_of(head, moments, encode(images)), masks))
    return confusion


def _check(steps: int, learning_rate: float, weight_decay: float, seed: int) -> None:
    if steps < 1:
        raise InputError(f"steps is {steps}; give at least 1.")
    check_rates([learning_rate], "learning_rate")
    check_decay(weight_decay)
    check_seed(seed)


def order(count: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Yield the numbers of each batch without end: every image once in a random order, then all in another."""
    epochs = (
        np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count) for epoch in itertools.count()
    )
    numbers = map(int, itertools.chain.from_iterable(epochs))
    while True:
        yield list(itertools.islice(numbers, batch_size))


def _trained(
    encode: Encode, train: Segmented, mesh: jax.sharding.Mesh, steps: int, rate: float, decay: float, seed: int
) -> tuple[Head, Moments]:
    warm = max(round(_WARM_UP * steps), 1)
    schedule = optax.join_schedules(
        [optax.linear_schedule(rate / warm, rate, warm), optax.linear_schedule(rate, 0.0, max(steps - warm, 1))], [warm]
    )
    optimiser = optax.adamw(schedule, weight_decay=decay)
    key, size = jax.random.key(seed), train.batch_size
    rows = local_rows(mesh, size)
    update = jax.jit(functools.partial(_update, optimiser), donate_argnums=(0, 1, 2))
    state: Any = None
    labelled = False
    numbers = itertools.islice(order(len(train), size, seed), steps)
    for step, (images, masks) in enumerate(train.batches(numbers)):
        labelled = labelled or bool((masks != IGNORED).any())
        positions = np.arange(step * size, (step + 1) * size, dtype=np.uint32)
        images, masks, positions = to_mesh(mesh, (images[rows], masks[rows], positions[rows]), size)
        images, masks = _flipped(images, masks, rng.per_sample(rng.named(key, "flip"), positions))
        patches = encode(images)
        if state is None:
            head, moments = start(rng.named(key, "init"), patches.shape[-1], train.classes)
            state = head, moments, optimiser.init(head)
        *state, loss = update(*state, patches, masks)
        if (step % _CHECK_EVERY == 0 or step == steps - 1) and not np.isfinite(float(loss)):
            raise InputError(f"The loss is not finite at step {step}; give a smaller learning_rate than {rate}.")
    if not labelled:
        raise InputError("No pixel of the training masks is labelled; give masks that name classes.")
    return state[0], state[1]


def start(key: Key[Array, ""], width: int, classes: int) -> tuple[Head, Moments]:
    """Return the head and moments before training."""
    kernel = 0.01 * jax.random.normal(key, (width, classes))
    head = Head(jnp.ones(width), jnp.zeros(width), kernel, jnp.zeros(classes))
    return head, Moments(jnp.zeros(width), jnp.ones(width))


@jax.jit
def _flipped(images: Array, masks: Array, keys: Array) -> tuple[Array, Array]:
    flip = jax.vmap(jax.random.bernoulli)(keys)
    mirrored = jnp.where(flip[:, None, None, None], images[:, :, ::-1], images)
    return mirrored, jnp.where(flip[:, None, None], masks[:, :, ::-1], masks)


def _update(
    optimiser: optax.GradientTransformation, head: Head, moments: Moments, state: Any, patches: Array, masks: Array
) -> tuple[Head, Moments, Any, Array]:
    patches = patches.astype(jnp.float32)
    count = patches.shape[0] * patches.shape[1]
    batch = Moments(jnp.mean(patches, axis=(0, 1)), jnp.var(patches, axis=(0, 1)))
    loss, gradient = jax.value_and_grad(lambda head: cross_entropy(scores(head, batch, patches), masks))(head)
    updates, state = optimiser.update(gradient, state, head)
    unbiased = Moments(batch.mean, batch.variance * (count / max(count - 1, 1)))
    moments = jax.tree.map(lambda old, new: (1 - _NORM_MOMENTUM) * old + _NORM_MOMENTUM * new, moments, unbiased)
    return optax.apply_updates(head, updates), moments, state, loss


def scores(head: Head, moments: Moments, patches: Float[Array, "b n d"]) -> Float[Array, "b n c"]:
    """Return the scores of each patch."""
    scale = head.scale * jax.lax.rsqrt(moments.variance + _NORM_EPS)
    x = (patches.astype(jnp.float32) - moments.mean[None, None]) * scale[None, None] + head.shift[None, None]
    return jnp.matmul(x, head.kernel, precision=jax.lax.Precision.HIGHEST) + head.bias[None, None]


_scores_of = jax.jit(scores)


def cross_entropy(scores: Float[Array, "b n c"], masks: Int[Array, "b s s"]) -> Float[Array, ""]:
    """Return the mean over labelled pixels, 0 if there are none; scores are upsampled bilinearly to the masks."""
    b, _, classes = scores.shape
    side = grid_side(scores, masks.shape[1])
    matrix = resample_matrix(masks.shape[1], side, method="linear", antialias=False)
    pixels = resample(scores.reshape(b, side, side, classes), matrix, matrix)
    losses = optax.softmax_cross_entropy_with_integer_labels(pixels, jnp.maximum(masks, 0))
    labelled = masks >= 0
    return jnp.sum(jnp.where(labelled, losses, 0.0)) / jnp.maximum(jnp.sum(labelled), 1).astype(jnp.float32)
