"""What every config has in common: the keys, their defaults, and how a recipe shrinks to a smoke test."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags
from ml_collections.config_dict import placeholder

from ssljax.errors import InputError
from ssljax.overrides import check_override
from ssljax.tuples import check_tuples, quoted


def base() -> ConfigDict:
    """Return the keys of every run; a config file sets the rest.

    `epochs` times `samples_per_epoch` over `batch_size` is the number of updates; an "epoch" is a count of samples,
    not a pass over whatever was stored. Wherever a key ends in `epochs`, `build` turns it into updates. `init_from`
    names weights to start from: a file or folder of any format that is read, or another run.
    """
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 128
    config.epochs = 100
    config.samples_per_epoch = 320_000
    config.accumulate = 1
    config.init_from = ""
    config.mesh = ""
    config.deterministic = False
    config.loader = ConfigDict(dict(threads=2, workers=0, buffer=16, timeout=240.0))
    best = dict(best_metric="", best_mode="min", keep_best=1)
    config.checkpoint = ConfigDict(dict(every=1000, keep=2, share=0.05) | best)
    config.spikes = ConfigDict(dict(policy="stop", factor=6.0, window=200, patience=5))
    config.evaluate = evaluate()
    config.watch = ConfigDict(dict(step=300.0, other=3600.0))
    config.log = ConfigDict(dict(every=10, tensorboard=True, wandb_project=""))
    return config


def evaluate() -> ConfigDict:
    """Return the keys of the evaluation while training; protocols are those asked every so many updates."""
    images = dict(train="", test="", size=placeholder(int))  # no size: that of the views, twice that for tracks
    knn = images | dict(batch_size=256, pool="features")
    linear = images | dict(
        batch_size=256,
        recipe="dino",
        epochs=10.0,
        learning_rates=(),
        n_blocks=placeholder(int),
        average_patches=False,
        augment=False,
        seed=0,
    )
    nearest = dict(queue=7, top_k=5, neighbourhood=12, temperature=0.1)
    davis = dict(data="", sequences=(), size=480, multiple=64, **nearest)
    tracker = dict(epsilon=0.05, iterations=30, layer=-1)
    others = dict(
        segmentation=images | dict(classes=21, labels="index", memory=1_024_000, batch_size=8),
        discovery=dict(data="", binary=False, short_side=0, batch_size=8),
        correspondence=dict(data="", size=placeholder(int), batch_size=16),
        retrieval=dict(data="", size=placeholder(int), batch_size=256, pool="features"),
        health=dict(data="", size=placeholder(int), batch_size=256, pool="features", seed=0),
        tracks=dict(video="", size=placeholder(int), seconds=(-5.0, None), frames=48, objects=3, draws=4) | tracker,
    )
    return ConfigDict(dict(every=0, protocols=("knn",), knn=knn, linear=linear, davis=davis, **others))


def frames(*, size: int, scale: tuple[float, float] = (0.2, 1.0)) -> ConfigDict:
    """Return the `data` section of single frames of videos, from whatever source; see `ssljax.data.frames.Frames`.

    Args:
        size: Side of the square canvas in pixels.
        scale: The part of a frame (smallest, largest) that a random box covers, which is resized to the canvas.
    """
    return ConfigDict(dict(name="frames") | _video(size, scale))


def windows(*, frames: int, gap: float, size: int, scale: tuple[float, float] = (0.2, 1.0)) -> ConfigDict:
    """Return the `data` section of windows of so many frames, `gap` seconds apart; the rest as for single frames."""
    return ConfigDict(dict(name="windows", frames=frames, gap=gap) | _video(size, scale))


def _video(size: int, scale: tuple[float, float]) -> dict[str, Any]:
    stream = dict(every=placeholder(int), short_side=540)
    used = dict(seconds=(None, None), reuse=1, bad_share=0.001)
    return dict(video=(), source="records", stream=stream, size=size, scale=scale) | used


RESUMABLE = ("mesh", "loader", "checkpoint", "evaluate", "watch", "log")
"""Top-level keys that may differ when a run is continued: they change where and how it runs, not what it computes."""


def smoke(config: ConfigDict) -> ConfigDict:
    """Shrink a recipe to two updates of a tiny model on a CPU, for tests."""
    config.batch_size, config.epochs, config.samples_per_epoch = 8, 1, 16
    if config.models.encoder.name == "resnet":
        config.models.encoder.update(depth=18, blocks=(1, 1), width_multiplier=0.125, dtype="float32")
    else:
        config.models.encoder.update(width=32, depth=2, heads=4, patch_size=8, image_size=32, dtype="float32")
    if "head" in config.models:
        config.models.head.update(hidden=32, bottleneck=16, prototypes=64, dtype="float32")
        config.views.update(global_size=32, local_size=16, locals=2)
    if "decoder" in config.models:
        config.models.decoder.update(hidden=32, depth=1, heads=4, dtype="float32")
        config.views.update(size=32)
    for role in {"projector", "predictor"} & set(config.models):
        config.models[role].update(hidden=32, outputs=16, dtype="float32")
        config.views.update(global_size=32)
    config.data.update(size=40)
    if "frames" in config.data:
        config.data.update(frames=2)
    config.log.update(every=1, tensorboard=False)
    _drop_warmups(config)
    return config


def _drop_warmups(config: ConfigDict) -> None:
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            _drop_warmups(value)
        elif key == "warmup_epochs":
            config[key] = 0


def load(location: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Return the config of FILE[:ARG], a packaged recipe or a module of the user's, with `--config.KEY=VALUE` applied.

    Args:
        location: A path (`configs/dora.py`, also found inside the installed package), an import path
            (`mypackage.configs.mine`), with an argument for `get_config` after a colon, or a run's `config.json`.
        overrides: Arguments of the form `--config.a.b=value`, typed by the value they replace.

    Raises:
        InputError: No such file, variant or key, or a value of the wrong type.
    """
    config = _read(Path(location)) if location.endswith(".json") else _get_config(location)
    return override(config, overrides, location)


def override(config: ConfigDict, overrides: Sequence[str], location: str) -> ConfigDict:
    """Return the config, which is changed, with `--config.KEY=VALUE` applied, and locked.

    Args:
        config: Of
        location: this place, for the message.
        overrides: As for `load`.

    Raises:
        InputError: No such key, or a value of the wrong type.
    """
    before = config.to_dict()
    overrides = [quoted(override, config) for override in overrides]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=["ssljax", *overrides])
        left = values(["ssljax", *overrides])
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        for override in overrides:
            check_override(config, override, location, str(error))
        reason = " ".join(str(error.args[0] if error.args else error).split())
        raise InputError(f"{' '.join(overrides)} does not fit the config {location}: {reason}") from error
    check_tuples(before, config.to_dict())
    if len(left) > 1:
        raise InputError(f"{left[1]} is not understood; overrides look like --config.batch_size=64.")
    return config.lock()


def plain(config: ConfigDict) -> dict[str, Any]:
    """Return the config as JSON has it: lists for tuples, values for references."""
    return json.loads(json.dumps(config.to_dict()))


def with_tuples(value: Any) -> Any:
    """Return what JSON holds with tuples for lists, as a config has them."""
    if isinstance(value, Mapping):
        return {key: with_tuples(each) for key, each in value.items()}
    return tuple(with_tuples(each) for each in value) if isinstance(value, list) else value


def from_stored(stored: Mapping[str, Any]) -> ConfigDict:
    """Return the config that a run's `config.json` holds, where keys without a value know what they take.

    That is so for the keys in `RESUMABLE`, of which those that have come since have their default.
    """
    config = ConfigDict(with_tuples(stored))
    for section in RESUMABLE:
        if isinstance(stored.get(section), Mapping):
            config[section] = base()[section]
            with config[section].ignore_type():
                config[section].update(with_tuples(stored[section]))
    return config


def _read(path: Path) -> ConfigDict:
    try:
        return from_stored(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"--config {path} cannot be read ({error}); give a run's config.json, or a recipe.") from error


def _get_config(location: str) -> ConfigDict:
    name, _, variant = location.partition(":")
    module = find_module(name, "configs", f"--config {name}: no such file, packaged recipe or module")
    if not hasattr(module, "get_config"):
        raise InputError(f"{name} has no get_config(variant), which must return a ConfigDict.")
    config = module.get_config(variant) if variant else module.get_config()
    if not isinstance(config, ConfigDict):
        raise InputError(f"get_config of {name} returns {type(config).__name__}; it must return a ConfigDict.")
    return copy.deepcopy(config)  # an imported module may keep it


def find_module(name: str, folder: str, missing: str) -> ModuleType:
    """Return the module of a file, packaged file or import path.

    Args:
        name: Of it.
        folder: Where packaged ones lie: `configs`, or a folder in it.
        missing: Begins the message where there is none.

    Raises:
        InputError: There is none, or it is not Python.
    """
    path = find_path(name, folder, missing)
    try:
        return importlib.import_module(name) if path is None else _import_file(path)
    except SyntaxError as error:
        raise InputError(f"{error.filename}, line {error.lineno}, is not Python ({error.msg}); mend it.") from error


def _import_file(path: Path) -> ModuleType:
    name = f"ssljax_config_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # find_path gives Python files only
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass in the file looks itself up there
    spec.loader.exec_module(module)
    return module


def find_path(name: str, folder: str, missing: str) -> Path | None:
    """Return a module's file as `find_module` finds it, None if it is one to import.

    Raises:
        InputError: It is neither.
    """
    packaged = Path(__file__).parent
    places = [Path(name), packaged / folder / Path(name).name, packaged.parent / folder / Path(name).name]
    places += [packaged / name, packaged.parent / name]  # configs/ablations/objectives.py
    for place in places:
        for path in (place, Path(f"{place}.py")):
            if path.is_file() and path.suffix == ".py":
                return path
    try:
        if importlib.util.find_spec(name) is not None:
            return None
    except (ImportError, ValueError):
        pass  # its parent is no package: said below
    example = "configs/ablations/objects.py" if folder.endswith("ablations") else "configs/dora.py"
    raise InputError(f"{missing}; try {example}.")


def differences(one: Any, other: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of the keys in which two plain configs differ, but for those a resumed run may change.

    A run that was begun before there were `spikes` had what is the default now.
    """
    names: list[str] = []
    for key in sorted(set(one) | set(other)):
        if not prefix and key in RESUMABLE:
            continue
        default = base().spikes.to_dict() if not prefix and key == "spikes" else None
        a, b = one.get(key, default), other.get(key, default)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key} ({a} there, {b} here)")
    return names


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return the dotted names of a plain config's keys with their values as Python writes them."""
    flat: list[tuple[str, str]] = []
    for key, value in values.items():
        flat += flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", repr(value))]
    return flat
