"""`ssljax show embedding`: the features of a set of images as points in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from ssljax.errors import InputError
from ssljax.report.inputs import spread, view
from ssljax.report.neighbours import encoded
from ssljax.report.subject import Subject, output_of, set_of

METHODS = {"tsne": "t-SNE", "umap": "UMAP"}
COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
"""Ten colours that the colour-blind tell apart (Petroff 2021, arXiv 2107.02270); ten more classes are triangles."""

_OTHERS = "#d9dde2"
_TEXT = "#333a44"


def show_embedding(
    subject: Subject,
    output: Path | None,
    *,
    data: Path | None = None,
    most: int = 2000,
    method: str = "tsne",
    perplexity: float = 30.0,
    seed: int = 0,
    size: int | None = None,
    pool: str = "features",
) -> Path:
    """Draw the features of a prepared set's images as points, a colour a class, and return the file.

    Args:
        subject: Whose features.
        output: The PNG file; embedding.png in the subject's folder by default.
        data: The prepared set; a run's own by default.
        most: Images drawn, evenly spaced over the set.
        method: See `embed`.
        perplexity: See `embed`.
        seed: See `embed`.
        size: Side in pixels at which they are encoded; the training's by default.
        pool: What stands for an image; see `pooled`.

    Raises:
        InputError: The set cannot be used or has too few images, or the method is not installed.
    """
    path, source = output_of(subject, output, "embedding.png"), set_of(subject, data)
    size = subject.size if size is None else size
    numbers, labels = spread(source.count, most), source.labels()
    _check(method, len(numbers), perplexity)
    features = encoded(subject.encoder, (view(source, number, size) for number in numbers), pool)
    points = embed(features, method=method, perplexity=perplexity, seed=seed)
    draw_embedding(
        points,
        path,
        labels=None if labels is None else labels[numbers],
        classes=source.classes,
        title=f"{subject.name}: {METHODS[method]} of {len(numbers):,} images",
    )
    return path


def embed(
    features: Float[np.ndarray, "n d"], *, method: str = "tsne", perplexity: float = 30.0, seed: int = 0
) -> Float[np.ndarray, "n 2"]:
    """Return features as points of the plane whose neighbours are the same, by cosine; the same for the same seed.

    Args:
        features: Normalised here.
        method: "tsne" (van der Maaten and Hinton 2008), started from the principal components, or "umap" (McInnes et
            al. 2018), for which umap-learn must be installed.
        perplexity: How many neighbours count, about.
        seed: Of the method.

    Raises:
        InputError: The method is unknown or not installed, or the perplexity is not between 1 and the number of images.
    """
    _check(method, len(features), perplexity)
    unit = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    if method == "umap":
        from umap import UMAP

        return UMAP(n_neighbors=round(perplexity), random_state=seed).fit_transform(unit)
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(unit)


def draw_embedding(
    points: Float[np.ndarray, "n 2"],
    path: Path,
    *,
    labels: Int[np.ndarray, " n"] | None = None,
    classes: Sequence[str] = (),
    title: str = "",
) -> None:
    """Draw points to a PNG file, with a legend of their classes.

    Of more than 20 classes those with the most points are coloured, and the others grey.

    Args:
        points: In the plane.
        path: Of the file.
        labels: Numbers of `classes`; None where there are none.
        classes: Their names.
        title: Above the picture.
    """
    figure = Figure(figsize=(7.2 if labels is not None else 5.6, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    size = float(np.clip(9000 / len(points), 4, 40))
    style: dict[str, Any] = {"s": size, "linewidths": 0, "alpha": 0.85}
    if labels is None:
        axes.scatter(*points.T, color=COLOURS[0], **style)
    else:
        counts = np.bincount(labels, minlength=len(classes))
        order = np.argsort(-counts, kind="stable")
        named = sorted(order[: 2 * len(COLOURS)]) if (counts > 0).sum() > 2 * len(COLOURS) else np.flatnonzero(counts)
        others = ~np.isin(labels, named)
        if others.any():
            number = len(np.unique(labels[others]))
            axes.scatter(*points[others].T, color=_OTHERS, label=f"{number} other classes", **style)
        for place, label in enumerate(named):
            colour, marker = COLOURS[place % len(COLOURS)], "o" if place < len(COLOURS) else "^"
            axes.scatter(*points[labels == label].T, color=colour, marker=marker, label=classes[label], **style)
        where: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
        legend: Any = axes.legend(fontsize=11, labelcolor=_TEXT, frameon=False, handletextpad=0.2, **where)
        for handle in legend.legend_handles:
            handle.set_sizes([50])
            handle.set_alpha(1)
    axes.set_title(title, fontsize=11, color=_TEXT)
    axes.set_aspect("equal")
    axes.set_axis_off()  # neither axes nor distances of such a picture mean anything
    figure.savefig(path, dpi=160)


def _check(method: str, count: int, perplexity: float) -> None:
    if method not in METHODS:
        raise InputError(f"--method is {method!r}; give one of {', '.join(METHODS)}.")
    if not 1 < perplexity < count:
        raise InputError(f"--perplexity is {perplexity:g}, and there are {count} images; give 1 to fewer than those.")
    if method == "umap":
        try:
            import umap  # noqa: F401
        except ImportError as error:
            raise InputError(f"--method umap needs another package ({error}): pip install umap-learn") from error
