"""A sweep's table for use elsewhere: Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ssljax.report.page import Best, Table
from ssljax.report.sweep_folder import TRAINED, Swept, score
from ssljax.report.sweep_table import NONE, Baseline, Measured, Spread, label, table_keys, value_of, value_text

_LATEX = {character: rf"\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # else what follows the end of a row could be an option of it
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "−": "$-$",
    "×": r"$\times$",
    "–": "--",
    "…": r"\ldots{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
}
_MARKDOWN = {character: f"\\{character}" for character in "\\|*_`<>[]#~"}


def markdown(table: Table) -> str:
    """Return a table as GitHub's Markdown has it."""
    widths = [":--"] + ["--:"] * (len(table.columns) - 1)
    lines = [_row(map(_markdown_cell, table.columns)), _row(widths)]
    return "\n".join([*lines, *(_row(map(_markdown_cell, row)) for row in table.rows)])


def latex(table: Table, *, trained: int, comments: Sequence[str] = ()) -> str:
    """Return a table as LaTeX has it, for the package booktabs.

    Args:
        table: Cells as text.
        trained: How many of its rows come above the second rule.
        comments: Lines at the top, which are not set.
    """
    rows = [_latex_row(row) for row in table.rows]
    lines = [f"% {_one_line(comment)}" for comment in ("\\usepackage{booktabs}", *comments)]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}", r"\toprule", _latex_row(table.columns)]
    lines += [r"\midrule", *rows[:trained], *([r"\midrule", *rows[trained:]] if rows[trained:] else [])]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def table_csv(swept: Swept, columns: Sequence[Measured], rows: Sequence[Baseline]) -> str:
    """Return the table's numbers, as they are and in full: mean, deviation and count of each metric."""
    keys = table_keys(swept)
    heads = [f"{one.metric} {part}" for one in columns for part in ("mean", "standard deviation", "seeds")]
    body: list[list[Any]] = []
    for variant, example in swept.examples.items():
        values = [value_text(value_of(example, key)) for key in keys]
        body.append([variant, *values, *_numbers([one.scores[variant] for one in columns])])
    for row in rows:
        body.append([label(row, rows), *("" for _ in keys), *_numbers([row.scores[one.metric] for one in columns])])
    return _csv(["variant", *keys, *heads], body)


def runs_csv(swept: Swept, rows: Sequence[Baseline]) -> str:
    """Return a row a run: what it is, how far it came, and its metrics in full, with those of its baselines."""
    keys = table_keys(swept)
    encoders = dict.fromkeys([TRAINED, *(row.name for row in rows)])
    heads = [metric if name == TRAINED else f"{metric}, {name}" for metric in swept.metrics for name in encoders]
    about = ["variant", "seed", "folder", "config", "state", "error", "updates", "seconds"]
    body: list[list[Any]] = []
    for one in swept.members:
        facts = [one.variant, one.seed, one.name, one.file, one.state, one.error, one.updates, one.seconds]
        found = [score(one, metric, name) for metric in swept.metrics for name in encoders]
        values = [value_text(value_of(one, key)) for key in keys if key != "config"]
        body.append([*facts, *values, *found])
    return _csv([*about, *(key for key in keys if key != "config"), *heads], body)


def _numbers(spreads: Iterable[Spread]) -> list[Any]:
    cells: list[Any] = []
    for spread in spreads:
        count = len(spread.values)
        cells += [spread.mean if count else None, spread.deviation if count > 1 else None, count]
    return cells


def _csv(heads: Sequence[str], body: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(["" if cell is None or cell == NONE else cell for cell in row] for row in body)
    return file.getvalue()


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: str) -> str:
    text = _escaped(cell, _MARKDOWN)
    return f"**{text}**" if isinstance(cell, Best) else text


def _latex_row(cells: Iterable[str]) -> str:
    escaped = ((_escaped(cell, _LATEX), cell) for cell in cells)
    return " & ".join(rf"\textbf{{{text}}}" if isinstance(cell, Best) else text for text, cell in escaped) + r" \\"


def _escaped(text: str, characters: Mapping[str, str]) -> str:
    return "".join(characters.get(character, character) for character in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
