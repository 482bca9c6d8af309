"""Between runs and networks: what a run has learnt, and a run that holds what others have."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from ssljax import build, checkpoint, configuration, step
from ssljax.errors import InputError
from ssljax.export import places
from ssljax.export.network import Network, network_of
from ssljax.export.source import results_of, source_of
from ssljax.models.pure import combine, separate
from ssljax.objectives.base import Encoder
from ssljax.objectives.imported import Imported

COPIES = ("student", "teacher")


def network_of_run(
    workdir: Path,
    at: int | None = None,
    *,
    copy: str = "image",
    heads: bool = False,
    twin: bool = False,
    license: str | None = None,
) -> Network:
    """Return the image encoder of a run's checkpoint, the newest by default.

    Args:
        workdir: Of the run.
        at: Which checkpoint.
        copy: "image", the one that the paper evaluates; "student" or "teacher", where there are two.
        heads: Whether to take with it what pretraining puts on it.
        twin: Whether the other of two copies comes as the network's twin.
        license: What the model card says; by default what an imported network said.

    Raises:
        InputError: There is no such run, checkpoint or copy.
    """
    run = build.restore(workdir, at)
    build.image_encoder(run.objective, run.state.params, run.state.state)
    encoders = run.objective.encoders(run.state.params, run.state.state)
    if copy not in encoders:
        raise InputError(f"{type(run.objective).__name__} keeps one copy of its encoder; leave --{copy} out.")
    if isinstance(run.objective, Imported):
        source, measured = run.objective.card, results_of(workdir, int(run.state.step))
        if measured:
            source["metrics"] = source.get("metrics", {}) | measured
        averaged = run.objective.averaged == (encoders[copy] is encoders["image"])
    else:
        source = source_of(workdir, run.config, int(run.state.step))
        averaged = "teacher" in encoders and encoders[copy] is encoders["teacher"]
    if encoders[copy] is not encoders["image"]:
        source = source | {"metrics": {}}  # they are the other copy's
    if license is not None:
        source = source | {"license": license}
    other = next((e for name, e in encoders.items() if name in COPIES and e is not encoders[copy]), None)
    params = network_of(_with_statistics(other, encoders[copy]), heads=heads).params if twin and other else {}
    return network_of(encoders[copy], heads=heads, averaged=averaged, source=source, twin=params)


def _with_statistics(encoder: Encoder, kept: Encoder) -> Encoder:
    """Return a copy of an encoder with the batch norms' statistics of the other, of which alone a run keeps any."""
    own, statistics = (separate(some.model, some.params)[1] for some in (encoder, kept))
    return encoder if own else encoder._replace(params=combine(encoder.params, statistics))


def write_run(network: Network, workdir: Path, origin: str) -> None:
    """Write a folder that holds a network as a run's does: evaluations, pictures and exports take it as any other.

    Args:
        network: With its heads, and its other copy where there is one.
        workdir: A folder that is not there yet, or is empty.
        origin: The file that the network was read from.

    Raises:
        InputError: The folder holds something, or it can't be written.
    """
    check_new(workdir)
    objective = dict(name="imported", origin=origin, averaged=network.averaged, twin=tuple(sorted(network.twin)))
    objective |= dict(source=json.dumps(dict(network.source)), image_size=network.image_size)
    config = configuration.base()
    config.models = ConfigDict(network.arguments)
    config.objective = ConfigDict(objective)
    built, plain = build.objective(config), configuration.plain(config)
    assert isinstance(built, Imported)
    params, state = built.divide(network.params, network.twin)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params, state, number = jax.device_put((params, state, np.zeros((), np.int32)), here)
    with places.replacing(workdir) as partial:
        partial.mkdir()
        with contextlib.closing(checkpoint.Checkpoints(partial / "checkpoints", keep=1)) as checkpoints:
            start = step.TrainState(number, params, state, build.optimizer(config).init(params))
            checkpoints.save(0, start, checkpoint.Record(0, "", plain), {})
            checkpoints.wait()
        (partial / "config.json").write_text(json.dumps(plain, indent=2) + "\n")


def check_new(workdir: Path) -> None:
    """Raise InputError where a folder for a run is there already and holds something."""
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise InputError(f"{workdir} is there already; name a new folder for the run.")
