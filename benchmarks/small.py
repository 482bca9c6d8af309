"""Recipes of a size for which two CPU cores need seconds, with a ViT each: what `benchmarks.step` times by default.

    python -m benchmarks.step --config benchmarks/small.py:dora

Variants: `dora`, `dino`, `mae`, `simclr`.
"""

from ml_collections import ConfigDict

from ssljax import configuration
from ssljax.errors import InputError

NAMES = ("dora", "dino", "mae", "simclr")


def get_config(variant: str = "") -> ConfigDict:
    """Return a recipe, made small."""
    if variant not in NAMES:
        raise InputError(f"benchmarks/small.py has the variants {', '.join(NAMES)}, not {variant!r}.")
    config = configuration.load(f"configs/{variant}.py").unlock()
    config.batch_size = {"dora": 4, "dino": 16, "mae": 32, "simclr": 32}[variant]
    config.data.size = 80
    if variant == "simclr":
        config.models.encoder = configuration.load("configs/dino.py").models.encoder.copy_and_resolve_references()
        config.models.encoder.unlock()
        config.models.projector.update(hidden=512, outputs=128, dtype="float32")
        _adamw(config)
    sizes = dict(width=192, depth=4, heads=3, patch_size=8, image_size=64, dtype="float32", remat="none")
    config.models.encoder.update(**sizes)
    config.views.update({"size": 64} if variant == "mae" else {"global_size": 64})
    if variant == "mae":
        config.models.decoder.update(hidden=96, depth=2, heads=3, dtype="float32", remat="none")
    if variant in ("dora", "dino"):
        config.models.head.update(prototypes=4096, hidden=512, bottleneck=128, dtype="float32")
        config.views.local_size = 32
    return config


def _adamw(config: ConfigDict) -> None:
    """Take AdamW in place of LARS, which the baselines do not know."""
    optimizer = config.optimizer
    del optimizer.exclude, optimizer.momentum, optimizer.trust_coefficient
    optimizer.update(name="adamw", no_decay=("bias", "scale", "gamma"))
    optimizer.learning_rate.start = 1e-3
