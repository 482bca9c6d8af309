"""Small image files of every kind for the tests."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.images import main


def smooth(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    """RGB uint8 [h, w, 3]: a coarse random pattern, enlarged smoothly."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encode(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def make_folder(folder: Path, counts: dict[str, int], *, side: int = 48) -> Path:
    """A folder with a subfolder for each class, `counts` images in each: classes differ in their main colour."""
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = smooth(1000 * number + i, side, side).astype(float) * 0.5
            pixels[..., number % 3] += 110
            (folder / name / f"{i:03d}.png").write_bytes(encode(pixels.astype(np.uint8), "PNG"))
    return folder


def told(capsys, arguments):
    """Return the one line on standard error of a preparation of images that must fail with exit code 2."""
    code = main([str(argument) for argument in arguments])
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.count("\n") == 1, error
    return error
