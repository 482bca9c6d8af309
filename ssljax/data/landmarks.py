"""The revisited Oxford and Paris buildings: images, queries, and what each query should find."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ssljax.data.masks import read_image
from ssljax.errors import InputError

LEVELS = ("easy", "hard", "junk")


class Landmarks(NamedTuple):
    """A benchmark of landmarks.

    Attributes:
        images: Those to find.
        queries: Those that ask.
        boxes: (left, top, right, bottom) in pixels of each query's building.
        truth: For each query the numbers of its easy, hard and junk images.
    """

    images: list[Path]
    queries: list[Path]
    boxes: list[list[float]]
    truth: list[dict[str, list[int]]]

    def batches(self, size: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield images uint8 [b, size, size, 3] and numbers: the queries, cut to their boxes, then the others."""
        places: list[tuple[Path, list[float] | None]] = [*zip(self.queries, self.boxes, strict=True)]
        places += [(path, None) for path in self.images]
        with ThreadPoolExecutor(2) as pool:
            for start in range(0, len(places), batch_size):
                part = places[start : start + batch_size]
                images = np.stack(list(pool.map(lambda place: _view(place[0], place[1], size), part)))
                yield images, np.arange(start, start + len(part))


def _view(path: Path, box: list[float] | None, size: int) -> np.ndarray:
    image = Image.fromarray(read_image(path))
    if box is not None:
        left, top, right, bottom = box
        if not (0 <= left < right <= image.width + 1 and 0 <= top < bottom <= image.height + 1):
            raise InputError(f"The query {path} has the box {box}, outside its {image.width}x{image.height} pixels.")
        image = image.crop((round(left), round(top), max(round(right), 1), max(round(bottom), 1)))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def read_landmarks(place: str | os.PathLike[str]) -> Landmarks:
    """Return the benchmark that a ground truth describes.

    It comes as a pickle, gnd_roxford5k.pkl, and whoever reads a pickle runs what its maker put in. So it is taken as
    JSON with the same keys (imlist, qimlist, gnd), which a machine that may run it writes once by

        python -c "import json, pickle; json.dump(pickle.load(open('gnd_roxford5k.pkl', 'rb')),
                   open('gnd_roxford5k.json', 'w'), default=lambda array: array.tolist())"

    Args:
        place: The JSON file; the images are jpg/NAME.jpg beside it.

    Raises:
        InputError: It is a pickle or no such JSON, or images are missing.
    """
    path = Path(place)
    if path.suffix != ".json" or not path.is_file():
        raise InputError(f"{path} is no JSON file of ground truth; ssljax/data/landmarks.py says how to make one.")
    try:
        record = json.loads(path.read_text())
        names, asking = list(map(str, record["imlist"])), list(map(str, record["qimlist"]))
        truth = [{level: [int(i) for i in query[level]] for level in LEVELS} for query in record["gnd"]]
        boxes = [_box(query["bbx"]) for query in record["gnd"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no ground truth of the revisited Oxford or Paris ({error!r}).") from error
    if len(truth) != len(asking) or not asking:
        raise InputError(f"{path} names {len(asking)} queries and the truth of {len(truth)}; make it again.")
    wrong = [i for query in truth for numbers in query.values() for i in numbers if not 0 <= i < len(names)]
    if wrong:
        raise InputError(f"{path} names image number {wrong[0]}, but there are {len(names)}; make it again.")
    images, queries = ([path.parent / "jpg" / f"{name}.jpg" for name in some] for some in (names, asking))
    missing = [image for image in (*queries, *images) if not image.is_file()]
    if missing:
        raise InputError(f"{missing[0]} is missing, and so are {len(missing) - 1} more images of {path}.")
    return Landmarks(images, queries, boxes, truth)


def _box(values: Any) -> list[float]:
    left, top, right, bottom = map(float, values)
    return [left, top, right, bottom]
