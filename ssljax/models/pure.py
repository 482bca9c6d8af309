"""A Flax NNX module as pure functions of its parameters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

Params = Any
"""A plain nested dict of arrays."""


@dataclasses.dataclass(frozen=True)
class Pure:
    """A module's constructor, seen as `init(key) -> params` and `model(params, ...) -> outputs`.

    The module is built once, by shape only; what training carries is a plain nested dict of arrays. Nothing of NNX is
    left at run time, so `jit`, `grad`, `scan` and `vmap` are JAX's own.

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
        return nnx.to_pure_dict(nnx.split(self.make(rngs=nnx.Rngs(key)), nnx.Param)[1])

    def __call__(self, params: Params, *args: Any, method: str = "__call__", **kwargs: Any) -> Any:
        """Call the module's `method` with `params` in place of its own."""
        graphdef = nnx.split(self.abstract, nnx.Param)[0]
        module = nnx.merge(graphdef, nnx.State(params), copy=True)
        return getattr(module, method)(*args, **kwargs)
