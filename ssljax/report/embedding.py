"""`ssljax show embedding`: the features of a set of images as points in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

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
_FEWEST = 5  # of which a third of the others is more than one


def show_embedding(
    subject: Subject,
    output: Path | None,
    *,
    data: Path | None = None,
    most: int = 2000,
    method: str = "tsne",
    perplexity: float | None = None,
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
    perplexity = _check(method, len(numbers), perplexity)
    features = encoded(subject.encoder, (view(source, int(number), size) for number in numbers), pool)
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
    features: Float[np.ndarray, "n d"], *, method: str = "tsne", perplexity: float | None = None, seed: int = 0
) -> Float[np.ndarray, "n 2"]:
    """Return features as points of the plane whose neighbours are the same, by cosine; the same for the same seed.

    Args:
        features: Normalised here.
        method: "tsne" (van der Maaten and Hinton 2008), started from the principal components, or "umap" (McInnes et
            al. 2018), for which umap-learn must be installed.
        perplexity: How many neighbours count, about; by default 30, or a third of the others where they are few.
        seed: Of the method.

    Raises:
        InputError: The method is unknown or not installed, or the perplexity is not between 1 and the number of images.
    """
    perplexity = _check(method, len(features), perplexity)
    unit = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    if method == "umap":
        from umap import UMAP

        return UMAP(n_neighbors=max(2, round(perplexity)), random_state=seed).fit_transform(unit)
    from sklearn.manifold import TSNE  # takes a second, and no other picture needs it

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
    figure = Figure(figsize=(6.4, 6.4))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    classes = ["images"] if labels is None else classes
    colours, triangles, legend = _styled(np.zeros(len(points), int) if labels is None else labels, classes)
    order = np.random.default_rng(0).permutation(len(points))  # no class lies over another
    for marker, chosen in (("o", ~triangles), ("^", triangles)):
        drawn = order[chosen[order]]
        size = float(np.clip(24_000 / len(points), 5, 60))
        axes.scatter(points[drawn, 0], points[drawn, 1], size, colours[drawn], marker=marker, linewidths=0, alpha=0.9)
    if len(legend) > 1:
        columns = 1 if len(legend) <= 14 else 2
        place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "ncols": columns}
        axes.legend(handles=legend, fontsize=13, labelcolor=_TEXT, frameon=False, handletextpad=0.1, **place)
    axes.set_title(title, fontsize=13, color=_TEXT)
    axes.set_aspect("equal")
    axes.margins(0.02)
    axes.set_axis_off()  # neither axes nor distances of such a picture mean anything
    figure.savefig(path, dpi=140, bbox_inches="tight", pad_inches=0.1)


def _styled(
    labels: Int[np.ndarray, " n"], classes: Sequence[str]
) -> tuple[Float[np.ndarray, "n 4"], Bool[np.ndarray, " n"], list[Line2D]]:
    """Return each point's colour (RGBA), whether it is a triangle, and the legend."""
    counts, most = np.bincount(labels, minlength=len(classes)), 2 * len(COLOURS)
    named = np.sort(np.argsort(-counts, kind="stable")[: min(most, np.count_nonzero(counts))])
    palette, colours = to_rgba_array(COLOURS), np.tile(to_rgba_array(_OTHERS), (len(labels), 1))
    triangles, legend = np.zeros(len(labels), bool), []
    for place, label in enumerate(named):
        mine, colour, second = labels == label, palette[place % len(COLOURS)], place >= len(COLOURS)
        colours[mine], triangles[mine] = colour, second
        legend.append(_entry(classes[label], colour, "^" if second else "o"))
    left = np.count_nonzero(counts) - len(named)
    return colours, triangles, [*legend, _entry(f"{left} others", _OTHERS, "o")] if left else legend


def _entry(name: str, colour: Any, marker: str) -> Line2D:
    return Line2D([], [], color=colour, marker=marker, markersize=8, linestyle="", label=name)


def _check(method: str, count: int, perplexity: float | None) -> float:
    """Return the perplexity, chosen where it is None."""
    if method not in METHODS:
        raise InputError(f"--method is {method!r}; give one of {', '.join(METHODS)}.")
    if count < _FEWEST:
        raise InputError(f"There are {count} images to draw as points; give a set, or --most, of at least {_FEWEST}.")
    perplexity = min(30.0, (count - 1) / 3) if perplexity is None else perplexity
    if not 1 < perplexity < count:
        raise InputError(
            f"--perplexity is {perplexity:g}, and there are {count} images; give a number between 1 and that."
        )
    if method == "umap":
        try:
            import umap  # noqa: F401
        except ImportError as error:
            raise InputError(f"--method umap needs another package ({error}): pip install umap-learn") from error
    return perplexity
