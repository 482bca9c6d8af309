"""What runs logged, as a section of a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ssljax.report.curves import colour_of, draw_panel, sheet
from ssljax.report.metrics import Lines, Panel, by_number, logged, panels, told
from ssljax.report.page import Block, Figure, Gallery, Legend, Section, Table


def training_section(runs: Mapping[str, Lines], folder: Path) -> Section:
    """Return curves of all that runs logged, with those that are no measure of learning in a closed section.

    Args:
        runs: What each logged, by name; of a single one the name is not shown.
        folder: Where the curves go as pictures for use elsewhere: curves.png, evaluations.png, others.png.
    """
    found = panels(runs)
    groups = {"curves": found.training, "evaluations": found.evaluation, "others": found.other}
    drawn = dict(_galleries(groups, folder, list(runs) if len(runs) > 1 else []))
    key: list[Block] = [legend(list(runs))] if len(runs) > 1 else []
    blocks: list[Block] = ["What was logged, against the number of updates.", *key]
    blocks += [drawn["curves"]] if "curves" in drawn else []
    if "evaluations" in drawn:
        blocks.append(Section("Evaluated meanwhile", [*key, drawn["evaluations"]]))
    if "others" in drawn:
        blocks.append(Section("Throughput, and all else that was logged", [*key, drawn["others"]], closed=True))
    blocks.append(Section("The last values", [_last_values(runs)], closed=True))
    return Section("Training", blocks)


def legend(names: Sequence[str]) -> Legend:
    """Return the colours of runs in their order."""
    return Legend([(name, colour_of(i)) for i, name in enumerate(names)])


def _galleries(
    named: Mapping[str, Sequence[Panel]], folder: Path, runs: Sequence[str]
) -> Iterator[tuple[str, Gallery]]:
    """Give galleries, of several runs with their names on the page and below the sheets, not in each panel."""
    for name, some in named.items():
        if some:
            pictures = [draw_panel(panel, named=not runs) for panel in some]
            sheet(pictures, runs).save(folder / f"{name}.png", optimize=True)
            captions = [f"{panel.title}, against the number of updates" for panel in some]
            yield name, Gallery([Figure("", image, text) for image, text in zip(pictures, captions, strict=True)])


def _last_values(runs: Mapping[str, Lines]) -> Table:
    last = {run: {name: value for line in lines for name, value in told(line).items()} for run, lines in runs.items()}
    names = sorted({name for values in last.values() for name in values}, key=by_number)
    rows = [
        (logged(name), *(f"{values[name]:.4g}" if name in values else "–" for values in last.values()))
        for name in names
    ]
    return Table(("", *(runs if len(runs) > 1 else ["last logged"])), rows)
