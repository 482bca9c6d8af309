"""`ssljax report DIR` of a sweep: from its folder to the table, the plots, and the page that holds them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssljax.errors import InputError
from ssljax.report.curves import sheet
from ssljax.report.metrics import panels
from ssljax.report.page import Alert, Block, Code, Figure, Gallery, Section, write_page
from ssljax.report.run import check_links, command, link_sections, opened
from ssljax.report.runs import differences_section
from ssljax.report.sweep_folder import DAMAGED, Swept, is_sweep, read_sweep
from ssljax.report.sweep_notes import (
    absent,
    changed_configs,
    changed_protocols,
    made_by,
    measured_how,
    runs_table,
    scale,
    summary,
)
from ssljax.report.sweep_plots import draw_curves, draw_metric, series_of, short_name
from ssljax.report.sweep_table import (
    Baseline,
    Measured,
    baselines,
    heading,
    measure,
    not_better,
    results_table,
    sentences,
)
from ssljax.report.sweep_text import latex, markdown, runs_csv, table_csv
from ssljax.report.training import legend

NOTE = (
    "Means over seeds ± their standard deviation (n - 1), the best mean of a column in bold; an arrow says which way "
    "is better. A metric of evaluation is that of the last checkpoint; one that training logs is the last value, of a "
    "loss with a batch's noise in it."
)
SPREAD_NOTE = (
    "Two variants differ by more than the spread where their means differ by more than t(0.975, f) · s · √(1/a + 1/b), "
    "Fisher's least significant difference at 5 %: s is the standard deviation over seeds, pooled over all variants, f "
    "its degrees of freedom, a and b are the numbers of seeds. It assumes that all variants spread alike. Of variants "
    "that are alike, about one in twenty exceeds it by chance, so that of many some will. It tells of seeds alone: not "
    "of other data, nor of longer training."
)
_FILES = ("table.md", "table.csv", "table.tex", "runs.csv")


def write_sweep(folder: Path, *, output: Path | None = None, links: Sequence[Path] = ()) -> Path:
    """Write a page about a sweep, by default report/index.html in its folder, and return its path.

    Beside the page lie its table as Markdown, LaTeX and CSV, the runs as CSV, and the pictures.

    Args:
        folder: Of the sweep.
        output: A folder, or an HTML file, which is then all that is written.
        links: Files to link.

    Raises:
        InputError: The folder's sweep.json is damaged, or there is nothing to show yet.
    """
    check_links(links)
    swept = read_sweep(folder)
    damaged = [member for member in swept.members if member.state == DAMAGED]
    for member in damaged:
        print(f"ssljax: {member.name} is left out: {member.error}", file=sys.stderr)
    if not any(member.lines and member.config for member in swept.members):
        raise InputError(
            f"{folder}: no run of the sweep can be read; mend what is named above."
            if damaged
            else f"{folder}: no run of the sweep has logged anything yet; wait, or see the log.txt of its runs."
        )
    with opened(output or folder / "report") as (page, place):
        place.mkdir(parents=True, exist_ok=True)
        columns, rows = [measure(swept, metric) for metric in swept.metrics], baselines(swept)
        told = summary(swept)
        _write_tables(swept, columns, rows, told, place)
        files = [place / name for name in _FILES] if page.parent == place else []
        typed = "\n".join([*swept.commands, command([folder], None, None, None, output)])
        sections = [
            Section("Results", _results(swept, columns, rows)),
            *_plots(swept, columns, rows, place),
            _training(swept, place),
            _differences(swept),
            Section("At what scale", [scale(swept)]),
            Section("The runs", [runs_table(swept)], closed=len(swept.members) > 12),
            *measured_how(swept),
            *link_sections([*files, *links], page.parent),
            Section("How it was made", [*made_by(swept), Code(typed)]),
        ]
        title = f"{Path(swept.file).stem}: {len(swept.variants)} variants"
        return write_page(page, title=title, summary=told, sections=sections)


def check_alone(folders: Sequence[Path], options: Mapping[str, Any]) -> None:
    """Raise InputError where a sweep's folder is named beside others, or with an option of single runs."""
    swept = next(folder for folder in folders if is_sweep(folder))
    if len(folders) > 1:
        raise InputError(
            f"{swept} is the folder of a sweep; report it alone, or name runs in it, such as {swept}/VARIANT/seed-0."
        )
    given = [f"--{name}" for name in ("step", "video", "seconds") if options.get(name) is not None]
    if given:
        raise InputError(
            f"{given[0]} chooses what is shown of a single run, and {swept} is the folder of a sweep; leave it out, or "
            "name one of its runs."
        )


def _results(swept: Swept, columns: Sequence[Measured], rows: Sequence[Baseline]) -> list[Block]:
    warnings = map(Alert, _warnings(swept, columns, rows))
    spread = Section("By more than the spread over seeds?", [*sentences(swept, columns), SPREAD_NOTE])
    return [*warnings, results_table(swept, columns, rows), NOTE, spread]


def _warnings(swept: Swept, columns: Sequence[Measured], rows: Sequence[Baseline]) -> list[str]:
    return [*absent(swept), *changed_configs(swept), *changed_protocols(swept), *not_better(columns, rows)]


def _write_tables(swept: Swept, columns: Sequence[Measured], rows: Sequence[Baseline], told: str, folder: Path) -> None:
    table = results_table(swept, columns, rows)
    said = [*_warnings(swept, columns, rows), *sentences(swept, columns)]
    contents = {
        "table.md": "\n\n".join([told, markdown(table), NOTE, *said, SPREAD_NOTE]) + "\n",
        "table.tex": latex(table, trained=len(swept.variants), comments=[told, NOTE, *said]),
        "table.csv": table_csv(swept, columns, rows),
        "runs.csv": runs_csv(swept, rows),
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")


def _plots(swept: Swept, columns: Sequence[Measured], rows: Sequence[Baseline], folder: Path) -> Iterator[Section]:
    """Give the section of a picture a metric, which also lies in the folder."""
    against, figures = swept.varies if series_of(swept) else "the variants", []
    for one in columns:
        if any(spread.values for spread in one.scores.values()):
            picture = draw_metric(swept, one, rows)
            picture.save(folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', one.metric)}.png", optimize=True)
            figures.append(Figure("", picture, f"{heading(one)} against {against}"))
    if figures:
        told = "A ring is a seed, a dot the mean, a bar the standard deviation over seeds; broken lines are baselines."
        yield Section(f"Against {against}", [told, Gallery(figures)])


def _training(swept: Swept, folder: Path) -> Section:
    """Return curves of what the runs logged, unfinished and failed ones too; curves.png has them for use elsewhere."""
    # Of a single run there would be a curve a metric in a panel; an empty one beside it makes it a curve a run.
    found = panels({member.name: member.lines for member in swept.members if member.lines} | {"": []})
    key = legend(list(swept.variants))
    told = (
        "A curve a variant: the mean over its finished runs, against the number of updates; behind it, thin, each run."
    )
    groups = {"": found.training, "Evaluated meanwhile": found.evaluation}
    drawn = {title: [draw_curves(panel, swept) for panel in some] for title, some in groups.items() if some}
    if drawn:
        names = [short_name(name) for name in swept.variants]
        every = [one for pictures in drawn.values() for one in pictures]
        sheet(every, names if len(names) > 1 else ()).save(folder / "curves.png", optimize=True)
    blocks: list[Block] = [told]
    for title, pictures in drawn.items():
        captions = [f"{panel.title}, against the number of updates" for panel in groups[title]]
        gallery = Gallery([Figure("", picture, text) for picture, text in zip(pictures, captions, strict=True)])
        blocks += [Section(title, [key, gallery])] if title else [key, gallery]
    return Section("Training", blocks)


def _differences(swept: Swept) -> Section:
    configs = {name: one.config for name, one in swept.examples.items() if one.config}
    return differences_section(configs, leave_out=("seed",))
