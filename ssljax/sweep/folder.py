"""A sweep's folder: `sweep.json`, the folders of its runs, and how each of them stands."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ssljax import configuration, lock
from ssljax.errors import InputError
from ssljax.sweep import Sweep
from ssljax.sweep.read import Run

FINISHED, FAILED, RUNNING, WAITING = "finished", "failed", "running", "waiting"
STOP = ".stop"
"""A file in a run's folder while it is to stop and not to be queued again."""
BEGUN = "begun.json"
"""A file in a run's folder until its job reports: where that began, and how many before it ended there without."""


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Return what a file holds, None if there is none.

    Raises:
        InputError: It is no JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); remove it.") from error


def record(folder: Path, location: str, budget: str, command: str, sweep: Sweep, runs: Sequence[Run]) -> dict[str, Any]:
    """Return what `sweep.json` is to hold: what it holds, with these runs added or renewed.

    Raises:
        InputError: The folder is another sweep's, or the file damaged.
    """
    path = folder / "sweep.json"
    there = read_json(path) or {"runs": []}
    if not _is_record(there):
        raise InputError(f"{path} is damaged: it does not list runs by variant and seed; remove it.")
    for name, value in (("file", location), ("budget", budget)):
        if name in there and not _is_same(there[name], value):
            raise InputError(
                f"{path} is of a sweep with the {name} {there[name]}, not {value}; give another --workdir."
            )
    commands = there.get("commands") or [there[key] for key in ("command",) if key in there]
    listed = {(run["variant"], run["seed"]): run for run in there["runs"]}
    for run in runs:
        listed[run.variant, run.seed] = {
            "variant": run.variant,
            "seed": run.seed,
            "folder": run.name,
            "differs": run.differs,
            "config": run.location,
        }
    return {
        "file": location,
        "budget": budget,
        "command": command,
        "commands": list(dict.fromkeys([*commands, command])),
        "metrics": list(sweep.metrics),
        "varies": sweep.varies,
        "reference": sweep.variants[0].name,
        "runs": list(listed.values()),
    }


def _is_record(there: Any) -> bool:
    """Return whether what a sweep.json holds can be extended."""
    if not isinstance(there, dict) or not all(isinstance(there.get(key, ""), str) for key in ("file", "budget")):
        return False
    runs, commands = there.get("runs"), there.get("commands", [])
    if not isinstance(runs, list) or not isinstance(commands, list):
        return False
    kinds = (("variant", str), ("seed", int))
    return all(isinstance(run, dict) and all(isinstance(run.get(key), kind) for key, kind in kinds) for run in runs)


def _is_same(one: str, other: str) -> bool:
    """Return whether two names are of one file, or, where a file is gone or packaged, alike."""
    a, b = Path(one), Path(other)
    return a.resolve() == b.resolve() if a.exists() and b.exists() else a.stem == b.stem


def check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Check that a run's folder, where it is begun, is one of this config.

    Raises:
        InputError: It is another one's.
    """
    there = read_json(folder / "config.json")
    begun = (folder / "finished.json").exists() or any((folder / "checkpoints").glob("[0-9]*"))
    changed = configuration.differences(there, config) if begun and there is not None else []
    if changed:
        raise InputError(
            f"{folder} holds a run of another config: {'; '.join(changed[:5])}. Give what it was started with, or "
            "another --workdir."
        )


def missing_protocols(folder: Path, protocols: Mapping[str, Mapping[str, Any]], updates: int) -> list[str]:
    """Return the protocols without a file of results for these arguments, of the checkpoint after so many updates."""
    missing = []
    for name, arguments in protocols.items():
        found = read_json(folder / "evaluate" / f"{name}.json") or {}
        if found.get("arguments") != json.loads(json.dumps(arguments)) or found.get("step") != updates:
            missing.append(name)
    return missing


def state(folder: Path) -> str:
    """Return how a run stands."""
    if is_held(folder):
        return RUNNING
    if (folder / "finished.json").exists():
        return FINISHED
    return FAILED if (folder / "failed.json").exists() else WAITING


def fail(folder: Path, error: str, code: int) -> None:
    """Note that a run failed, and why; its next job counts anew."""
    write_json(folder / "failed.json", {"error": error, "code": code})
    (folder / BEGUN).unlink(missing_ok=True)


def held(folder: Path, patience: float = 0) -> AbstractContextManager[int | None]:
    """Hold a run's lock, that of its job; see `lock.held`."""
    return lock.held(folder / ".lock", patience)


def tell_holder(descriptor: int, slot: int, *processes: int) -> None:
    """Write into a lock which processes hold it, the first of them the one to ask, and in what slot they run."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"slot": slot, "processes": processes}).encode(), 0)


def is_held(folder: Path) -> bool:
    """Return whether a process holds a run's lock."""
    if not (folder / ".lock").exists():
        return False
    with held(folder) as descriptor:
        return descriptor is None


def holder(folder: Path) -> tuple[int | None, int]:
    """Return the process of this machine to ask for an end of a run, None if there is none, and the run's slot."""
    try:
        told = json.loads((folder / ".lock").read_text())
    except (OSError, ValueError):
        return None, 0  # it has not said so yet
    return next((process for process in told["processes"] if _has(process, folder / ".lock")), None), told["slot"]


def _has(process: int, path: Path) -> bool:
    """Return whether a process has a file open; its number alone may be another one's by now."""
    for descriptor in Path(f"/proc/{process}/fd").glob("*"):
        with contextlib.suppress(OSError):
            if descriptor.samefile(path):
                return True
    return False


def last_sentence(folder: Path) -> str:
    """Return the last line of what a run printed, "" if it printed nothing."""
    path = folder / "log.txt"
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 65_536))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip().removeprefix("ssljax: ") for line in reversed(lines) if line.strip()), "")


def updates_done(folder: Path) -> tuple[int, float | None]:
    """Return the newest update in a run's metrics, 0 if there is none, and its loss."""
    path = folder / "metrics.jsonl"
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16_384))
            lines = [line for line in file.read().split(b"\n")[:-1] if line.startswith(b"{")]
        found = json.loads(lines[-1])
        return int(found["step"]), found.get("loss")
    except (OSError, IndexError, ValueError, KeyError):
        return 0, None  # not yet written, or being written
