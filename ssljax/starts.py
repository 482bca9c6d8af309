"""The starts of a run: on what devices it ran, one line a start in `starts.jsonl`."""

from __future__ import annotations

import json
from pathlib import Path

import jax

from ssljax.errors import InputError

_FILE = "starts.jsonl"


def record_start(workdir: Path, step: int, mesh: jax.sharding.Mesh) -> None:
    """Note on what devices a run starts, or continues, after `step` updates; only the first of processes writes."""
    if jax.process_index() != 0:
        return
    device = mesh.devices.flat[0]
    line = {
        "step": step,
        "devices": mesh.devices.size,
        "kind": device.device_kind,
        "mesh": {name: size for name, size in mesh.shape.items() if size > 1},
        "processes": jax.process_count(),
        "jax": jax.__version__,
    }
    with (workdir / _FILE).open("a") as file:
        file.write(json.dumps(line) + "\n")


def read_starts(workdir: Path) -> list[str]:
    """Return on what devices a run ran, in words and in order, repetitions left out; none if it was not recorded.

    Raises:
        InputError: The record is damaged.
    """
    path = workdir / _FILE
    if not path.exists():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return list(dict.fromkeys(_words(**line) for line in lines))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it.") from error


def _words(step: int, devices: int, kind: str, mesh: dict[str, int], processes: int, jax: str) -> str:
    parts = [f"{devices} × {kind}"]
    parts += [", ".join(f"{name}={size}" for name, size in mesh.items())] * bool(mesh)
    parts += [f"{processes} processes"] * (processes > 1)
    return f"{' '.join(parts[:1])} ({'; '.join([*parts[1:], f'JAX {jax}'])})"
