"""What lies in a sweep's folder: sweep.json, and the runs that it names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssljax.errors import InputError
from ssljax.report.metrics import Lines, read_metrics
from ssljax.report.results import Evaluated, read_results
from ssljax.starts import read_lines

SWEEP = "sweep.json"
TRAINED = "trained"  # what `ssljax evaluate` calls a run's own encoder; all others in its files are baselines
FINISHED, FAILED, UNFINISHED, NOT_STARTED = "finished", "failed", "unfinished", "not started"


class Member(NamedTuple):
    """A run of a sweep.

    Attributes:
        variant: Whose it is.
        seed: Its seed.
        name: Its folder's, in that of the sweep.
        differs: What its variant sets, by dotted key.
        file: The config that it comes from, FILE[:ARG].
        state: FINISHED, FAILED, UNFINISHED or NOT_STARTED.
        error: Why it failed.
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
        InputError: A file in it is damaged.
    """
    record = _read(folder / SWEEP)
    try:
        return Swept(
            folder,
            str(record["file"]),
            str(record["budget"]),
            [str(command) for command in record.get("commands") or [record["command"]]],
            [str(metric) for metric in record["metrics"]],
            str(record["varies"]),
            str(record["reference"]),
            [_member(folder, run) for run in record["runs"]],
        )
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise InputError(f"{folder / SWEEP} is no record of a sweep ({reason}); run ssljax sweep again.") from error


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


def _member(sweep: Path, run: Mapping[str, Any]) -> Member:
    """Return a run from its entry in sweep.json."""
    name, place = str(run["folder"]), sweep / run["folder"]
    finished, failed = _read(place / "finished.json"), _read(place / "failed.json")
    metrics, begun = place / "metrics.jsonl", place / "config.json"
    lines = read_metrics(metrics) if read_lines(metrics, "remove that line") else []
    results = [one for one in read_results(place / "evaluate") if one.file.stem == one.protocol]
    state = FINISHED if finished else FAILED if failed else UNFINISHED if begun.exists() else NOT_STARTED
    return Member(
        str(run["variant"]),
        run["seed"],
        name,
        dict(run["differs"]),
        str(run["config"]),
        state,
        str(failed.get("error", "no reason is recorded")) if state == FAILED else "",
        int(finished.get("updates", lines[-1]["step"] if lines else 0)),
        finished.get("seconds"),
        _read(begun),
        lines,
        results,
        [line for line in read_lines(place / "starts.jsonl", "remove that line") if isinstance(line, dict)],
    )


def _read(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, an empty one where there is no file."""
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); remove it, and run ssljax sweep again.") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no object; remove it, and run ssljax sweep again.")
    return found
