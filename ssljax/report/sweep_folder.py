"""What lies in a sweep's folder: sweep.json, and the runs that it names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssljax.errors import InputError
from ssljax.report.metrics import Lines, read_metrics
from ssljax.report.results import Evaluated, read_results
from ssljax.starts import read_lines, read_record

SWEEP = "sweep.json"
TRAINED = "trained"  # what `ssljax evaluate` calls a run's own encoder; all others in its files are baselines
FINISHED, FAILED, UNFINISHED, NOT_STARTED = "finished", "failed", "unfinished", "not started"
DAMAGED = "damaged"


class Member(NamedTuple):
    """A run of a sweep.

    Attributes:
        variant: Whose it is.
        seed: Its seed.
        name: Its folder's, in that of the sweep.
        differs: What its variant sets, by dotted key.
        file: The config that it comes from, FILE[:ARG].
        state: FINISHED, FAILED, UNFINISHED, NOT_STARTED, or DAMAGED, of which nothing below is known.
        error: Why it failed, or what is damaged.
        updates: Those done, as far as is known.
        seconds: How long it took, once it has finished.
        config: Plain, empty before it began.
        lines: What it logged.
        results: What `ssljax evaluate` found, a protocol each.
        starts: The lines of its starts.jsonl.
    """

    variant: str
    seed: int
    name: str
    differs: Mapping[str, Any]
    file: str
    state: str
    error: str
    updates: int
    seconds: float | None
    config: Mapping[str, Any]
    lines: Lines
    results: Sequence[Evaluated]
    starts: Sequence[Mapping[str, Any]]


class Swept(NamedTuple):
    """A sweep as its folder has it.

    Attributes:
        folder: Its folder.
        file: What said what varies.
        budget: The scale asked for.
        commands: What was typed, the first time and later.
        metrics: What is compared.
        varies: The dotted key on the horizontal axis of plots, or "".
        reference: The variant that the others are compared with.
        members: Its runs, those of a variant in a row.
    """

    folder: Path
    file: str
    budget: str
    commands: Sequence[str]
    metrics: Sequence[str]
    varies: str
    reference: str
    members: Sequence[Member]

    @property
    def variants(self) -> dict[str, list[Member]]:
        """The runs by their variants, the reference first, which a sweep may have begun without."""
        found: dict[str, list[Member]] = {self.reference: []}
        for member in self.members:
            found.setdefault(member.variant, []).append(member)
        return {variant: members for variant, members in found.items() if members}

    @property
    def examples(self) -> dict[str, Member]:
        """A run of each variant, one with a config if there is any."""
        return {name: max(members, key=lambda one: bool(one.config)) for name, members in self.variants.items()}


def is_sweep(folder: Path) -> bool:
    """Return whether a folder is that of a sweep."""
    return (folder / SWEEP).is_file()


def read_sweep(folder: Path) -> Swept:
    """Return a sweep with all of its runs.

    Raises:
        InputError: Its sweep.json is damaged; a run of which a file is has the state DAMAGED.
    """
    path = folder / SWEEP
    record = _read(path)
    if "commands" not in record and "command" in record:  # as earlier versions have it
        record["commands"] = [record["command"]]
    kinds = dict(file=str, budget=str, commands=list, metrics=list, varies=str, reference=str)
    fields = {key: _field(path, record, key, kind) for key, kind in kinds.items()}
    for key in ("commands", "metrics"):
        _check(path, key, fields[key], all(isinstance(one, str) for one in fields[key]))
    runs = _field(path, record, "runs", list)
    return Swept(folder, **fields, members=[_member(folder, run, f"runs[{n}]") for n, run in enumerate(runs)])


def _check(path: Path, key: str, value: Any, good: bool) -> None:
    if not good:
        raise InputError(f"{path} is damaged: {key} is {value!r}; remove it, and run ssljax sweep again.")


def _field(path: Path, record: Any, key: str, kind: type, prefix: str = "") -> Any:
    """Return what an object in a file has at a key, of a type."""
    if not isinstance(record, Mapping) or key not in record:
        raise InputError(f"{path} is damaged: {prefix}{key} is missing; remove it, and run ssljax sweep again.")
    value = record[key]
    _check(path, prefix + key, value, isinstance(value, kind) and not (kind is int and isinstance(value, bool)))
    return value


def score(member: Member, metric: str, encoder: str = TRAINED) -> float | None:
    """Return a finished run's metric: of its files of results, or else the last that it logged; None without one."""
    if member.state != FINISHED:
        return None
    for one in member.results:
        if metric in one.results.get(encoder, {}):
            return one.results[encoder][metric]
    logged = [float(line[metric]) for line in member.lines if metric in line] if encoder == TRAINED else []
    return logged[-1] if logged else None


def value_at(values: Mapping[str, Any], key: str) -> Any:
    """Return what a plain config has at a dotted key, None where it has nothing."""
    there: Any = values
    for part in key.split("."):
        there = there.get(part) if isinstance(there, Mapping) else None
    return there


def _member(sweep: Path, run: Any, where: str) -> Member:
    """Return a run from its entry in sweep.json, which is there."""
    path, prefix = sweep / SWEEP, f"{where}."
    kinds = dict(variant=str, seed=int, folder=str, differs=dict, config=str)
    variant, seed, name, differs, config = (_field(path, run, key, kind, prefix) for key, kind in kinds.items())
    inside = Path(name).parts and not Path(name).is_absolute() and ".." not in Path(name).parts
    _check(path, f"{prefix}folder", name, bool(inside))
    try:
        return Member(variant, seed, name, differs, config, *_contents(sweep / name))
    except InputError as error:
        return Member(variant, seed, name, differs, config, DAMAGED, str(error), 0, None, {}, [], [], [])


def _contents(place: Path) -> tuple[Any, ...]:
    """Return what a `Member` has of its folder, from its state on.

    Raises:
        InputError: A file in it is damaged.
    """
    finished, failed, config = (_read(place / f"{name}.json") for name in ("finished", "failed", "config"))
    if finished:
        _field(place / "finished.json", finished, "updates", int)
        seconds = finished.get("seconds")
        _check(place / "finished.json", "seconds", seconds, _is_number(seconds) or seconds is None)
    _check_config(place / "config.json", config)
    metrics = place / "metrics.jsonl"
    lines = read_metrics(metrics) if read_lines(metrics, "remove that line") else []
    if finished and not lines:
        raise InputError(f"{metrics} is missing or empty, though the run has finished; train it again.")
    results = [one for one in read_results(place / "evaluate") if one.file.stem == one.protocol]
    state = FINISHED if finished else FAILED if failed else UNFINISHED if config else NOT_STARTED
    error = str(failed.get("error", "no reason is recorded")) if state == FAILED else ""
    updates = finished.get("updates", lines[-1]["step"] if lines else 0)
    return state, error, updates, finished.get("seconds"), config, lines, results, read_record(place)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Raise InputError where a config that is there lacks what every run's has."""
    if not config:
        return
    for key in ("batch_size", "epochs", "samples_per_epoch"):
        _check(path, key, config.get(key), _is_number(config.get(key)) and config[key] > 0)
    for key in ("objective", "models", "data"):
        _field(path, config, key, dict)
    for key in ("objective", "data"):
        _field(path, config[key], "name", str, f"{key}.")


def _read(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, an empty one where there is no file."""
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); remove it, and run ssljax sweep again.") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no object; remove it, and run ssljax sweep again.")
    return found
