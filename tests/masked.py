"""A set in the layout of DAVIS, drawn: two discs move over a background, each in its colour."""

import numpy as np
from PIL import Image

COLOURS = np.array([[40, 40, 200], [220, 50, 40], [40, 200, 60]], np.uint8)
HEIGHT, WIDTH, FRAMES = 96, 144, 7


def drawn(number, *, objects=2, frames=FRAMES):
    """Numbers of objects, uint8 [frames, 96, 144]."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    masks = np.zeros((frames, HEIGHT, WIDTH), np.uint8)
    for t in range(frames):
        masks[t][(y - 30 - 2 * t) ** 2 + (x - 36 - 5 * t - 4 * number) ** 2 < 18**2] = 1
        if objects > 1:
            masks[t][(y - 66) ** 2 + (x - 110 + 6 * t) ** 2 < 15**2] = 2
    return masks


def write_mask(path, mask, *, binary=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask * 255 if binary else mask)
    if not binary:
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [64] * 3 * 253)
    image.save(path)


def make_davis(folder, sequences, *, binary=False, resolution="480p"):
    """Write JPEGImages and Annotations of sequences {name: numbers [t, h, w]}; return the folder."""
    for name, masks in sequences.items():
        frames = folder / "JPEGImages" / resolution / name
        frames.mkdir(parents=True)
        for t, mask in enumerate(masks):
            Image.fromarray(COLOURS[mask % 255]).save(frames / f"{t:05d}.jpg", quality=95)
            write_mask(folder / "Annotations" / resolution / name / f"{t:05d}.png", mask, binary=binary)
    return folder
