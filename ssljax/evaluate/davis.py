"""Video object segmentation: the first frame's masks propagated through a sequence by an encoder's patch features.

Caron et al. 2021 (arXiv 2104.14294, section 4.2.1) and the released eval_video_segmentation.py, scored as DAVIS does.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ssljax.data.davis import MaskedSequence, MaskedSequences, decode_mask
from ssljax.data.encoded import decode
from ssljax.errors import InputError
from ssljax.evaluate.davis_metrics import ObjectScore, mean_scores, sequence_scores
from ssljax.evaluate.encoders import encode
from ssljax.evaluate.propagation import first_frame, next_frame, one_hot, to_mask
from ssljax.evaluate.result import Result
from ssljax.mesh import batch_parts, local_rows, replicate, to_mesh
from ssljax.objectives.base import Encoder


class Davis:
    """Segments the sequences of a prepared DAVIS set (2016 or 2017) from their first masks.

    A frame's patches take the labels of the most similar patches of the first frame and of the last ones, close by; see
    `propagate`. Masks are compared at the resolution of the set. Each device encodes one frame at a time.

    Args:
        data: Folder that `ssljax prepare davis` made.
        size: Of the frames' shorter side in pixels when they are encoded; patches must divide it.
        multiple: In pixels: the longer side is rounded down to a multiple of it; patches must divide it too.
        queue: How many frames before the target are referred to, besides the first.
        top_k: How many patches a label is the mean of.
        neighbourhood: By how many patches a reference patch may lie off the target patch, in rows and in columns.
        temperature: Of the weights of this mean.
        sequences: Names of those to segment; all by default.
        masks: Folder for the predicted masks, as SEQUENCE/FRAME.png in the manner of the set: indices of its palette,
            or 0 and 255. It must be new or empty; where several encoders are evaluated, the first one's are written.

    Raises:
        InputError: The data cannot be used, or a number is too small; and when it is called, an encoder without
            patches, or with patches that do not divide the frames.
    """

    def __init__(
        self,
        *,
        data: str,
        size: int = 480,
        multiple: int = 64,
        queue: int = 7,
        top_k: int = 5,
        neighbourhood: int = 12,
        temperature: float = 0.1,
        sequences: Sequence[str] = (),
        masks: str = "",
    ) -> None:
        if not data:
            raise InputError("DAVIS needs prepared sequences; name the folder that `ssljax prepare davis` made.")
        if multiple < 1 or size < multiple:
            raise InputError(f"size is {size} and multiple {multiple}; give a size of at least one multiple.")
        if min(queue, top_k, neighbourhood) < 1 or not 0 < temperature < math.inf:
            raise InputError(
                f"queue is {queue}, top_k {top_k}, neighbourhood {neighbourhood} and temperature {temperature}; "
                "give numbers of at least 1, and a finite temperature above 0."
            )
        self._set = MaskedSequences(data)
        self._sequences = _chosen(self._set, sequences)
        self.data = {"data": data, "sequences": len(self._sequences), "checksum": self._set.checksum}
        if not masks and not any(sequence.scored for sequence in self._sequences):
            raise InputError(f"{data} has masks of first frames alone, so that nothing can be scored: name masks.")
        self._size, self._multiple, self._queue = size, multiple, queue
        self._nearest: dict[str, Any] = dict(top_k=top_k, neighbourhood=neighbourhood, temperature=temperature)
        self._masks = Path(masks) if masks else None
        if self._masks and self._masks.exists() and (not self._masks.is_dir() or any(self._masks.iterdir())):
            raise InputError(f"{masks} is there already and not empty; name another folder for the masks.")

    def __call__(self, encoder: Encoder, mesh: jax.sharding.Mesh) -> Result:
        """Return J, F and their mean over all objects, and the scores of every object."""
        scores: list[ObjectScore] = []
        details = {}
        for sequence in self._sequences:
            frames, annotated = self._set.read(sequence)
            predicted = self._segmented(encoder, mesh, sequence, frames, _decoded(sequence, annotated[:1])[0])
            if self._masks is not None and jax.process_index() == 0:
                _write(self._masks, sequence, predicted, annotated[0])
            if sequence.scored:
                found = sequence_scores(_decoded(sequence, annotated), predicted)
                scores += found.values()
                details[sequence.name] = _details(found)
        self._masks = None  # the next encoder's would take the place of these
        return Result(mean_scores(scores) if scores else {}, {"sequences": details})

    def _segmented(
        self,
        encoder: Encoder,
        mesh: jax.sharding.Mesh,
        sequence: MaskedSequence,
        frames: Sequence[bytes],
        first: UInt8[np.ndarray, "h w"],
    ) -> UInt8[np.ndarray, "t h w"]:
        """Return the predicted masks of a sequence, the first as it is given."""
        size = frame_size(sequence.height, sequence.width, size=self._size, multiple=self._multiple)
        images = (cv2.resize(_frame(sequence, number, data), size[::-1]) for number, data in enumerate(frames))
        features = patch_features(encoder, mesh, images)
        with jax.set_mesh(mesh):
            return segment(features, first, size=size, queue=self._queue, **self._nearest)


def segment(
    features: Iterable[Any], first: UInt8[np.ndarray, "h w"], *, size: tuple[int, int], queue: int, **nearest: Any
) -> UInt8[np.ndarray, "t h w"]:
    """Return the masks of a sequence's frames, of which the first is given.

    Args:
        features: Of each frame, [p, q, d].
        first: The first frame's mask, numbers of objects.
        size: Rows and columns of the image whose pixels are labelled before they become the mask's, nearest ones.
        queue: See `first_frame`.
        nearest: See `next_frame`.
    """
    features = iter(features)
    start = next(features)
    labels = one_hot(_resized(first, start.shape[:2]), int(first.max()) + 1)
    references, masks = first_frame(start, labels, queue=queue), []
    for patches in features:
        references, labels = next_frame(references, patches, **nearest)
        masks.append(to_mask(labels, size=size))
    return np.stack([first, *(_resized(np.asarray(mask), first.shape) for mask in masks)])


def frame_size(height: int, width: int, *, size: int, multiple: int = 64) -> tuple[int, int]:
    """Return rows and columns of a frame when it is encoded: the shorter side `size`, the longer a multiple, below."""
    longer = size * max(height, width) // min(height, width) // multiple * multiple
    return (longer, size) if height > width else (size, longer)


def patch_features(encoder: Encoder, mesh: jax.sharding.Mesh, images: Iterable[np.ndarray]) -> Iterator[Any]:
    """Yield the patch features [p, q, d] of images uint8 [h, w, 3] of one size, whole on every device.

    As many images are encoded at once as there are devices, one on each.

    Raises:
        InputError: The encoder has no patches, or they make no grid.
    """
    parts = batch_parts(mesh)
    rows, batch = local_rows(mesh, parts), list[np.ndarray]()

    def encoded() -> Iterator[Any]:
        filled = np.stack([batch[min(row, len(batch) - 1)] for row in rows])
        with jax.set_mesh(mesh):
            output = encode(encoder, to_mesh(mesh, filled, parts))
            if not hasattr(output, "patches"):
                raise InputError("The encoder gives one vector an image and no patches, which propagation needs.")
            patches = _whole(output.patches)
        yield from patches.reshape(parts, *_grid(patches.shape[1], batch[0].shape), -1)[: len(batch)]

    for image in images:
        batch.append(image)
        if len(batch) == parts:
            yield from encoded()
            batch.clear()
    if batch:
        yield from encoded()


_whole = jax.jit(replicate)


def _grid(count: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the rows and columns of `count` square patches of an image."""
    side = round((shape[0] * shape[1] / count) ** 0.5)
    rows, columns = shape[0] // side, shape[1] // side
    if rows * columns != count or (rows * side, columns * side) != shape[:2]:
        raise InputError(f"The encoder's {count} patches make no grid of squares of {shape[0]}x{shape[1]} pixels.")
    return rows, columns


def _chosen(data: MaskedSequences, names: Sequence[str]) -> list[MaskedSequence]:
    known = {sequence.name: sequence for sequence in data.sequences}
    for name in names:
        if name not in known:
            raise InputError(f"{data.folder} has no sequence {name!r}; it has {', '.join(known)}.")
    return [known[name] for name in names] if names else data.sequences


def _frame(sequence: MaskedSequence, number: int, data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    try:
        return decode(data)
    except ValueError as error:
        raise InputError(
            f"Frame {sequence.frames[number]} of {sequence.name} cannot be decoded ({error}): fetch the set again, and "
            "run `ssljax prepare davis` again."
        ) from error


def _decoded(sequence: MaskedSequence, masks: Sequence[bytes]) -> UInt8[np.ndarray, "t h w"]:
    return np.stack([decode_mask(data, binary=sequence.binary) for data in masks])


def _resized(mask: UInt8[np.ndarray, "h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "p q"]:
    return np.asarray(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


def _details(found: dict[int, ObjectScore]) -> dict[str, Any]:
    mean = mean_scores(list(found.values()))
    objects = {str(number): {"j": score.j._asdict(), "f": score.f._asdict()} for number, score in found.items()}
    return {name.removeprefix("davis_"): mean[name] for name in ("davis_j_and_f", "davis_j", "davis_f")} | {
        "objects": objects
    }


def _write(folder: Path, sequence: MaskedSequence, masks: UInt8[np.ndarray, "t h w"], annotated: bytes) -> None:
    """Write masks in the manner of an annotated one."""
    with Image.open(io.BytesIO(annotated)) as example:
        palette = example.getpalette()
    place = folder / sequence.name
    place.mkdir(parents=True)
    for name, mask in zip(sequence.frames, masks, strict=True):
        picture = Image.fromarray(mask * 255 if sequence.binary else mask)
        if palette and not sequence.binary:
            picture.putpalette(palette)
        picture.save(place / f"{name}.png")
