"""Pictures of a sweep: a metric against what varies, and curves of training as the mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from ssljax.report.curves import add_names, colour_of, empty_axes, picture_of, style_of
from ssljax.report.metrics import Line, Panel, is_share
from ssljax.report.sweep_folder import FINISHED, Swept
from ssljax.report.sweep_table import Baseline, Measured, heading, table_keys, value_of, value_text

_WIDE = 30.0  # the ratio of the largest value to the smallest from which on an axis is logarithmic
_LONG = 36  # characters of a variant's name in a picture
_BASELINES = (("#5d6775", "--"), ("#8a5a2b", ":"))


class Series(NamedTuple):
    """Variants that differ in what is on the horizontal axis alone.

    Attributes:
        name: In what else they differ from other series, "" of the only one.
        places: Their places on the axis, from left to right.
    """

    name: str
    places: Mapping[str, float]


def series_of(swept: Swept) -> list[Series]:
    """Return the variants by their values of the key that varies.

    None where these are not all numbers, or where two variants of one series have the same, so that no line joins them.
    """
    values = {name: value_of(one, swept.varies) for name, one in swept.examples.items()} if swept.varies else {}
    numbers = {name: float(value) for name, value in values.items() if _is_number(value)}
    if not numbers or len(numbers) < len(swept.examples):
        return []
    ordered = dict(sorted(numbers.items(), key=lambda item: item[1]))
    if len(set(ordered.values())) == len(ordered):
        return [Series("", ordered)]
    others = [key for key in table_keys(swept) if key != swept.varies]
    found: dict[str, dict[str, float]] = {}
    for name, place in ordered.items():
        values_of_others = {key: value_text(value_of(swept.examples[name], key)) for key in others}
        title = ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in values_of_others.items())
        found.setdefault(title, {})[name] = place
    if any(len(set(places.values())) < len(places) for places in found.values()):
        return []
    return [Series(title, places) for title, places in found.items()]


def draw_metric(swept: Swept, measured: Measured, rows: Sequence[Baseline]) -> Image.Image:
    """Return a metric of all variants: a ring a seed, the mean and its standard deviation, baselines as broken lines.

    Against the numbers of the key that varies, or, where these are none, by the variants' names.
    """
    series = series_of(swept)
    title = _plain(heading(measured))
    if series:
        axes = empty_axes(title, _plain(swept.varies), size=(4.2, 2.9))
        for number, one in enumerate(series):
            _draw_numbers(axes, measured, one, number)
        _mark_values(axes, sorted({place for one in series for place in one.places.values()}))
    else:
        axes = empty_axes(title, "", size=(4.2, 1.1 + 0.3 * len(measured.scores)))
        _draw_names(axes, measured)
    _draw_baselines(axes, measured, series, [row for row in rows if row.scores[measured.metric].values])
    return picture_of(axes)


def draw_curves(panel: Panel, swept: Swept) -> Image.Image:
    """Return a panel with a curve a variant, the mean over finished runs, and each run thin behind; without names.

    Args:
        panel: A curve a run, named as its folder.
        swept: Whose runs these are.
    """
    axes = empty_axes(panel.title, "step")
    lines = {line.name: line for line in panel.lines}
    for number, every in enumerate(swept.variants.values()):
        members = [member for member in every if member.name in lines]
        if not members:  # another objective may not measure this
            continue
        drawn: dict[str, Any] = dict(color=colour_of(number), linestyle=style_of(number))
        for member in members:
            axes.plot(*lines[member.name].points.T, linewidth=0.6, alpha=0.4, **drawn)
        mean = _mean([lines[one.name] for one in members if one.state == FINISHED])
        few = "o" if len(mean) < 8 else None
        axes.plot(*mean.T, linewidth=1.6, marker=few, markersize=3.5, **drawn)
    axes.margins(x=0.02)
    return picture_of(axes)


def short_name(name: str) -> str:
    """Return a variant's name as there is room for it in a picture."""
    return _plain(name if len(name) <= _LONG else f"{name[: _LONG - 1]}…")


def _mean(lines: Sequence[Line]) -> np.ndarray:
    """Return the mean of curves at the steps that all of them have, [n, 2]."""
    if not lines:
        return np.zeros((0, 2))
    curves = [dict(line.points.tolist()) for line in lines]
    steps = sorted(set.intersection(*map(set, curves)))
    return np.asarray([(step, np.mean([curve[step] for curve in curves])) for step in steps]).reshape(-1, 2)


def _draw_numbers(axes: Axes, measured: Measured, series: Series, number: int) -> None:
    found = {place: measured.scores[name] for name, place in series.places.items() if measured.scores[name].values}
    colour = colour_of(number)
    for place, spread in found.items():
        seeds = np.asarray(list(spread.values.values())) * _unit(measured)
        axes.plot([place] * len(seeds), seeds, "o", markerfacecolor="none", color=colour, alpha=0.5, markersize=4)
    means = [spread.mean * _unit(measured) for spread in found.values()]
    errors = [_deviation(measured, name) for name in series.places if measured.scores[name].values]
    axes.errorbar(
        list(found), means, errors, label=short_name(series.name), color=colour, fmt="-o", markersize=4, capsize=3
    )


def _draw_names(axes: Axes, measured: Measured) -> None:
    for place, (name, spread) in enumerate(measured.scores.items()):
        seeds = np.asarray(list(spread.values.values())) * _unit(measured)
        if len(seeds):
            colour = colour_of(place)
            axes.plot(seeds, [place] * len(seeds), "o", markerfacecolor="none", color=colour, alpha=0.5, markersize=4)
            error = _deviation(measured, name)
            axes.errorbar(
                seeds.mean(), place, xerr=error, color=colour, fmt="o", markersize=5, linewidth=1.5, capsize=3
            )
    axes.set_yticks(range(len(measured.scores)), [short_name(name) for name in measured.scores])
    axes.set_ylim(len(measured.scores) - 0.5, -0.5)


def _draw_baselines(axes: Axes, measured: Measured, series: Sequence[Series], rows: Sequence[Baseline]) -> None:
    """Draw a line a baseline; where variants have others, a short one at each of them."""
    kinds = list(dict.fromkeys(row.name for row in rows))
    names = list(measured.scores)
    places = {name: place for one in series for name, place in one.places.items()}
    for row in rows:
        colour, style = _BASELINES[kinds.index(row.name) % len(_BASELINES)]
        drawn: dict[str, Any] = dict(color=colour, linestyle=style, linewidth=1.2, zorder=1)
        drawn["label"] = row.name if row is next(one for one in rows if one.name == row.name) else ""
        value = row.scores[measured.metric].mean * _unit(measured)
        alone = sum(one.name == row.name for one in rows) == 1
        if alone:
            (axes.axhline if series else axes.axvline)(value, **drawn)
        elif series:
            axes.plot([places[name] for name in row.variants], [value] * len(row.variants), marker="_", **drawn)
        else:
            ends = [(names.index(name) - 0.4, names.index(name) + 0.4, math.nan) for name in row.variants]
            axes.plot([value] * 3 * len(ends), [end for pair in ends for end in pair], **drawn)
    if rows or any(one.name for one in series):
        add_names(axes)


def _mark_values(axes: Axes, values: Sequence[float]) -> None:
    """Mark the values themselves on the horizontal axis, which is logarithmic where they are far apart."""
    if values[0] > 0 and values[-1] / values[0] >= _WIDE:
        axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set_xticks([], minor=True)


def _deviation(measured: Measured, name: str) -> float:
    deviation = measured.scores[name].deviation
    return 0.0 if math.isnan(deviation) else deviation * _unit(measured)


def _unit(measured: Measured) -> float:
    return 100.0 if is_share(measured.metric) else 1.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # which would begin a formula
