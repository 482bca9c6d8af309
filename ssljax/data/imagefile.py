"""Image files as they are found on a disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from ssljax.errors import InputError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".avif", ".jp2")
"""Of the names of image files, in lower case."""


def read_image(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image file as RGB uint8 [h, w, 3], turned as EXIF says and laid on white where it is transparent.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}); give another file.") from error
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))
