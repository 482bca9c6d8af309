"""The only reader of a config: from names and plain values to the objects that they stand for."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from ml_collections import ConfigDict

from ssljax import checkpoint, mesh, optim, spikes, step
from ssljax.constructors import CONSTRUCTORS
from ssljax.errors import InputError
from ssljax.evaluate.encoders import check_size
from ssljax.evaluate.periodic import Periodic
from ssljax.models.pure import Pure
from ssljax.objectives.base import Encoder, Objective


class Restored(NamedTuple):
    """A run's checkpoint, ready to use.

    Attributes:
        config: The run's.
        objective: Built from it.
        state: The checkpoint's.
    """

    config: ConfigDict
    objective: Objective
    state: step.TrainState


def total_steps(config: ConfigDict) -> int:
    """Return the number of updates of the run, at least one."""
    return max(1, _steps(config, config.epochs))


def objective(config: ConfigDict) -> Objective:
    """Return the objective with its models; every model but the encoder is told the encoder's width.

    Raises:
        InputError: A name or key that does not exist, or a value that the model or objective refuses.
    """
    models: dict[str, Pure] = {}
    sections = config.models.to_dict()
    for role in sorted(sections, key=lambda role: role != "encoder"):
        arguments = _arguments(config, sections[role])
        if role != "encoder":
            arguments.setdefault("width", models["encoder"].abstract.width)
        models[role] = model(role, arguments)
    arguments = _arguments(config, config.objective.to_dict())
    constructor = _constructor("objective", arguments.pop("name"))
    if "views" in config:
        arguments["views"] = _partial(config, "views")
    arguments |= models
    _check("objective", constructor, arguments)
    return constructor(**arguments)


def model(role: str, arguments: Mapping[str, Any]) -> Pure:
    """Return the model of a role, such as "encoder", from its section of a config.

    Raises:
        InputError: A name or key that does not exist, or a value that the model refuses.
    """
    rest = dict(arguments)
    constructor = _constructor("models", rest.pop("name"))
    _check(f"models.{role}", constructor, {**rest, "rngs": None})
    built = Pure(functools.partial(constructor, **rest))
    built.abstract  # noqa: B018  builds it by shape: a wrong value is told here
    return built


def model_arguments(built: Pure) -> dict[str, Any]:
    """Return the section of a config that makes a model again, the inverse of `model`.

    Raises:
        InputError: The model was not made by `model` or `objective`.
    """
    make: Any = built.make
    if not isinstance(make, functools.partial) or make.args:
        raise InputError(
            f"A {type(built.abstract).__name__} says not how it was made; name its constructor in a config."
        )
    names = {constructor: name for name, constructor in CONSTRUCTORS["models"].items()}
    own = f"{make.func.__module__}.{make.func.__qualname__}"
    return {"name": names.get(make.func, own), **make.keywords}


def optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Return the optimiser with its schedules in updates; one that changes nothing where the config names none.

    Raises:
        InputError: A key or value that it refuses, or one of the section `spikes`.
    """
    built = _call(config, "optimizer") if "optimizer" in config else optax.identity()
    if "spikes" not in config:  # a run of an older version
        return built
    rule: dict[str, Any] = config.spikes.to_dict()
    spikes.check(**rule)
    skips = rule["policy"] == "skip"
    return spikes.skip_spikes(built, factor=rule["factor"], window=rule["window"]) if skips else built


def schedules(config: ConfigDict) -> dict[str, optim.Schedule]:
    """Return the schedules of optimiser and objective by name, as functions of the number of updates done."""
    sections = [_arguments(config, config[name].to_dict()) for name in ("optimizer", "objective")]
    return {key: value for section in sections for key, value in section.items() if callable(value)}


def dataset(config: ConfigDict) -> Any:
    """Return the data set, which reads its index.

    Raises:
        InputError: The data cannot be used, see the data set; or the run was imported and has none.
    """
    if "data" not in config:
        raise InputError("This run was imported from weights, which come without data; name some.")
    return _call(config, "data", seed=config.seed)


def evaluation(config: ConfigDict, built: Objective, devices: jax.sharding.Mesh) -> Periodic:
    """Return the evaluation while training; it never falls due where `evaluate.every` is 0.

    Raises:
        InputError: A protocol's data cannot be used, or the encoder takes no images of its size.
    """
    section = config.evaluate.to_dict()
    every, names, protocols = section.pop("every"), section.pop("protocols"), {}
    for name, arguments in section.items():
        _check(f"evaluate.{name}", _constructor("evaluate", name), arguments)
    for name in names if every > 0 else ():
        if name not in section:
            raise InputError(f"config.evaluate.protocols names {name!r}: give some of {', '.join(section)}.")
        encoder, arguments = image_encoder(built, *jax.eval_shape(built.init, jax.random.key(0))), asked(config, name)
        if "size" in arguments:
            check_size(encoder, arguments["size"])
        protocols[name] = _constructor("evaluate", name)(**arguments)
        if hasattr(protocols[name], "check"):
            protocols[name].check(encoder, devices)
    return Periodic(protocols, built, devices, every=every)


def asked(config: ConfigDict, protocol: str) -> dict[str, Any]:
    """Return the arguments of a protocol in `config.evaluate`, with the size of images that it stands for.

    Raises:
        InputError: The size is left to the config, which does not say it.
    """
    arguments = config.evaluate[protocol].to_dict()
    if arguments.get("size", 1) is None:
        arguments["size"] = getattr(_constructor("evaluate", protocol), "zoom", 1) * image_size(config)
    return arguments


def image_encoder(built: Objective, params: Any, state: Any) -> Encoder:
    """Return the image encoder of an objective.

    Raises:
        InputError: It trains none.
    """
    encoders = built.encoders(params, state)
    if "image" not in encoders:
        raise InputError(f"{type(built).__name__} trains no image encoder; take another run.")
    return encoders["image"]


def image_size(config: ConfigDict) -> int:
    """Return the side in pixels of the images that a run's encoder is trained on.

    Raises:
        InputError: The config does not say it.
    """
    views, encoder = config.get("views", {}), config.models.encoder
    known = (views.get("global_size"), views.get("size"), encoder.get("image_size"), config.objective.get("image_size"))
    for size in known:
        if size is not None:
            return size
    raise InputError("The config does not say on what size of images the encoder trains; give the size to evaluate at.")


def restore(workdir: Path, at: int | None = None) -> Restored:
    """Return what a run's checkpoint holds, the newest by default, on this process's devices.

    Raises:
        InputError: The folder holds no run, no such checkpoint, or a damaged one.
    """
    directory = workdir / "checkpoints"
    if not directory.is_dir():
        raise InputError(f"{workdir} holds no run (no checkpoints/ in it); give the --workdir of ssljax train.")
    with contextlib.closing(checkpoint.Checkpoints(directory, read_only=True)) as checkpoints:
        at, record = checkpoints.record(at)
        config = ConfigDict(record.config)
        built = objective(_anywhere(config))
        abstract, _ = step.abstract_state(built, optimizer(config), mesh.make_mesh())
        state = checkpoints.restore(at, abstract)
    return Restored(config, built, state)


def _anywhere(config: ConfigDict) -> ConfigDict:
    """Return the config with the attention that there is on any device: a run's own may be that of others."""
    config = config.copy_and_resolve_references()
    for section in config.models.values():
        section.update({"attention": "auto"} if "attention" in section else {})
    return config


def check_contract(built: Objective, data: Any) -> None:
    """Compare one sample of the data set with what the objective expects.

    Raises:
        InputError: Names, shapes or dtypes differ.
    """
    expected = {name: (spec.shape[1:], str(spec.dtype)) for name, spec in built.batch_spec(1).items()}
    given = {name: (value.shape, str(value.dtype)) for name, value in data[0].items()}
    if expected != given:
        raise InputError(
            f"The data gives samples of {given}, but the objective expects {expected}; change data or objective."
        )


def _steps(config: ConfigDict, epochs: float) -> int:
    return math.floor(epochs * config.samples_per_epoch / config.batch_size)


def _arguments(config: ConfigDict, section: Mapping[str, Any]) -> dict[str, Any]:
    """Turn schedules into functions and numbers of epochs into numbers of updates."""
    arguments: dict[str, Any] = {}
    for key, value in section.items():
        if isinstance(value, Mapping):
            value = _arguments(config, value)
            if "schedule" in value:
                constructor = _constructor("schedule", value.pop("schedule"))
                _check(key, constructor, value)
                try:
                    value = constructor(**value)
                except InputError as error:
                    raise InputError(f"{key}: {error}") from error
        if key.endswith("epochs"):
            key, value = key.removesuffix("epochs") + "steps", _steps(config, value)
        arguments[key] = value
    return arguments


def _call(config: ConfigDict, section: str, **more: Any) -> Any:
    return _partial(config, section, **more)()


def _partial(config: ConfigDict, section: str, **more: Any) -> Callable[..., Any]:
    arguments = _arguments(config, config[section].to_dict()) | more
    constructor = _constructor(section, arguments.pop("name"))
    _check(section, constructor, arguments, partial=section == "views")
    return functools.partial(constructor, **arguments)


def _constructor(section: str, name: str) -> Callable[..., Any]:
    known = CONSTRUCTORS[section]
    if name in known:
        return known[name]
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"config.{section} names {name!r}: give one of {', '.join(sorted(known))}, or the import path of your own "
            f'("package.module.Name"; {error}).'
        ) from error


def _check(
    section: str, constructor: Callable[..., Any], arguments: Mapping[str, Any], *, partial: bool = False
) -> None:
    """Bind the arguments to the constructor's signature; of a class to its `__init__`, which NNX's metaclass hides."""
    is_class = inspect.isclass(constructor)
    signature = inspect.signature(constructor.__init__ if is_class else constructor)  # type: ignore[misc]
    try:
        (signature.bind_partial if partial else signature.bind)(*([None] if is_class else []), **arguments)
    except TypeError as error:
        raise InputError(
            f"config.{section}: {error}; see {constructor.__module__}.{constructor.__qualname__}."
        ) from error
