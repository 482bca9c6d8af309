"""Pictures for people: tracks through time, still and moving, and the curves of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ssljax.errors import InputError
from ssljax.report.picture import colour_of, labelled_grid, overlay, resize_to

CURVES: Mapping[str, Sequence[str]] = {
    "loss": ("loss", "object_loss", "local_loss", "cls_loss", "patch_loss"),
    "entropy (nats)": ("teacher_entropy", "student_entropy"),
    "KL between views": ("kl",),
    "norm of the centre": ("center_norm",),
    "information in the targets": ("teacher_information", "patch_information"),
    "pairs found in the batch": ("accuracy",),
    "alignment of pairs": ("alignment",),
    "spread of features": ("embedding_std", "cls_deviation"),
    "variance explained": ("explained",),
    "k-NN accuracy": ("knn_20",),
    "learning rate": ("learning_rate",),
}
"""Panels of `draw_curves`: title and the metrics in it, as far as a run has them."""

_LINES = ("#1f6fb4", "#d9730d", "#6b7785")
_TEXT = "#333a44"
_SIDE_STILL = 160
_SIDE_MOVING = 128


def read_metrics(path: Path) -> list[dict[str, float | int]]:
    """Return the lines of a run's `metrics.jsonl`.

    Raises:
        InputError: The file is missing, empty or no such file.
    """
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read as metrics ({error}); give the folder of a run.") from error
    if not lines or not all(isinstance(line, dict) and "step" in line for line in lines):
        raise InputError(f"{path} holds no metrics; let the run log at least once.")
    return lines


def draw_curves(metrics: Sequence[Mapping[str, float | int]], path: Path) -> None:
    """Draw one panel for each of `CURVES` that the run has, against the step, to a PNG file.

    Raises:
        InputError: The run has none of them.
    """
    panels = {title: [n for n in names if any(n in line for line in metrics)] for title, names in CURVES.items()}
    panels = {title: names for title, names in panels.items() if names}
    if not panels:
        raise InputError(f"The metrics hold none of {', '.join(n for names in CURVES.values() for n in names)}.")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.5 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for index, (title, names) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        for name, colour in zip(names, _LINES, strict=False):
            points = np.asarray([(line["step"], line[name]) for line in metrics if name in line], np.float64)
            marker = "o" if len(points) == 1 else None
            axes.plot(*points.T, color=colour, linewidth=1.5, label=name.replace("_", " "), marker=marker)
        axes.set_title(title, fontsize=10, color=_TEXT, loc="left")
        axes.set_xlabel("step", fontsize=8, color=_TEXT)
        axes.tick_params(labelsize=8, colors=_TEXT, length=3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#b8bfc8")
        axes.margins(x=0.01)
        if len(names) > 1:
            axes.legend(fontsize=8, frameon=False, labelcolor=_TEXT)
    figure.savefig(path, dpi=140)


def draw_tracks(
    frames: UInt8[np.ndarray, "t h w 3"],
    maps: Float[np.ndarray, "t k n"],
    masks: Bool[np.ndarray, "t k n"],
    grid: tuple[int, int],
    path: Path,
    *,
    times: Sequence[float] | None = None,
    columns: int = 5,
) -> None:
    """Draw tracks to a PNG file: the frames in the first row, below it a row an object, evenly spaced in time.

    Args:
        frames: Of any size that shows what the patches cover, perhaps finer than what the encoder saw.
        maps: Attention of each object over the patches.
        masks: Each object's patches.
        grid: Rows and columns of patches.
        times: Of the frames in seconds, for the labels; without, their numbers.
        columns: The most frames drawn.
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int))
    large = [resize_to(frames[t], _SIDE_STILL) for t in chosen]
    objects = range(maps.shape[1])
    rows = [
        [overlay(image, maps[t, k], masks[t, k], grid, colour_of(k)) for t, image in zip(chosen, large, strict=True)]
        for k in objects
    ]
    labelled_grid(
        [large, *rows],
        row_names=["frame", *(f"object {k + 1}" for k in objects)],
        column_names=[f"frame {t}" if times is None else f"{times[t]:.1f} s" for t in chosen],
        colours=[None, *(colour_of(k) for k in objects)],
    ).save(path, optimize=True)


def draw_animation(
    frames: UInt8[np.ndarray, "t h w 3"],
    maps: Float[np.ndarray, "t k n"],
    masks: Bool[np.ndarray, "t k n"],
    grid: tuple[int, int],
    path: Path,
    *,
    frames_per_second: float = 10.0,
) -> None:
    """Draw tracks to an animated GIF that repeats for ever: the video and, beside and below it, each object.

    Args:
        frames: Of any size that shows what the patches cover, perhaps finer than what the encoder saw.
        maps: Attention of each object over the patches.
        masks: Each object's patches.
        grid: Rows and columns of patches.
        frames_per_second: GIFs count in hundredths of a second; browsers show at most 50.
    """
    objects = range(maps.shape[1])
    columns = math.ceil(math.sqrt(1 + len(objects)))
    pictures = []
    for t, frame in enumerate(frames):
        large = resize_to(frame, _SIDE_MOVING)
        cells = [large, *(overlay(large, maps[t, k], masks[t, k], grid, colour_of(k)) for k in objects)]
        rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
        # Median cut would give all colours to the grey and none to a small object.
        picture = labelled_grid(rows, row_names=[""] * len(rows), column_names=[""] * columns)
        pictures.append(picture.quantize(method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
    duration = round(100 / frames_per_second) * 10
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration, loop=0, optimize=True)
