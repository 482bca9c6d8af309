"""DoRA against DINO, SimCLR, MoCo v3 and MAE on the same video.

    ssljax sweep configs/ablations/objectives.py --workdir runs/objectives --config.data.video=venice/ ...

"..." names the data of the evaluations, see "Ready to run" in README.md.
All train DoRA's encoder of the budget for as many updates, of as many frames each, cut from the same part of the video
in the same size, with AdamW and a warm-up of the same length. Colours, heads, temperatures and decay are each recipe's;
on a laptop the learning rate is DoRA's, two views are not blurred, and what a short run needs is as in the recipes'
small variants. Alone: `ssljax train --config configs/ablations/objectives.py:laptop-dino`.
"""

import functools

from ml_collections import ConfigDict

from ssljax import configuration
from ssljax.errors import InputError
from ssljax.sweep import Sweep, Variant
from ssljax.sweep.budgets import BUDGETS, METRICS, dora, evaluations

RECIPES = {
    "dino": "configs/dino.py",
    "simclr": "configs/simclr.py:frames",
    "mocov3": "configs/mocov3.py:frames",
    "mae": "configs/mae.py:frames",
}


def sweep(budget: str = "laptop") -> Sweep:
    config, overrides = dora(budget)
    shared = evaluations(budget)
    own = {key: value for key, value in overrides.items() if key not in shared}
    others = [Variant(name, config=f"configs/ablations/objectives.py:{budget}-{name}") for name in RECIPES]
    return Sweep(config, [Variant("dora", own), *others], shared, metrics=METRICS)


def get_config(variant: str) -> ConfigDict:
    """Return the recipe of BUDGET-OBJECTIVE."""
    budget, _, name = variant.partition("-")
    if budget not in BUDGETS or name not in RECIPES:
        given = ", ".join(f"{budget}-{name}" for budget in BUDGETS for name in RECIPES)
        raise InputError(f"configs/ablations/objectives.py has the variants {given}, not {variant!r}.")
    config, reference = configuration.load(RECIPES[name]), _dora(budget)
    config.unlock()
    _like(config, reference)
    if name == "simclr":
        _adamw(config)
    if budget == "laptop":
        config.optimizer.learning_rate.start = reference.optimizer.learning_rate.start
        config.checkpoint.every = reference.checkpoint.every
        config.log.tensorboard = False
        _small(config, name, reference)
    return config


def _dora(budget: str) -> ConfigDict:
    location, overrides = dora(budget)
    config = configuration.load(location)
    for key, value in overrides.items():
        section, _, last = key.rpartition(".")
        functools.reduce(lambda part, name: part[name], filter(None, section.split(".")), config)[last] = value
    return config


def _like(config: ConfigDict, reference: ConfigDict) -> None:
    """Give a recipe of single frames the reference's encoder, frames and updates."""
    frames = reference.data.frames
    config.batch_size, config.epochs = reference.batch_size * frames, reference.epochs
    config.samples_per_epoch = reference.samples_per_epoch * frames
    config.data.update(size=reference.data.size, scale=reference.data.scale, seconds=reference.data.seconds)
    config.views["size" if "size" in config.views else "global_size"] = reference.views.global_size
    if config.views.get("locals"):
        config.views.update(local_size=reference.views.local_size, locals=reference.views.locals)
    encoder, theirs = reference.models.encoder.to_dict(), config.models.encoder
    encoder["drop_path"] = encoder["drop_path"] if theirs.get("drop_path") else 0.0
    if "positions" in theirs:
        encoder["positions"] = theirs.positions
    config.models.encoder = encoder
    if "decoder" in config.models:
        config.models.decoder.patch_size = encoder["patch_size"]
    config.optimizer.learning_rate.warmup_epochs = reference.optimizer.learning_rate.warmup_epochs


def _adamw(config: ConfigDict) -> None:
    """Train as MoCo v3 does a ViT: LARS is for ResNets."""
    del config.optimizer.exclude, config.optimizer.momentum, config.optimizer.trust_coefficient
    config.optimizer.update(name="adamw", no_decay=("bias", "scale", "gamma"))
    config.optimizer.learning_rate.start = config.batch_size * (1.5e-4 / 256)
    config.optimizer.weight_decay.value = 0.1


def _small(config: ConfigDict, name: str, reference: ConfigDict) -> None:
    """Fit what is the objective's own to a few hundred updates of small views."""
    if name == "dino":
        config.models.head = reference.models.head.copy_and_resolve_references()
        config.objective.teacher_temperature.update(reference.objective.teacher_temperature)
    elif name == "mae":
        config.models.decoder.update(hidden=64, depth=1, heads=4, dtype="float32", remat="none")
    else:
        config.views.update(global_scale=(0.2, 1.0), global_blur_probabilities=(0.0, 0.0))
        config.models.projector.update(hidden=256, outputs=64, layers=2, dtype="float32")
        config.objective.temperature = 0.2
    if name == "mocov3":
        config.models.predictor.update(hidden=256, dtype="float32")
        config.objective.momentum.start = 0.95
