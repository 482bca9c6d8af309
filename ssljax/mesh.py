"""Mesh axes, and the one rule that says where every array lives."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from ssljax.errors import InputError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")
BATCH = P(BATCH_AXES)
"""The batch is split over these axes: `fsdp` shards parameters, not work. Along `tensor` devices share samples."""

_TENSOR = {("mlp", "fc1", "kernel"): -1, ("mlp", "fc2", "kernel"): -2, ("last", "kernel"): -1}
"""The axis that `tensor` splits, by the end of a parameter's name: hidden units of blocks' MLPs, and prototypes."""


def make_mesh(layout: str = "", devices: Sequence[Any] | None = None) -> Mesh:
    """Return a mesh over all devices with the axes `data`, `fsdp` and `tensor`.

    Neighbours along the last axes are neighbours in the machine. Where the devices form several slices, whose network
    is slower than what connects the devices of one, as many as can be lie along `data` and the rest along `fsdp`.

    Args:
        layout: Sizes as in "fsdp=8" or "data=2,fsdp=4,tensor=2"; `data` takes the devices that are left.
        devices: The devices; all of the run's by default.

    Raises:
        InputError: An unknown axis, or sizes that do not multiply to the number of devices or do not fit the slices.
    """
    devices = jax.devices() if devices is None else devices
    shape = _sizes(layout, len(devices))
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    types = (AxisType.Auto,) * len(AXES)
    if slices == 1:
        return jax.make_mesh(shape, AXES, devices=devices, axis_types=types)
    along_data = math.gcd(shape[0], slices)
    outer = (along_data, slices // along_data, 1)
    if shape[1] % outer[1]:
        raise InputError(
            f"mesh {layout!r} makes data={shape[0]} and fsdp={shape[1]}, but the devices form {slices} slices; give a "
            f"multiple of {slices} for one of them or for their product."
        )
    inner = tuple(size // parts for size, parts in zip(shape, outer, strict=True))
    return Mesh(mesh_utils.create_hybrid_device_mesh(inner, outer, devices=devices), AXES, axis_types=types)


def _sizes(layout: str, count: int) -> tuple[int, int, int]:
    """Return the sizes of the axes on so many devices."""
    sizes: dict[str, int] = {}
    for part in filter(None, layout.replace(" ", "").split(",")):
        name, _, size = part.partition("=")
        if name not in AXES or not size.isdigit() or int(size) < 1 or name in sizes:
            raise InputError(
                f'mesh is {layout!r}; give sizes of the axes {", ".join(AXES[:-1])} and {AXES[-1]}, as in "fsdp=8" or '
                '"data=2,fsdp=4".'
            )
        sizes[name] = int(size)
    fsdp, tensor = sizes.get("fsdp", 1), sizes.get("tensor", 1)
    if count % (fsdp * tensor):
        raise InputError(f"mesh {layout!r} needs a multiple of {fsdp * tensor} devices, but there are {count}.")
    data = sizes.get("data", count // (fsdp * tensor))
    if data * fsdp * tensor != count:
        raise InputError(f"mesh {layout!r} needs {max(data, 1) * fsdp * tensor} devices, but there are {count}.")
    return data, fsdp, tensor


def batch_parts(mesh: Mesh | jax.sharding.AbstractMesh) -> int:
    """Return into how many parts the mesh splits a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Check that each micro-batch gives every device the same number of samples.

    Raises:
        InputError: It does not.
    """
    parts = batch_parts(mesh)
    if batch_size % (accumulate * parts):
        shared = f" ({mesh.size // parts} of which share each sample)" if parts < mesh.size else ""
        raise InputError(
            f"batch_size {batch_size} does not divide into {accumulate} micro-batch(es) over {mesh.size} devices"
            f"{shared}; give a multiple of {accumulate * parts}."
        )


def shard_batch(x: Any) -> Any:
    """Constrain the first axis of every array of `x` to the batch's sharding; the identity where no mesh is set.

    Without it the partitioner may choose layouts that cost many times the memory.
    """
    return _constrain(x, BATCH)


def per_shard(function: Callable[..., Any], *arrays: Array) -> Any:
    """Return function(*arrays) of arrays [b, ...], each device calling it with its part of the batch.

    This is for what the partitioner cannot split. Along `tensor` devices repeat it, as they do all that no rule here
    splits, and everywhere where the batch does not divide. Without a mesh, or on one device, it is a plain call.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(*arrays)
    spec = P() if len(arrays[0]) % batch_parts(mesh) else BATCH
    return jax.shard_map(function, in_specs=spec, out_specs=spec, check_vma=False)(*arrays)


def shard_features(x: Any) -> Any:
    """Constrain `x` [b, ..., c] to be split by the batch and, along c, over `tensor`: logits of many prototypes.

    A vector [c] has no batch; a c that does not divide is not split.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    last = "tensor" if x.shape[-1] % mesh.shape["tensor"] == 0 else None
    return _constrain(x, P(*[BATCH_AXES, *[None] * (x.ndim - 2)][: x.ndim - 1], last))


def replicate(x: Any) -> Any:
    """Constrain `x` to be whole on every device."""
    return _constrain(x, P())


GATHERED = "gathered"
"""The name by which `gather` marks weights, so that rematerialisation can gather them again instead of keeping them."""


def gather(weights: Any, name: str = "") -> Any:
    """Constrain weights to be whole but for their split over `tensor`: how one layer's are gathered for their use.

    Args:
        weights: A tree of them, or one.
        name: What stands before their names in the tree, as in "last/kernel".
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return weights

    def rule(path: Any, leaf: Array) -> Array:
        split = _spec([*name.split("/"), *path], leaf.shape, mesh, 0)
        whole = [axis if axis == "tensor" else None for axis in split]
        return checkpoint_name(_gathered(leaf, P(*whole), P(*split)), GATHERED)

    return jax.tree_util.tree_map_with_path(rule, weights)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(x: Array, whole: P, split: P) -> Array:
    """Constrain x to be whole, and its gradient to be split: devices then add up only the part that they keep."""
    return _constrain(x, whole)


def _gathered_forward(x: Array, whole: P, split: P) -> tuple[Array, None]:
    return _constrain(x, whole), None


def _gathered_backward(whole: P, split: P, _: None, gradient: Array) -> tuple[Array]:
    return (_constrain(gradient, split),)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def is_gathering() -> bool:
    """Return whether the mesh of the computation being traced splits weights over `fsdp`."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.shape.get("fsdp", 1) > 1


def _tensor_axis(path: Any, shape: Sequence[int]) -> int | None:
    """Return the axis of a parameter that `tensor` splits, by the end of its path; None where it is none."""
    names = tuple(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
    names = names[:-1] if names[-1:] == ("value",) else names  # of a module's own state
    for end, axis in _TENSOR.items():
        if names[-len(end) :] == end and len(shape) >= 2:
            return len(shape) + axis
    return None


def _constrain(x: Any, spec: P) -> Any:
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec)


def shardings(tree: Any, mesh: Mesh | AbstractMesh, *, min_size: int = 2**14) -> Any:
    """Return the sharding of every leaf of a train state: the one rule of this codebase.

    A matrix of at least `min_size` elements is split over `tensor` along its hidden units or prototypes, where its name
    says that it has such, and over `fsdp` along the largest axis that is left and divides; the layer axis of stacked
    blocks is never split, so that a scan over layers slices locally. Vectors (biases, norms, the centre) are whole
    everywhere. Optimiser moments and the teacher have their parameter's shape and name, so they follow it.
    """

    def rule(path: Any, leaf: Any) -> NamedSharding:
        first = 1 if any(getattr(key, "key", None) == "blocks" for key in path) else 0
        return NamedSharding(mesh, P(*_spec(path, leaf.shape, mesh, first, min_size)))

    return jax.tree_util.tree_map_with_path(rule, tree)


def _spec(
    path: Any, shape: Sequence[int], mesh: Mesh | AbstractMesh, first: int, min_size: int = 2**14
) -> list[str | None]:
    """Return which axis of the mesh splits each axis of a parameter, none before number `first`; empty for none."""
    axes = list(range(first, len(shape)))
    spec: list[str | None] = [None] * len(shape)
    if len(axes) < 2 or math.prod(shape) < min_size:
        return []
    axis = _tensor_axis(path, shape)
    if axis is not None and mesh.shape["tensor"] > 1 and shape[axis] % mesh.shape["tensor"] == 0:
        spec[axis] = "tensor"
        axes.remove(axis)
    parts = mesh.shape["fsdp"]
    splittable = [axis for axis in axes if shape[axis] % parts == 0]
    if splittable and parts > 1:
        spec[max(splittable, key=lambda axis: shape[axis])] = "fsdp"
    return spec if any(spec) else []


def local_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """Return the rows of the global batch that this process's devices hold, ascending."""
    indices = NamedSharding(mesh, BATCH).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for index in indices if index for row in range(*index[0].indices(batch_size))})


def to_mesh(mesh: Mesh, batch: Any, batch_size: int) -> Any:
    """Return the global batch, each process giving its own rows as NumPy arrays."""
    sharding = NamedSharding(mesh, BATCH)

    def put(x: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, x, (batch_size, *x.shape[1:]))

    return jax.tree.map(put, batch)
