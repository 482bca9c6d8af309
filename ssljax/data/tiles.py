"""A stored frame: JPEG tiles, so that a crop is read without decoding what lies around it.

A record holds the ends of its tiles (uint32, little-endian, counted from the end of this list) and then the tiles, each
a whole JPEG, row by row. Their edges lie on multiples of 16 pixels, the blocks of a 4:2:0 JPEG, so that each tile is
exactly the part that it would be of one large JPEG; only where a decoder smooths chroma between blocks does it not look
over an edge.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import simplejpeg

TILE = (144, 192)  # height and width that the tiles come near to: smaller ones cost more than they spare
_BLOCK = 16

Box = tuple[int, int, int, int]  # top, left, height, width


def edges(side: int, tile: int) -> np.ndarray:
    """Where the tiles of a side of so many pixels begin, and the end: about `tile` apart, on whole blocks."""
    blocks, count = -(-side // _BLOCK), max(1, round(side / tile))
    return np.append(_BLOCK * (blocks * np.arange(count) // count), side)


def encode(planes: Sequence[np.ndarray], quality: int) -> bytes:
    """The record of a frame given as planes Y [h, w], Cb and Cr [h, w] or [h/2, w/2]: uint8, BT.601 at full range."""
    height, width = planes[0].shape
    rows, columns = edges(height, TILE[0]), edges(width, TILE[1])
    steps = [height // plane.shape[0] for plane in planes]
    jpegs = []
    for a, b in pairwise(rows):
        for c, d in pairwise(columns):
            parts = [plane[a // n : b // n, c // n : d // n] for plane, n in zip(planes, steps, strict=True)]
            jpegs.append(simplejpeg.encode_jpeg_yuv_planes(*map(np.ascontiguousarray, parts), quality=quality))
    ends = np.cumsum([len(jpeg) for jpeg in jpegs])
    return ends.astype("<u4").tobytes() + b"".join(jpegs)


def decode(record: bytes, height: int, width: int, box: Box | None = None, factor: int = 1) -> np.ndarray:
    """The box (all, without) of a frame of height x width as RGB uint8, 1, 2, 4 or 8 times smaller.

    Only the tiles under the box are decoded. ValueError if a tile does not decode.
    """
    rows, columns = (
        (-(-edges(side, tile) // factor)).tolist() for side, tile in zip((height, width), TILE, strict=True)
    )
    tiles = _tiles(record, len(rows) - 1, len(columns) - 1)
    top, left, h, w = box or (0, 0, height, width)
    y, x = rows[-1] / height, columns[-1] / width
    first, start = round(top * y), round(left * x)
    end, stop = max(round((top + h) * y), first + 1), max(round((left + w) * x), start + 1)

    i, last = bisect_right(rows, first) - 1, bisect_left(rows, end)
    j, final = bisect_right(columns, start) - 1, bisect_left(columns, stop)
    canvas = np.empty((rows[last] - rows[i], columns[final] - columns[j], 3), np.uint8)
    for r in range(i, last):
        for c in range(j, final):
            part = canvas[
                rows[r] - rows[i] : rows[r + 1] - rows[i], columns[c] - columns[j] : columns[c + 1] - columns[j]
            ]
            least = dict(min_height=part.shape[0], min_width=part.shape[1], min_factor=2) if factor > 1 else {}
            part[:] = simplejpeg.decode_jpeg(tiles[r][c], **least)
    return canvas[first - rows[i] : end - rows[i], start - columns[j] : stop - columns[j]]


def _tiles(record: bytes, rows: int, columns: int) -> list[list[memoryview]]:
    data, count = memoryview(record), rows * columns
    ends = [4 * count, *(4 * count + np.frombuffer(data[: 4 * count], "<u4")).tolist()]
    if len(ends) != count + 1 or ends[-1] != len(data):
        raise ValueError("it is not a frame of this size")
    tiles = [data[a:b] for a, b in pairwise(ends)]
    return [tiles[r * columns : (r + 1) * columns] for r in range(rows)]
