"""Curves for people: a small picture a panel, and a sheet of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from ssljax.report.metrics import Panel

COLOURS = ("#1f6fb4", "#d9730d", "#23936b", "#b0397c", "#6b7785", "#8a5a2b", "#5b4bb5", "#20262e")
"""Of curve 0, 1, ...; they repeat after the eighth, dashed."""

_TEXT = "#333a44"
_MOST_NAMES = 6
_COLUMNS = 3
_DPI = 140


def colour_of(number: int) -> str:
    """Return the colour of a curve, as CSS has it."""
    return COLOURS[number % len(COLOURS)]


def style_of(number: int) -> Literal["-", "--"]:
    """Return how a curve is drawn, as Matplotlib has it."""
    return "-" if number < len(COLOURS) else "--"


def draw_panel(panel: Panel, *, x: str = "step", logarithmic: bool = False, named: bool = True) -> Image.Image:
    """Return one panel's curves, over a logarithmic axis if asked; their names below it, but of more than six."""
    axes = empty_axes(panel.title, x)
    for line in panel.lines:
        axes.plot(
            *line.points.T,
            color=colour_of(line.number),
            linestyle=style_of(line.number),
            linewidth=1.5,
            label=line.name,
            marker="o" if len(line.points) < 8 else None,
            markersize=4,
        )
    if logarithmic:
        axes.set_yscale("log")
    axes.margins(x=0.02)
    if named and 1 < len(panel.lines) <= _MOST_NAMES:
        add_names(axes)
    return picture_of(axes)


def empty_axes(title: str, x: str, *, size: tuple[float, float] = (3.6, 2.5)) -> Axes:
    """Return axes to draw into, of a figure of so many inches, with a title and a name of the horizontal one."""
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10, color=_TEXT, loc="left")
    axes.set_xlabel(x, fontsize=8, color=_TEXT)
    axes.tick_params(labelsize=8, colors=_TEXT, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b8bfc8")
    return axes


def add_names(axes: Axes) -> None:
    """Say below the axes which curve is which."""
    figure: Any = axes.get_figure()
    figure.legend(fontsize=7, frameon=False, labelcolor=_TEXT, loc="outside lower center", ncols=2)


def picture_of(axes: Axes) -> Image.Image:
    """Return the figure of axes as a picture of few colours."""
    figure: Any = axes.get_figure()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    return picture.quantize(64, dither=Image.Dither.NONE)


def sheet(pictures: Sequence[Image.Image], names: Sequence[str] = ()) -> Image.Image:
    """Return panels as one picture, three in a row, for use elsewhere; below, the names of curves 0, 1, ..."""
    width, height = pictures[0].size
    columns = min(_COLUMNS, len(pictures))
    key = [_key(names, columns * width)] if names else []
    rows = -(-len(pictures) // columns) * height
    whole = Image.new("RGB", (columns * width, rows + sum(one.height for one in key)), "white")
    for i, picture in enumerate(pictures):
        whole.paste(picture.convert("RGB"), (i % columns * width, i // columns * height))
    for picture in key:
        whole.paste(picture, (0, rows))
    return whole


def _key(names: Sequence[str], width: int) -> Image.Image:
    """Return the names of curves in so many pixels, as many in a row as there is room for."""
    inches = width / _DPI
    columns = max(1, min(len(names), int(inches / (0.5 + 0.07 * max(map(len, names))))))
    figure = Figure(figsize=(inches, 0.15 + 0.2 * -(-len(names) // columns)), dpi=_DPI)
    curves = [
        Line2D([], [], color=colour_of(i), linestyle=style_of(i), linewidth=1.6, label=name)
        for i, name in enumerate(names)
    ]
    figure.legend(handles=curves, fontsize=8, frameon=False, labelcolor=_TEXT, loc="center", ncols=columns)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
