"""Images of prepared sets: endless and shuffled for training, in order with their labels for evaluations."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from ssljax.data.damage import Damage, DamagedFrame
from ssljax.data.encoded import decode, picture_size, resized_box
from ssljax.data.imageset import ImageSet, ImageSource, find_image_sets
from ssljax.data.order import Order
from ssljax.data.tiles import Box
from ssljax.data.windows import Number, Pair, check_crop, crop_box
from ssljax.errors import InputError

_SMALL = 64  # pixels: below this an evaluation sees whole images, since a margin would be most of what there is
_MARGIN = 256 / 224


class Images:
    """Every image of prepared sets, in a global order: infinite, random access. The samples are those of `Frames`.

    Args:
        data: A folder made by `python -m data_prep.images`, or a list of them.
        size: Side of the square canvas in pixels.
        seed: Of order and crops: sample i derives from (seed, i) alone.
        weights: How often each set is drawn, in proportion; None draws every image equally often.
        scale: A random box of the image, a part (smallest, largest) of its area, is resized to the canvas.
        ratio: Of the box's width to its height (smallest, largest); None takes the largest centred square instead.
        antialias: False samples by plain bilinear interpolation of the whole image.
        bad_share: The part of the samples whose record may be damaged; another image of the set takes the place of
            such a one, and beyond this share (and 10 samples) InputError ends the run.
    """

    def __init__(
        self,
        *,
        data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        size: int,
        seed: int = 0,
        weights: Sequence[Number] | None = None,
        scale: Pair = (0.2, 1.0),
        ratio: Pair | None = (3 / 4, 4 / 3),
        antialias: bool = True,
        bad_share: Number = 0.001,
    ) -> None:
        self._crops = Crops(
            find_image_sets(data),
            size=size,
            seed=seed,
            weights=weights,
            scale=scale,
            ratio=ratio,
            antialias=antialias,
            bad_share=bad_share,
        )
        self.checksum, self.damage = self._crops.checksum, self._crops.damage

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        """Return {"image": uint8 [size, size, 3], "position": uint32 []}."""
        return self._crops[position]

    def where(self, position: int) -> str:
        """Return where the image comes from, in words; see `Crops.where`."""
        return self._crops.where(position)

    def describe(self, position: int) -> dict[str, Any]:
        """Return where the image comes from; see `Crops.describe`."""
        return self._crops.describe(position)


class Crops:
    """Random resized crops of images from any sources; the arguments are those of `Images`."""

    def __init__(
        self,
        sources: Sequence[ImageSource],
        *,
        size: int,
        seed: int = 0,
        weights: Sequence[Number] | None = None,
        scale: Pair = (0.2, 1.0),
        ratio: Pair | None = (3 / 4, 4 / 3),
        antialias: bool = True,
        bad_share: Number = 0.001,
    ) -> None:
        if size < 1:
            raise InputError(f"size ({size}) must be at least 1")
        check_crop(scale, ratio)
        self._sources, self._size, self._seed, self._antialias = list(sources), size, seed, antialias
        self._scale, self._ratio = tuple(scale), ratio and tuple(ratio)
        self._order = Order([source.count for source in sources], seed=seed, weights=weights)
        self.damage = Damage(float(bad_share), sample="image", fault="were damaged")
        self.checksum = hashlib.sha256("".join(source.checksum for source in sources).encode()).hexdigest()

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        """Return {"image": uint8 [size, size, 3], "position": uint32 []}."""
        return {"image": self._read(position)[0], "position": np.asarray(position, np.uint32)}

    def where(self, position: int) -> str:
        """Return where the image comes from, in words; nothing is read, so another may take its place."""
        return self._words(*self._order[position])

    def _words(self, source: int, number: int) -> str:
        return f"image {number} ({self._sources[source].name(number)}) of {self._sources[source].where}"

    def describe(self, position: int) -> dict[str, Any]:
        """Return where the image comes from: {"data", "image" (its name), "box" (top, left, height, width)}.

        It reads the image, to know whether another one takes its place.
        """
        _, source, number, box = self._read(position)
        return {"data": self._sources[source].where, "image": self._sources[source].name(number), "box": list(box)}

    def _read(self, position: int) -> tuple[np.ndarray, int, int, Box]:
        """(canvas, source, number, box) of the first try that meets no damaged record."""
        self.damage.ask()
        faults: list[str] = []
        source, start = self._order[position]
        images = self._sources[source]
        for attempt in itertools.count():
            random = np.random.Generator(
                np.random.Philox(key=[self._seed % 2**64, position], counter=[0, 0, 0, attempt])
            )
            number = int(random.integers(images.count)) if attempt else start
            try:
                canvas, box = self._cut(images, number, random)
                break
            except DamagedFrame as error:
                faults.append(str(error))
                self.damage.replace(error)  # raises beyond the allowed share, so that the tries come to an end
        if faults:
            self.damage.note([position], faults, self._words(source, number))
        return canvas, source, number, box

    def _cut(self, images: ImageSource, number: int, random: np.random.Generator) -> tuple[np.ndarray, Box]:
        encoded = images.encoded(number)
        try:
            height, width = picture_size(encoded)
            box = crop_box(random, height, width, self._scale, self._ratio)
            return resized_box(encoded, (height, width), box, self._size, antialias=self._antialias), box
        except ValueError as error:
            raise undecodable(images, number, error) from error


def undecodable(images: ImageSource, number: int, error: Exception) -> DamagedFrame:
    """Return the error that names an image."""
    return DamagedFrame(f"image {number} ({images.name(number)}) of {images.where} cannot be decoded ({error})")


class Ordered:
    """A set of images in its own order, as evaluations read it, any number of times; labels are not needed.

    Iterating gives images uint8 [b, size, size, 3], the last batch perhaps shorter. Images are cut as
    `evaluation_view` says.

    Args:
        data: A folder made by `python -m data_prep.images`, or any `ImageSource`.
        size: Side in pixels.
        batch_size: Images a batch.
        threads: That decode.

    Raises:
        InputError: The data are not prepared.
    """

    def __init__(
        self, data: str | os.PathLike[str] | ImageSource, *, size: int, batch_size: int = 256, threads: int = 2
    ) -> None:
        self.source: ImageSource = ImageSet(data) if isinstance(data, (str, os.PathLike)) else data
        if size < 1 or batch_size < 1:
            raise InputError(f"size ({size}) and batch_size ({batch_size}) must be at least 1")
        self.checksum, self.size, self.threads, self._batch = self.source.checksum, size, threads, batch_size

    def __len__(self) -> int:
        """Return the number of images."""
        return self.source.count

    def __iter__(self) -> Iterator[np.ndarray]:
        """Read the images, a batch ahead."""
        with ThreadPoolExecutor(self.threads) as pool:
            starts = range(0, len(self), self._batch)
            batches = [range(start, min(start + self._batch, len(self))) for start in starts]
            ahead = [pool.submit(self._view, number) for number in batches[0]]
            try:
                for following in [*batches[1:], range(0)]:
                    pending, ahead = ahead, [pool.submit(self._view, number) for number in following]
                    yield np.stack([view.result() for view in pending])
            finally:
                pool.shutdown(cancel_futures=True)

    def _view(self, number: int) -> np.ndarray:
        encoded = self.source.encoded(number)
        try:
            return evaluation_view(decode(encoded), self.size)
        except ValueError as error:
            raise undecodable(self.source, number, error) from error


class Labelled:
    """A labelled set in its own order, as evaluations read it, any number of times.

    Iterating gives (images uint8 [b, size, size, 3], labels int32 [b]), as `Ordered` gives images.

    Attributes:
        classes: Their names.
        labels: int32 [n], numbers of `classes`.

    Args:
        data: See `Ordered`.
        size: See `Ordered`.
        batch_size: See `Ordered`.
        threads: See `Ordered`.

    Raises:
        InputError: The data are not prepared, or have no labels.
    """

    def __init__(
        self, data: str | os.PathLike[str] | ImageSource, *, size: int, batch_size: int = 256, threads: int = 2
    ) -> None:
        self._images = Ordered(data, size=size, batch_size=batch_size, threads=threads)
        self.source = self._images.source
        labels = self.source.labels()
        if labels is None:
            hint = "prepare a folder with one subfolder for each class, two or more"
            raise InputError(f"{self.source.where} has no labels: {hint}")
        self.classes, self.checksum = self.source.classes, self.source.checksum
        self.labels, self.size, self.threads = labels, size, threads

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Read the images, a batch ahead."""
        start = 0
        for images in self._images:
            yield images, self.labels[start : start + len(images)]
            start += len(images)


def evaluation_view(image: np.ndarray, size: int) -> np.ndarray:
    """Return the middle of an RGB image uint8 [h, w, 3] as uint8 [size, size, 3].

    From 64 pixels on its short side is resized (bicubic, antialiased) to size * 256 / 224 and the centre cut out, as
    the evaluations of DINO and their predecessors do; below, the short side is resized to `size` itself, so that an
    image of that size stays as it is.
    """
    height, width = image.shape[:2]
    short = round(size * _MARGIN) if size >= _SMALL else size
    if min(height, width) != short:
        scaled = (short, int(short * height / width)) if width < height else (int(short * width / height), short)
        image = np.asarray(Image.fromarray(image).resize(scaled, Image.Resampling.BICUBIC))
        height, width = image.shape[:2]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return np.ascontiguousarray(image[top : top + size, left : left + size])
