"""`ssljax sweep`."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssljax import configuration
from ssljax.errors import STOPPED, InputError
from ssljax.sweep import folder as folders
from ssljax.sweep.executors import Local, Slot, Slurm, slots
from ssljax.sweep.fields import check_differences, plain_of
from ssljax.sweep.job import Job
from ssljax.sweep.launch import Launcher
from ssljax.sweep.progress import Progress
from ssljax.sweep.read import Run, expand, read_sweep


def run(
    location: str,
    workdir: Path,
    overrides: Sequence[str] = (),
    *,
    budget: str = "laptop",
    only: Sequence[str] = (),
    seeds: int | None = None,
    executor: str = "local",
    slurm: Sequence[str] = (),
    jobs: int | None = None,
    dry_run: bool = False,
    topology: str | None = None,
    command: str = "",
) -> None:
    """Launch what is left of a sweep and wait for it, or, dry, say what that would be.

    Raises:
        InputError: Something of it cannot be used, told before anything is launched.
        SystemExit: A run failed (1), or somebody asked to stop (75).
    """
    if topology is not None and not dry_run:
        raise InputError("--topology says for what --dry-run plans; give both.")
    if executor == "slurm" and jobs is not None:
        raise InputError("--jobs is of --executor local; on Slurm all runs are submitted at once.")
    if executor == "local" and slurm:
        raise InputError("--slurm is of --executor slurm; give that, too.")
    sweep = read_sweep(location, budget)
    runs = expand(location, sweep, overrides, only=only, seeds=seeds)
    whole = {run.variant: (run.location, plain_of(run.config)) for run in runs}
    check_differences(location, whole, "" if only else sweep.varies)
    if dry_run:
        from ssljax.sweep.dry import tell

        tell(location, budget, runs, workdir, topology, () if only else sweep.metrics)
        return
    _check(location, runs, workdir, () if only else sweep.metrics)
    chosen = _executor(workdir, executor, slurm, jobs)
    written = folders.record(workdir, location, budget, command, sweep, runs)
    folders.write_json(workdir / "sweep.json", written)
    _launch(workdir, runs, chosen)


def _check(location: str, runs: Sequence[Run], workdir: Path, metrics: Sequence[str]) -> None:
    """Check all that is to be launched, on the CPU: the accelerators are the runs'."""
    import jax

    jax.config.update("jax_platforms", "cpu")
    from ssljax.sweep.check import check_variants

    for each in runs:
        folders.check_config(workdir / each.name, configuration.plain(each.config))
    check_variants(location, runs, metrics)


def _executor(workdir: Path, name: str, slurm: Sequence[str], jobs: int | None) -> Local | Slurm:
    if name == "slurm":
        return Slurm(workdir / ".jobs", slurm)
    return Local(workdir / ".jobs", slots(jobs))


def _launch(workdir: Path, runs: Sequence[Run], executor: Local | Slurm) -> None:
    from ssljax import build
    from ssljax.sweep.check import protocols

    finished, jobs, updates = [], {}, {}
    for each in runs:
        asked, updates[each.name] = protocols(each.config), build.total_steps(each.config)
        if is_complete(workdir / each.name, asked, updates[each.name]):
            finished.append(each.name)
        else:
            jobs[each.name] = functools.partial(_job, workdir, each, asked, updates[each.name], executor.slots)
    with Progress(workdir, updates) as progress:
        progress.say(f"{len(runs)} runs, {len(finished)} of them finished before; results in {workdir}")
        launcher = Launcher(workdir, finished, jobs, executor)
        ended = launcher.run(progress)
    failed = [name for name, state in launcher.states.items() if state == folders.FAILED]
    for name in failed:
        told = folders.read_json(workdir / name / "failed.json") or {}
        print(f"ssljax: {name} failed: {told.get('error')} (see {workdir / name / 'log.txt'})", file=sys.stderr)
    if not ended:
        print("ssljax: stopped; the same command continues.", file=sys.stderr)
        raise SystemExit(STOPPED)
    if failed:
        print(f"ssljax: {len(failed)} of {len(runs)} runs failed; the same command tries them again.", file=sys.stderr)
        raise SystemExit(1)
    print(f"all {len(runs)} runs finished; ssljax report {workdir} makes the table")


def is_complete(folder: Path, protocols: Mapping[str, Any], updates: int) -> bool:
    """Return whether a run is finished, with the results of all protocols."""
    finished = folders.read_json(folder / "finished.json")
    return finished is not None and not folders.missing_protocols(folder, protocols, updates)


def _wandb_id(name: str) -> str:
    """Return a name as Weights & Biases takes it, with a hash by which names stay different."""
    plain = re.sub(r"[^\w.-]", "-", name)[-119:]
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _job(workdir: Path, run: Run, protocols: dict[str, Any], updates: int, places: Sequence[Slot], slot: int) -> Job:
    """Return what is to be submitted of a run for a slot; the commands are those that a user could type."""
    folder, location, overrides = workdir / run.name, run.location, run.overrides
    if overrides is None:  # no command line says this config; a run's own file does
        folders.write_json(folder / "config.json", configuration.plain(run.config))
        location, overrides = str(folder / "config.json"), ()
    python = (sys.executable, "-m")
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str((workdir / ".cache").absolute())
    environment: dict[str, str | None] = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "WANDB_RUN_ID": _wandb_id(f"{workdir.absolute().name}-{run.variant}-seed-{run.seed}"),
    }
    place = places[slot] if places else Slot((), {})
    return Job(
        folder=folder.absolute(),
        directory=Path.cwd(),
        train=(*python, "ssljax.cli", "train", "--config", location, "--workdir", str(folder), *overrides),
        evaluate=(*python, "ssljax.sweep.judge", str(folder)),
        protocols=protocols,
        updates=updates,
        slot=slot,
        cores=place.cores,
        environment=environment | place.environment,
    )
