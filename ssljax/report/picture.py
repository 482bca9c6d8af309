"""The parts of pictures: frames with what an encoder attends to drawn over them, and labelled grids of images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

COLOURS = ((230, 97, 0), (0, 158, 250), (240, 215, 40), (220, 80, 200), (20, 190, 120), (150, 120, 255))
"""RGB of object 0, 1, ..., distinct for the colour-blind too, and on dark and bright frames."""

_DIM = 0.3
_HEAT = 0.55
_TEXT = (51, 58, 68)
_GAP = 6


def colour_of(index: int) -> tuple[int, int, int]:
    """Return the colour of an object, RGB; they repeat after the sixth."""
    return COLOURS[index % len(COLOURS)]


def resize_to(frame: UInt8[np.ndarray, "h w 3"], side: int) -> UInt8[np.ndarray, "p q 3"]:
    """Return the frame with its short side `side` pixels long."""
    scale = side / min(frame.shape[:2])
    size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def overlay(
    frame: UInt8[np.ndarray, "h w 3"],
    weights: Float[np.ndarray, " n"],
    mask: Bool[np.ndarray, " n"],
    grid: tuple[int, int],
    colour: tuple[int, int, int],
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the frame with one object's map as heat inside its mask, dimmed and grey outside, the mask outlined.

    Args:
        weights: The object's attention over the patches of `grid`; the largest gets the full colour.
        mask: Its patches.
        grid: Rows and columns of patches.
        colour: RGB.
    """
    height, width = frame.shape[:2]
    inside = _to_pixels(mask.reshape(grid).astype(np.uint8), height, width, cv2.INTER_NEAREST).astype(bool)
    heat = (weights / max(float(weights.max()), 1e-12)).reshape(grid).astype(np.float32)
    heat = np.clip(_to_pixels(heat, height, width, cv2.INTER_LINEAR), 0.0, 1.0)[..., None]
    pixels = frame.astype(np.float32)
    warm = pixels + _HEAT * heat * (np.asarray(colour, np.float32) - pixels)
    dim = _DIM * pixels.mean(axis=-1, keepdims=True)
    picture = np.where(inside[..., None], warm, dim)
    picture[_border(inside, max(1, round(min(height, width) / 120)))] = colour
    return picture.round().astype(np.uint8)


def _to_pixels(values: np.ndarray, height: int, width: int, interpolation: int) -> np.ndarray:
    return cv2.resize(values, (width, height), interpolation=interpolation)


def _border(inside: np.ndarray, thickness: int) -> np.ndarray:
    """Return the pixels inside that are at most `thickness` from the outside; the frame's own edge is no border."""
    kernel = np.ones((2 * thickness + 1,) * 2, np.uint8)
    core = cv2.erode(inside.astype(np.uint8), kernel, borderType=cv2.BORDER_REPLICATE)
    return inside & (core == 0)


def labelled_grid(
    rows: Sequence[Sequence[UInt8[np.ndarray, "_ _ 3"]]],
    *,
    row_names: Sequence[str],
    column_names: Sequence[str],
    colours: Sequence[tuple[int, int, int] | None] | None = None,
    font_size: int = 16,
) -> Image.Image:
    """Return images in rows and columns on white, each row's name to its left and each column's above it.

    Args:
        rows: Images; a row is as high as its highest, a column as wide as its widest.
        row_names: Their lines may be separated by newlines.
        column_names: One each.
        colours: Of the swatch beside each row's name, which makes the names the legend; None is without.
        font_size: In pixels.
    """
    font = ImageFont.load_default(font_size)
    colours = colours or [None] * len(rows)
    heights = [max(image.shape[0] for image in row) for row in rows]
    widths = [max(row[c].shape[1] for row in rows if c < len(row)) for c in range(max(map(len, rows)))]
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    swatch = font_size + _GAP if any(colours) else 0
    longest = int(max((measure.multiline_textbbox((0, 0), name, font)[2] for name in row_names), default=0))
    margin = swatch + longest + 3 * _GAP if longest else _GAP
    header = font_size + 3 * _GAP if any(column_names) else _GAP
    size = (margin + sum(widths) + _GAP * len(widths), header + sum(heights) + _GAP * len(heights))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    lefts = margin + np.cumsum([0, *(width + _GAP for width in widths[:-1])])
    tops = header + np.cumsum([0, *(height + _GAP for height in heights[:-1])])
    for left, width, name in zip(lefts, widths, column_names, strict=True):
        draw.text((left + width / 2, header / 2), name, fill=_TEXT, font=font, anchor="mm")
    for top, height, row, name, colour in zip(tops, heights, rows, row_names, colours, strict=True):
        middle = top + height / 2
        if colour is not None:
            corner = (_GAP, middle - font_size / 2)
            draw.rounded_rectangle((*corner, corner[0] + font_size, corner[1] + font_size), 3, fill=colour)
        draw.multiline_text((swatch + _GAP, middle), name, fill=_TEXT, font=font, anchor="lm", spacing=4)
        for left, image in zip(lefts, row, strict=False):
            sheet.paste(Image.fromarray(image), (int(left), int(top)))
    return sheet


def with_note(sheet: Image.Image, note: str, *, font_size: int = 14) -> Image.Image:
    """Return the sheet with a line of text under it."""
    font = ImageFont.load_default(font_size)
    length = int(ImageDraw.Draw(sheet).textbbox((0, 0), note, font)[2])
    whole = Image.new("RGB", (max(sheet.width, length + 2 * _GAP), sheet.height + font_size + 2 * _GAP), "white")
    whole.paste(sheet)
    ImageDraw.Draw(whole).text((_GAP, sheet.height + _GAP), note, fill=_TEXT, font=font)
    return whole
