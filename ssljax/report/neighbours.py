"""`ssljax show neighbours`: images and those of a set whose features are nearest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from ssljax.data.images import evaluation_view
from ssljax.errors import InputError
from ssljax.evaluate.encoders import pooled
from ssljax.objectives.base import Encoder
from ssljax.report.inputs import label_names, spread, view
from ssljax.report.picture import TEXT, resize_to
from ssljax.report.subject import Subject, inputs_of, output_of, set_of

RIGHT, WRONG = (0, 158, 115), (213, 94, 0)
"""RGB of a frame where labels agree or disagree: told apart by the colour-blind too (Okabe and Ito 2008)."""

_SIDE, _FRAME, _GAP, _FONT = 96, 4, 8, 14
_BATCH = 128


def show_neighbours(
    subject: Subject,
    output: Path | None,
    *,
    inputs: Sequence[Path] = (),
    data: Path | None = None,
    count: int = 8,
    neighbours: int = 8,
    most: int = 10_000,
    size: int | None = None,
    pool: str = "features",
) -> Path:
    """Draw images and their nearest neighbours by cosine in a prepared set, and return the file.

    Args:
        subject: Whose features.
        output: The PNG file; neighbours.png in the subject's folder by default.
        inputs: Images to find neighbours of; by default some of the set, each without itself.
        data: The prepared set; a run's own by default.
        count: The most images.
        neighbours: Of each.
        most: Images of the set that are searched, evenly spaced.
        size: Side in pixels at which they are encoded; the training's by default.
        pool: What stands for an image; see `pooled`.

    Raises:
        InputError: The images cannot be used, or the set has too few.
    """
    path, source = output_of(subject, output, "neighbours.png"), set_of(subject, data)
    size = subject.size if size is None else size
    searched = spread(source.count, most)
    if min(count, neighbours) < 1 or len(searched) <= neighbours:
        raise InputError(
            f"--count {count}, --neighbours {neighbours}, and {len(searched)} images to search; give at least 1, and "
            "more images than neighbours."
        )
    features = encoded(subject.encoder, (view(source, int(number), size) for number in searched), pool)
    places = None if inputs else spread(len(searched), count)
    if places is None:
        images = inputs_of(subject, inputs, count, None).images
        queries = encoded(subject.encoder, (evaluation_view(image, size) for image in images), pool)
    else:
        images, queries = [view(source, int(number)) for number in searched[places]], features[places]
    found, similarities = nearest(queries, features, neighbours, exclude=places)
    labels = [label_names(source, searched[row]) or [] for row in found]
    draw_neighbours(
        images,
        [[view(source, int(number)) for number in searched[row]] for row in found],
        similarities,
        path,
        query_labels=None if places is None else label_names(source, searched[places]),
        neighbour_labels=labels if labels[0] else None,
    )
    return path


def encoded(
    encoder: Encoder, images: Iterator[UInt8[np.ndarray, "s s 3"]], pool: str = "features"
) -> Float[np.ndarray, "n d"]:
    """Return the features of images of one size, float32; see `pooled`."""
    parts, batch = [], list[np.ndarray]()

    def flush() -> None:
        whole = np.zeros((_BATCH, *batch[0].shape), np.uint8)  # always as many, so that it compiles once
        whole[: len(batch)] = batch
        parts.append(np.asarray(jax.device_get(pooled(encoder, whole, pool)))[: len(batch)])
        batch.clear()

    for image in images:
        batch.append(image)
        if len(batch) == _BATCH:
            flush()
    if batch:
        flush()
    return np.concatenate(parts)


def nearest(
    queries: Float[np.ndarray, "q d"],
    features: Float[np.ndarray, "n d"],
    count: int,
    *,
    exclude: Int[np.ndarray, " q"] | None = None,
) -> tuple[Int[np.ndarray, "q k"], Float[np.ndarray, "q k"]]:
    """Return the numbers of each query's nearest features by cosine, nearest first, and the cosines.

    Args:
        queries: Features.
        features: To search.
        count: k.
        exclude: The number of each query among them, which is no neighbour of itself.
    """
    unit = [x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12) for x in (queries, features)]
    cosines = unit[0] @ unit[1].T
    if exclude is not None:
        cosines[np.arange(len(queries)), exclude] = -np.inf
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(cosines, order, axis=1)


def draw_neighbours(
    queries: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    neighbours: Sequence[Sequence[UInt8[np.ndarray, "_ _ 3"]]],
    similarities: Float[np.ndarray, "q k"],
    path: Path,
    *,
    query_labels: Sequence[str] | None = None,
    neighbour_labels: Sequence[Sequence[str]] | None = None,
) -> None:
    """Draw a row for each query to a PNG file: itself, then its neighbours with their similarities.

    A neighbour's frame is green where its label is the query's and vermilion where it is not; without labels of both
    there are no frames.

    Args:
        queries: Of any sizes.
        neighbours: Of each, nearest first.
        similarities: Of each.
        path: Of the file.
        query_labels: Names of the queries' classes.
        neighbour_labels: Names of the neighbours' classes.
    """
    font = ImageFont.load_default(_FONT)
    lines = 1 if neighbour_labels is None else 2
    cell = _SIDE + 2 * _FRAME
    wide, high = cell + _GAP, cell + lines * (_FONT + 3) + _GAP
    left = wide + 2 * _GAP  # the queries stand apart
    sheet = Image.new("RGB", (left + wide * similarities.shape[1], _FONT + 2 * _GAP + high * len(queries)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP + cell / 2, _GAP + _FONT / 2), "query", TEXT, font, anchor="mm")
    draw.text((left + _FRAME, _GAP + _FONT / 2), "nearest first, with the cosine of their features", TEXT, font, "lm")

    def put(image: np.ndarray, x: int, y: int, text: Sequence[str], colour: tuple[int, int, int] | None) -> None:
        if colour is not None:
            draw.rectangle((x, y, x + cell - 1, y + cell - 1), fill=colour)
        sheet.paste(Image.fromarray(_square(image)), (x + _FRAME, y + _FRAME))
        for number, line in enumerate(text):
            middle = (x + cell / 2, y + cell + 2 + (number + 0.5) * (_FONT + 3))
            draw.text(middle, _fitted(line, font, wide - 2), TEXT, font, anchor="mm")

    for q, query in enumerate(queries):
        top = _FONT + 2 * _GAP + q * high
        put(query, _GAP, top, [] if query_labels is None else query_labels[q : q + 1], None)
        for k, image in enumerate(neighbours[q]):
            label = [] if neighbour_labels is None else [neighbour_labels[q][k]]
            both = query_labels is not None and label
            colour = None if not both else RIGHT if label[0] == query_labels[q] else WRONG  # type: ignore[index]
            put(image, left + k * wide, top, [*label, f"{similarities[q, k]:.3f}"], colour)
    sheet.save(path, optimize=True)


def _square(image: np.ndarray) -> np.ndarray:
    """Return the middle of an image at a cell's size; small ones with whole pixels, so that their resolution shows."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    middle = np.ascontiguousarray(image[top : top + side, left : left + side])
    if side <= _SIDE // 2:
        middle = np.repeat(np.repeat(middle, _SIDE // side, 0), _SIDE // side, 1)
    return resize_to(middle, _SIDE)


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Return the text, its end cut off where it is too wide."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
