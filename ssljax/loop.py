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

from ssljax import build, mesh, resident, step
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
from ssljax.together import Together

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
    work: Work = UNKNOWN,
    profile: Range | None = None,
) -> step.TrainState:
    """Run the updates that are left, evaluating, saving and tracing as asked; return the last state, saved.

    Raises:
        InputError: The loss is not finite, or a checkpoint cannot be written.
    """
    done, total, size, plain = int(state.step), build.total_steps(config), config.batch_size, build.plain(config)
    _list_damage(workdir, data, done * size, ends=False)
    batches, finish = _batches(config, data, devices, done * size)
    log = _open_log(config, plain, workdir, done, "clips" if "frames" in data[0] else "samples", work)
    check = functools.partial(_check_update, workdir, _spike_log(config, workdir, done, data), size, data, checkpoints)
    together = Together(devices)
    in_flight, due = InFlight(log, together, check), False
    profiler = Profiler(workdir, profile, done, in_flight=in_flight, meter=log.meter, heartbeat=heartbeat)

    def save() -> None:
        in_flight.settle(0)
        with log.meter.paused("saving"):
            checkpoints.save(done, state, Record(done * size, data.checksum, plain), in_flight.newest)

    with log, batches, Ahead(devices, batches, size) as ahead, profiler, Stop() as stop:
        heartbeat.other("compiling")
        while done < total and not (stop.asked if together.alone else in_flight.heard(done - _IN_FLIGHT).stop):
            with profiler.update(done + 1):
                if not ahead.ready:
                    in_flight.settle(0)  # from here on the devices have nothing to do: what follows is lost to the data
                asked = time.monotonic()
                batch = ahead.next_unless(lambda: stop.asked and together.alone)
                if batch is None:
                    break
                said = together.say(stop=stop.asked, busy=checkpoints.busy, waited=time.monotonic() - asked)
                compiling = contextlib.nullcontext() if in_flight.any else log.meter.paused()  # which the first does
                with compiling, jax.transfer_guard("disallow"):  # all that an update reads is on the devices already
                    state, values = update(state, finish(batch))
            done += 1
            heartbeat.update(done)
            if evaluation.due(done, total):
                in_flight.settle(0)  # as they end, since what evaluates counts as no time
                jax.block_until_ready(values)
                heartbeat.other(f"evaluating update {done}")
                try:
                    with log.meter.paused("evaluating"):
                        values |= evaluation(state.params, state.state)
                except Exception:  # whatever it is, it is no reason to lose the updates
                    in_flight.add(done, values, said)
                    save()
                    checkpoints.wait()
                    raise
                check_best_metric(config.checkpoint.best_metric, values)
            in_flight.add(done, values, said)
            in_flight.settle(_IN_FLIGHT)
            profiler.after(done)
            due |= done % config.checkpoint.every == 0 and done < total
            ranked = bool(config.checkpoint.best_metric) and evaluation.due(done, total)  # later it would have no rank
            if due and (
                ranked or not (checkpoints.busy if together.alone else in_flight.heard(done - _IN_FLIGHT).busy)
            ):
                save()
                due = False
        heartbeat.other("saving")
        if in_flight.any:
            save()
        with log.meter.paused("saving"):
            checkpoints.wait()
        if in_flight.any:
            log.tell(done)
        if done < total:
            log.bar.write(f"Stopped at update {done} of {total}, saved; the same command continues.", file=sys.stderr)
    _list_damage(workdir, data, done * size, ends=True)
    return state


def _batches(config: ConfigDict, data: Any, devices: jax.sharding.Mesh, position: int) -> tuple[loader.Batches, Any]:
    """Return the batches from a position on, and what makes of each, once on the mesh, an update's batch."""
    plans = getattr(data, "plans", None)
    finish: Any = lambda batch: batch  # noqa: E731
    if plans is not None:  # the loader gives places, of which the devices make windows
        finish = functools.partial(resident.finisher(plans, devices), resident.load(plans, devices))
    rows, size = mesh.local_rows(devices, config.batch_size), config.batch_size
    return loader.load(plans or data, rows=rows, batch_size=size, position=position, **config.loader.to_dict()), finish


def _open_log(config: ConfigDict, plain: dict[str, Any], workdir: Path, start: int, unit: str, work: Work) -> Log:
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
    latest = checkpoints.latest()
    kept = f"the checkpoint of update {latest} is kept" if latest is not None else "no checkpoint was written yet"
    raise InputError(
        f"The loss of update {number} is {loss}; its batch is listed in {path}, {kept}. "
        "Lower the learning rate or look at those samples."
    )
