"""Pixels and views that cost next to nothing, the same for every worker, and the shapes of a model's products.

Needs NumPy alone; what a problem is, `step_ssljax.describe` says.
"""

from typing import Any

import numpy as np


def pixels(problem: dict[str, Any]) -> np.ndarray:
    """Return a batch of noise, uint8 [b, s, s, 3], or [b, t, s, s, 3] of clips."""
    frames = [] if problem["frames"] is None else [problem["frames"]]
    shape = (problem["batch"], *frames, problem["size"], problem["size"], 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def views(problem: dict[str, Any], sample: Any, numbers: Any = np) -> Any:
    """Return the views of one sample as the objective takes them, cut at fixed places: float32, between -1 and 1.

    Args:
        problem: Says how many, and how large.
        sample: uint8 [s, s, 3] or [t, s, s, 3].
        numbers: NumPy, or JAX's.
    """

    def cut(place: int, side: int) -> Any:
        at = 5 * place % (problem["size"] - side + 1)
        return sample[..., at : at + side, at : at + side, :].astype(np.float32) / 127.5 - 1.0

    large, small = problem["global_size"], problem["local_size"]
    if problem["objective"] == "mae":
        return cut(0, large)
    crops = [cut(1 + i, small) for i in range(problem["locals"])]
    if problem["objective"] == "dora":
        empty = numbers.zeros((len(sample), 0, small, small, 3), np.float32)
        return cut(0, large), numbers.stack(crops, axis=1) if crops else empty
    empty = numbers.zeros((0, small, small, 3), np.float32)
    return numbers.stack([cut(0, large), cut(1, large)]), numbers.stack(crops) if crops else empty


def products(problem: dict[str, Any], side: int) -> list[tuple[int, int, int]]:
    """Return the shapes (m, k, n) of matrix products to measure a machine's peak by: a square one and the model's own.

    Args:
        problem: Says the widths.
        side: Of the square one.
    """
    encoder = problem["encoder"]
    width, grid = encoder["width"], problem["global_size"] // encoder["patch_size"]
    rows = problem["batch"] * (problem["frames"] or 1) * (1 + grid * grid)
    shapes = [(side, side, side), (rows, width, encoder["hidden"]), (rows, encoder["hidden"], width)]
    if "head" in problem:
        shapes.append(
            (problem["batch"] * (problem["frames"] or 1), problem["head"]["bottleneck"], problem["head"]["prototypes"])
        )
    return shapes
