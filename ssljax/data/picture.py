"""One decoded frame to one record: turned upright, scaled down by area, colours converted, HDR brought down to SDR.

Working on the planes keeps the chroma that a detour through RGB would resample, and costs a third of it. What has more
than 8 bits keeps 10 of them until all but the encoding is done.
"""

from collections.abc import Callable
from dataclasses import dataclass

import av
import cv2
import numpy as np

from ssljax.data.hdr import TRANSFERS, tone_map
from ssljax.data.tiles import encode
from ssljax.errors import InputError

# Kr, Kb of ITU-T H.273 matrix coefficients; JPEG (JFIF) is BT.601 at full range.
_BT601, _BT709, _BT2020 = (0.299, 0.114), (0.2126, 0.0722), (0.2627, 0.0593)
_MATRICES = {1: _BT709, 5: _BT601, 6: _BT601, 7: (0.212, 0.087), 9: _BT2020, 10: _BT2020}


@dataclass(frozen=True)
class Geometry:
    """How a frame is stored: scaled from `source` to `scaled`, upside down if it is `mirrored`, then turned by `turns`
    quarters counter-clockwise.
    """

    source: tuple[int, int]  # width, height
    scaled: tuple[int, int]
    turns: int
    mirrored: bool = False

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height of the stored pictures."""
        return self.scaled if self.turns % 2 == 0 else self.scaled[::-1]


def geometry(frame: av.VideoFrame, aspect: float, short_side: int) -> Geometry:
    """How a video is stored: never enlarged, `short_side` pixels at most on its short side, square pixels, even sides.

    aspect: the width-to-height ratio of one pixel as decoded.
    """
    if frame.rotation % 90:
        raise InputError(
            f"the video is to be shown turned by {frame.rotation} degrees: only quarter turns are supported"
        )
    width, height = (frame.width * min(aspect, 1.0), frame.height / max(aspect, 1.0))
    scale = min(1.0, short_side / min(width, height))
    scaled = _even(width * scale), _even(height * scale)
    return Geometry((frame.width, frame.height), scaled, frame.rotation // 90 % 4, _mirrored(frame))


def _mirrored(frame: av.VideoFrame) -> bool:
    """Whether the matrix that says how to show a frame turns left into right, which its rotation leaves out."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    numbers = np.frombuffer(bytes(matrix), np.int32)  # type: ignore[call-overload]  # a buffer: PyAV's types miss it
    a, b, _, c, d = numbers[:5].astype(float)
    return bool(a * d < b * c)


def _even(side: float) -> int:
    return max(2, 2 * round(side / 2))


def to_record(
    frame: av.VideoFrame,
    shape: Geometry,
    quality: int,
    chroma: int = 420,
    redact: Callable[[list[np.ndarray]], list[np.ndarray]] | None = None,
) -> bytes:
    """The record of one frame, 4:2:0 or 4:4:4 by `chroma`; `redact` changes its upright planes before they are encoded.

    InputError if the frame has another size than `shape` was made for.
    """
    if (frame.width, frame.height) != shape.source:
        was, now = "{}x{}".format(*shape.source), f"{frame.width}x{frame.height}"
        raise InputError(f"the video changes its size from {was} to {now} at {frame.time:.2f} s: cut it there first")
    full_range = frame.color_range == 2 or frame.format.name.startswith("yuvj")
    transfer = frame.color_trc if frame.color_trc in TRANSFERS else None
    usual = _BT2020 if transfer else _BT709 if min(shape.source) >= 720 else _BT601
    coloured = frame.format.is_rgb or frame.format.has_palette  # FFmpeg makes BT.601 of it, whatever its size
    source = _BT601 if coloured else _MATRICES.get(frame.colorspace, usual)
    frame = _planar(frame)
    width, height = shape.scaled
    part = 2 if chroma == 420 else 1
    y = _resize(_plane(frame, 0), width, height)
    u, v = (_resize(_plane(frame, i), width // part, height // part) for i in (1, 2))
    if transfer:
        y, u, v = _hdr_to_jfif(y, u, v, source, full_range, transfer)
    else:
        y, u, v = _to_jfif(_eight_bits(y), _eight_bits(u), _eight_bits(v), source, full_range)
    planes = [np.rot90(plane[::-1] if shape.mirrored else plane, shape.turns) for plane in (y, u, v)]
    return encode(redact(planes) if redact else planes, quality)


def _planar(frame: av.VideoFrame) -> av.VideoFrame:
    """The frame in planes of 8 or 10 bits, with the chroma that it has."""
    tall = frame.format.chroma_height(frame.height) == frame.height
    wide = frame.format.chroma_width(frame.width) == frame.width
    chroma = ("444" if wide else "422") if tall else "420"
    deep = "10le" if frame.format.components[0].bits > 8 else ""
    if frame.format.name in (f"yuv{chroma}p{deep}", f"yuvj{chroma}p"):
        return frame
    return frame.reformat(format=f"yuv{chroma}p{deep}")


def _plane(frame: av.VideoFrame, number: int) -> np.ndarray:
    plane, kind = frame.planes[number], np.dtype(np.uint8 if frame.format.components[0].bits == 8 else np.uint16)
    rows = np.frombuffer(memoryview(plane), kind).reshape(plane.height, plane.line_size // kind.itemsize)
    return rows[:, : plane.width]


def _eight_bits(plane: np.ndarray) -> np.ndarray:
    """Rounded, not cut off."""
    return plane if plane.dtype == np.uint8 else np.minimum((plane + 2) >> 2, 255).astype(np.uint8)


def _resize(plane: np.ndarray, width: int, height: int) -> np.ndarray:
    if plane.shape == (height, width):
        return plane
    enlarged = plane.shape[0] < height or plane.shape[1] < width  # chroma may be
    way = cv2.INTER_LINEAR if enlarged else cv2.INTER_AREA
    return cv2.resize(plane, (width, height), interpolation=way)


def _to_jfif(
    y: np.ndarray, u: np.ndarray, v: np.ndarray, source: tuple[float, float], full_range: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Planes in a video's matrix and range to BT.601 at full range: linear in (Y, Cb, Cr)."""
    if source == _BT601 and full_range:
        return y, u, v
    a = _rgb_to_ycc(_BT601) @ np.linalg.inv(_rgb_to_ycc(source))
    if not full_range:
        a = a * np.array([255 / 219, 255 / 224, 255 / 224])
    offset = np.array([0.0, 128, 128]) - a @ np.array([0.0 if full_range else 16.0, 128, 128])
    matrix = np.concatenate([a, offset[:, None]], axis=1)  # luma never enters chroma: greys stay grey
    both = cv2.merge([u, v])
    chroma = cv2.transform(both, matrix[1:, 1:])
    if source == _BT601:
        luma = cv2.LUT(y, np.clip(np.rint(a[0, 0] * np.arange(256) + matrix[0, 3]), 0, 255).astype(np.uint8))
    else:
        # What chroma adds to luma is at most 50: times 2.5 it fits into 8 bits, and one plane is enlarged, not two.
        centre = 128 * a[0, 1:].sum()
        added = cv2.transform(both, np.append(2.5 * a[:1, 1:], [[128 - 2.5 * centre]], axis=1))
        added = _resize(added, y.shape[1], y.shape[0])
        luma = cv2.addWeighted(y, a[0, 0], added, 1 / 2.5, matrix[0, 3] + centre - 128 / 2.5)
    return luma, np.ascontiguousarray(chroma[..., 0]), np.ascontiguousarray(chroma[..., 1])


def _hdr_to_jfif(
    y: np.ndarray, u: np.ndarray, v: np.ndarray, source: tuple[float, float], full_range: bool, transfer: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Planes of HDR in a video's matrix and range to SDR's in BT.601 at full range."""
    unit = 1 if y.dtype == np.uint8 else 4
    scale = np.array([255, 255, 255]) + (unit - 1) / unit if full_range else np.array([219, 224, 224])
    to_signal = np.linalg.inv(_rgb_to_ycc(source)) / (unit * scale)
    offset = -to_signal @ (unit * np.array([0 if full_range else 16, 128, 128]))
    up = [_resize(plane, y.shape[1], y.shape[0]) for plane in (u, v)]
    signal = cv2.transform(cv2.merge([y, *up]).astype(np.float32), np.column_stack([to_signal, offset]))
    to_jfif = np.column_stack([255 * _rgb_to_ycc(_BT601), [0, 128, 128]])
    out = np.rint(cv2.transform(tone_map(signal, transfer), to_jfif)).clip(0, 255).astype(np.uint8)
    blue, red = (_resize(np.ascontiguousarray(out[..., i]), u.shape[1], u.shape[0]) for i in (1, 2))
    return np.ascontiguousarray(out[..., 0]), blue, red


def _rgb_to_ycc(coefficients: tuple[float, float]) -> np.ndarray:
    kr, kb = coefficients
    luma = np.array([kr, 1 - kr - kb, kb])
    return np.stack([luma, (np.array([0, 0, 1]) - luma) / (2 - 2 * kb), (np.array([1, 0, 0]) - luma) / (2 - 2 * kr)])
