"""DINOv2 (Oquab et al. 2024) on ImageNet-1k, the short recipe: 100 epochs of 1,250 updates of 2,048 images, ViT-S/16.

    ssljax train --config configs/dinov2.py --workdir runs/dinov2 --config.data.data=imagenet/

Variants, after a colon: `vitl16`, the released vitl16_short as far as it goes here; `vitl14`, the paper's long recipe,
with Sinkhorn-Knopp centring and a head of the patches' own; `frames`, of videos (--config.data.video=venice/);
`cifar10`, a small network on 32 pixels for two CPU cores; `smoke`, two updates for tests. Neither the short recipe's
layer-wise decay of the learning rate (0.9) nor its factor 0.2 for the patch embedding's is here; drop path grows with
depth where the released code drops all blocks at the same rate; gradients are clipped by the norm of all, not of
encoder and heads each.
"""

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder

from ssljax import configuration
from ssljax.errors import InputError

UPDATES_PER_EPOCH = 1250


def get_config(variant: str = "") -> ConfigDict:
    """Return the recipe or one of its variants."""
    config = configuration.base()
    config.batch_size = 2048
    config.epochs = 100
    batch, epochs = config.get_ref("batch_size"), config.get_ref("epochs")
    config.samples_per_epoch = batch * UPDATES_PER_EPOCH

    config.data = ConfigDict(dict(name="images", data=(), size=320, ratio=placeholder(tuple), bad_share=0.001))
    config.views = ConfigDict(
        dict(
            name="image_views",
            global_size=224,
            global_scale=(0.32, 1.0),
            local_size=96,
            local_scale=(0.05, 0.32),
            locals=8,
        )
    )
    encoder = dict(
        name="vit",
        size="s",
        patch_size=16,
        image_size=config.views.get_ref("global_size"),
        mask_token=True,
        registers=0,
        layer_scale=1e-5,
        mlp="gelu",
        drop_path=0.1,
        dtype="bfloat16",
        remat="full",
        attention="auto",
        position_offset=0.1,
    )
    head = dict(name="dino_head", prototypes=65_536, hidden=2048, bottleneck=256, dtype="bfloat16")
    config.models = ConfigDict(dict(encoder=encoder, head=head))
    config.objective = ConfigDict(
        dict(
            name="dinov2",
            size=config.data.get_ref("size"),
            centering="mean",
            iterations=3,
            mask_ratio=(0.1, 0.5),
            patch_weight=1.0,
            koleo_weight=0.1,
            student_temperature=0.1,
            center_momentum=0.9,
            teacher_temperature=dict(schedule="linear", start=0.04, end=0.07, epochs=30),
            momentum=dict(schedule="cosine", start=0.992, end=1.0, epochs=epochs, warmup_epochs=0),
        )
    )
    config.optimizer = ConfigDict(
        dict(
            name="adamw",
            learning_rate=dict(
                schedule="cosine",
                start=rate(4e-3, batch),
                end=1e-6,
                epochs=epochs,
                warmup_epochs=10,
            ),
            weight_decay=dict(schedule="cosine", start=0.04, end=0.4, epochs=epochs, warmup_epochs=0),
            no_decay=("bias", "scale", "gamma"),
            clip_norm=3.0,
            clip_by="global",
            freeze="head/last",
            freeze_epochs=1,
        )
    )
    if variant == "vitl16":
        config.models.encoder.update(size="l", drop_path=0.3)
    elif variant == "vitl14":
        vitl14(config)
    elif variant == "frames":
        frames(config)
    elif variant == "cifar10":
        cifar10(config)
    elif variant == "smoke":
        configuration.smoke(config)
    elif variant:
        raise InputError(
            f"configs/dinov2.py has the variants vitl16, vitl14, frames, cifar10 and smoke, not {variant!r}."
        )
    return config


def rate(base: float, batch: FieldReference) -> FieldReference:
    """Return the learning rate of a batch, `base` being that of 1,024."""
    return (batch.to_float() / 1024) ** 0.5 * base


def vitl14(config: ConfigDict) -> None:
    """Train for 500 epochs on batches of 3,072, of ImageNet-22k as released, with 131,072 prototypes of each kind."""
    config.batch_size, config.epochs = 3072, 500
    config.views.local_size = 98
    config.models.encoder.update(size="l", patch_size=14, drop_path=0.4)
    config.models.encoder.mlp = "swiglu"
    config.models.head.prototypes = 131_072
    own_patch_head(config)
    config.models.head.bottleneck = 384
    config.objective.momentum.start = 0.994
    config.optimizer.weight_decay.end = 0.2
    config.optimizer.learning_rate.start = rate(2e-4, config.get_ref("batch_size"))
    config.optimizer.learning_rate.warmup_epochs = 80


def own_patch_head(config: ConfigDict) -> None:
    """Centre by Sinkhorn-Knopp, and give the patches a head of their own, as the head of CLS is now."""
    config.models.patch_head = config.models.head.copy_and_resolve_references()
    config.objective.centering = "sinkhorn"


def frames(config: ConfigDict) -> None:
    """Learn from single frames of videos: the views are cut from a random box of the frame."""
    config.data = configuration.frames(size=320, scale=(0.2, 1.0))
    config.objective.size = config.data.get_ref("size")


def cifar10(config: ConfigDict) -> None:
    """Shrink it to 32 pixels and to 300 updates on two CPU cores: 0.8 million parameters in the encoder, no blur."""
    config.batch_size, config.epochs, config.samples_per_epoch = 256, 30, 2560
    config.data.size = 32
    config.views.update(global_size=32, global_scale=(0.25, 1.0), local_size=16, local_scale=(0.05, 0.25), locals=4)
    config.views.update(global_blur_probabilities=(0.0, 0.0), local_blur_probability=0.0)
    config.models.encoder.update(
        width=128, depth=4, heads=4, patch_size=4, drop_path=0.0, layer_scale=None, dtype="float32", remat="none"
    )
    config.models.head.update(prototypes=1024, hidden=256, bottleneck=64, dtype="float32")
    own_patch_head(config)
    config.objective.teacher_temperature.update(start=0.04, end=0.04)
    config.objective.momentum.start = 0.99
    config.optimizer.learning_rate.update(start=1e-3, warmup_epochs=3)
    config.log.every, config.checkpoint.every = 10, 100
