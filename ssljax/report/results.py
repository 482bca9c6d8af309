"""What `ssljax evaluate` found of runs, as tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssljax import configuration
from ssljax.errors import InputError
from ssljax.report.details import detail_sections
from ssljax.report.metrics import best_of, spoken
from ssljax.report.page import Alert, Best, Block, Section, Table, Text

_PLACES = ("train", "test", "data", "video", "masks")  # where things lie changes no result


class Evaluated(NamedTuple):
    """One file of results.

    Attributes:
        file: Where they are.
        protocol: Its name.
        step: Of the checkpoint; None of a file of weights, which does not say.
        weights: The file of weights, or "".
        shares: Whether the metrics are shares, shown in per cent.
        measured: The arguments and the data, plain.
        results: Metrics by encoder.
        details: What there is beside them, by encoder.
    """

    file: Path
    protocol: str
    step: int | None
    weights: str
    shares: bool
    measured: Mapping[str, Any]
    results: Mapping[str, Mapping[str, float]]
    details: Mapping[str, Mapping[str, Any]]


def read_results(folder: Path) -> list[Evaluated]:
    """Return all results in a run's evaluate/, by protocol; none where there is no such folder.

    Raises:
        InputError: A JSON file in it is damaged, or none of `ssljax evaluate`.
    """
    found = [_read(path) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda one: (one.protocol, one.file.name))


def _read(path: Path) -> Evaluated:
    try:
        record = json.loads(path.read_text())
        one = Evaluated(
            path,
            _text(record["protocol"]),
            None if record.get("step") is None else int(record["step"]),
            str(record.get("weights", "")),
            bool(record.get("shares", True)),
            {"arguments": dict(record.get("arguments", {})), "data": dict(record.get("data", {}))},
            {_text(encoder): _numbers(metrics) for encoder, metrics in record["results"].items()},
            {encoder: dict(details) for encoder, details in record.get("details", {}).items()},
        )
        if not one.results:
            raise ValueError("it has no results")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(
            f"{path} is no file of results of ssljax evaluate ({reason}); move it elsewhere, or evaluate again."
        ) from error
    return one


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no name")
    return value


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{name} is {value!r}, no number")
    return {name: float(value) for name, value in metrics.items()}


def result_sections(runs: Mapping[str, Sequence[Evaluated]], shown: Mapping[str, int]) -> list[Section]:
    """Return a section a protocol: a table with a row an encoder, the best in bold; warnings; details.

    Args:
        runs: Their results by their names; of a single run the name is not shown.
        shown: The step of each run that the page shows.
    """
    protocols = dict.fromkeys(one.protocol for results in runs.values() for one in results)
    return [_section(protocol, runs, shown) for protocol in sorted(protocols)]


def _section(protocol: str, runs: Mapping[str, Sequence[Evaluated]], shown: Mapping[str, int]) -> Section:
    found = {run: [one for one in results if one.protocol == protocol] for run, results in runs.items()}
    files = [(run, one) for run, results in found.items() for one in results]
    labels = {
        one.file: ", ".join([run] * (len(runs) > 1) + [one.file.stem] * (len(found[run]) > 1)) for run, one in files
    }
    encoders = [(_label(labels[one.file], name), metrics) for _, one in files for name, metrics in one.results.items()]
    shares = all(one.shares for _, one in files)
    blocks: list[Block] = [
        _table(protocol, encoders, shares),
        *_said(files, shown),
        *_other_conditions([one for _, one in files]),
    ]
    details = {
        _label(labels[one.file], encoder): details for _, one in files for encoder, details in one.details.items()
    }
    blocks += detail_sections(details)
    blocks.append(
        Section(
            "How it was measured",
            [how_measured({labels[one.file] or one.file.name: one for _, one in files})],
            closed=True,
        )
    )
    return Section(spoken(protocol), blocks)


def _label(prefix: str, encoder: str) -> str:
    return f"{prefix}: {encoder}" if prefix else encoder


def _table(protocol: str, encoders: Sequence[tuple[str, Mapping[str, float]]], shares: bool) -> Table:
    names = list(dict.fromkeys(name for _, metrics in encoders for name in metrics))
    best = {name: best_of(name, [metrics[name] for _, metrics in encoders if name in metrics]) for name in names}
    rows = [(label, *(_cell(metrics.get(name), best[name], shares) for name in names)) for label, metrics in encoders]
    short = {name: name.removeprefix(f"{protocol}_") for name in names}
    heads = [spoken(name if short[name].isdigit() else short[name]) + " (%)" * shares for name in names]
    return Table(("", *heads), rows)


def _cell(value: float | None, best: float | None, shares: bool) -> str:
    if value is None:
        return "–"
    text = f"{100 * value:.2f}" if shares else f"{value:.3f}"
    return Best(text) if value == best else text


def _said(files: Sequence[tuple[str, Evaluated]], shown: Mapping[str, int]) -> Iterator[str]:
    """Say at which update each file was measured, and warn where the page shows another."""
    for run, one in files:
        of_run = f" of {run}" if len(shown) > 1 else ""
        if one.step is None:
            yield Alert(
                f"{one.file.name}{of_run} is of the weights in {one.weights or 'a file'}, of an unknown update."
            )
        elif one.step != shown[run]:
            yield Alert(
                f"{one.file.name}{of_run} was measured at update {one.step}, but the checkpoint shown is that of "
                f"update {shown[run]}."
            )
        else:
            yield f"{one.file.name}{of_run}: measured at update {one.step}, the checkpoint shown."


def _other_conditions(files: Sequence[Evaluated]) -> Iterator[str]:
    """Warn of files that cannot be compared with the first."""
    first, *others = files
    for other in others:
        changed = changed_conditions(first, other)
        if changed:
            yield Alert(f"{other.file} was measured otherwise than {first.file}: {'; '.join(changed)}.")


def changed_conditions(first: Evaluated, other: Evaluated) -> list[str]:
    """Return in what two were measured otherwise, as words; where the data lie changes no result."""
    return configuration.differences(_conditions(first.measured), _conditions(other.measured))


def _conditions(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _conditions(value) if isinstance(value, Mapping) else value
        for name, value in measured.items()
        if isinstance(value, Mapping) or name not in _PLACES
    }


def how_measured(files: Mapping[str, Evaluated]) -> Table:
    """Return the arguments and the data of results by what they are called."""
    flat = {name: dict(configuration.flatten(one.measured)) for name, one in files.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    return Table(("", *flat), [(key, *(Text(values.get(key, "–")) for values in flat.values())) for key in keys])
