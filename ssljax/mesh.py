"""Mesh axes, and the one rule that says where every array lives."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssljax.errors import InputError

AXES = ("data", "fsdp")
BATCH = P(AXES)
"""The batch is split over both axes: `fsdp` shards parameters, not work."""


def make_mesh(layout: str = "", devices: Sequence[Any] | None = None) -> Mesh:
    """Return a mesh over all devices with the axes `data` and `fsdp`.

    Args:
        layout: Sizes as in "fsdp=8" or "data=2,fsdp=4"; `data` takes the devices that are left.
        devices: The devices; all of the run's by default.

    Raises:
        InputError: An unknown axis, or sizes that do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes: dict[str, int] = {}
    for part in filter(None, layout.replace(" ", "").split(",")):
        name, _, size = part.partition("=")
        if name not in AXES or not size.isdigit() or int(size) < 1 or name in sizes:
            raise InputError(f'mesh is {layout!r}; give sizes of the axes {" and ".join(AXES)}, as in "data=2,fsdp=4".')
        sizes[name] = int(size)
    fsdp = sizes.get("fsdp", 1)
    data = sizes.get("data", len(devices) // fsdp)
    if data * fsdp != len(devices):
        raise InputError(f"mesh {layout!r} needs {max(data, 1) * fsdp} devices, but there are {len(devices)}.")
    return jax.make_mesh((data, fsdp), AXES, devices=devices, axis_types=(AxisType.Auto,) * 2)


def check_batch(mesh: Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Check that each micro-batch gives every device the same number of samples.

    Raises:
        InputError: It does not.
    """
    if batch_size % (accumulate * mesh.size):
        raise InputError(
            f"batch_size {batch_size} does not divide into {accumulate} micro-batch(es) over {mesh.size} devices; "
            f"give a multiple of {accumulate * mesh.size}."
        )


def shard_batch(x: Any) -> Any:
    """Constrain the first axis of every array of `x` to the batch's sharding; the identity where no mesh is set.

    Without it the partitioner may choose layouts that cost many times the memory.
    """
    return _constrain(x, BATCH)


def replicate(x: Any) -> Any:
    """Constrain `x` to be whole on every device: how one layer's weights are gathered when they are used."""
    return _constrain(x, P())


def _constrain(x: Any, spec: P) -> Any:
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, spec)


def shardings(tree: Any, mesh: Mesh | AbstractMesh, *, min_size: int = 2**14) -> Any:
    """Return the sharding of every leaf of a train state: the one rule of this codebase.

    A matrix of at least `min_size` elements is split over `fsdp` along its largest axis that divides; the layer axis
    of stacked blocks is never split, so that a scan over layers slices locally. Vectors (biases, norms, the centre)
    are whole everywhere. Optimiser moments and the teacher have their parameter's shape and name, so they follow it.
    """
    parts = mesh.shape["fsdp"]

    def rule(path: Any, leaf: Any) -> NamedSharding:
        stacked = any(getattr(key, "key", None) == "blocks" for key in path)
        axes = range(1 if stacked else 0, len(leaf.shape))
        splittable = [axis for axis in axes if leaf.shape[axis] % parts == 0]
        if len(axes) < 2 or math.prod(leaf.shape) < min_size or not splittable or parts == 1:
            return NamedSharding(mesh, P())
        largest = max(splittable, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, P(*["fsdp" if axis == largest else None for axis in range(len(leaf.shape))]))

    return jax.tree_util.tree_map_with_path(rule, tree)


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


class Ahead(Iterator[Any]):
    """Batches on the mesh, moved there by a thread while updates run: at most two of them wait for their update.

    An error of the source takes the place of its batch, and stays. Close it before its source.
    """

    def __init__(self, mesh: Mesh, batches: Iterator[Any], batch_size: int):
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=1)  # and one is in the thread's hand
        self._error: BaseException | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._move, args=(mesh, batches, batch_size), daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether `next` would not wait."""
        return not self._queue.empty()

    def __next__(self) -> Any:
        if self._error is not None:
            raise self._error
        batch = self._queue.get()
        if isinstance(batch, BaseException):
            self._error = batch
            raise batch
        return batch

    def close(self) -> None:
        """Stop the thread, which ends with the batch that it is reading."""
        self._closed.set()
        self._error = self._error or ValueError("the batches are closed")
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get_nowait()  # what it waits to hand over
            self._thread.join(0.01)

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _move(self, mesh: Mesh, batches: Iterator[Any], batch_size: int) -> None:
        try:
            while not self._closed.is_set():
                self._queue.put(to_mesh(mesh, next(batches), batch_size))
        except BaseException as error:  # raised by `next`, where somebody listens
            self._queue.put(error)
