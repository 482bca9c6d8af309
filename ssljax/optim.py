"""Optimisers as optax chains, and schedules as functions of the number of updates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssljax.errors import InputError

Schedule = Callable[[Any], Any]


def cosine(*, start: float, end: float, steps: int, warmup_steps: int = 0) -> Schedule:
    """Return a half cosine from `start` to `end` that ends at update `steps`, after a linear rise from 0.

    Args:
        start: Value at the end of the warm-up.
        end: Value from update `steps` on.
        steps: Updates in all, warm-up included.
        warmup_steps: Updates of the warm-up.

    Raises:
        InputError: The warm-up is as long as the run, or longer, or a number is negative.
    """
    _at_least_0(start=start, end=end, warmup_steps=warmup_steps)
    if warmup_steps >= steps:
        raise InputError(f"A schedule's warm-up takes {warmup_steps} of {steps} updates; train longer or warm up less.")

    def value(step: Any) -> Any:
        progress = jnp.clip((step - warmup_steps) / (steps - warmup_steps), 0.0, 1.0)
        decayed = end + 0.5 * (start - end) * (1.0 + jnp.cos(jnp.pi * progress))
        return jnp.where(step < warmup_steps, start * step / max(warmup_steps, 1), decayed)

    return value


def linear(*, start: float, end: float, steps: int) -> Schedule:
    """Return a straight line from `start` to `end` over `steps` updates, constant after.

    Raises:
        InputError: A number is negative.
    """
    _at_least_0(start=start, end=end, steps=steps)
    return optax.linear_schedule(start, end, steps) if steps > 0 else constant(value=end)


def constant(*, value: float) -> Schedule:
    """Return the same value at every update.

    Raises:
        InputError: It is negative.
    """
    _at_least_0(value=value)
    return lambda step: jnp.asarray(value, jnp.float32)


def _at_least_0(**numbers: float) -> None:
    for name, number in numbers.items():
        if number < 0:
            raise InputError(f"A schedule's {name} is {number}; give at least 0.")


def _below_1(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 <= number < 1:
            raise InputError(f"{name} is {number}; give a number from 0 to below 1.")


def adamw(
    *,
    learning_rate: Schedule,
    weight_decay: Schedule,
    no_decay: Sequence[str] = ("bias", "scale", "gamma"),
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    clip_norm: float | None = None,
    clip_by: str = "parameter",
    freeze: str | None = None,
    freeze_steps: int = 0,
) -> optax.GradientTransformation:
    """Return AdamW (Loshchilov and Hutter 2019) as vision transformers are trained.

    Args:
        learning_rate: As a function of the update.
        weight_decay: As a function of the update; multiplied by the learning rate, as PyTorch does.
        no_decay: Last names of the parameters that do not decay.
        b1: Decay of the first moment.
        b2: Decay of the second moment.
        eps: Added to the root of the second moment.
        clip_norm: Largest gradient norm; None leaves gradients as they are.
        clip_by: "parameter" clips each parameter by its own norm (DINO), "global" all by the norm of all.
        freeze: Parameters under this path ("head/last") are left untouched, moments too, for `freeze_steps` updates.
        freeze_steps: See `freeze`.

    Raises:
        InputError: `clip_by` is neither, or a number out of its range.
    """
    _below_1(b1=b1, b2=b2)
    if clip_norm is not None and not clip_norm > 0:
        raise InputError(f"clip_norm is {clip_norm}; give a norm above 0, or none to leave gradients as they are.")
    if clip_by not in ("parameter", "global"):
        raise InputError(f'clip_by is {clip_by!r}; give "parameter" or "global".')

    adam = optax.scale_by_adam(b1=b1, b2=b2, eps=eps)
    chain = [
        optax.add_decayed_weights(weight_decay, mask=_named_otherwise(no_decay)),
        optax.scale_by_learning_rate(learning_rate),
    ]
    if freeze and freeze_steps:
        frozen = _under(freeze)
        thaw = lambda step: step >= freeze_steps  # noqa: E731
        # A frozen parameter's moments start with its first update: Adam's bias correction counts from there.
        branches = {False: adam, True: optax.conditionally_mask(adam, thaw)}
        chain = [
            optax.partition(branches, frozen),
            *chain,
            optax.masked(optax.conditionally_mask(optax.identity(), thaw), frozen),
        ]
    else:
        chain = [adam, *chain]
    if clip_norm is not None:
        clip = clip_by_parameter_norm(clip_norm) if clip_by == "parameter" else optax.clip_by_global_norm(clip_norm)
        chain = [clip, *chain]
    return optax.chain(*chain)


def lars(
    *,
    learning_rate: Schedule,
    weight_decay: Schedule,
    exclude: Sequence[str] = ("bias", "scale", "gamma", "cls", "position", "register"),
    momentum: float = 0.9,
    trust_coefficient: float = 0.001,
) -> optax.GradientTransformation:
    """Return LARS (You et al. 2017) as SimCLR uses it: the learning rate is inside the momentum, not after it.

        v <- momentum v + rate ratio (g + decay w),  w <- w - v,  ratio = trust_coefficient |w| / |g + decay w|

    Args:
        learning_rate: As a function of the update.
        weight_decay: As a function of the update.
        exclude: Last names of the parameters that neither decay nor have a ratio: biases, norms and tokens.
        momentum: Of the velocity v.
        trust_coefficient: See above; the ratio is one where either norm is zero.

    Raises:
        InputError: A number out of its range.
    """
    _below_1(momentum=momentum)
    if not trust_coefficient > 0:
        raise InputError(f"trust_coefficient is {trust_coefficient}; give a number above 0.")
    included = _named_otherwise(exclude)
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=included),
        optax.masked(scale_by_trust_ratio(trust_coefficient), included),
        optax.scale_by_learning_rate(learning_rate),
        optax.trace(decay=momentum),
    )


def scale_by_trust_ratio(coefficient: float) -> optax.GradientTransformation:
    """Scale each parameter's update u to the length coefficient |w|; a stack of layers as so many parameters."""

    def scale(path: Any, update: jax.Array, param: jax.Array) -> jax.Array:
        length, wanted = _norm(path, update), coefficient * _norm(path, param)
        defined = (length > 0) & (wanted > 0)
        return update * jnp.where(defined, wanted / jnp.where(defined, length, 1.0), 1.0)

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates, params))


def clip_by_parameter_norm(max_norm: float) -> optax.GradientTransformation:
    """Scale each parameter's gradient to a norm of at most `max_norm`, as the released DINO code does.

    A leaf under "blocks" is a stack of L parameters, one a layer, and is clipped as L parameters.
    """

    def clip(path: Any, gradient: jax.Array) -> jax.Array:
        return gradient * jnp.minimum(1.0, max_norm / (_norm(path, gradient) + 1e-6))

    return optax.stateless(lambda gradients, params: jax.tree_util.tree_map_with_path(clip, gradients))


def _norm(path: Any, leaf: jax.Array) -> jax.Array:
    """Return the norm of a parameter, one a layer of a stack under "blocks", with axes of one to multiply by."""
    stacked = any(getattr(key, "key", None) == "blocks" for key in path)
    axes = tuple(range(1 if stacked else 0, leaf.ndim))
    return jnp.sqrt(jnp.sum(jnp.square(leaf), axis=axes, keepdims=True))


def _named_otherwise(names: Sequence[str]) -> Callable[[Any], Any]:
    """Return a function from parameters to booleans: whose last name is none of these."""
    return lambda params: jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in names, params)


def _under(prefix: str) -> Callable[[Any], Any]:
    """Return a function from parameters to booleans: which lie under the path `prefix`."""
    names = tuple(prefix.split("/"))

    def under(params: Any) -> Any:
        tree = jax.tree_util.tree_map_with_path(
            lambda path, _: tuple(key.key for key in path[: len(names)]) == names, params
        )
        if not any(jax.tree.leaves(tree)):
            raise InputError(f"freeze is {prefix!r}, but no parameter is under that path; give one such as head/last.")
        return tree

    return under
