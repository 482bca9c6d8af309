"""`ssljax features`: the features of images and videos, from an encoder to a file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ssljax.data.images import evaluation_view
from ssljax.data.inputs import Input, Item, find_inputs
from ssljax.errors import InputError
from ssljax.evaluate.encoders import check_pool, encode, pooled, vectors
from ssljax.feature_files import Columns, Rows, check_output, writing
from ssljax.mesh import batch_parts, local_rows, make_mesh, to_mesh
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder
from ssljax.pretrained import Pretrained, load

_THREADS = 8


class Extracted(NamedTuple):
    """What was written.

    Attributes:
        rows: How many.
        shapes: Of a row of each array, by name.
        damaged: What was left out, a sentence each.
    """

    rows: int
    shapes: dict[str, tuple[int, ...]]
    damaged: list[str]


def extract(
    inputs: Sequence[Path],
    output: Path,
    *,
    workdir: Path | None = None,
    weights: Path | None = None,
    step: int | None = None,
    size: int | None = None,
    batch_size: int = 64,
    every: float | None = None,
    patches: bool = False,
    attention: bool = False,
    pool: str = "features",
    dtype: str = "float32",
    skip_damaged: bool = False,
) -> Extracted:
    """Write the features of images and frames to a file, a row each, in the order of the inputs.

    Images are cut as evaluations cut them (`evaluation_view`). Memory holds a few batches, however many there are.

    Args:
        inputs: See `find_inputs`.
        output: An .npz with the arrays `names`, `features` [n, d] and perhaps `times`, `labels`, `patches` [n, p, d]
            and `attention` [n, h, p], and `metadata` (JSON); or a .parquet with the columns `name`, `features` and so
            on, arrays as lists of a fixed length, whose shapes are in the schema's metadata `ssljax`.
        workdir: Of a run, or
        weights: a file or folder of weights, see `read_network`.
        step: Which checkpoint of the run; the newest by default.
        size: Side of the images in pixels; by default what the encoder was trained on.
        batch_size: Images encoded at once, over all devices.
        every: See `find_inputs`.
        patches: Whether to write patch tokens.
        attention: Whether to write a ViT's attention of CLS in the last block.
        pool: What stands for an image, see `pooled`.
        dtype: Of what is written, "float32" or "float16".
        skip_damaged: Whether images and whole inputs that cannot be read are left out, instead of an error.

    Raises:
        InputError: The encoder or an input cannot be used, or the file cannot be written; nothing is written then.
    """
    if (workdir is None) == (weights is None):
        raise InputError("Name whose features: --workdir RUN or --weights FILE, one of them.")
    check_output(output)
    check_pool(pool)
    place = workdir or weights
    assert place is not None
    pretrained = load(place, step=step, size=size)
    if attention and not isinstance(pretrained.encoder.model.abstract, ViT):
        raise InputError(f"{place} holds no ViT, and --attention is a ViT's; leave it out.")
    damaged: list[str] | None = [] if skip_damaged else None
    found = find_inputs(inputs, every=every, size=pretrained.image_size, damaged=damaged)
    if not found:
        raise _nothing(inputs, damaged)
    columns = _columns(pretrained, found, patches, attention, pool, dtype)
    devices, total = make_mesh(), sum(each.total for each in found)
    parts = batch_parts(devices)
    batch_size = -(-min(batch_size, total) // parts) * parts
    items = itertools.chain.from_iterable(each.items() for each in found)
    with (
        jax.set_mesh(devices),
        writing(output, columns) as writer,
        ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as threads,
        tqdm(total=total, unit=" images", desc=output.name, mininterval=0.5) as bar,
    ):
        batches = _batches(items, batch_size, pretrained.image_size, threads, damaged)
        count = 0
        for rows in _encoded(pretrained.encoder, batches, batch_size, columns, pool):
            writer.add(rows)
            count += len(rows.names)
            bar.update(len(rows.names))
        if not count:
            raise _nothing(inputs, damaged)
    return Extracted(count, dict(columns.shapes), damaged or [])


def _nothing(inputs: Sequence[Path], damaged: list[str] | None) -> InputError:
    return InputError(f"{inputs[0]} has nothing that can be read; the first says: {(damaged or ['?'])[0]}")


def _columns(
    pretrained: Pretrained, found: Sequence[Input], patches: bool, attention: bool, pool: str, dtype: str
) -> Columns:
    encoder, size = pretrained.encoder, pretrained.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.uint8)
    output = jax.eval_shape(lambda images: _arrays(encoder, images, patches, attention, pool), image)
    shapes = {name: array.shape[1:] for name, array in output.items()}
    metadata = {
        **pretrained.source,
        "size": size,
        "patch_size": pretrained.patch_size,
        "pool": pool,
        "shapes": {name: list(shape) for name, shape in shapes.items()},
    }
    times, labels = any(each.is_video for each in found), any(each.has_labels for each in found)
    return Columns(shapes, dtype, times, labels, metadata)


def _arrays(encoder: Encoder, images: Any, patches: bool, attention: bool, pool: str) -> dict[str, jax.Array]:
    """Return what is asked for of images uint8 [b, h, w, 3], by name."""
    if not patches and not attention:
        return {"features": pooled(encoder, images, pool)}
    output = encode(encoder, images, **({"probe": -1} if attention else {}))
    arrays = {"features": vectors(output, pool)}
    arrays |= {"patches": output.patches} if patches else {}
    return arrays | ({"attention": output.probe.cls_attention} if attention else {})


def _encoded(
    encoder: Encoder, batches: Iterable[tuple[list[Item], np.ndarray]], batch_size: int, columns: Columns, pool: str
) -> Iterator[Rows]:
    """Encode all batches over the mesh; each is handed out while the next one is computed."""
    mesh, wanted = jax.sharding.get_mesh(), ("patches" in columns.shapes, "attention" in columns.shapes)
    local = local_rows(mesh, batch_size)
    pending: tuple[list[Item], dict[str, jax.Array]] | None = None
    for items, images in itertools.chain(batches, [([], np.zeros((0,)))]):
        before, pending = pending, None
        if items:
            whole = np.zeros(
                (batch_size, *images.shape[1:]), np.uint8
            )  # the last one filled up: one shape, one program
            whole[: len(images)] = images
            pending = items, _arrays(encoder, to_mesh(mesh, whole[local], batch_size), *wanted, pool)
        if before is not None:
            yield _rows(*before, columns.dtype)


def _rows(items: Sequence[Item], arrays: Mapping[str, jax.Array], dtype: str) -> Rows:
    names, times, labels = ([getattr(item, name) for item in items] for name in ("name", "time", "label"))
    fetched = {name: np.asarray(array.astype(dtype))[: len(items)] for name, array in arrays.items()}
    bad = [name for name, array in fetched.items() if not np.isfinite(array).all()]
    if bad:
        raise InputError(
            f"The {bad[0]} of {names[0]} to {names[-1]} are not finite in {dtype}; take float32, or weights."
        )
    return Rows(names, times, labels, fetched)


def _batches(
    items: Iterator[Item], batch_size: int, size: int, threads: ThreadPoolExecutor, damaged: list[str] | None
) -> Iterator[tuple[list[Item], np.ndarray]]:
    """Read the items in batches; what cannot be read goes to `damaged`, and without it ends all."""

    def view(item: Item) -> np.ndarray | InputError:
        try:
            return evaluation_view(item.read(), size)
        except InputError as error:
            return error

    while some := list(itertools.islice(items, batch_size)):
        read = []
        for item, image in zip(some, threads.map(view, some), strict=True):
            if isinstance(image, np.ndarray):
                read.append((item, image))
            elif damaged is None:
                raise InputError(f"{str(image).rstrip('.')}; --skip-damaged leaves such out.") from image
            else:
                damaged.append(str(image))
        if read:
            yield [item for item, _ in read], np.stack([image for _, image in read])
