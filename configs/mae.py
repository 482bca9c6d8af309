"""Masked autoencoder on images (He et al., CVPR 2022): ViT-B/16, 800 epochs of 1,281,167 images.

    ssljax train --config configs/mae.py --workdir runs/mae --config.data.data=imagenet/
    ssljax show reconstructions --workdir runs/mae

Variants, after a colon: `vitl16` and `vith14`, 1600 epochs; `cifar10`, minutes on a laptop; `smoke`, two updates for
tests. Of videos (--config.data.video=venice/) learn `frames`, from single ones, and `video`, from windows of frames
masked in tubes as in VideoMAE (Tong et al., NeurIPS 2022).
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

    # no ratio: the largest centred square, so that the view is cut once, not twice
    config.data = ConfigDict(dict(name="images", data=(), size=320, ratio=placeholder(tuple), bad_share=0.001))
    config.views = ConfigDict(dict(name="crop_view", size=224, scale=(0.2, 1.0)))
    encoder = dict(
        name="vit",
        size="b",
        patch_size=16,
        image_size=config.views.get_ref("size"),
        registers=0,
        layer_scale=placeholder(float),
        mlp="gelu",
        positions="sincos",
        dtype="bfloat16",
        remat="full",
        attention="auto",
    )
    config.models = ConfigDict(dict(encoder=encoder))
    config.models.decoder = dict(
        name="mae_decoder",
        patch_size=config.models.encoder.get_ref("patch_size"),
        hidden=512,
        depth=8,
        heads=16,
        dtype="bfloat16",
        remat="full",
        attention="auto",
    )
    config.objective = ConfigDict(
        dict(name="mae", size=config.data.get_ref("size"), frames=placeholder(int), mask_ratio=0.75, norm_pix_loss=True)
    )
    config.optimizer = ConfigDict(
        dict(
            name="adamw",
            learning_rate=dict(
                schedule="cosine", start=batch.to_float() * (1.5e-4 / 256), end=0.0, epochs=epochs, warmup_epochs=40
            ),
            weight_decay=dict(schedule="constant", value=0.05),
            b1=0.9,
            b2=0.95,
            no_decay=("bias", "scale"),
        )
    )
    if variant in ("vitl16", "vith14"):
        config.models.encoder.update(size=variant[3], patch_size=int(variant[4:]))
        config.epochs = 1600
    elif variant == "frames":
        frames(config)
    elif variant == "video":
        video(config)
    elif variant == "cifar10":
        cifar10(config)
    elif variant == "smoke":
        configuration.smoke(config)
    elif variant:
        raise InputError(
            f"configs/mae.py has the variants vitl16, vith14, frames, video, cifar10 and smoke, not {variant!r}."
        )
    return config


def frames(config: ConfigDict) -> None:
    """Learn from single frames of videos."""
    config.data = configuration.frames(size=256, scale=(0.2, 1.0))
    config.objective.size = config.data.get_ref("size")
    config.views.scale = (1.0, 1.0)  # the loader's box is the crop; the view is resized and perhaps mirrored


def video(config: ConfigDict) -> None:
    """Learn from windows of 8 frames, a third of a second apart."""
    config.batch_size, config.samples_per_epoch = 1024, 320_000
    config.data = configuration.windows(frames=8, gap=1 / 3, size=256, scale=(0.2, 1.0))
    config.views.scale = (1.0, 1.0)  # the loader's box is the crop; the view is resized and perhaps mirrored
    config.models.decoder.update(hidden=384, depth=4, heads=6)
    config.objective.frames, config.objective.size = config.data.get_ref("frames"), config.data.get_ref("size")
    config.objective.mask_ratio = 0.9


def cifar10(config: ConfigDict) -> None:
    """Shrink it to 32 pixels and to 4 minutes on two CPU cores: 0.8 million parameters in the encoder."""
    config.batch_size, config.epochs, config.samples_per_epoch = 128, 10, 12_800
    config.data.size, config.views.size = 32, 32
    config.models.encoder.update(width=128, depth=4, heads=4, patch_size=4, dtype="float32", remat="none")
    config.models.decoder.update(hidden=64, depth=1, heads=4, dtype="float32", remat="none")
    config.optimizer.learning_rate.update(start=1e-3, warmup_epochs=1)
    config.log.every, config.checkpoint.every = 10, 100
