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
TEXT = (51, 58, 68)
"""RGB of what is written."""
_GAP = 6
_TINT = 0.5


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
    inside = enlarged(mask.reshape(grid).astype(np.uint8), (height, width), smooth=False).astype(bool)
    heat = (weights / max(float(weights.max()), 1e-12)).reshape(grid).astype(np.float32)
    heat = np.clip(enlarged(heat, (height, width), smooth=True), 0.0, 1.0)[..., None]
    pixels = frame.astype(np.float32)
    warm = pixels + _HEAT * heat * (np.asarray(colour, np.float32) - pixels)
    dim = _DIM * pixels.mean(axis=-1, keepdims=True)
    picture = np.where(inside[..., None], warm, dim)
    picture[_border(inside, max(1, round(min(height, width) / 120)))] = colour
    return picture.round().astype(np.uint8)


def overlay_all(
    frame: UInt8[np.ndarray, "h w 3"],
    weights: Float[np.ndarray, "k n"],
    masks: Bool[np.ndarray, "k n"],
    grid: tuple[int, int],
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the frame with each object's mask in its colour and outlined, the rest dimmed and grey.

    Where masks overlap, colours are mixed in proportion to attention, and outlines lie one inside the other.

    Args:
        weights: Each object's attention over the patches of `grid`.
        masks: Their patches.
        grid: Rows and columns of patches.
    """
    height, width = frame.shape[:2]
    pixels = frame.astype(np.float32)
    colours = np.asarray([colour_of(k) for k in range(len(masks))], np.float32)
    parts = np.where(masks, weights / np.maximum(weights.max(axis=1, keepdims=True), 1e-12), 0.0)
    mixed = (parts / np.maximum(parts.sum(axis=0), 1e-12)).T @ colours
    tint = enlarged(mixed.reshape(*grid, 3).astype(np.float32), (height, width), smooth=False)
    inside = [enlarged(mask.reshape(grid).astype(np.uint8), (height, width), smooth=False) > 0 for mask in masks]
    dim = 2 * _DIM * pixels.mean(axis=-1, keepdims=True)
    picture = np.where(np.any(inside, axis=0)[..., None], pixels + _TINT * (tint - pixels), dim)
    line = max(1, round(min(height, width) / 200))
    for k, each in enumerate(inside):
        inner = each & ~_border(each, k * line) if k else each
        picture[_border(inner, line)] = colours[k]
    return picture.round().astype(np.uint8)


def enlarged(values: np.ndarray, shape: tuple[int, int], *, smooth: bool) -> np.ndarray:
    """Return values of patches [r, c, ...] as pixels of a picture of height and width `shape`, blended or in blocks."""
    return cv2.resize(values, shape[::-1], interpolation=cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST)


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
        draw.text((left + width / 2, header / 2), name, fill=TEXT, font=font, anchor="mm")
    for top, height, row, name, colour in zip(tops, heights, rows, row_names, colours, strict=True):
        middle = top + height / 2
        if colour is not None:
            corner = (_GAP, middle - font_size / 2)
            draw.rounded_rectangle((*corner, corner[0] + font_size, corner[1] + font_size), 3, fill=colour)
        draw.multiline_text((swatch + _GAP, middle), name, fill=TEXT, font=font, anchor="lm", spacing=4)
        for left, image in zip(lefts, row, strict=False):
            sheet.paste(Image.fromarray(image), (int(left), int(top)))
    return sheet


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Return sheets one below the other, on white."""
    whole = Image.new("RGB", (max(sheet.width for sheet in sheets), sum(sheet.height for sheet in sheets)), "white")
    top = 0
    for sheet in sheets:
        whole.paste(sheet, (0, top))
        top += sheet.height
    return whole


def with_note(sheet: Image.Image, note: str, *, font_size: int = 14) -> Image.Image:
    """Return the sheet with a line of text under it."""
    font = ImageFont.load_default(font_size)
    length = int(ImageDraw.Draw(sheet).textbbox((0, 0), note, font)[2])
    whole = Image.new("RGB", (max(sheet.width, length + 2 * _GAP), sheet.height + font_size + 2 * _GAP), "white")
    whole.paste(sheet)
    ImageDraw.Draw(whole).text((_GAP, sheet.height + _GAP), note, fill=TEXT, font=font)
    return whole
