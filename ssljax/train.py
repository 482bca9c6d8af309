"""The loop: one for all objectives."""

from __future__ import annotations

import collections
import functools
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from ssljax import build, configuration, limits, mesh, resident, step
from ssljax.checkpoint import Checkpoints, Record, check_best_metric
from ssljax.data import loader
from ssljax.errors import InputError
from ssljax.export import initial
from ssljax.log import Log, is_finite
from ssljax.starts import record_start

# Updates in flight: enough to keep the device busy, few enough that a bad loss is seen before much is built on it.
_IN_FLIGHT = 2


def train(config: ConfigDict, workdir: Path) -> step.TrainState:
    """Train, or continue what `workdir` holds, to the config's last update; return the final state.

    A run that was interrupted, even by SIGKILL, and continued here ends as one that never was: same windows in the same
    order and, on the same devices, the same bits. SIGTERM and Ctrl-C save a checkpoint and return.

    Raises:
        InputError: Config, data or folder cannot be used, told before anything is written; or the loss is not finite,
            after the batch's windows were written to a file for replay.
    """
    limits.check_numbers(config)
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
    abstract, shardings = step.abstract_state(objective, optimizer, devices)
    with jax.set_mesh(devices):
        _, metrics = jax.eval_shape(update, abstract, objective.batch_spec(config.batch_size))  # before any file
        if not evaluation.due(total := build.total_steps(config), total):  # else its metrics are known after the first
            check_best_metric(config.checkpoint.best_metric, metrics)
        plain = build.plain(config)
        start = None
        if config.init_from and not _is_begun(workdir):
            start = initial.read_start(config.init_from, objective, abstract)
        checkpoints = open_run(workdir, plain, data.checksum)
        try:
            latest = checkpoints.latest()
            if latest is None:
                state = step.initial_state(objective, optimizer, config.seed, devices)
                state = state if start is None else _begin_from(config.init_from, start, state)
            else:
                state = checkpoints.restore(latest, abstract)
            record_start(workdir, int(state.step), devices)
            compiled = jax.jit(update, donate_argnums=0, out_shardings=(shardings, None))
            return _loop(config, plain, workdir, compiled, state, data, devices, checkpoints, evaluation)
        finally:
            checkpoints.close()


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


def _is_begun(workdir: Path) -> bool:
    return any(entry.name.isdigit() for entry in (workdir / "checkpoints").glob("*"))


def _begin_from(place: str, start: initial.Start, state: step.TrainState) -> step.TrainState:
    if jax.process_index() == 0:
        print("\n".join([f"Starting from {place}:", *(f"  {line}" for line in start.told)]), file=sys.stderr)
    return initial.begin(start, state)


def _loop(
    config: ConfigDict,
    plain: dict[str, Any],
    workdir: Path,
    update: Any,
    state: step.TrainState,
    data: Any,
    devices: jax.sharding.Mesh,
    checkpoints: Checkpoints,
    evaluation: Any,
) -> step.TrainState:
    """Run the updates that are left, evaluating and saving as configured."""
    done, total, size = int(state.step), build.total_steps(config), config.batch_size
    batches, finish = _batches(config, data, devices, done * size)
    log = _open_log(config, plain, workdir, done, "clips" if "frames" in data[0] else "samples")
    bad_loss = functools.partial(_report_bad_loss, workdir, size=size, data=data, checkpoints=checkpoints)
    in_flight = _InFlight(log, bad_loss)

    def save() -> None:
        in_flight.settle(0)
        checkpoints.save(done, state, Record(done * size, data.checksum, plain), in_flight.newest)

    with log, batches, mesh.Ahead(devices, batches, size) as ahead, Stop() as stop:
        while done < total and not stop.requested(log.every, done):
            if not ahead.ready:
                in_flight.settle(0)  # from here on the devices have nothing to do: what follows is lost to the data
            asked = time.monotonic()
            batch = next(ahead)
            waited = time.monotonic() - asked
            with jax.transfer_guard("disallow"):  # everything that an update reads is on the devices already
                state, values = update(state, finish(batch))
            done += 1
            if evaluation.due(done, total):
                in_flight.settle(0)  # as they end, since what evaluates counts as no time
                jax.block_until_ready(values)
                try:
                    with log.paused():
                        values |= evaluation(state.params, state.state)
                except Exception:  # whatever it is, it is no reason to lose the updates
                    in_flight.add(done, values, waited)
                    save()
                    checkpoints.wait()
                    raise
                check_best_metric(config.checkpoint.best_metric, values)
            in_flight.add(done, values, waited)
            in_flight.settle(_IN_FLIGHT)
            if done % config.checkpoint.every == 0 and done < total:
                save()
        if in_flight.any:
            save()
        checkpoints.wait()
        if done < total:
            log.bar.write(f"Stopped at update {done} of {total}, saved; the same command continues.", file=sys.stderr)
    return state


def _batches(config: ConfigDict, data: Any, devices: jax.sharding.Mesh, position: int) -> tuple[loader.Batches, Any]:
    """Return the batches from a position on, and what makes of each, once on the mesh, an update's batch."""
    plans = getattr(data, "plans", None)
    finish: Any = lambda batch: batch  # noqa: E731
    if plans is not None:  # the loader gives places, of which the devices make windows
        finish = functools.partial(resident.finisher(plans, devices), resident.load(plans, devices))
    rows, size = mesh.local_rows(devices, config.batch_size), config.batch_size
    return loader.load(plans or data, rows=rows, batch_size=size, position=position, **config.loader.to_dict()), finish


def _open_log(config: ConfigDict, plain: dict[str, Any], workdir: Path, start: int, unit: str) -> Log:
    return Log(
        workdir,
        start=start,
        total=build.total_steps(config),
        batch_size=config.batch_size,
        unit=unit,
        schedules=build.schedules(config),
        config=plain,
        writes=jax.process_index() == 0,
        also=config.evaluate.every,
        **config.log.to_dict(),
    )


class _InFlight:
    """The updates that the devices were given and that are not logged yet.

    Attributes:
        newest: The metrics of the newest update that was logged.
    """

    def __init__(self, log: Log, bad_loss: Callable[[int, float], str]) -> None:
        """Begin with none; `bad_loss` says what to tell of an update whose loss is not finite."""
        self._log, self._bad_loss = log, bad_loss
        self._updates: collections.deque[tuple[int, Any, float]] = collections.deque()
        self._ended: collections.deque[float] = collections.deque()  # of the oldest of them, those seen to have ended
        self.newest: dict[str, float] = {}

    @property
    def any(self) -> bool:
        """Whether there was any update at all."""
        return bool(self.newest or self._updates)

    def add(self, number: int, values: Any, waited: float) -> None:
        """Take in an update, its metrics on the devices, before which these waited so many seconds for its data."""
        self._updates.append((number, values, waited))
        self._look()

    def settle(self, pending: int) -> None:
        """Wait for all updates but the newest `pending`, and log them.

        Raises:
            InputError: A loss is not finite.
        """
        while len(self._updates) > pending:
            number, values, waited = self._updates.popleft()
            self.newest = {name: float(value) for name, value in jax.device_get(values).items()}
            ended = self._ended.popleft() if self._ended else self._log.now()
            if not is_finite(self.newest):
                raise InputError(self._bad_loss(number, self.newest["loss"]))
            self._log.update(number, self.newest, waited, ended)

    def _look(self) -> None:
        """Note the time for the updates that ended since the last look: some are logged only much later."""
        for _, values, _ in list(self._updates)[len(self._ended) :]:
            if not values["loss"].is_ready():
                return
            self._ended.append(self._log.now())


class Stop:
    """Turns SIGTERM and Ctrl-C into a request to save and stop; a second one interrupts at once."""

    def __init__(self) -> None:
        """Listen from `with` on."""
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        """Install the handlers."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the handlers back that were there."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def requested(self, every: int, done: int) -> bool:
        """Return whether to stop; processes agree on it every few updates, since signals reach them apart."""
        if jax.process_count() == 1:
            return self._asked
        if done % every:
            return False
        return bool(np.any(multihost_utils.process_allgather(np.asarray(self._asked))))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True


def _report_bad_loss(workdir: Path, number: int, loss: float, *, size: int, data: Any, checkpoints: Checkpoints) -> str:
    """Write the windows of the batch that made the loss, and return what to say."""
    checkpoints.wait()
    positions = range((number - 1) * size, number * size)
    path = workdir / f"bad_batch_{number}.json"
    if jax.process_index() == 0:
        windows = [{"position": position, **data.describe(position)} for position in positions]
        path.write_text(json.dumps({"update": number, "loss": str(loss), "samples": windows}, indent=2) + "\n")
    latest = checkpoints.latest()
    kept = f"the checkpoint of update {latest} is kept" if latest is not None else "no checkpoint was written yet"
    return (
        f"The loss of update {number} is {loss}; its batch is listed in {path}, {kept}. "
        "Lower the learning rate or look at those samples."
    )
