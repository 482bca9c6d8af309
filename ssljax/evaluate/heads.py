"""Classifiers on labelled images: the loop that trains them, heads of many learning rates at once, their accuracies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ssljax.ahead import Ahead
from ssljax.data.epochs import shuffled, training_batches
from ssljax.data.images import Labelled
from ssljax.errors import InputError
from ssljax.evaluate.result import Result
from ssljax.mesh import batch_parts, check_batch, local_rows, replicate, to_mesh
from ssljax.models.pure import Params, Pure, combine
from ssljax.objectives.base import exponential_moving_average
from ssljax.ops import keys as rng
from ssljax.optim import Schedule

Batches = Iterable[tuple[np.ndarray, np.ndarray]]
"""(images uint8 [b, s, s, 3], labels int [b]); b is the same for all batches, but for a shorter last one."""

_NORM_MOMENTUM = 0.9  # of batch norms' running statistics, PyTorch's 0.1 counted from the other side


def total_steps(count: int, batch_size: int, epochs: float, mesh: jax.sharding.Mesh) -> int:
    """Return the updates of `epochs` passes over `count` images, at least one.

    Raises:
        InputError: The batch does not divide over the mesh, is larger than the set, or there are no epochs.
    """
    check_batch(mesh, batch_size)
    if batch_size > count:
        raise InputError(f"batch_size is {batch_size}, but there are {count} training images; give at most so many.")
    if not 0 < epochs < math.inf:
        raise InputError(f"epochs is {epochs}; give a number above 0.")
    return max(1, math.floor(epochs * count / batch_size))


def check_rates(rates: Sequence[float], name: str = "learning_rates") -> None:
    """Raise InputError where a learning rate is not above 0, or there is none."""
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise InputError(f"{name} is {', '.join(map(str, rates)) or 'empty'}; give numbers above 0.")


def fit(
    update: Callable[[Any, Any], tuple[Any, Array]],
    state: Any,
    batches: Iterator[Any],
    batch_size: int,
    mesh: jax.sharding.Mesh,
) -> tuple[Any, Array]:
    """Return the state after all batches, and the last losses.

    Args:
        update: From the state and a batch on the mesh to the next state and losses; donate the state.
        state: Before the first batch.
        batches: Of NumPy arrays, this process's rows.
        batch_size: Of the global batch.
        mesh: Over which batches are split.
    """
    losses = jnp.full((), jnp.nan)
    with jax.set_mesh(mesh), Ahead(mesh, batches, batch_size) as ahead:
        for batch in ahead:
            state, following = update(state, batch)
            jax.block_until_ready(losses)  # or all batches would wait in the devices' memory
            losses = following
    return state, losses


class Batch(NamedTuple):
    """Test images on the mesh, filled up with images whose label is -1; `real` is the number of the others."""

    images: Any
    labels: Int[Array, " b"]
    real: int


def padded_batches(labelled: Batches, mesh: jax.sharding.Mesh) -> Iterator[Batch]:
    """Yield a labelled set in its order, every batch as large as the first."""
    size = 0
    for images, labels in labelled:
        size = size or -(-len(images) // batch_parts(mesh)) * batch_parts(mesh)
        rows = local_rows(mesh, size)

        def split(x: np.ndarray, fill: int, size: int = size, rows: list[int] = rows) -> Any:
            padding = np.full((size - len(x), *x.shape[1:]), fill, x.dtype)
            return to_mesh(mesh, np.concatenate([x, padding])[rows], size)

        yield Batch(split(images, 0), split(labels.astype(np.int32), -1), len(labels))


@jax.jit
def hits(logits: Float[Array, "*r b c"], labels: Int[Array, " b"]) -> Int[Array, "*r"]:
    """Return how many rows have their largest logit at their label."""
    return jnp.sum(jnp.argmax(logits, axis=-1) == labels.reshape((1,) * (logits.ndim - 2) + labels.shape), axis=-1)


def share_right(logits: Callable[[Any], Array], labelled: Batches, mesh: jax.sharding.Mesh) -> np.ndarray:
    """Return the share of a labelled set that `logits(images)` [*r, b, c] classify as labelled, [*r]."""
    right, count = [], 0
    with jax.set_mesh(mesh):
        for batch in padded_batches(labelled, mesh):
            right.append(hits(logits(batch.images), batch.labels))
            count += batch.real
    return np.asarray(np.sum(jax.device_get(right), axis=0) / count)


class Heads(NamedTuple):
    """Heads side by side, one for each learning rate: the leading axis of every leaf.

    Attributes:
        step: Updates done.
        params: The trained parameters.
        statistics: Running statistics of batch norms, if the head has any.
        opt_state: The optimiser's.
    """

    step: Int[Array, ""]
    params: Params
    statistics: Params
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Grid:
    """Heads of one kind that start alike and see the same batches, each with its own learning rate.

    Attributes:
        head: From features to logits [b, c].
        rates: Learning rates.
        direction: What a learning rate of one would add to the parameters, with the opposite sign: the optimiser's
            chain without its last link.
        schedule: Factor of all learning rates, by the update.
    """

    head: Pure
    rates: tuple[float, ...]
    direction: optax.GradientTransformation
    schedule: Schedule

    def init(self, key: Array) -> Heads:
        """Return the heads before the first update."""
        params, statistics = self.head.init(key), self.head.init_statistics()

        def repeated(tree: Any) -> Any:
            return jax.tree.map(lambda x: jnp.repeat(x[None], len(self.rates), axis=0), tree)

        return Heads(jnp.zeros((), jnp.int32), *map(repeated, (params, statistics, self.direction.init(params))))

    def update(self, heads: Heads, features: Any, labels: Int[Array, " b"]) -> tuple[Heads, Float[Array, " r"]]:
        """Return the heads after one update, and their losses before it: mean cross-entropies."""

        def one(params: Params, statistics: Params, opt_state: Any, rate: Array) -> Any:
            def loss(params: Params) -> tuple[Array, Params]:
                logits, seen = self.head.train(params, features)
                losses = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
                return jnp.mean(losses), seen

            (value, seen), gradients = jax.value_and_grad(loss, has_aux=True)(params)
            direction, opt_state = self.direction.update(gradients, opt_state, params)
            params = jax.tree.map(lambda w, d: w - rate * d, params, direction)
            return (params, exponential_moving_average(statistics, seen, _NORM_MOMENTUM), opt_state), value

        rates = jnp.asarray(self.rates, jnp.float32) * self.schedule(heads.step)
        after, losses = jax.vmap(one)(heads.params, heads.statistics, heads.opt_state, rates)
        return Heads(heads.step + 1, *after), losses

    def logits(self, heads: Heads, features: Any) -> Float[Array, "r b c"]:
        """Return the logits of each head, batch norms using their running statistics."""
        return jax.vmap(lambda params: self.head(params, features))(combine(heads.params, heads.statistics))


def probe(
    name: str,
    grid: Grid,
    extract: Callable[[Any], Any],
    pair: tuple[Labelled, Labelled],
    mesh: jax.sharding.Mesh,
    *,
    batch_size: int,
    steps: int,
    augment: bool,
    seed: int,
) -> Result:
    """Train a grid of heads on frozen features in one pass and return the best test accuracy as `name`.

    The best of the grid is chosen by the test accuracy itself, as DINOv2 and V-JEPA report it; the others are in the
    details.

    Args:
        name: Of the metric.
        grid: The heads.
        extract: Images uint8 [b, s, s, 3] on the mesh to features, an array whose first axis is the batch.
        pair: Images to train on and to test with.
        mesh: Over which batches are split.
        batch_size: Of the training.
        steps: Updates.
        augment: Whether each epoch encodes new random crops and flips. Otherwise the features of the centre crops are
            computed once and kept in the host's memory.
        seed: Of the heads' start, the order and the crops.
    """
    train, test = pair
    prepare = extract if augment else lambda features: features
    batches = _batches(extract, train, mesh, batch_size=batch_size, steps=steps, augment=augment, seed=seed)
    with jax.set_mesh(mesh):
        heads = jax.jit(lambda key: replicate(grid.init(key)))(rng.named(jax.random.key(seed), "head"))
    update, classify = jax.jit(grid.update, donate_argnums=0), jax.jit(grid.logits)
    heads, losses = fit(
        lambda heads, batch: update(heads, prepare(batch["input"]), batch["label"]), heads, batches, batch_size, mesh
    )
    accuracies = share_right(lambda images: classify(heads, extract(images)), test, mesh)
    details = [
        {"learning_rate": rate, "accuracy": float(accuracy), "loss": float(loss) if math.isfinite(loss) else None}
        for rate, accuracy, loss in zip(grid.rates, accuracies, jax.device_get(losses), strict=True)
    ]
    return Result({name: float(max(accuracies))}, {"grid": details, "steps": steps, "augment": augment})


def _batches(
    extract: Callable[[Any], Any],
    train: Labelled,
    mesh: jax.sharding.Mesh,
    *,
    batch_size: int,
    steps: int,
    augment: bool,
    seed: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Return training batches of {"input": images if they are augmented, else features; "label"}."""
    rows = local_rows(mesh, batch_size)
    if augment:
        return training_batches(train, rows=rows, batch_size=batch_size, steps=steps, seed=seed)
    features = encoded(extract, train, mesh)
    order = shuffled(len(train), batch_size=batch_size, steps=steps, seed=seed)
    return ({"input": features[numbers[rows]], "label": train.labels[numbers[rows]]} for numbers in order)


def encoded(extract: Callable[[Any], Any], labelled: Labelled, mesh: jax.sharding.Mesh) -> np.ndarray:
    """Return the features of a whole set, in its order, in the memory of every process's host."""
    whole = jax.jit(replicate)
    with jax.set_mesh(mesh):
        return np.concatenate(
            [jax.device_get(whole(extract(batch.images)))[: batch.real] for batch in padded_batches(labelled, mesh)]
        )
