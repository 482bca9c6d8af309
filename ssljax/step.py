"""The train state, its sharded initialisation, and the only train step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssljax import mesh as meshes
from ssljax import spikes
from ssljax.errors import InputError
from ssljax.models.pure import Params
from ssljax.objectives.base import LossOutput, Objective, PyTree
from ssljax.ops import keys as rng
from ssljax.ops.arrays import Array


class TrainState(NamedTuple):
    """All that a run carries from one update to the next, but for its position in the data.

    Attributes:
        step: Updates done, int32 scalar.
        params: The trained parameters, float32.
        state: The objective's untrained state.
        opt_state: The optimiser's.
    """

    step: jax.Array
    params: Params
    state: PyTree
    opt_state: PyTree


def initial_state(
    objective: Objective, optimizer: optax.GradientTransformation, seed: int, mesh: jax.sharding.Mesh
) -> TrainState:
    """Return the state of update 0, each leaf made where it lives: nothing full-size exists on one device.

    The values depend on the seed alone, not on the mesh.
    """
    abstract, shardings = abstract_state(objective, optimizer, mesh)
    del abstract
    make = jax.jit(lambda key: _initialise(objective, optimizer, key), out_shardings=shardings)
    return make(rng.named(jax.random.key(seed), "init"))


def abstract_state(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh,
) -> tuple[TrainState, TrainState]:
    """Return the state's shapes with their shardings, and the shardings alone, computing nothing."""
    shapes = jax.eval_shape(lambda key: _initialise(objective, optimizer, key), jax.random.key(0))
    shardings = meshes.shardings(shapes, mesh)

    def attach(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(attach, shapes, shardings), shardings


def make_train_step(
    objective: Objective, optimizer: optax.GradientTransformation, *, seed: int, accumulate: int = 1
) -> Callable[[TrainState, PyTree], tuple[TrainState, dict[str, jax.Array]]]:
    """Return `step(state, batch) -> (state, metrics)`, to be jitted with the state donated.

    Args:
        objective: Gives loss and state.
        optimizer: An optax chain; one of `spikes.skip_spikes` leaves parameters and state as they are at a spike.
        seed: Every random number of update i derives from (seed, i).
        accumulate: Micro-batches per update; gradients, statistics and metrics are averaged over them, and the
            optimiser and the objective's state advance once.

    Raises:
        InputError: The objective's loss is not a mean over samples, so that accumulation would change it.
    """
    if accumulate > 1 and not objective.accumulates_exactly:
        raise InputError(
            f"accumulate is {accumulate}, but the loss of {type(objective).__name__} as configured depends on the "
            "whole batch at once; set accumulate=1 and use more devices or a smaller batch."
        )

    def micro_batch(state: TrainState, batch: PyTree) -> tuple[Params, LossOutput]:
        key = jax.random.fold_in(rng.named(jax.random.key(seed), "step"), state.step)

        def loss(params: Params) -> tuple[Array, LossOutput]:
            out = objective.loss(params, state.state, batch, key, state.step)
            return out.loss, out

        gradients, out = jax.grad(loss, has_aux=True)(state.params)
        return gradients, out

    def train_step(state: TrainState, batch: PyTree) -> tuple[TrainState, dict[str, jax.Array]]:
        gradients, out = _mean_over_micro_batches(micro_batch, state, batch, accumulate)
        metrics = {"loss": out.loss, "gradient_norm": optax.tree.norm(gradients), **out.metrics}
        skips = isinstance(state.opt_state, spikes.Guarded)
        signals = {"signals": jnp.stack([metrics["loss"], metrics["gradient_norm"]])} if skips else {}
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params, **signals)
        params = optax.apply_updates(state.params, updates)
        kept = objective.after_update(params, state.state, out.statistics, state.step)
        if skips:
            params, kept = spikes.keep(opt_state.in_a_row > 0, (state.params, state.state), (params, kept))
            counts = {"skipped": opt_state.skipped, "skipped_in_a_row": opt_state.in_a_row}
            metrics |= {name: count.astype(jnp.float32) for name, count in counts.items()}
        return TrainState(state.step + 1, params, kept, opt_state), metrics

    return train_step


def _initialise(objective: Objective, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    params, state = objective.init(key)
    return TrainState(jnp.zeros((), jnp.int32), params, state, optimizer.init(params))


def _mean_over_micro_batches(
    function: Callable[[TrainState, PyTree], Any], state: TrainState, batch: PyTree, count: int
) -> Any:
    if count == 1:
        return function(state, batch)

    def split(x: jax.Array) -> jax.Array:
        """[b, ...] -> [count, b / count, ...] taking every count-th row, so that no row leaves its device."""
        x = meshes.shard_batch(x.reshape(x.shape[0] // count, count, *x.shape[1:]))
        return jnp.swapaxes(x, 0, 1)

    def add(total: Any, micro: PyTree) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(state, jax.tree.map(meshes.shard_batch, micro))), None

    shapes = jax.eval_shape(function, state, jax.tree.map(lambda x: x[: x.shape[0] // count], batch))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    total, _ = jax.lax.scan(add, zeros, jax.tree.map(split, batch))
    return jax.tree.map(lambda x: x / count, total)
