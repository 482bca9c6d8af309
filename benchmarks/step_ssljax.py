"""The worker of `benchmarks.step` that does the updates of `ssljax train`; not to be called by hand."""

import dataclasses
import inspect
import json
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import by_hand, given, workers
from ssljax import build, configuration, flops, limits, loop, mesh, step
from ssljax.ahead import Ahead
from ssljax.chips import chip_of
from ssljax.errors import InputError
from ssljax.models.pure import Pure
from ssljax.plan.model import plain

SIDES = {"cpu": 2048, "gpu": 8192, "tpu": 8192}
"""Of the square matrices that a device's peak is measured with."""


def describe(config: ConfigDict) -> dict[str, Any]:
    """Return what a config is about in plain words and numbers: all that the baselines and the count by hand are told.

    Schedules are what they are at update 0.
    """
    built, views = build.objective(config), config.views
    encoder = built.encoder.abstract
    problem = {
        "objective": config.objective.name,
        "batch": config.batch_size,
        "size": config.objective.size,
        "frames": config.objective.get("frames"),
        "global_size": views.get("global_size", views.get("size")),
        "local_size": views.get("local_size", 0),
        "locals": views.get("locals", 0),
        "dtype": config.models.encoder.dtype,
        "values": {name: float(value(0)) for name, value in build.schedules(config).items()},
        "optimizer": {"name": config.optimizer.name} | _plain(config.optimizer.to_dict()),
        "encoder": {"kind": config.models.encoder.name},
    }
    names = ("image_size", "patch_size", "width", "depth", "heads", "drop_path", "position_offset", "learned")
    if config.models.encoder.name == "vit":
        mlp = encoder.blocks.mlp
        problem["encoder"] |= {name: getattr(encoder, name) for name in names}
        problem["encoder"] |= {"hidden": mlp.hidden, "gated": mlp.gated, "registers": encoder.registers}
    for role in ("head", "projector", "predictor", "decoder"):
        if hasattr(built, role):
            problem[role] = _arguments(getattr(built, role))
    fields = {field.name: getattr(built, field.name) for field in dataclasses.fields(built)}
    return problem | {name: value for name, value in _plain(fields).items() if name not in problem}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if isinstance(value, int | float | str | tuple | None)}


def _arguments(model: Pure) -> dict[str, Any]:
    """Return what a model was made with, defaults included."""
    bound = inspect.signature(model.make.func.__init__).bind(None, rngs=None, **model.make.keywords)
    bound.apply_defaults()
    return _plain(bound.arguments)


def with_given_views(objective: Any, problem: dict[str, Any]) -> Any:
    """Return the objective with views that cost next to nothing."""
    return dataclasses.replace(objective, views=lambda sample, key: given.views(problem, sample, jnp))


def read_config(location: str, overrides: list[str]) -> ConfigDict:
    """Return the config, checked; what is frozen for some epochs is trained at once, as it is most of the time."""
    config = configuration.load(location, overrides)
    limits.check_numbers(config)
    if 0 < config.optimizer.get("freeze_epochs", 0) < config.epochs:
        config.optimizer.freeze_epochs = 0
    return config


def counts(config: ConfigDict, objective: Any, optimizer: Any, problem: dict[str, Any]) -> dict[str, float | None]:
    """Return the operations of an update: by hand, None where no formula is written, and as JAX traced the products."""
    shown = plain(config)
    visible = with_given_views(build.objective(shown), problem)
    state, _ = step.abstract_state(visible, optimizer, mesh.make_mesh("", jax.local_devices()[:1]))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
    update = step.make_train_step(visible, optimizer, seed=config.seed, accumulate=config.accumulate)
    traced = flops.total(flops.count(update, shapes, objective.batch_spec(config.batch_size)))
    return {"flops": by_hand.update(problem), "traced_flops": traced}


def begin(config: ConfigDict, given_views: bool) -> tuple[Any, dict[str, Any]]:
    """Compile and do the first update; see `workers.serve`."""
    problem, devices = describe(config), mesh.make_mesh(config.mesh)
    objective, optimizer = build.objective(config), build.optimizer(config)
    objective = with_given_views(objective, problem) if given_views else objective
    update = step.make_train_step(objective, optimizer, seed=config.seed, accumulate=config.accumulate)
    draw, waits = _memory(config, problem, objective, devices), not given_views and _has_data(config)
    draw = _loader(config, objective, devices) if waits else draw
    with jax.set_mesh(devices):
        _, shardings = step.abstract_state(objective, optimizer, devices)
        state, (batch, _) = step.initial_state(objective, optimizer, config.seed, devices), draw()
        began = time.monotonic()
        jitted = jax.jit(update, donate_argnums=0, out_shardings=(shardings, None))
        compiled = jitted.lower(state, batch).compile()
        seconds = time.monotonic() - began
        state, _ = jax.block_until_ready(compiled(state, batch))
    first = workers.since_start()

    def one() -> dict[str, Any]:
        nonlocal state
        batch, waited = draw()
        with jax.set_mesh(devices):
            state, metrics = jax.block_until_ready(compiled(state, batch))
        return {"loss": float(metrics["loss"]), "peak_bytes": _peak_bytes()} | ({"input_wait": waited} if waits else {})

    device = devices.devices.flat[0]
    chip = chip_of(device.device_kind)
    hello = {"compile_seconds": seconds, "first_step_seconds": first, "peak_bytes": _peak_bytes()}
    hello |= {"problem": problem, "versions": _versions()}
    hello |= {} if given_views else counts(config, objective, optimizer, problem)
    hello |= {"platform": device.platform, "device": device.device_kind, "devices": devices.size}
    return one, hello | {"datasheet_flops": chip and chip.flops}


def begin_peak(config: ConfigDict) -> tuple[Any, dict[str, Any]]:
    """Measure the peak of matrix products in the dtype of the model, each time anew; see `workers.serve`."""
    problem = describe(config)
    multiply = jax.jit(lambda a, b: a @ b)
    products, operations = [], []
    for m, k, n in given.products(problem, SIDES.get(jax.default_backend(), 2048)):
        a, b = jnp.ones((m, k), problem["dtype"]), jnp.ones((k, n), problem["dtype"])
        products.append(lambda a=a, b=b: jax.block_until_ready(multiply(a, b)))
        operations.append(2.0 * m * k * n)
    return lambda: {"flops_per_second": workers.best_rate(products, operations)}, {}


def _has_data(config: ConfigDict) -> bool:
    return bool(config.data.get("video") or config.data.get("data"))


def _memory(config: ConfigDict, problem: dict[str, Any], objective: Any, devices: Any) -> Any:
    """Return a function that gives the same batch of noise, on the devices already, and that nothing was waited for."""
    (name,) = set(objective.batch_spec(1)) - {"position"}
    rows = np.asarray(mesh.local_rows(devices, config.batch_size))
    batch = {name: given.pixels(problem)[rows], "position": rows.astype(np.uint32)}
    batch = mesh.to_mesh(devices, batch, config.batch_size)
    return lambda: (batch, 0.0)


def _loader(config: ConfigDict, objective: Any, devices: Any) -> Any:
    """Return a function that gives the batches of `ssljax train`, and the seconds that it waited for each."""
    data = build.dataset(config)
    build.check_contract(objective, data)
    batches, finish = loop.open_batches(config, data, devices, 0)
    ahead = Ahead(devices, batches, config.batch_size)

    def draw() -> tuple[Any, float]:
        began = time.monotonic()
        batch = next(ahead)
        return finish(batch), time.monotonic() - began

    return draw


def _peak_bytes() -> int:
    """Return the most bytes that were held at once: of a CPU by this process, else by the fullest device."""
    if jax.default_backend() == "cpu":
        return workers.resident_bytes()
    return max((device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices())


def _versions() -> dict[str, str]:
    return {"jax": jax.__version__, "jaxlib": jax.lib.__version__, "python": sys.version.split()[0]}


if __name__ == "__main__":
    kind, location, overrides = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    try:
        read = read_config(location, overrides)
        workers.serve(lambda: begin_peak(read) if kind == "peak" else begin(read, kind == "views"))
    except InputError as error:
        sys.exit(str(error))  # without a traceback: `WorkerEnded` shows what was written last
