"""What a model card says of a run: its objective, config, data, and what evaluations found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeGuard

from ml_collections import ConfigDict

from ssljax import build, configuration

UNSTATED = ""
_RUNNING = ("mesh", "loader", "checkpoint", "evaluate", "log")  # how and where it ran, not what it computed


def source_of(workdir: Path, config: ConfigDict, step: int) -> dict[str, Any]:
    """Return it as JSON values.

    Args:
        workdir: The run's folder, whose evaluate/*.json are read.
        config: The run's.
        step: Of the checkpoint; results of other checkpoints are left out.
    """
    plain = configuration.plain(config)
    data = plain.get("data", {})
    return {
        "objective": plain["objective"]["name"],
        "step": step,
        "samples": step * plain["batch_size"],
        "image_size": build.image_size(config),
        "data": {name: value for name, value in data.items() if name in ("name", "data", "video", "dataset", "split")},
        "metrics": results_of(workdir, step),
        "config": {name: value for name, value in plain.items() if name not in _RUNNING},
        "license": UNSTATED,
    }


def is_source(value: Any) -> TypeGuard[dict[str, Any]]:
    """Return whether a JSON value is what `source_of` returns, or a part of it, as a file may claim."""
    kinds = {
        "objective": str,
        "step": int,
        "samples": int,
        "license": str,
        "data": dict,
        "metrics": dict,
        "config": dict,
    }
    if not isinstance(value, dict) or not all(
        isinstance(value.get(name, kind()), kind) for name, kind in kinds.items()
    ):
        return False
    metrics = value.get("metrics", {}).values()
    return (
        ("objective" not in value or {"step", "samples", "data"} <= value.keys())
        and isinstance(value.get("image_size"), int | None)
        and isinstance(value.get("config", {}).get("objective", {}), dict)
        and all(isinstance(found, dict) for found in metrics)
        and all(isinstance(number, int | float) for found in metrics for number in found.values())
    )


def results_of(workdir: Path, step: int) -> dict[str, dict[str, float]]:
    """Return the trained encoder's metrics by protocol, of this checkpoint's files alone."""
    found: dict[str, dict[str, float]] = {}
    for path in sorted((workdir / "evaluate").glob("*.json")):
        try:
            record = json.loads(path.read_text())
            results, at, protocol = record["results"]["trained"], record["step"], str(record["protocol"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a file of the user's own, or of weights: it says nothing of this checkpoint
        if at == step and is_source({"metrics": {protocol: results}}):
            found[protocol] = results
    return found
