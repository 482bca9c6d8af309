"""Images of data sets that TensorFlow Datasets prepared as ArrayRecord, read without TensorFlow."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ssljax.data.damage import DamagedFrame
from ssljax.data.images import Crops
from ssljax.data.windows import Number, Pair
from ssljax.errors import InputError


class TFDSSource:
    """One split of a prepared data set with the features `image` and, for evaluations, `label`: an `ImageSource`.

    Args:
        dataset: As TFDS has it: "cifar10", "imagenette/full-size:1.0.0".
        split: "train", "test", "train[:90%]", ...
        data_dir: Where TFDS prepared it; its own default without.

    Raises:
        InputError: It is not there, not ArrayRecord, or has no feature `image`.
    """

    def __init__(self, dataset: str, split: str, data_dir: str | os.PathLike[str] = "") -> None:
        self._arguments = dataset, split, os.fspath(data_dir)
        info = self._builder.info
        if "image" not in info.features:
            raise InputError(f"{dataset} has the features {', '.join(info.features)}, but no image")
        self.where, self.count = f"{info.full_name} ({split})", len(self._records)
        self.classes: tuple[str, ...] = ()
        if "label" in info.features:
            self.classes = tuple(info.features["label"].names)
        material = [info.full_name, split, self.count, {k: v.shard_lengths for k, v in info.splits.items()}]
        self.checksum = hashlib.sha256(json.dumps(material, sort_keys=True).encode()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        """Leave readers behind: a worker opens its own."""
        opened = ("_builder", "_records")
        return {key: value for key, value in self.__dict__.items() if key not in opened}

    @functools.cached_property
    def _builder(self) -> Any:
        import tensorflow_datasets as tfds  # takes a second, and most runs need none of it

        dataset, _, data_dir = self._arguments
        try:
            return tfds.core.read_only_builder.builder_from_files(dataset, data_dir=data_dir or None)
        except tfds.core.DatasetNotFoundError as error:
            command = f"tfds build {dataset} --file_format=array_record"
            raise InputError(
                f"TFDS has prepared no {dataset} in {data_dir or 'its default folder'}: run `{command}` where "
                "TensorFlow is installed, and name its folder as data_dir"
            ) from error

    @functools.cached_property
    def _records(self) -> Any:
        import tensorflow_datasets as tfds

        dataset, split, data_dir = self._arguments
        try:
            return self._builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        except NotImplementedError as error:
            raise InputError(
                f"{dataset} in {data_dir or 'the default folder'} is not in ArrayRecord: prepare it again with "
                "--file_format=array_record"
            ) from error
        except ValueError as error:
            known = ", ".join(self._builder.info.splits)
            raise InputError(
                f"{dataset} has no images in split {split!r}: give one of {known}, or a part of one"
            ) from error

    def labels(self) -> np.ndarray | None:
        """See `ImageSource`; reads the whole split."""
        if not self.classes:
            return None
        return np.asarray([self._records[number]["label"] for number in range(self.count)], np.int32)

    def encoded(self, number: int) -> bytes:
        """See `ImageSource`."""
        try:
            return self._records[number]["image"]
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            raise DamagedFrame(f"image {number} of {self.where} cannot be read ({error}): prepare it again") from error

    def name(self, number: int) -> str:
        """See `ImageSource`."""
        return f"{Path(self._arguments[0]).name} {number}"


class TFDS:
    """Every image of a split that TensorFlow Datasets prepared: the samples of `Images`.

    Args:
        dataset: See `TFDSSource`.
        split: See `TFDSSource`.
        data_dir: See `TFDSSource`.
        size: Side of the square canvas in pixels; this and the other arguments as in `Images`.
        seed: Of order and crops.
        scale: Part of the area.
        ratio: Of width to height.
        antialias: See `Images`.
        bad_share: See `Images`.
    """

    def __init__(
        self,
        *,
        dataset: str,
        size: int,
        split: str = "train",
        data_dir: str | os.PathLike[str] = "",
        seed: int = 0,
        scale: Pair = (0.2, 1.0),
        ratio: Pair | None = (3 / 4, 4 / 3),
        antialias: bool = True,
        bad_share: Number = 0.001,
    ) -> None:
        self._crops = Crops(
            [TFDSSource(dataset, split, data_dir)],
            size=size,
            seed=seed,
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
