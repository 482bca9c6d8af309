"""The numbers of a run: how far it came, how fast, on what."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssljax import build
from ssljax.checkpoint import Checkpoints
from ssljax.objectives.base import PyTree
from ssljax.report.metrics import Lines, logged
from ssljax.report.page import Text
from ssljax.starts import read_record, read_starts


def run_numbers(workdir: Path, run: build.Restored, metrics: Lines) -> dict[str, str]:
    """Return the numbers of a run by their names, as text.

    Args:
        workdir: Of the run.
        run: One of its checkpoints.
        metrics: What it logged.
    """
    step, total, size = int(run.state.step), build.total_steps(run.config), run.config.batch_size
    rates = [line["samples_per_second"] for line in metrics if line.get("samples_per_second")]
    waits = [line["data_wait_share"] for line in metrics if "data_wait_share" in line]
    models = {"encoder": run.state.params.get("encoder")} if isinstance(run.state.params, dict) else {}
    numbers = {
        "objective": type(run.objective).__name__,
        "checkpoint shown": f"update {step:,} of {total:,}",
        "samples seen": f"{step * size:,} (batches of {size:,})",
        "last update logged": f"{int(metrics[-1]['step']):,}",
    }
    if rates:
        numbers["time of training"] = _duration(_seconds(metrics, size))
        numbers["samples a second, median"] = f"{np.median(rates):,.1f}"
        numbers["samples a second, at best"] = f"{max(rates):,.1f}"
    if waits:
        numbers["waiting for data, median"] = f"{100 * float(np.median(waits)):.1f} % of the time"
    used = [line["mfu"] for line in metrics if "mfu" in line]
    if used:
        numbers["MFU, median"] = f"{100 * float(np.median(used)):.1f} %"
    if "goodput" in metrics[-1]:
        share, restarts = metrics[-1]["goodput"], int(metrics[-1].get("restarts", 0))
        numbers["goodput"] = f"{100 * share:.1f} % of the time since the first start; {restarts} restarts"
    numbers["devices"] = "; ".join(read_starts(workdir)) or "not recorded"
    numbers |= _made_by(workdir)
    numbers["parameters trained"] = f"{_count(run.state.params):,}"
    numbers |= {f"parameters of the {name}": f"{_count(tree):,}" for name, tree in models.items() if tree is not None}
    best = _best(workdir, run)
    return numbers | ({"best checkpoint": best} if best else {})


def _made_by(workdir: Path) -> dict[str, str]:
    """Return the commits of a run's starts and the command of the last, as far as it noted them."""
    starts = [start for start in read_record(workdir) if "command" in start]
    if not starts:
        return {}
    commits = [_commit(start) for start in starts]
    return {"commit": "; ".join(dict.fromkeys(commits)), "command": Text(shlex.join(starts[-1]["command"]))}


def _commit(start: Mapping[str, Any]) -> str:
    if start["commit"] is None:
        return f"none: ssljax {start['packages']['ssljax']} as installed"
    return start["commit"][:12] + (f", with the changes in {start['dirty']}" if start["dirty"] else "")


def _seconds(metrics: Lines, size: int) -> float:
    """Return about how long training took, by the rates of its lines: without evaluations and pauses."""
    steps = np.diff([0, *(line["step"] for line in metrics)])
    rates = [line.get("samples_per_second", 0.0) for line in metrics]
    return sum(float(n) * size / rate for n, rate in zip(steps, rates, strict=True) if rate > 0)


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def _count(tree: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _best(workdir: Path, run: build.Restored) -> str:
    settings = run.config.checkpoint
    if not settings.get("best_metric"):
        return ""
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        best_metric=settings.best_metric,
        best_mode=settings.get("best_mode", "min"),
        read_only=True,
    )
    best = checkpoints.best()
    checkpoints.close()
    return f"update {best[0]:,}: {logged(settings.best_metric)} {best[1]:.4g}" if best else ""
