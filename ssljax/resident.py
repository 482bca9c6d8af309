"""A video that lives in the accelerators' memory, each device holding a part of its frames, and windows cut there.

A step then costs the host some bytes a window. The frames lie as luma and half-sized chroma, 1.5 bytes a pixel.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Int, UInt8
from tqdm import tqdm

from ssljax import mesh as meshes
from ssljax.data.resident import Plans
from ssljax.errors import InputError
from ssljax.ops.resample import resample, resample_matrix

_SHARE = 0.6  # of a device's memory: the rest is the model's
_AT_ONCE = 64  # frames: on the host while loading, and of crops on a device before they go where they belong
_TOGETHER = 16  # frames cut at once


def check_memory(plans: Plans, mesh: Mesh) -> None:
    """Check that the video fits.

    Raises:
        InputError: Its part takes more than 60 % of the memory of a device that tells how much it has.
    """
    parts = meshes.batch_parts(mesh)
    need = -(-plans.frames // parts) * math.prod(plans.shape)
    limit = min(_limits(mesh), default=math.inf)
    if need > _SHARE * limit:
        raise InputError(
            f"data.source=device needs {need / 1e9:.1f} GB on each of {parts} device(s) for {plans.frames} frames "
            f"of {plans.width}x{plans.height}, more than {_SHARE:.0%} of its {limit / 1e9:.1f} GB: prepare with larger "
            "--every or a smaller --short-side, shorten data.seconds, use more devices, or data.source=records"
        )


def _limits(mesh: Mesh) -> list[int]:
    """The memory in bytes of this process's devices, of those that tell it."""
    statistics = [device.memory_stats() or {} for device in mesh.local_devices]
    return [one["bytes_limit"] for one in statistics if "bytes_limit" in one]


def load(plans: Plans, mesh: Mesh) -> UInt8[Array, "n r w"]:
    """Decode all frames that windows use, each to the one device that holds it, and return them sharded over the mesh.

    The host holds 64 of them at a time; each process decodes its own devices' alone. Up to a frame a device is zeros,
    so that all hold as many.

    Raises:
        InputError: A frame is damaged, which is named.
    """
    sharding = NamedSharding(mesh, meshes.BATCH)
    parts = meshes.batch_parts(mesh)
    shape = (-(-plans.frames // parts) * parts, *plans.shape)
    places = sharding.addressable_devices_indices_map(shape)
    spans = {device: index[0].indices(shape[0])[:2] for device, index in places.items() if index is not None}
    shards = []
    total = sum(min(end, plans.frames) - min(first, plans.frames) for first, end in spans.values())
    bar = tqdm(total=total, unit=" frames", desc="Video to the devices", disable=jax.process_index() != 0 or None)
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for device, (first, end) in spans.items():
            with jax.set_mesh(Mesh([device], ("alone",))):  # of the whole mesh nothing may be written to one device
                shard = jnp.zeros((end - first, *plans.shape), jnp.uint8, device=device)
                for a in range(first, min(end, plans.frames), _AT_ONCE):
                    frames = list(pool.map(plans.planes, range(a, min(a + _AT_ONCE, end, plans.frames))))
                    at = jax.device_put(np.int32(a - first), device)
                    shard = _write(shard, jax.device_put(np.stack(frames), device), at)
                    shard.block_until_ready()  # or the host would hold what waits to be moved
                    bar.update(len(frames))
            shards.append(shard)
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


@functools.partial(jax.jit, donate_argnums=0)
def _write(shard: Array, frames: Array, at: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(shard, frames, at, axis=0)


def finisher(plans: Plans, mesh: Mesh) -> Callable[[Array, dict[str, Array]], dict[str, Array]]:
    """Return a jitted function from the frames and a batch of plans, both on the mesh, to the batch of windows."""

    def finish(planes: Array, batch: dict[str, Array]) -> dict[str, Array]:
        windows = cut_windows(
            planes, batch["numbers"], batch["box"], mesh=mesh, size=plans.size, antialias=plans.antialias
        )
        named = {"image": windows[:, 0]} if plans.image else {"frames": windows}
        return {**named, "position": batch["position"]}

    return jax.jit(finish, out_shardings=NamedSharding(mesh, meshes.BATCH))


def cut_windows(
    planes: UInt8[Array, "n r w"],
    numbers: Int[Array, "b t"],
    boxes: Int[Array, "b 4"],
    *,
    mesh: Mesh,
    size: int,
    antialias: bool = True,
) -> UInt8[Array, "b t {size} {size} 3"]:
    """Return windows of frames that are sharded over the mesh: no frame leaves its device, only crops do.

    Each device cuts what it holds for all rows of the batch, some rows of each device at a time; the others' crops are
    zeros there, so that a sum over devices, of which each keeps its own rows, moves them exactly.

    Args:
        planes: Frames as `Plans.planes` has them, the first axis sharded over all axes of the mesh.
        numbers: Of the frames of each window.
        boxes: Top, left, height and width of each window's crop.
        mesh: Of `planes` and of the batch, which it divides.
        size: Of the square canvas.
        antialias: Whether the filter widens when shrinking.
    """
    parts = meshes.batch_parts(mesh)
    rows, length = numbers.shape[0] // parts, numbers.shape[1]
    most = max(1, _AT_ONCE // (parts * length))
    together = max(k for k in range(1, rows + 1) if rows % k == 0 and k <= most)

    def split(x: Array) -> Array:
        """[b, ...] -> [chunks, devices, together, ...]"""
        x = x.reshape(parts, rows // together, together, x.shape[1])
        return jnp.swapaxes(x, 0, 1)

    def local(planes: Array, numbers: Array, boxes: Array) -> Array:
        numbers = numbers - jax.lax.axis_index(meshes.BATCH_AXES) * planes.shape[0]

        def chunk(part: tuple[Array, Array]) -> Array:
            flat, each = part[0].reshape(-1), jnp.repeat(part[1].reshape(-1, 4), length, axis=0)
            crops = _cut_own(planes, flat, each, size, antialias)
            crops = crops.reshape(parts, together, length, size, size, 3)
            return jax.lax.psum_scatter(crops, meshes.BATCH_AXES, scatter_dimension=0)

        windows = jax.lax.map(chunk, (split(numbers), split(boxes)))
        return windows.reshape(rows, length, size, size, 3)

    spec = meshes.BATCH
    whole = jax.sharding.PartitionSpec()
    share = jax.shard_map(local, mesh=mesh, in_specs=(spec, whole, whole), out_specs=spec, check_vma=False)
    return share(planes, numbers, boxes)


def _cut_own(planes: Array, numbers: Array, boxes: Array, size: int, antialias: bool) -> Array:
    """[n, r, w], [f], [f, 4] -> [f, size, size, 3] with zeros for numbers outside the n; no work is done for those."""
    own = (numbers >= 0) & (numbers < planes.shape[0])
    count, step = numbers.shape[0], min(_TOGETHER, numbers.shape[0])
    order = jnp.concatenate([jnp.argsort(~own, stable=True), jnp.full(-count % step, count)])

    def body(i: Array, out: Array) -> Array:
        at = jax.lax.dynamic_slice_in_dim(order, i * step, step)
        mine = jnp.take(own, at, mode="fill", fill_value=False)
        frames = planes[jnp.where(mine, jnp.take(numbers, at, mode="clip"), 0)]
        pictures = jax.vmap(lambda frame, box: cut(frame, box, size, antialias))(
            frames, jnp.take(boxes, at, axis=0, mode="clip")
        )
        return out.at[at].set(jnp.where(mine[:, None, None, None], pictures, 0).astype(jnp.uint8), mode="drop")

    out = jnp.zeros((count, size, size, 3), jnp.uint8)
    return jax.lax.fori_loop(0, -(-jnp.sum(own) // step), body, out)


def cut(
    planes: UInt8[Array, "r w"], box: Int[Array, "4"], size: int, antialias: bool = True
) -> UInt8[Array, "{size} {size} 3"]:
    """Return the box of one frame on a canvas, as RGB (JFIF 1.02: BT.601 at full range)."""
    height, width = planes.shape[0] * 2 // 3, planes.shape[1]
    place = box.astype(jnp.float32)

    def spread(planes: Array, scale: float) -> Array:
        """[h, w, c] -> [size, size, c] in units of 0 to 255."""
        rows, columns = (
            resample_matrix(size, planes.shape[axis], start=place[axis] * scale, extent=place[2 + axis] * scale,
                            method="linear", antialias=antialias)
            for axis in (0, 1)
        )  # fmt: skip
        return resample(planes.astype(jnp.float32), rows, columns)

    y = spread(planes[:height, :, None], 1.0)[..., 0]
    small = jnp.stack([planes[height:, : width // 2], planes[height:, width // 2 :]], axis=-1)
    cb, cr = jnp.moveaxis(spread(small, 0.5) - 128.0, -1, 0)
    rgb = jnp.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return jnp.clip(jnp.round(rgb), 0, 255).astype(jnp.uint8)
