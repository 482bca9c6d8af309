"""Pictures inside an HTML file."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from PIL import Image

# A picture of photographs is a tenth as large as a JPEG, which shows no difference at this quality.
_HEAVY_BYTES = 200_000
_QUALITY = 90


def image_tag(image: Path | Image.Image, text: str) -> str:
    """Return an `img` element that holds a picture or a file's; who wants no motion sees an animation's first frame.

    PNGs of more than 200 kB become JPEGs of quality 90; all else stays as it is.

    Args:
        image: A picture, which becomes a PNG, or a file of PNG or GIF.
        text: Read aloud in its place.
    """
    if isinstance(image, Path):
        with Image.open(image) as opened:
            moves, size = getattr(opened, "is_animated", False), opened.size
            still = _uri(_encoded(opened.convert("RGB"))) if moves else ""
            data = image.read_bytes() if moves else _light(image.read_bytes(), opened)
    else:
        moves, size, still, data = False, image.size, "", _encoded(image)
    tag = f'<img src="{_uri(data)}" width="{size[0]}" height="{size[1]}" alt="{html.escape(text)}">'
    if not moves:
        return tag
    return f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{still}">{tag}</picture>'


def _light(data: bytes, image: Image.Image) -> bytes:
    return data if len(data) < _HEAVY_BYTES else _encoded(image.convert("RGB"))


def _encoded(image: Image.Image) -> bytes:
    """Return a PNG, or a JPEG where that is too heavy."""
    png, jpeg = io.BytesIO(), io.BytesIO()
    image.save(png, "PNG", optimize=True)
    if png.tell() < _HEAVY_BYTES:
        return png.getvalue()
    image.convert("RGB").save(jpeg, "JPEG", quality=_QUALITY, subsampling=0)
    return jpeg.getvalue()


def _uri(data: bytes) -> str:
    kind = {b"\x89P": "png", b"GI": "gif", b"\xff\xd8": "jpeg"}[data[:2]]
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
