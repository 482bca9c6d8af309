"""The updates of a run: one loop for all objectives."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from ssljax import build, configuration, mesh, resident, step
from ssljax.ahead import Ahead
from ssljax.checkpoint import Checkpoints, Record
from ssljax.data import loader
from ssljax.data.listing import Listing, gather
from ssljax.errors import InputError
from ssljax.heartbeat import Heartbeat
from ssljax.in_flight import InFlight
from ssljax.log import Log
from ssljax.meter import UNKNOWN, Work
from ssljax.profile import Profiler, Range
from ssljax.retention import check_best_metric
from ssljax.spike_log import SpikeLog
from ssljax.stop import Stop
from ssljax.together import Heard, Together

# Updates in flight: enough to keep the device busy, few enough that a bad loss is seen before much is built on it.
_IN_FLIGHT = 2


def run_updates(
    config: ConfigDict,
    workdir: Path,
    update: Any,
    state: step.TrainState,
    data: Any,
    devices: jax.sharding.Mesh,
    checkpoints: Checkpoints,
    evaluation: Any,
    heartbeat: Heartbeat,
    stop: Stop,
    work: Work = UNKNOWN,
    profile: Range | None = None,
) -> step.TrainState:
    """Run the updates that are left, evaluating, saving and tracing as asked; return the last state, saved.

    Raises:
        InputError: The loss is not finite, or a checkpoint cannot be written.
    """
    done, size = int(state.step), config.batch_size
    _list_damage(workdir, data, done * size, ends=False)
    batches, finish = open_batches(config, data, devices, done * size)
    log = _open_log(config, workdir, done, "clips" if "frames" in data[0] else "samples", work)
    check = functools.partial(_check_update, workdir, _spike_log(config, workdir, done, data), size, data, checkpoints)
    together = Together(devices)
    in_flight = InFlight(log, together, check)
    profiler = Profiler(workdir, profile, done, in_flight=in_flight, meter=log.meter, heartbeat=heartbeat)
    loop = _Loop(config, state, data.checksum, in_flight, together, checkpoints, evaluation, log, heartbeat)
    with log, batches, Ahead(devices, batches, size) as ahead, profiler:
        heartbeat.other("compiling")
        while not loop.ended(stop):
            with profiler.update(loop.done + 1):
                if not ahead.ready:
                    in_flight.settle(0)  # from here on the devices have nothing to do: what follows is lost to the data
                asked = time.monotonic()
                batch = ahead.next_unless(lambda: stop.asked and together.alone)
                if batch is None:
                    break
                said = together.say(stop=stop.asked, busy=checkpoints.busy, waited=time.monotonic() - asked)
                compiling = contextlib.nullcontext() if in_flight.any else log.meter.paused()  # which the first does
                with compiling, jax.transfer_guard("disallow"):  # all that an update reads is on the devices already
                    loop.state, values = update(loop.state, finish(batch))
            loop.after(values, said)
            profiler.after(loop.done)
        loop.end()
    _list_damage(workdir, data, loop.done * size, ends=True)
    return loop.state


class _Loop:
    """Where a run stands, and what happens between its updates.

    Attributes:
        state: After the newest update.
        done: Updates done.
    """

    def __init__(
        self,
        config: ConfigDict,
        state: step.TrainState,
        checksum: str,
        in_flight: InFlight,
        together: Together,
        checkpoints: Checkpoints,
        evaluation: Any,
        log: Log,
        heartbeat: Heartbeat,
    ) -> None:
        """Begin with a state; `checksum` is the data's."""
        self.state, self.done, self._total = state, int(state.step), build.total_steps(config)
        self._config, self._plain, self._checksum = config.checkpoint, configuration.plain(config), checksum
        self._size, self._in_flight, self._together = config.batch_size, in_flight, together
        self._checkpoints, self._evaluation, self._log, self._heartbeat = checkpoints, evaluation, log, heartbeat
        self._due = False

    def ended(self, stop: Stop) -> bool:
        """Return whether no update follows: all are done, or somebody asked to stop, of which all processes know."""
        return self.done >= self._total or (stop.asked if self._together.alone else self._heard.stop)

    def after(self, values: dict[str, Any], said: Any) -> None:
        """Take in an update that the devices were given: evaluate and save where that is due, log those that ended."""
        self.done += 1
        if self._in_flight.newest:  # else somebody compiles still, here or in another process
            self._heartbeat.update(self.done)
        evaluated = self._evaluation.due(self.done, self._total)
        if evaluated:
            values |= self._evaluate(values, said)
        self._in_flight.add(self.done, values, said)
        self._in_flight.settle(_IN_FLIGHT)
        self._due |= self.done % self._config.every == 0 and self.done < self._total
        ranked = bool(self._config.best_metric) and evaluated  # later it would have no rank
        if self._due and (ranked or not (self._checkpoints.busy if self._together.alone else self._heard.busy)):
            self._save()
            self._due = False

    def end(self) -> None:
        """Save, wait until all is on the disk, and say where the time went."""
        if self._in_flight.any:
            self._save()
        self._heartbeat.other("saving")
        with self._log.meter.paused("saving"):
            self._checkpoints.wait()
        if self._in_flight.any:
            self._log.tell(self.done)
        if self.done < self._total:
            saved = ", saved" if self._checkpoints.latest() == self.done else ""
            stopped = f"Stopped at update {self.done} of {self._total}{saved}; the same command continues."
            self._log.bar.write(stopped, file=sys.stderr)

    @property
    def _heard(self) -> Heard:
        return self._in_flight.heard(self.done - _IN_FLIGHT)

    def _evaluate(self, values: dict[str, Any], said: Any) -> dict[str, float]:
        self._in_flight.settle(0)  # as they end, since what evaluates counts as no time
        jax.block_until_ready(values)
        self._heartbeat.other(f"evaluating update {self.done}")
        try:
            with self._log.meter.paused("evaluating"):
                found = self._evaluation(self.state.params, self.state.state)
        except Exception:  # whatever it is, it is no reason to lose the updates
            if self._together.alone:  # else the others may evaluate still, and would not come to save
                self._in_flight.add(self.done, values, said)
                self._save()
                self._checkpoints.wait()
            raise
        check_best_metric(self._config.best_metric, values | found)
        self._heartbeat.update(self.done)
        return found

    def _save(self) -> None:
        self._in_flight.settle(0)
        self._heartbeat.other("saving")
        record = Record(self.done * self._size, self._checksum, self._plain)
        with self._log.meter.paused("saving"):
            self._checkpoints.save(self.done, self.state, record, self._in_flight.newest)
        self._heartbeat.update(self.done)


def open_batches(
    config: ConfigDict, data: Any, devices: jax.sharding.Mesh, position: int
) -> tuple[loader.Batches, Any]:
    """Return the batches from a position on, and what makes of each, once on the mesh, an update's batch."""
    plans = getattr(data, "plans", None)
    finish: Any = lambda batch: batch  # noqa: E731
    if plans is not None:  # the loader gives places, of which the devices make windows
        finish = functools.partial(resident.finisher(plans, devices), resident.load(plans, devices))
    rows, size = mesh.local_rows(devices, config.batch_size), config.batch_size
    return loader.load(plans or data, rows=rows, batch_size=size, position=position, **config.loader.to_dict()), finish


def _open_log(config: ConfigDict, workdir: Path, start: int, unit: str, work: Work) -> Log:
    return Log(
        workdir,
        start=start,
        total=build.total_steps(config),
        batch_size=config.batch_size,
        unit=unit,
        schedules=build.schedules(config),
        config=configuration.plain(config),
        writes=jax.process_index() == 0,
        also=config.evaluate.every,
        work=work,
        **config.log.to_dict(),
    )


def _list_damage(workdir: Path, data: Any, position: int, *, ends: bool) -> None:
    """Make one list of what was replaced up to a position, and have the data set go on with it, unless all ends."""
    if not hasattr(data, "damage"):
        return
    path, process = workdir / "damaged.jsonl", jax.process_index()
    data.damage.listing = None
    multihost_utils.sync_global_devices("nobody lists damage while the lists are made one")
    if process == 0:
        gather(path, "position", position)
    multihost_utils.sync_global_devices("the lists of damage are one")
    data.damage.listing = None if ends else Listing(path, "position", process=process)


def _spike_log(config: ConfigDict, workdir: Path, start: int, data: Any) -> SpikeLog:
    return SpikeLog(
        workdir / "spikes.jsonl",
        start=start,
        batch_size=config.batch_size,
        where=functools.partial(loader.where, data),
        writes=jax.process_index() == 0,
        **config.spikes.to_dict(),
    )


def _check_update(
    workdir: Path,
    spikes: SpikeLog,
    size: int,
    data: Any,
    checkpoints: Checkpoints,
    number: int,
    metrics: Mapping[str, float],
) -> None:
    """List an update that is a spike; where the run cannot go on write the windows of its batch, and raise that."""
    loss = spikes.see(number, metrics)
    if loss is None:
        return
    checkpoints.wait()
    positions = range((number - 1) * size, number * size)
    path = workdir / f"bad_batch_{number}.json"
    if jax.process_index() == 0:
        windows = [{"position": position, **data.describe(position)} for position in positions]
        path.write_text(json.dumps({"update": number, "loss": loss, "samples": windows}, indent=2) + "\n")
    multihost_utils.sync_global_devices("the batch is listed before the first process ends")
    latest = checkpoints.latest()
    kept = f"the checkpoint of update {latest} is kept" if latest is not None else "no checkpoint was written yet"
    raise InputError(
        f"The loss of update {number} is {loss}; its batch is listed in {path}, {kept}. "
        "Lower the learning rate or look at those samples."
    )
