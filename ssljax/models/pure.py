"""A Flax NNX module as pure functions of its parameters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from ssljax.errors import InputError

Params = Any
"""A plain nested dict of arrays."""


@dataclasses.dataclass(frozen=True)
class Pure:
    """A module's constructor, seen as `init(key) -> params` and `model(params, ...) -> outputs`.

    The module is built once, by shape only; what training carries is a plain nested dict of arrays. Nothing of NNX is
    left at run time, so `jit`, `grad`, `scan` and `vmap` are JAX's own.

    A module with batch norms has a second tree, its statistics (`mean` and `var` of each): `train` returns those of the
    batch, the objective keeps their running average, and calls take them within the parameters; see `combine`. For a
    module without batch norms that tree is empty, and `train` differs from a call in nothing else.

    Attributes:
        make: Builds the module from `rngs=nnx.Rngs(key)`; usually `functools.partial(Module, width=..., ...)`.
    """

    make: Callable[..., nnx.Module]

    @functools.cached_property
    def abstract(self) -> Any:
        """The module with shapes for parameters; read static attributes (`width`, `patch_size`) from it."""
        return nnx.eval_shape(lambda: self.make(rngs=nnx.Rngs(0)))

    def init(self, key: jax.Array) -> Params:
        """Return freshly initialised parameters, a nested dict of float32 arrays."""
        return nnx.to_pure_dict(nnx.state(self.make(rngs=nnx.Rngs(key)), nnx.Param))

    def init_statistics(self) -> Params:
        """Return the statistics before any batch: means of zero, variances of one; empty without batch norms."""
        return nnx.to_pure_dict(nnx.state(self.make(rngs=nnx.Rngs(0)), nnx.BatchStat))

    def __call__(self, params: Params, *args: Any, method: str = "__call__", **kwargs: Any) -> Any:
        """Call the module's `method` with `params` in place of its own; batch norms use the statistics among them.

        Raises:
            InputError: The module has batch norms, and the parameters no statistics for them.
        """
        statistics = len(jax.tree.leaves(nnx.state(self.abstract, nnx.BatchStat)))
        if statistics and len(jax.tree.leaves(params)) == len(jax.tree.leaves(nnx.state(self.abstract, nnx.Param))):
            raise InputError(
                f"A {type(self.abstract).__name__} has batch norms, and this objective keeps no statistics; "
                "take an encoder without, such as a ViT, or an objective that does, such as SimCLR."
            )
        module = nnx.merge(nnx.graphdef(self.abstract), nnx.State(params), copy=True)
        return getattr(module, method)(*args, **kwargs)

    def train(self, params: Params, *args: Any, **kwargs: Any) -> tuple[Any, Params]:
        """Call the module, its batch norms using the batch's own statistics; return the output and these."""
        statistics = nnx.to_pure_dict(nnx.state(self.abstract, nnx.BatchStat))
        unused = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), statistics)
        module = nnx.merge(nnx.graphdef(self.abstract), nnx.State(combine(params, unused)), copy=True)
        module.train()
        output = module(*args, **kwargs)
        return output, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))


def combine(params: Params, statistics: Params) -> Params:
    """Return the parameters with a module's statistics among them, as a call in evaluation takes them."""
    if not isinstance(statistics, dict):
        return statistics
    return params | {name: combine(params.get(name, {}), value) for name, value in statistics.items()}


def separate(model: Pure, params: Params) -> tuple[Params, Params]:
    """Return parameters and statistics apart, the inverse of `combine`."""
    statistics = traverse_util.flatten_dict(jax.eval_shape(model.init_statistics))
    flat = traverse_util.flatten_dict(params)
    apart = [{path: leaf for path, leaf in flat.items() if (path in statistics) is kept} for kept in (False, True)]
    return traverse_util.unflatten_dict(apart[0]), traverse_util.unflatten_dict(apart[1])
