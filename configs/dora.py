"""DoRA on one long video (Venkataramanan et al., ICLR 2024): ViT-S/16, 100 epochs of 320,000 clips.

    python -m data_prep.video venice.mp4 --output venice/
    ssljax train --config configs/dora.py --workdir runs/venice --config.data.video=venice/

Variants, after a colon: `vitb16`; `demo`, minutes on a laptop; `smoke`, two updates for tests.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ssljax import configuration
from ssljax.errors import InputError


def get_config(variant: str = "") -> ConfigDict:
    """Return the recipe or one of its variants."""
    config = configuration.base()
    config.batch_size = 128
    config.epochs = 100
    config.samples_per_epoch = 320_000
    batch, epochs = config.get_ref("batch_size"), config.get_ref("epochs")

    config.data = configuration.windows(frames=8, gap=1.0, size=300, scale=(0.2, 1.0))
    config.views = ConfigDict(
        dict(
            name="clip_views",
            global_size=224,
            global_scale=(0.4, 1.0),
            local_size=112,
            local_scale=(0.05, 0.4),
            locals=6,
        )
    )
    config.models = ConfigDict(
        dict(
            encoder=dict(
                name="vit",
                size="s",
                patch_size=16,
                image_size=config.views.get_ref("global_size"),
                registers=0,
                layer_scale=placeholder(float),
                mlp="gelu",
                drop_path=0.1,
                dtype="bfloat16",
                remat="full",
                attention="auto",
                position_offset=0.1,
            ),
            head=dict(
                name="dino_head",
                prototypes=65_536,
                hidden=2048,
                bottleneck=256,
                norm_last_layer=False,
                dtype="bfloat16",
            ),
        )
    )
    config.objective = ConfigDict(
        dict(
            name="dora",
            frames=config.data.get_ref("frames"),
            size=config.data.get_ref("size"),
            objects=3,
            sinkhorn=True,
            epsilon=0.05,
            iterations=30,
            masks="tracked",
            threshold="frame",
            tracker_layer=-1,
            heads_per="clip",
            mask_mode="zero",
            kept_share=0.5,
            chunks=1,
            student_temperature=0.1,
            center_momentum=0.9,
            teacher_temperature=dict(schedule="linear", start=0.04, end=0.04, epochs=30),
            momentum=dict(schedule="cosine", start=0.996, end=1.0, epochs=epochs, warmup_epochs=0),
        )
    )
    config.optimizer = ConfigDict(
        dict(
            name="adamw",
            learning_rate=dict(
                schedule="cosine", start=batch.to_float() * (5e-4 / 256), end=1e-5, epochs=epochs, warmup_epochs=10
            ),
            weight_decay=dict(schedule="cosine", start=0.04, end=0.4, epochs=epochs, warmup_epochs=0),
            no_decay=("bias", "scale", "gamma"),
            clip_norm=3.0,
            clip_by="parameter",
            freeze="head/last",
            freeze_epochs=1,
        )
    )
    if variant == "vitb16":
        config.models.encoder.size = "b"
    elif variant == "demo":
        demo(config)
    elif variant == "smoke":
        configuration.smoke(config)
    elif variant:
        raise InputError(f"configs/dora.py has the variants vitb16, demo and smoke, not {variant!r}.")
    return config


def demo(config: ConfigDict) -> None:
    """Make the recipe fit for 2 CPU cores, minutes and a video of 10 seconds, of which the last 2 are left out."""
    config.batch_size, config.epochs, config.samples_per_epoch = 8, 15, 320
    config.data.update(frames=4, gap=0.2, size=80, seconds=(0.0, -2.0))
    config.views.update(global_size=64, local_size=32, locals=4)
    config.models.encoder.update(width=96, depth=3, heads=3, patch_size=8, dtype="float32", drop_path=0.0, remat="none")
    config.models.head.update(prototypes=1024, hidden=256, bottleneck=64, norm_last_layer=True, dtype="float32")
    config.optimizer.learning_rate.update(start=5e-4, warmup_epochs=1)
    # Few scenes and small batches let the teacher drift towards saying nothing; a sharper one does not.
    config.objective.teacher_temperature.update(start=0.02, end=0.02)
    config.checkpoint.every = 100
