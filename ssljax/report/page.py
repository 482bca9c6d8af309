"""A report as one HTML file, which needs nothing beside it."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import quote

from PIL.Image import Image

from ssljax.report.embedded import image_tag

_LONG = 4  # sections from which on a page has a table of contents
_STYLE = """
:root { color-scheme: light dark; --text: #1d2430; --quiet: #5d6775; --line: #dde1e7; --back: #fff; --card: #f5f6f8;
  --shade: #1d243055; --link: #1a5fb4; --alert: #8a4b00; --alert-back: #fff4e0; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ee; --quiet: #9aa4b2; --line: #333b47; --back: #14181f; --card: #1d232c; --shade: #000c;
    --link: #86b6f0; --alert: #ffd08a; --alert-back: #3a2c14; }
  img { filter: brightness(.9); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; background: var(--back); color: var(--text);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
a { color: var(--link); }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .7rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.03rem; margin: 1.7rem 0 .4rem; }
h4 { font-size: .95rem; margin: 1rem 0 .3rem; color: var(--quiet); }
p { max-width: 46rem; margin: .5rem 0; }
nav ul { list-style: none; margin: 1rem 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; }
.quiet, figcaption { color: var(--quiet); font-size: .92rem; }
.alert { color: var(--alert); background: var(--alert-back); padding: .4rem .7rem; border-radius: 6px; }
/* A shadow lies along a side behind which there is more; what covers it moves with the table. */
.wide { overflow-x: auto; margin: .6rem 0; background:
  linear-gradient(to right, var(--back) 40%, transparent) left / 2.5rem 100% no-repeat local,
  linear-gradient(to left, var(--back) 40%, transparent) right / 2.5rem 100% no-repeat local,
  linear-gradient(to right, var(--shade), transparent) left / .8rem 100% no-repeat scroll,
  linear-gradient(to left, var(--shade), transparent) right / .8rem 100% no-repeat scroll; }
table { border-collapse: separate; border-spacing: 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem 1.1rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody th { font-weight: normal; min-width: 11rem; }
/* Whose row it is stays in sight while the rest is scrolled. */
tbody th, thead th:first-child { position: sticky; left: 0; z-index: 1; background: var(--back); }
thead th { color: var(--quiet); font-weight: 600; font-size: .9rem; vertical-align: bottom; }
td { white-space: nowrap; }
figure { margin: .6rem 0 0; }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; background: #fff; }
figcaption { margin: .3rem 0 0; max-width: 46rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: .9rem; }
.gallery img { width: 100%; }
.legend span { display: inline-block; max-width: 100%; padding-right: 1.1rem; }
.legend i { display: inline-block; width: 1.1rem; height: .3rem; border-radius: 2px; margin-right: .4rem;
  vertical-align: middle; }
pre { background: var(--card); padding: .7rem .9rem; border-radius: 6px; white-space: pre-wrap; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--link); }
td.text { white-space: normal; overflow-wrap: anywhere; min-width: 9rem; font-family: ui-monospace, monospace;
  font-size: .85rem; }
@media (max-width: 600px) {
  td { white-space: normal; }
  th, td { padding-right: .8rem; }
  tbody th { min-width: 6rem; }
}
"""


class Best(str):
    """A cell of a table that is set in bold."""


class Text(str):
    """A cell of a table that may be long, such as a value of a config."""


class Alert(str):
    """A paragraph that a reader must not miss."""


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
        image: The picture, or its file.
        caption: What it shows; also what is read aloud in its place.
    """

    title: str
    image: Path | Image
    caption: str


class Gallery(NamedTuple):
    """Small pictures side by side, as many as there is room for; their titles are in them."""

    figures: Sequence[Figure]


class Legend(NamedTuple):
    """Names and their colours, as CSS has them."""

    colours: Sequence[tuple[str, str]]


class Code(NamedTuple):
    """What was typed."""

    text: str


class Links(NamedTuple):
    """Addresses, relative to the page, and their texts."""

    links: Sequence[tuple[str, str]]


class Section(NamedTuple):
    """A part of the page with a heading.

    Attributes:
        title: The heading.
        blocks: What is in it; a text is a paragraph.
        closed: Whether it shows only when it is clicked.
    """

    title: str
    blocks: Sequence[Block]
    closed: bool = False


Block: TypeAlias = str | Table | Figure | Gallery | Legend | Code | Links | Section


def write_page(path: Path, *, title: str, summary: str, sections: Sequence[Section]) -> Path:
    """Write an HTML file with all its pictures inside, and return its path; every text is escaped.

    Args:
        path: The file; its folder is made if need be.
        title: Of the page.
        summary: One paragraph below it.
        sections: From top to bottom; of many there is a table of contents.
    """
    body = [f"<h1>{html.escape(title)}</h1>", f'<p class="quiet">{html.escape(summary)}</p>']
    shown = [section for section in sections if not section.closed]
    if len(shown) >= _LONG:
        items = (f'<li><a href="#part{i}">{html.escape(section.title)}</a></li>' for i, section in enumerate(shown, 1))
        body.append(f'<nav aria-label="Contents"><ul>{"".join(items)}</ul></nav>')
    numbers = iter(range(1, len(shown) + 1))
    body += ["\n".join(_section(section, 2, numbers)) for section in sections]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_document(title, "\n".join(body)), encoding="utf-8")
    return path


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'  # else a browser asks the server for one
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _section(section: Section, level: int, numbers: Iterator[int] | None = None) -> Iterator[str]:
    title = html.escape(section.title)
    if section.closed:
        yield f"<details><summary>{title}</summary>"
    else:
        number = next(numbers) if numbers else None
        yield f"<h{level}>{title}</h{level}>" if number is None else f'<h{level} id="part{number}">{title}</h{level}>'
    for block in section.blocks:
        yield from _block(block, level)
    if section.closed:
        yield "</details>"


def _block(block: Block, level: int) -> Iterator[str]:
    match block:
        case Section():
            yield from _section(block, level + 1)
        case str():
            yield f'<p class="{"alert" if isinstance(block, Alert) else "quiet"}">{html.escape(block)}</p>'
        case Table():
            yield _table(block)
        case Figure():
            heading = f"<h{level + 1}>{html.escape(block.title)}</h{level + 1}>\n" if block.title else ""
            picture, caption = image_tag(block.image, block.caption), html.escape(block.caption)
            yield f"{heading}<figure>{picture}\n<figcaption>{caption}</figcaption></figure>"
        case Gallery():
            yield f'<div class="gallery">{"".join(image_tag(f.image, f.caption) for f in block.figures)}</div>'
        case Legend():
            items = (f'<span><i style="background:{colour}"></i>{html.escape(n)}</span>' for n, colour in block.colours)
            yield f'<p class="legend">{"".join(items)}</p>'
        case Code():
            yield f"<pre>{html.escape(block.text)}</pre>"
        case Links():
            items = (f'<li><a href="{html.escape(quote(to))}">{html.escape(text)}</a></li>' for to, text in block.links)
            yield f"<ul>{''.join(items)}</ul>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.columns)
    rows = []
    for name, *cells in table.rows:
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th>{"".join(map(_cell, cells))}</tr>')
    body = "\n".join(rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _cell(cell: str) -> str:
    text = html.escape(cell).replace("/", "/<wbr>")  # a path may go on in the next line
    text = f"<b>{text}</b>" if isinstance(cell, Best) else text
    return f'<td class="text">{text}</td>' if isinstance(cell, Text) else f"<td>{text}</td>"
