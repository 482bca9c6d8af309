"""DINO (Caron et al., ICCV 2021) on the frames of videos: ViT-S/16, 100 epochs of 1,281,167 images.

    ssljax prepare video venice.mp4 --output venice/
    ssljax train --config configs/dino.py --workdir runs/dino --config.data.video=venice/

Variants, after a colon: `vitb16`; `smoke`, two updates for tests. Of prepared images (--config.data.data=imagenet/)
learn `images`, the paper's recipe for 300 epochs of ImageNet, and `cifar10`, a small network on 32 pixels.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ssljax import configuration
from ssljax.errors import InputError


def get_config(variant: str = "") -> ConfigDict:
    """Return the recipe or one of its variants."""
    config = configuration.base()
    config.batch_size = 1024
    config.epochs = 100
    config.samples_per_epoch = 1_281_167
    batch, epochs = config.get_ref("batch_size"), config.get_ref("epochs")

    config.data = configuration.frames(size=300, scale=(0.2, 1.0))
    config.views = ConfigDict(
        {
            "name": "image_views",
            "global_size": 224,
            "global_scale": (0.4, 1.0),
            "local_size": 96,
            "local_scale": (0.05, 0.4),
            "locals": 8,
        }
    )
    config.models = ConfigDict(
        {
            "encoder": {
                "name": "vit",
                "size": "s",
                "patch_size": 16,
                "image_size": config.views.get_ref("global_size"),
                "registers": 0,
                "layer_scale": placeholder(float),
                "mlp": "gelu",
                "drop_path": 0.1,
                "dtype": "bfloat16",
                "remat": "full",
                "attention": "auto",
                "position_offset": 0.1,
            },
            "head": {
                "name": "dino_head",
                "prototypes": 65_536,
                "hidden": 2048,
                "bottleneck": 256,
                "norm_last_layer": True,
                "dtype": "bfloat16",
            },
        }
    )
    config.objective = ConfigDict(
        {
            "name": "dino",
            "size": config.data.get_ref("size"),
            "student_temperature": 0.1,
            "center_momentum": 0.9,
            "teacher_temperature": {"schedule": "linear", "start": 0.04, "end": 0.04, "epochs": 30},
            "momentum": {"schedule": "cosine", "start": 0.996, "end": 1.0, "epochs": epochs, "warmup_epochs": 0},
        }
    )
    config.optimizer = ConfigDict(
        {
            "name": "adamw",
            "learning_rate": {
                "schedule": "cosine",
                "start": batch.to_float() * (5e-4 / 256),
                "end": 1e-6,
                "epochs": epochs,
                "warmup_epochs": 10,
            },
            "weight_decay": {"schedule": "cosine", "start": 0.04, "end": 0.4, "epochs": epochs, "warmup_epochs": 0},
            "no_decay": ("bias", "scale", "gamma"),
            "clip_norm": 3.0,
            "clip_by": "parameter",
            "freeze": "head/last",
            "freeze_epochs": 1,
        }
    )
    if variant == "vitb16":
        config.models.encoder.size = "b"
    elif variant == "images":
        images(config)
    elif variant == "cifar10":
        images(config)
        cifar10(config)
    elif variant == "smoke":
        configuration.smoke(config)
    elif variant:
        raise InputError(f"configs/dino.py has the variants vitb16, images, cifar10 and smoke, not {variant!r}.")
    return config


def images(config: ConfigDict) -> None:
    """Learn from images as the paper's ViT-S/16 does: views of 0.25 to 1 and 0.05 to 0.25, no clipping."""
    config.epochs = 300
    # no ratio: the largest centred square, so that the views are cut once, not twice
    config.data = ConfigDict(
        {"name": "images", "data": (), "size": 320, "ratio": placeholder(tuple), "bad_share": 0.001}
    )
    config.objective.size = config.data.get_ref("size")
    config.views.update(global_scale=(0.25, 1.0), local_scale=(0.05, 0.25), locals=10)
    config.models.head.norm_last_layer = False
    config.objective.teacher_temperature.update(start=0.04, end=0.07)
    config.optimizer.learning_rate.end = 1e-5
    config.optimizer.clip_norm = None


def cifar10(config: ConfigDict) -> None:
    """Shrink it to 32 pixels and to minutes on two CPU cores: a ResNet of 0.3 million parameters, two views, no blur.

    A ViT learns in as many minutes next to nothing.
    """
    config.batch_size, config.epochs, config.samples_per_epoch = 64, 25, 1600
    config.data.size = 32
    config.views.update(global_size=32, global_scale=(0.2, 1.0), local_size=16, locals=0)
    config.views.update(global_blur_probabilities=(0.0, 0.0), local_blur_probability=0.0)
    config.models.encoder = {"name": "resnet", "depth": 18, "blocks": (1, 1, 1, 1), "width_multiplier": 0.25}
    config.models.encoder.stem = "cifar"
    config.models.head.update(prototypes=4096, hidden=256, bottleneck=64, norm_last_layer=True, dtype="float32")
    config.objective.teacher_temperature.update(start=0.03, end=0.03)
    config.objective.momentum.start = 0.98
    config.optimizer.learning_rate.update(start=1e-3, warmup_epochs=4)
    config.optimizer.weight_decay = {"schedule": "constant", "value": 1e-2}
    config.optimizer.clip_norm = 1.0
    config.log.every, config.checkpoint.every = 10, 100
