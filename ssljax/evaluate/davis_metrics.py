"""Region and boundary scores of video object segmentation.

Perazzi et al.: A benchmark dataset and evaluation methodology for video object segmentation, CVPR 2016, section 4, and
Pont-Tuset et al.: The 2017 DAVIS challenge (arXiv 1704.00675), as the official davis2017-evaluation computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

_TOLERANCE = 0.008  # of the image's diagonal: by how much a boundary may be off
_RECALLED = 0.5  # a frame counts as recalled above this score
_BINS = 4  # parts of a sequence; decay compares the first with the last

Mask = Bool[np.ndarray, "h w"]


class Statistics(NamedTuple):
    """Of the scores of one object: their mean, the share above 0.5, the first quarter's mean less the last one's."""

    mean: float
    recall: float
    decay: float


class ObjectScore(NamedTuple):
    """The scores of one object in one sequence: of its region (J) and of its boundary (F)."""

    j: Statistics
    f: Statistics


def sequence_scores(
    annotated: UInt8[np.ndarray, "t h w"], predicted: UInt8[np.ndarray, "t h w"]
) -> dict[int, ObjectScore]:
    """Return the scores of the objects 1, 2, ... of a sequence by their number, all frames but the first and the last.

    Args:
        annotated: Numbers of objects, 0 for none of them; the first frame says how many there are.
        predicted: The same as predicted; the first and the last frame are not looked at.
    """
    inner = list(zip(annotated[1:-1], predicted[1:-1], strict=True))

    def measured(measure: Callable[[Mask, Mask], float], number: int) -> Statistics:
        return statistics(np.array([measure(true == number, found == number) for true, found in inner]))

    objects = range(1, int(annotated[0].max()) + 1)
    return {number: ObjectScore(measured(region, number), measured(boundary, number)) for number in objects}


def mean_scores(scores: Sequence[ObjectScore]) -> dict[str, float]:
    """Return the means over objects, each counting the same: J&F, J and F with recalls and decays, by metric."""
    result = {"davis_j_and_f": float(np.mean([[score.j.mean, score.f.mean] for score in scores]))}
    for name in ("j", "f"):
        mean, recall, decay = np.mean([getattr(score, name) for score in scores], axis=0).tolist()
        result |= {f"davis_{name}": mean, f"davis_{name}_recall": recall, f"davis_{name}_decay": decay}
    return result


def region(annotated: Mask, predicted: Mask) -> float:
    """Return J: the intersection over the union of two masks; 1 where both are empty."""
    union = np.count_nonzero(annotated | predicted)
    return np.count_nonzero(annotated & predicted) / union if union else 1.0


def boundary(annotated: Mask, predicted: Mask) -> float:
    """Return F: the harmonic mean of the shares of either mask's boundary that lie near the other's.

    Near is at most 0.008 of the image's diagonal, rounded up to pixels.
    """
    radius = math.ceil(_TOLERANCE * math.hypot(*annotated.shape))
    edges = [contour(mask) for mask in (annotated, predicted)]
    true, found = (int(edge.sum()) for edge in edges)
    if not true and not found:
        return 1.0
    if not true or not found:
        return 0.0
    across = np.arange(-radius, radius + 1)
    disk = (across[:, None] ** 2 + across[None, :] ** 2 <= radius**2).astype(np.uint8)
    near_true, near_found = (cv2.dilate(edge.astype(np.uint8), disk).astype(bool) for edge in edges)
    recall, precision = np.sum(edges[0] & near_found) / true, np.sum(edges[1] & near_true) / found
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def contour(mask: Mask) -> Mask:
    """Return the pixels that differ from the one on their right, below them, or right below.

    In the last row and column, what lies outside the image counts as the pixel itself.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here = padded[:-1, :-1]
    return (here ^ padded[:-1, 1:]) | (here ^ padded[1:, :-1]) | (here ^ padded[1:, 1:])


def statistics(scores: Float[np.ndarray, " t"]) -> Statistics:
    """Return the mean, recall and decay of an object's scores in consecutive frames, at least one.

    The quarters of decay share their limits, as the official ones do. (Those overflow after 256 frames; these do not.)
    """
    limits = np.round(np.linspace(1, len(scores), _BINS + 1) + 1e-10).astype(int) - 1
    first, last = (scores[limits[part] : limits[part + 1] + 1] for part in (0, _BINS - 1))
    return Statistics(float(scores.mean()), float(np.mean(scores > _RECALLED)), float(first.mean() - last.mean()))
