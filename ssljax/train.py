"""A run: begun, or continued where it stood, whatever the objective."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from ssljax import build, configuration, limits, lock, mesh, resident, step
from ssljax.checkpoint import Checkpoints
from ssljax.data import loader
from ssljax.errors import InputError
from ssljax.evaluate.periodic import Periodic
from ssljax.export import initial
from ssljax.export.identity import identify
from ssljax.heartbeat import Heartbeat
from ssljax.loop import run_updates
from ssljax.objectives.base import Objective
from ssljax.profile import Range, check_range
from ssljax.record import differences
from ssljax.retention import check_best_metric
from ssljax.starts import forget_starts, read_record, record_start
from ssljax.stop import Stop
from ssljax.utilisation import work_of


class _Parts(NamedTuple):
    """What a config stands for, checked against each other; `abstract` and `shardings` are of the train state."""

    devices: jax.sharding.Mesh
    objective: Objective
    optimizer: optax.GradientTransformation
    data: Any
    evaluation: Periodic
    update: Any
    abstract: step.TrainState
    shardings: step.TrainState


def train(
    config: ConfigDict, workdir: Path, *, profile: Range | None = None, reproduces: Path | None = None
) -> step.TrainState:
    """Train, or continue what `workdir` holds, to the config's last update; return the final state.

    A run that was interrupted, even by SIGKILL, and continued here ends as one that never was: same windows in the same
    order and, on the same devices, the same bits. SIGTERM and Ctrl-C save a checkpoint and return; in a run of several
    processes it is enough that one of them gets the signal. `profile` names updates to trace.

    Raises:
        InputError: Config, data or folder cannot be used, or another process trains in the folder, told before anything
            is written; or the loss is not finite, after the batch's windows were written to a file for replay.
    """
    began = time.time()
    limits.check_numbers(config)
    check_range(profile, build.total_steps(config))
    parts = _parts(config)
    if reproduces is not None:
        _check_same_data(reproduces, workdir, parts.data.checksum)
    with jax.set_mesh(parts.devices), Stop() as stop, contextlib.ExitStack() as stack:
        batch = parts.objective.batch_spec(config.batch_size)
        _, metrics = jax.eval_shape(parts.update, parts.abstract, batch)  # before any file
        total = build.total_steps(config)
        if not parts.evaluation.due(total, total):  # else its metrics are known after the first
            check_best_metric(config.checkpoint.best_metric, metrics)
        start, named = _start(config, workdir, parts)
        if jax.process_index() == 0:
            stack.enter_context(lock.training(workdir))
        checkpoints = open_run(workdir, configuration.plain(config), parts.data.checksum)
        heartbeat = Heartbeat(workdir, jax.process_index(), jax.process_count(), **config.watch)
        try:
            state = _first_state(config, parts, checkpoints, start)
            noted = {"seed": config.seed, "data_checksum": parts.data.checksum, **named}
            record_start(workdir, int(state.step), parts.devices, began, **noted)
            if reproduces is not None:
                _tell_differences(reproduces, workdir)
            work = work_of(config, parts.update, parts.abstract, batch, parts.devices)
            compiled = jax.jit(parts.update, donate_argnums=0, out_shardings=(parts.shardings, None))
            around = (parts.data, parts.devices, checkpoints, parts.evaluation, heartbeat, stop)
            state = run_updates(config, workdir, compiled, state, *around, work, profile)
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                checkpoints.close()
            raise
        checkpoints.close()
    return state


def _parts(config: ConfigDict) -> _Parts:
    """Return the parts of a run.

    Raises:
        InputError: One cannot be used, or they do not fit.
    """
    devices = mesh.make_mesh(config.mesh)
    mesh.check_batch(devices, config.batch_size, config.accumulate)
    objective, optimizer, data = build.objective(config), build.optimizer(config), build.dataset(config)
    build.check_contract(objective, data)
    evaluation = build.evaluation(config, objective, devices)
    loader.check(data, config.batch_size, config.loader.workers)
    plans = getattr(data, "plans", None)
    if plans is not None:
        resident.check_memory(plans, devices)
    update = step.make_train_step(objective, optimizer, seed=config.seed, accumulate=config.accumulate)
    return _Parts(
        devices, objective, optimizer, data, evaluation, update, *step.abstract_state(objective, optimizer, devices)
    )


def _start(config: ConfigDict, workdir: Path, parts: _Parts) -> tuple[initial.Start | None, dict[str, Any]]:
    """Return the weights that a new run begins with, and how its record names them.

    Raises:
        InputError: They cannot be read or do not fit.
    """
    if not config.init_from or _is_begun(workdir):
        return None, {}
    start = initial.read_start(config.init_from, parts.objective, parts.abstract)
    return start, {"init_from": identify(config.init_from)} if jax.process_index() == 0 else {}


def _first_state(
    config: ConfigDict, parts: _Parts, checkpoints: Checkpoints, start: initial.Start | None
) -> step.TrainState:
    """Return the newest checkpoint's state, or that of update 0."""
    latest = checkpoints.latest()
    if latest is not None:
        return checkpoints.restore(latest, parts.abstract)
    state = step.initial_state(parts.objective, parts.optimizer, config.seed, parts.devices)
    return state if start is None else _begin_from(config.init_from, start, state)


def open_run(workdir: Path, config: dict[str, Any], data_checksum: str) -> Checkpoints:
    """Create the run's folder, or check that what it holds is this very run.

    Raises:
        InputError: The folder holds another config's run, or the data under it changed.
    """
    path = workdir / "config.json"
    saved = _is_begun(workdir)
    if path.exists() and saved:  # a run that ended before its first checkpoint has nothing to lose
        there = json.loads(path.read_text())
        if there["objective"]["name"] == "imported":
            raise InputError(
                f"{workdir} holds imported weights; train in another --workdir, with --config.init_from={workdir}."
            )
        changed = configuration.differences(there, config)
        if changed:
            raise InputError(
                f"{workdir} holds a run of another config: {'; '.join(changed[:5])}. Give the config it was started "
                "with, or another --workdir."
            )
    elif saved:
        raise InputError(f"{workdir} holds checkpoints but no config.json; give another --workdir.")
    settings = {key: value for key, value in config["checkpoint"].items() if key != "every"}
    multihost_utils.sync_global_devices("the run's folder is checked by all before one writes it")
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        if path.exists() and configuration.differences(json.loads(path.read_text()), config):
            forget_starts(workdir)  # they were those of another run, which got nowhere
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(config, indent=2) + "\n")
        temporary.replace(path)
    checkpoints = Checkpoints(workdir / "checkpoints", **settings)
    if checkpoints.latest() is not None:
        _, record = checkpoints.record()
        if record.data_checksum != data_checksum:
            raise InputError(
                f"The data differs from what {workdir} was trained on (index checksum {data_checksum}, not "
                f"{record.data_checksum}); restore the data, or give another --workdir."
            )
    return checkpoints


def _check_same_data(reproduces: Path, workdir: Path, checksum: str) -> None:
    """Raise InputError where a run would be repeated with other data, or in its own folder."""
    if reproduces.resolve() == workdir.resolve():
        raise InputError(f"--reproduce and --workdir are both {workdir}; name a new folder to train in.")
    known = [line["data_checksum"] for line in read_record(reproduces) if "data_checksum" in line]
    if not known and _is_begun(reproduces):
        with contextlib.closing(Checkpoints(reproduces / "checkpoints", read_only=True)) as checkpoints:
            known = [checkpoints.record()[1].data_checksum]
    if not known:
        raise InputError(f"{reproduces} has neither a start nor a checkpoint that tells its data; train with --config.")
    if known[-1] != checksum:
        raise InputError(
            f"The data differs from what {reproduces} was trained on (index checksum {checksum}, not {known[-1]}); "
            "give that data, by --config.data.video or whichever key it is, or train with --config."
        )


def _tell_differences(reproduces: Path, workdir: Path) -> None:
    if jax.process_index() == 0:
        for sentence in differences(read_record(reproduces), read_record(workdir)[-1]):
            print(f"ssljax: unlike {reproduces}: {sentence}.", file=sys.stderr)


def _is_begun(workdir: Path) -> bool:
    return any(entry.name.isdigit() for entry in (workdir / "checkpoints").glob("*"))


def _begin_from(place: str, start: initial.Start, state: step.TrainState) -> step.TrainState:
    if jax.process_index() == 0:
        print("\n".join([f"Starting from {place}:", *(f"  {line}" for line in start.told)]), file=sys.stderr)
    return initial.begin(start, state)
