"""SimCLR on images (Chen et al., ICML 2020): ResNet-50, 800 epochs of ImageNet's 1,281,167 images, batch 4096.

    ssljax train --config configs/simclr.py --workdir runs/simclr --config.data.data=imagenet/

Variants, after a colon: `frames`, of videos (--config.data.video=venice/); `cifar10`, a small network on 32 pixels that
learns in minutes on a CPU; `smoke`, two updates for tests. The projector is the one of section 4.2: 2048-2048-128, a
batch norm after each layer.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ssljax import configuration
from ssljax.errors import InputError


def get_config(variant: str = "") -> ConfigDict:
    """Return the recipe or one of its variants."""
    config = configuration.base()
    config.batch_size = 4096
    config.epochs = 800
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
            "jitter": (0.8, 0.8, 0.8, 0.2),
            "jitter_probability": 0.8,
            "grey_probability": 0.2,
            "global_blur_probabilities": (0.5, 0.5),
            "global_solarise_probabilities": (0.0, 0.0),
        }
    )
    config.models = ConfigDict(
        {
            "encoder": {
                "name": "resnet",
                "depth": 50,
                "width_multiplier": 1.0,
                "stem": "imagenet",
                "zero_init": True,
                "dtype": "bfloat16",
                "remat": "none",
            },
            "projector": {"name": "batch_norm_mlp", "hidden": 2048, "outputs": 128, "layers": 2, "dtype": "bfloat16"},
        }
    )
    config.objective = ConfigDict(
        {
            "name": "simclr",
            "size": config.data.get_ref("size"),
            "temperature": 0.1,
            "block_size": 4096,
            "norm_momentum": 0.9,
        }
    )
    config.optimizer = ConfigDict(
        {
            "name": "lars",
            "learning_rate": {
                "schedule": "cosine",
                "start": batch.to_float() * (0.3 / 256),
                "end": 0.0,
                "epochs": epochs,
                "warmup_epochs": 10,
            },
            "weight_decay": {"schedule": "constant", "value": 1e-6},
            "exclude": ("bias", "scale", "gamma", "cls", "position", "register"),
            "momentum": 0.9,
            "trust_coefficient": 0.001,
        }
    )
    if variant == "frames":
        frames(config)
    elif variant == "cifar10":
        cifar10(config)
    elif variant == "smoke":
        configuration.smoke(config)
    elif variant:
        raise InputError(f"configs/simclr.py has the variants frames, cifar10 and smoke, not {variant!r}.")
    return config


def frames(config: ConfigDict) -> None:
    """Learn from single frames of videos: the views are cut from a random box of the frame."""
    config.data = configuration.frames(size=320, scale=(0.2, 1.0))
    config.objective.size = config.data.get_ref("size")


def cifar10(config: ConfigDict) -> None:
    """Shrink it to 32 pixels and to minutes on two CPU cores: 0.3 million parameters, no blur (appendix B.9), AdamW."""
    config.batch_size, config.epochs, config.samples_per_epoch = 128, 40, 1280
    config.data.size = config.views.global_size = 32
    config.views.global_scale = (0.2, 1.0)
    config.views.jitter = (0.4, 0.4, 0.4, 0.1)
    config.views.global_blur_probabilities = (0.0, 0.0)
    config.models.encoder.update(depth=18, blocks=(1, 1, 1, 1), width_multiplier=0.25, stem="cifar", dtype="float32")
    config.models.projector.update(hidden=128, outputs=64, dtype="float32")
    config.objective.temperature = 0.2
    config.optimizer.learning_rate.update(start=2e-3, warmup_epochs=2)
    del config.optimizer.exclude, config.optimizer.momentum, config.optimizer.trust_coefficient
    config.optimizer.update(name="adamw", no_decay=("bias", "scale", "gamma"))
    config.optimizer.weight_decay.value = 1e-2
    config.log.every, config.checkpoint.every = 10, 100
