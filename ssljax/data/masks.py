"""Images with a mask of classes each, as segmentation is evaluated on."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ssljax.data.encoded import decode
from ssljax.errors import InputError

IGNORED = -1
"""The label of pixels that count for nothing."""

LABELS = ("index", "from_one", "binary")
_VALUE_IGNORED = 255
_IMAGES = ("images", "JPEGImages")
_MASKS = ("annotations", "masks", "Annotations")
_SUFFIXES = (".jpg", ".jpeg", ".png")


class Pair(NamedTuple):
    """An image and its mask, which is a PNG."""

    name: str
    image: Path
    mask: Path


def find_pairs(place: str | os.PathLike[str]) -> list[Pair]:
    """Return the images at a place with their masks, by name.

    Args:
        place: A list of VOC, ROOT/ImageSets/Segmentation/train.txt, for ROOT/JPEGImages and ROOT/SegmentationClass. Or
            a folder of JPEG and PNG images, searched to the bottom, that is or lies in one called images or JPEGImages,
            beside which one called annotations, masks or Annotations has PNGs of the same names: images/training of
            ADE20K, or any pair of folders.

    Raises:
        InputError: There are no images or no masks, or an image has none.
    """
    path = Path(place)
    if path.is_file():
        return _with_masks(path, voc_list(path))
    if not path.is_dir():
        raise InputError(f"{path} does not exist; give a folder of images, or a list of VOC such as train.txt.")
    masks = _mask_folder(path)
    images = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
    names = [file.relative_to(path).with_suffix("").as_posix() for file in images]
    return _with_masks(
        path, [Pair(name, image, masks / f"{name}.png") for name, image in zip(names, images, strict=True)]
    )


def voc_list(path: Path, masks: str = "SegmentationClass") -> list[Pair]:
    """Return the images that a list of VOC names (the first word of each line), and the masks they would have."""
    if path.parent.parent.name != "ImageSets":
        raise InputError(f"{path} is no list of VOC: those are ROOT/ImageSets/Segmentation/train.txt and the like.")
    root = path.parents[2]
    names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    return [Pair(name, root / "JPEGImages" / f"{name}.jpg", root / masks / f"{name}.png") for name in names]


def _mask_folder(path: Path) -> Path:
    parts = path.absolute().parts
    for place in reversed(range(len(parts))):
        if parts[place] in _IMAGES:
            for name in _MASKS:
                masks = Path(*parts[:place], name, *parts[place + 1 :])
                if masks.is_dir():
                    return masks
            raise InputError(f"{path} has no masks: of {', '.join(_MASKS)} none lies beside {parts[place]}.")
    raise InputError(f"{path} lies in no folder called {' or '.join(_IMAGES)}; give DIR/images and DIR/masks.")


def _with_masks(place: Path, pairs: list[Pair]) -> list[Pair]:
    if not pairs:
        raise InputError(f"{place} has no images; give JPEG or PNG files with masks.")
    for what in ("image", "mask"):
        missing = [getattr(pair, what) for pair in pairs if not getattr(pair, what).is_file()]
        if missing:
            raise InputError(f"{missing[0]} is missing, and so are {len(missing) - 1} more of {len(pairs)} {what}s.")
    return pairs


def read_image(path: Path) -> np.ndarray:
    """Return a JPEG or PNG as RGB uint8 [h, w, 3], as it is stored; InputError if it cannot be decoded."""
    try:
        return decode(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} cannot be decoded ({error}); fetch it again.") from error


def read_mask(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Return the values of a mask, int32 [h, w]: indices where it has a palette.

    Raises:
        InputError: It cannot be decoded, has colours, or another height or width than its image's `shape`.
    """
    try:
        with Image.open(path) as file:
            mode, values = file.mode, np.asarray(file)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path} cannot be decoded ({error}); fetch it again.") from error
    if values.ndim != 2:
        raise InputError(f"{path} is a picture in colours ({mode}); give masks with one value a pixel, its class.")
    if values.shape != shape:
        (height, width), (h, w) = values.shape, shape
        raise InputError(f"{path} has {width}x{height} pixels, but its image {w}x{h}; give masks of their images.")
    return values.astype(np.int32)


class Segmented:
    """Images and masks, both resized to squares; iterated over in order, any number of times.

    A batch is (images uint8 [b, size, size, 3], masks int32 [b, size, size]), the last one perhaps shorter. Images
    are resized bilinearly with antialiasing, masks to the nearest pixel; pixels that count for nothing are -1.

    Args:
        place: See `find_pairs`.
        classes: Their number.
        size: Side in pixels.
        labels: What the values of a mask are: "index", classes from 0, and 255 is ignored; "from_one", classes from 1,
            0 is ignored (ADE20K); "binary", two classes, all above 0 being the second.
        batch_size: Images a batch.
        threads: That decode.

    Raises:
        InputError: See `find_pairs` and `read_mask`, which the iteration calls; a label has no class.
    """

    def __init__(
        self,
        place: str | os.PathLike[str],
        *,
        classes: int,
        size: int,
        labels: str = "index",
        batch_size: int = 8,
        threads: int = 2,
    ) -> None:
        if labels not in LABELS:
            raise InputError(f"labels is {labels!r}; give one of {', '.join(LABELS)}.")
        if min(size, batch_size) < 1 or classes < 2 or (labels == "binary" and classes != 2):
            raise InputError(
                f"size is {size}, batch_size {batch_size}, classes {classes}, labels {labels!r}; give at least 1, 1 "
                "and 2, and for binary labels 2 classes."
            )
        self.pairs, self.classes, self.size, self.batch_size = find_pairs(place), classes, size, batch_size
        self._labels, self._threads = labels, threads
        sizes = [(pair.name, pair.image.stat().st_size, pair.mask.stat().st_size) for pair in self.pairs]
        self.checksum = hashlib.sha256(repr(sizes).encode()).hexdigest()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pairs)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Read all in order."""
        b = self.batch_size
        return self.batches(range(start, min(start + b, len(self))) for start in range(0, len(self), b))

    def batches(self, numbers: Iterable[Sequence[int]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Read the images of each batch, a batch ahead; `numbers` may be endless."""
        with ThreadPoolExecutor(self._threads) as pool:
            ahead: list[Future] = []
            try:
                for following in itertools.chain(numbers, [()]):
                    pending, ahead = ahead, [pool.submit(self._read, int(number)) for number in following]
                    if pending:
                        images, masks = zip(*(future.result() for future in pending), strict=True)
                        yield np.stack(images), np.stack(masks)
            finally:
                pool.shutdown(cancel_futures=True)

    def _read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        pair, side = self.pairs[number], (self.size, self.size)
        image = read_image(pair.image)
        values = read_mask(pair.mask, image.shape[:2])
        labels = self._classes_of(values, pair.mask)
        resized = Image.fromarray(image).resize(side, Image.Resampling.BILINEAR)
        return np.asarray(resized), np.asarray(Image.fromarray(labels).resize(side, Image.Resampling.NEAREST))

    def _classes_of(self, values: np.ndarray, path: Path) -> np.ndarray:
        if self._labels == "binary":
            return (values > 0).astype(np.int32)
        from_zero = self._labels == "index"
        labels = np.where(values == _VALUE_IGNORED, IGNORED, values) if from_zero else values - 1
        wrong = (labels >= self.classes) | (labels < IGNORED)
        if wrong.any():
            meant = f"0 to {self.classes - 1}, or {_VALUE_IGNORED}" if from_zero else f"0 to {self.classes}"
            raise InputError(
                f"{path} holds the value {values[wrong].max()}, but with classes={self.classes} and "
                f"labels={self._labels!r} values are {meant}; give the number of classes, or what the values are."
            )
        return labels
