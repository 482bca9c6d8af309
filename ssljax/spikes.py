"""Updates whose loss or gradient jumps: told, and by policy skipped on the device, whatever the objective."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssljax.errors import InputError
from ssljax.ops.arrays import Array

POLICIES = ("stop", "skip")
_LEAST = 0.01  # of the mean: a loss that hardly moves would have spikes of no consequence


class Statistics(NamedTuple):
    """What the rule remembers of loss and gradient norm, in this order.

    Attributes:
        count: Updates that were taken in.
        mean: Float32 [2].
        variance: Float32 [2].
    """

    count: Any
    mean: Any
    variance: Any


def empty(numbers: Any = jnp) -> Statistics:
    """Return the statistics of no update, in the arrays of `numbers`: jax.numpy or NumPy."""
    return Statistics(
        numbers.zeros((), numbers.int32), numbers.zeros(2, numbers.float32), numbers.zeros(2, numbers.float32)
    )


def judge(
    statistics: Statistics, signals: Any, *, factor: float, window: int, numbers: Any = jnp
) -> tuple[Any, Statistics]:
    """Return whether an update is a spike, and the statistics with it taken in.

    It is one where loss or gradient norm is not finite, or, after `window` updates, above mean + factor * deviation
    (of which at least 1 % of the mean is taken). Mean and variance are those of all updates for the first `window`, and
    exponentially weighted then:

        rate = 1 / min(count + 1, window),  d = x - mean,  mean += rate d,  variance = (1 - rate) (variance + rate d^2)

    Args:
        statistics: Of the updates before.
        signals: Loss and gradient norm, float32 [2].
        factor: See above.
        window: See above.
        numbers: jax.numpy or NumPy, whose arrays these are.
    """
    count, mean, variance = statistics
    deviation = numbers.maximum(numbers.sqrt(variance), _LEAST * numbers.abs(mean))
    high = (count >= window) & numbers.any(signals > mean + numbers.float32(factor) * deviation)
    spike = high | ~numbers.all(numbers.isfinite(signals))
    rate = 1 / numbers.minimum(count + 1, window).astype(numbers.float32)
    difference = signals - mean
    new = mean + rate * difference, (1 - rate) * (variance + rate * difference**2)
    return spike, Statistics(count + 1, *new)


class Guarded(NamedTuple):
    """The optimiser's state where spikes are skipped.

    Attributes:
        inner: The state of the optimiser itself.
        statistics: Of the updates that were not skipped.
        skipped: How many were, int32 scalar.
        in_a_row: How many of them are the last ones, int32 scalar; 0 where the last update was not skipped.
    """

    inner: Any
    statistics: Statistics
    skipped: jax.Array
    in_a_row: jax.Array


def skip_spikes(optimizer: optax.GradientTransformation, *, factor: float, window: int) -> optax.GradientTransformation:
    """Return an optimiser whose state stays as it is at an update that `judge` calls a spike.

    Schedules go on: counts of updates advance, but for those beside Adam's moments, which count what these have seen.
    Its `update` takes `signals`, see `judge`; who calls it must leave the parameters as they are where `in_a_row` of
    the new state is not 0.
    """

    def init(params: Any) -> Guarded:
        return Guarded(optimizer.init(params), empty(), jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def update(gradients: Any, state: Guarded, params: Any = None, *, signals: Array) -> tuple[Any, Guarded]:
        spike, taken = judge(state.statistics, signals, factor=factor, window=window)
        updates, inner = optimizer.update(gradients, state.inner, params)
        moments = lambda node: hasattr(node, "mu")  # noqa: E731

        def choose(new: Any, old: Any) -> Any:
            counts = not moments(new) and jnp.issubdtype(new.dtype, jnp.integer)
            return new if counts else keep(spike, old, new)

        return updates, Guarded(
            jax.tree.map(choose, inner, state.inner, is_leaf=moments),
            keep(spike, state.statistics, taken),
            state.skipped + spike,
            jnp.where(spike, state.in_a_row + 1, 0),
        )

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]


def keep(spike: Array, old: Any, new: Any) -> Any:
    """Return the old tree at a spike, the new one otherwise."""
    return jax.tree.map(lambda o, n: jnp.where(spike, o, n), old, new)


def check(policy: str, factor: float, window: int, patience: int) -> None:
    """Check the section `spikes` of a config.

    Raises:
        InputError: The policy is none, or a number out of its range.
    """
    if policy not in POLICIES:
        raise InputError(f"spikes.policy is {policy!r}; give one of {', '.join(POLICIES)}.")
    for name, number, least in (("factor", factor, 0), ("window", window, 1), ("patience", patience, 0)):
        if not number > least:
            raise InputError(f"spikes.{name} is {number}; give more than {least}.")
