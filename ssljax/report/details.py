"""What a protocol tells beside its metrics, whatever protocol it is, as tables and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssljax.report.curves import draw_panel
from ssljax.report.metrics import Line, Panel, spoken
from ssljax.report.page import Best, Block, Figure, Gallery, Section, Table

_LONG_TABLE = 12
_LONG_LIST = 8
_SHARES = ("accuracy", "j_and_f", "j", "f", "image", "point", "precision_1", "precision_5", "precision_10", "iou")
"""Fields of records, or the records' own name, that are shown in per cent."""


def detail_sections(details: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Return what to show of the details of encoders, by their labels.

    Values become rows of one table; lists of records and records by name become a table each, such as a grid of
    learning rates or the scores of videos; long lists of numbers become curves, such as a spectrum. What is nested
    deeper is left to the file.
    """
    names = list(dict.fromkeys(name for some in details.values() for name in some))
    single: list[tuple[str, ...]] = []
    blocks: list[Block] = []
    curves: list[Figure] = []
    for name in names:
        values = {label: some[name] for label, some in details.items() if name in some}
        if all(map(_is_plain, values.values())):
            single.append((spoken(name), *(_cell(values[label]) if label in values else "–" for label in details)))
        elif all(map(_is_long_list, values.values())):
            curves.append(_curve(name, values))
        else:
            blocks += _table(name, {label: _records(value) for label, value in values.items()})
    if curves:
        blocks.insert(0, Gallery(curves))
    if single:
        blocks.insert(0, Section("Details", [Table(("", *details), single)], closed=True))
    return blocks


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _is_long_list(value: Any) -> bool:
    numbers = isinstance(value, list) and all(isinstance(one, int | float) for one in value)
    return numbers and len(value) > _LONG_LIST


def _cell(value: Any, share: bool = False) -> str:
    if share and isinstance(value, int | float):
        return f"{100 * value:.2f}"
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def _curve(name: str, values: Mapping[str, Sequence[float]]) -> Figure:
    lines = [
        Line(label, np.column_stack([np.arange(1, len(some) + 1), np.asarray(some, np.float64)]), i)
        for i, (label, some) in enumerate(values.items())
    ]
    picture = draw_panel(Panel(spoken(name), lines), x="number", logarithmic=_falls(values))
    return Figure("", picture, f"{spoken(name)} of {', '.join(values)}, against the number in the list")


def _falls(values: Mapping[str, Sequence[float]]) -> bool:
    """Return whether curves fall over orders of magnitude, as spectra do."""
    return all(some[0] > 100 * some[-1] >= 0 and sorted(some, reverse=True) == list(some) for some in values.values())


def _records(value: Any) -> dict[str, dict[str, Any]]:
    """Return a value as records by name; what is nested in them is left out."""
    if isinstance(value, Mapping):
        if all(map(_is_plain, value.values())):
            return {str(name): {"": one} for name, one in value.items()}
        if all(_is_plain(one) or isinstance(one, list) for one in value.values()):
            return {
                row: {"": one}
                for name, some in value.items()
                for row, one in (_numbered(name, some) if isinstance(some, list) else [(spoken(name), some)])
            }
        return {str(name): _fields(one) for name, one in value.items()}
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        key = next(iter(value[0]))
        return {f"{spoken(key)} {_cell(one.get(key))}": _fields(one, but=key) for one in value}
    if isinstance(value, list):
        return {str(i): _fields(one) for i, one in enumerate(value, 1)}
    return {"": {"": value}}


def _numbered(name: str, values: Sequence[Any]) -> list[tuple[str, Any]]:
    return [(f"{spoken(name)} {i}", value) for i, value in enumerate(values, 1)]


def _fields(value: Any, but: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {name: one for name, one in value.items() if name != but and _is_plain(one)}
    if isinstance(value, list):
        return {str(i): one for i, one in enumerate(value, 1) if _is_plain(one)}
    return {"": value}


def _best(records: Mapping[str, Mapping[str, Any]], field: str) -> float | None:
    """Return the largest of a column of shares, None where they are all the same."""
    values = {record[field] for record in records.values() if isinstance(record.get(field), int | float)}
    return max(values) if len(values) > 1 else None


def _table(name: str, records: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[Block]:
    """Return the records of encoders as a table: a row a record, a column an encoder's field.

    The best accuracy is in bold: records that have one are choices, such as learning rates.
    """
    fields = list(dict.fromkeys(field for some in records.values() for record in some.values() for field in record))
    rows = dict.fromkeys(row for some in records.values() for row in some)
    columns = [(label, field) for field in fields for label in records]
    if not columns:
        return []
    cells = []
    best = {(label, field): _best(records[label], field) for label, field in columns if field == "accuracy"}
    for row in rows:
        values = [(column, records[column[0]].get(row, {}).get(column[1])) for column in columns]
        texts = [_cell(value, (column[1] or name) in _SHARES) for column, value in values]
        marked = [value is not None and value == best.get(column) for column, value in values]
        cells.append((row, *(Best(text) if bold else text for text, bold in zip(texts, marked, strict=True))))
    units = {field: " (%)" * ((field or name) in _SHARES) for field in fields}
    heads = [
        f"{spoken(field)}{units[field]}, {label}" if field else f"{label}{units[field]}" for label, field in columns
    ]
    return [Section(spoken(name), [Table(("", *heads), cells)], closed=len(cells) > _LONG_TABLE)]
