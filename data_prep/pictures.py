"""One image file of any kind to one record: upright, RGB or grey, 8 bits, as JPEG or PNG."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

# What Pillow opens as pictures; the lower-case endings of the files that a folder is searched for.
ENDINGS = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".tga", ".avif"),
    }
)
_LOSSY = frozenset({"JPEG", "MPO", "WEBP", "AVIF", "JPEG2000"})
_ORIENTATION = 0x0112  # EXIF
_SMALL = 64  # pixels on the longer side: as PNG such an image takes hardly more room than as JPEG


class BadImage(ValueError):
    """An image that does not decode to its end; the message says why in a few words."""


class Picture(NamedTuple):
    """A record with the size of its picture."""

    record: bytes
    width: int
    height: int


def to_picture(data: bytes, *, short_side: int | None = None, quality: int = 95) -> Picture:
    """The record of an image file; BadImage if it does not decode to its end.

    An upright RGB or grey JPEG that is not scaled keeps its bytes. Anything else is turned as its EXIF tag says, loses
    all but its first frame, is laid on white where it is transparent, and becomes RGB or grey of 8 bits; colour
    profiles are not applied. It is stored as PNG where it came without loss or is at most 64 pixels large, else as
    JPEG.

    short_side: scale the shorter side down to so many pixels, never up. quality: of the JPEGs that are made.
    """
    if not data:
        raise BadImage("it is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind, lossless = image.format, image.format not in _LOSSY or data[12:16] == b"VP8L"
            upright = image.getexif().get(_ORIENTATION, 1) in (0, 1)
            small_enough = short_side is None or min(image.size) <= short_side
            readable = kind in ("JPEG", "MPO") and _check_jpeg(data)
            if readable and image.mode in ("RGB", "L") and upright and small_enough:
                return Picture(data, *image.size)
            image.load()
            picture = _scaled(_flat(ImageOps.exif_transpose(image)), short_side)
    except (BadImage, MemoryError):
        raise
    except Image.UnidentifiedImageError as error:
        raise BadImage("it is not an image that Pillow reads") from error
    except Image.DecompressionBombError as error:
        raise BadImage(f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from error
    except Exception as error:  # there is hardly an exception that no reader of Pillow raises on garbage
        raise BadImage(" ".join(str(error).split())[:120] or type(error).__name__) from error
    return Picture(_encode(picture, lossless or max(picture.size) <= _SMALL, quality), *picture.size)


def _check_jpeg(data: bytes) -> bool:
    """Whether training's decoder reads it; BadImage if it is damaged, which Pillow may pass over."""
    try:
        simplejpeg.decode_jpeg(data, strict=True)
    except ValueError as error:
        if "subsampling" not in str(error):
            raise BadImage(str(error)) from error
        return False  # sampled in a way that only Pillow knows
    return True


def _flat(image: Image.Image) -> Image.Image:
    """The image as "RGB" or "L"."""
    if image.mode in ("RGB", "L") and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise BadImage("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):  # 16 bits, as Pillow holds grey ones
        return Image.fromarray(np.rint(np.clip(np.asarray(image, np.float64), 0, 65535) / 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("L" if image.mode == "1" else "RGB")


def _scaled(image: Image.Image, short_side: int | None) -> Image.Image:
    if short_side is None or min(image.size) <= short_side:
        return image
    scale = short_side / min(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)  # Pillow's is antialiased


def _encode(image: Image.Image, lossless: bool, quality: int) -> bytes:
    if lossless:
        return encode_png(np.asarray(image))
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(image)).save(buffer, "JPEG", quality=quality)  # a copy: without EXIF and profile
    return buffer.getvalue()


def encode_png(pixels: np.ndarray) -> bytes:
    """Pixels uint8 [h, w, 3] or [h, w] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
