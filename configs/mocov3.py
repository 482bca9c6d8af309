"""MoCo v3 on images (Chen, Xie and He, ICCV 2021): ViT-S/16, 300 epochs of ImageNet's 1,281,167 images, batch 4096.

    ssljax train --config configs/mocov3.py --workdir runs/mocov3 --config.data.data=imagenet/

Variants, after a colon: `vitb16`; `frames`, of videos (--config.data.video=venice/); `cifar10`, a small network on 32
pixels that learns in minutes on a CPU; `smoke`, two updates for tests.

The released code also decays biases and norms: `--config.optimizer.no_decay=` does so.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ssljax import configuration
from ssljax.errors import InputError


def get_config(variant: str = "") -> ConfigDict:
    """Return the recipe or one of its variants."""
    config = configuration.base()
    config.batch_size = 4096
    config.epochs = 300
    config.samples_per_epoch = 1_281_167
    batch, epochs = config.get_ref("batch_size"), config.get_ref("epochs")

    # no ratio: the largest centred square, so that the views are cut once, not twice
    config.data = ConfigDict(
        {"name": "images", "data": (), "size": 320, "ratio": placeholder(tuple), "bad_share": 0.001}
    )
    config.views = ConfigDict(
        {
            "name": "image_views",
            "global_size": 224,
            "global_scale": (0.08, 1.0),
            "locals": 0,
            "jitter": (0.4, 0.4, 0.2, 0.1),
            "jitter_probability": 0.8,
            "grey_probability": 0.2,
            "global_blur_probabilities": (1.0, 0.1),
            "global_solarise_probabilities": (0.0, 0.2),
        }
    )
    config.models = ConfigDict(
        {
            "encoder": {
                "name": "vit",
                "size": "s",
                "heads": 12,  # of 32 channels: the paper's ViT-S
                "patch_size": 16,
                "image_size": config.views.get_ref("global_size"),
                "registers": 0,
                "layer_scale": placeholder(float),
                "mlp": "gelu",
                "positions": "sincos",
                "dtype": "bfloat16",
                "remat": "full",
                "attention": "auto",
            },
            "projector": {"name": "batch_norm_mlp", "hidden": 4096, "outputs": 256, "layers": 3, "dtype": "bfloat16"},
        }
    )
    outputs = config.models.projector.get_ref("outputs")
    config.models.predictor = {
        "name": "batch_norm_mlp",
        "width": outputs,
        "hidden": 4096,
        "outputs": outputs,
        "layers": 2,
        "dtype": "bfloat16",
    }
    config.objective = ConfigDict(
        {
            "name": "mocov3",
            "size": config.data.get_ref("size"),
            "temperature": 0.2,
            "momentum": {"schedule": "cosine", "start": 0.99, "end": 1.0, "epochs": epochs, "warmup_epochs": 0},
            "block_size": 4096,
            "norm_momentum": 0.9,
        }
    )
    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": {
                "schedule": "cosine",
                "start": batch.to_float() * (1.5e-4 / 256),
                "end": 0.0,
                "epochs": epochs,
                "warmup_epochs": 40,
            },
            "weight_decay": {"schedule": "constant", "value": 0.1},
            "no_decay": ("bias", "scale", "gamma"),
            "freeze": "encoder/patch",  # the random patch projection of section 4.2
            "freeze_epochs": epochs,
        }
    )
    if variant == "vitb16":
        config.models.encoder.update(size="b")
    elif variant == "frames":
        frames(config)
    elif variant == "cifar10":
        cifar10(config)
    elif variant == "smoke":
        configuration.smoke(config)
    elif variant:
        raise InputError(f"configs/mocov3.py has the variants vitb16, frames, cifar10 and smoke, not {variant!r}.")
    return config


def frames(config: ConfigDict) -> None:
    """Learn from single frames of videos: the views are cut from a random box of the frame."""
    config.data = configuration.frames(size=320, scale=(0.2, 1.0))
    config.objective.size = config.data.get_ref("size")


def cifar10(config: ConfigDict) -> None:
    """Shrink it to 32 pixels and to minutes on two CPU cores: a ResNet of 0.3 million parameters, no blur.

    A ViT learns in as many minutes next to nothing.
    """
    config.batch_size, config.epochs, config.samples_per_epoch = 128, 30, 1280
    config.data.size = config.views.global_size = 32
    config.views.global_scale = (0.2, 1.0)
    config.views.global_blur_probabilities = (0.0, 0.0)
    config.models.encoder = {"name": "resnet", "depth": 18, "blocks": (1, 1, 1, 1), "width_multiplier": 0.25}
    config.models.encoder.stem = "cifar"
    config.models.projector.update(hidden=256, outputs=64, layers=2, dtype="float32")
    config.models.predictor.update(hidden=256, dtype="float32")
    config.objective.momentum.start = 0.95
    del config.optimizer.freeze, config.optimizer.freeze_epochs
    config.optimizer.learning_rate.update(start=2e-3, warmup_epochs=2)
    config.optimizer.weight_decay.value = 1e-2
    config.log.every, config.checkpoint.every = 10, 100
