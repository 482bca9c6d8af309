"""Floating-point operations of matrix products and convolutions, counted by walking what JAX traced.

XLA's own count takes the body of a loop once, however often it runs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval

OTHER = "other"
"""The name of what is in no `jax.named_scope`."""
RECOMPUTED = "recomputed"
"""The scope of what a layer's own gradient makes anew because that is cheaper than to keep it."""


def count(function: Callable[..., Any], *arguments: Any, recomputed: bool = False) -> dict[str, float]:
    """Return the operations of one call by named scope ("teacher/attention"), a multiplication and an addition as two.

    Counted is what is left when nothing that no result depends on is computed, on all devices together. What the
    backward pass recomputes (`jax.checkpoint`) counts again; its products count in the scope of the forward ones. What
    is in a scope `RECOMPUTED` counts on demand, and what cuDNN's fused attention recomputes never does. A padded
    convolution counts its padding, too. Of a conditional's branches the most expensive one counts, and the body of a
    loop that may end early once.

    Args:
        function: To be called with the arguments; traced, not run.
        arguments: Arrays or `jax.ShapeDtypeStruct`s.
        recomputed: Whether what is in a scope `RECOMPUTED` counts.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    counts: defaultdict[str, float] = defaultdict(float)
    for scopes, operations in _walk(jaxpr, (), 1.0):
        if recomputed or RECOMPUTED not in scopes:
            counts["/".join(name for name in scopes if name != RECOMPUTED) or OTHER] += operations
    return dict(counts)


def total(counts: dict[str, float]) -> float:
    """Return the sum of all scopes."""
    return sum(counts.values())


def _walk(jaxpr: Any, scopes: tuple[str, ...], times: float) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yield (named scopes, operations) of every product in a jaxpr that runs so many times."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inside = scopes + _scopes(equation.source_info.name_stack)
        if name == "dot_general":
            yield inside, times * _dot(equation)
        elif name == "conv_general_dilated":
            yield inside, times * _convolution(equation)
        elif name == "cond":
            branches = [list(_walk(branch.jaxpr, inside, times)) for branch in equation.params["branches"]]
            yield from max(branches, key=lambda branch: sum(operations for _, operations in branch))
        elif name.startswith(("dot_product_attention_fwd", "dot_product_attention_bwd")):
            yield inside, times * _attention(equation)
        else:
            for inner in _jaxprs(equation.params):
                yield from _walk(inner, inside, times * _repetitions(name, equation.params))


def _repetitions(name: str, parameters: dict[str, Any]) -> float:
    if name == "scan":
        return parameters["length"]
    if name == "shard_map":  # what is in it is one device's part; where nothing is split, devices repeat it
        sizes, specs = parameters["mesh"].shape, (*parameters["in_specs"], *parameters["out_specs"])
        split = {axis for spec in specs for axes in spec for axis in (axes if isinstance(axes, tuple) else (axes,))}
        return math.prod(sizes[axis] for axis in parameters["newly_manual_axes"] & split)
    if name == "pallas_call":
        return math.prod(parameters["grid_mapping"].grid)
    return 1


def _jaxprs(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, core.Jaxpr):
                yield each


def _scopes(stack: Any) -> tuple[str, ...]:
    """Return the names that `jax.named_scope` gave, without those of transformations (jvp, transpose, ...)."""
    names = [part.name for part in stack.stack if type(part).__name__ == "Scope"]
    return tuple(name for name in names if name.isidentifier())  # and not "bnd,bkd->bnk", which einsum leaves


def _dot(equation: Any) -> float:
    """Two operations for each element of the result and each of the contracted axes."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)


def _attention(equation: Any) -> float:
    """The fused attention of NVIDIA GPUs: two products, and four for the gradient, what it recomputes left out."""
    query, key = (equation.invars[place].aval.shape for place in (0, 1))
    length = key[1 + equation.params["layout"]]  # [b, n, h, dh] is layout 0, [b, h, n, dh] is 1
    products = 2 if "fwd" in equation.primitive.name else 4
    return 2.0 * products * math.prod(query) * length


def _convolution(equation: Any) -> float:
    """Two operations for each element of the result and each of the kernel's that meets an element of the input.

    Where the input is dilated, as in the gradient of a convolution with a stride, most of what the kernel meets is
    zeros in between, which are not multiplied.
    """
    numbers, kernel = equation.params["dimension_numbers"], equation.invars[1].aval.shape
    outputs = kernel[numbers.rhs_spec[0]]
    met = math.prod(kernel) / outputs / math.prod(equation.params["lhs_dilation"])
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * met
