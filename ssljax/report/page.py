"""A report as one HTML file, which needs nothing but the pictures beside it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

_STYLE = """
:root { color-scheme: light dark; --text: #1d2430; --quiet: #5d6775; --line: #dde1e7; --back: #fff; --card: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ee; --quiet: #9aa4b2; --line: #333b47; --back: #14181f; --card: #1d232c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; background: var(--back); color: var(--text);
  font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; line-height: 1.25; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p { max-width: 46rem; }
.quiet, figcaption { color: var(--quiet); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1.1rem .35rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
td + td { white-space: nowrap; }
figure { margin: 0; }
img { max-width: 100%; height: auto; border-radius: 6px; background: #fff; }
figcaption { font-size: .92rem; margin: .3rem 0 0; max-width: 46rem; }
pre { background: var(--card); padding: .7rem .9rem; border-radius: 6px; overflow-x: auto; }
summary { cursor: pointer; }
details td { font-family: ui-monospace, monospace; font-size: .85rem; white-space: normal; overflow-wrap: anywhere; }
"""


class Table(NamedTuple):
    """Numbers to compare.

    Attributes:
        columns: Headings, the first that of the rows' names.
        rows: Cells as text, each row as long as the headings.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Figure(NamedTuple):
    """A picture.

    Attributes:
        title: Its heading.
        file: In the page's folder.
        caption: What it shows; also what is read aloud in its place.
    """

    title: str
    file: str
    caption: str


def write_page(
    folder: Path,
    *,
    title: str,
    summary: str,
    table: Table,
    figures: Sequence[Figure],
    command: str,
    config: Mapping[str, object],
    links: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> Path:
    """Write `folder`/index.html and return its path; every text is escaped.

    Args:
        folder: Exists, and holds the figures' files.
        title: Of the page.
        summary: One paragraph below it.
        table: The numbers.
        figures: Shown in this order.
        command: How the run was made.
        config: Nested values, listed in a closed section.
        links: Addresses, relative to the folder, and their texts.
        notes: Paragraphs below the table: what its rows mean.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", f'<p class="quiet">{html.escape(summary)}</p>', _table(table)]
    parts += [f'<p class="quiet">{html.escape(note)}</p>' for note in notes]
    for figure in figures:
        source, caption = html.escape(quote(figure.file)), html.escape(figure.caption)
        parts.append(
            f"<h2>{html.escape(figure.title)}</h2>\n"
            f'<figure><a href="{source}"><img src="{source}" alt="{caption}"></a>\n'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    if links:
        items = "\n".join(f'<li><a href="{html.escape(quote(to))}">{html.escape(text)}</a></li>' for to, text in links)
        parts.append(f"<h2>Files</h2>\n<ul>\n{items}\n</ul>")
    parts.append(f"<h2>How it was made</h2>\n<pre>{html.escape(command)}</pre>")
    values = Table(("key", "value"), [(key, repr(value)) for key, value in _flatten(config)])
    parts.append(f"<details><summary>Configuration</summary>\n{_table(values)}\n</details>")
    page = folder / "index.html"
    page.write_text(_document(title, "\n".join(parts)), encoding="utf-8")
    return page


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.columns)
    rows = []
    for name, *cells in table.rows:
        rest = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th>{rest}</tr>')
    body = "\n".join(rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _flatten(values: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    flat: list[tuple[str, object]] = []
    for key, value in values.items():
        flat += _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return flat
