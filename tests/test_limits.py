"""Values out of their range: one sentence that names the key, before anything is compiled or written."""

import jax
import jax.numpy as jnp
import pytest

from ssljax import build, configuration, limits
from ssljax.errors import InputError

CASES = [
    ("mae", "objective.mask_ratio=0.0", "mask_ratio is 0.0"),
    ("mae", "objective.mask_ratio=1.0", "mask_ratio is 1.0"),
    ("mae", "objective.mask_ratio=nan", "mask_ratio is nan"),
    ("mae", "objective.mask_ratio=0.99", "leaves 0 to see"),
    ("mae", "models.decoder.hidden=0", "hidden is 0"),
    ("mae", "models.encoder.width=0", "width is 0"),
    ("mae", "models.encoder.width=-4", "width is -4"),
    ("mae", "models.encoder.patch_size=7", "patch size 7 does not divide"),
    ("mae", "views.scale=(0.5,)", r"views.scale is \(0.5,\)"),
    ("mae", "views.scale=(nan, 1.0)", "views.scale is .* not a finite number"),
    ("mae", "views.size=64", "views.size is 64, but the images are 40 pixels wide"),
    ("mae", "optimizer.b1=1.5", "b1 is 1.5"),
    ("mae", "optimizer.learning_rate.start=-1.0", "learning_rate: .* start is -1.0"),
    ("mae", "optimizer.learning_rate.warmup_epochs=-1", "learning_rate: .* warmup_steps is -2"),
    ("mae", "optimizer.weight_decay.value=-0.1", "weight_decay: .* value is -0.1"),
    ("mae", "checkpoint.share=0.0", "checkpoint.share is 0.0; give more than 0"),
    ("mae", "loader.timeout=0.0", "loader.timeout is 0.0; give more than 0"),
    ("mae", "spikes.policy=leap", "spikes.policy is 'leap'; give one of stop, skip"),
    ("mae", "spikes.factor=0.0", "spikes.factor is 0.0; give more than 0"),
    ("mae", "spikes.window=1", "spikes.window is 1; give more than 1"),
    ("mae", "spikes.patience=0", "spikes.patience is 0; give more than 0"),
    ("mae", "seed=4294967296", "seed is 4294967296"),
    ("mae", "samples_per_epoch=100000000000000", "fewer than 4294967296 samples"),
    ("simclr", "optimizer.momentum=1.0", "momentum is 1.0"),
    ("simclr", "optimizer.trust_coefficient=0.0", "trust_coefficient is 0.0"),
    ("simclr", "models.projector.dtype=float16", "dtype 'float16'"),
    ("simclr", "models.encoder.blocks=(0, 1)", "blocks is"),
    ("simclr", "objective.norm_momentum=1.0", "norm_momentum is 1.0"),
    ("simclr", "views.jitter=(0.8, 0.8)", r"views.jitter is \(0.8, 0.8\)"),
    ("simclr", "views.jitter=(0.8, 0.8, 0.8, 0.6)", "hue at most 0.5"),
    ("simclr", "views.jitter_probability=1.5", "jitter_probability is 1.5"),
    ("simclr", "views.global_blur_probabilities=(0.5,)", "global_blur_probabilities is"),
    ("simclr", "views.global_solarise_probabilities=(0.0, 2.0)", "global_solarise_probabilities is"),
    ("mocov3", "objective.momentum.end=1.5", "momentum is 1.5"),
    ("mocov3", "objective.momentum.start=-0.1", "momentum: .* start is -0.1"),
    ("dino", "objective.momentum.start=1.1", "momentum is 1.1"),
    ("dino", "objective.center_momentum=-0.1", "center_momentum is -0.1"),
    ("dino", "objective.teacher_temperature.end=0.0", "teacher_temperature is 0"),
    ("dora", "objective.student_temperature=0.0", "student_temperature is 0"),
    ("dora", "views.local_size=48", "views.local_size is 48, but"),
    ("dinov2", "objective.student_temperature=-0.1", "student_temperature is -0.1"),
    ("dinov2", "objective.mask_ratio=(0.5,)", r"mask_ratio is \(0.5,\)"),
    ("dinov2", "objective.mask_ratio=(0.5, 0.1)", "mask_ratio is"),
    ("dinov2", "objective.koleo_weight=-1.0", "koleo_weight is -1.0"),
    ("dinov2", "objective.iterations=0", "iterations is 0"),
    ("dinov2", "models.head.dtype=int3", "dtype 'int3'"),
    ("dinov2", "models.head.prototypes=0", "prototypes is 0"),
]


def try_out(recipe, override):
    """Build what a config names, and the shapes of its views."""
    config = configuration.load(f"configs/{recipe}.py:smoke", [f"--config.{override}"])
    limits.check_numbers(config)
    build.optimizer(config)
    objective = build.objective(config)
    frames = (2,) if recipe == "dora" else ()
    pixels = jax.ShapeDtypeStruct((*frames, config.data.size, config.data.size, 3), jnp.uint8)
    jax.eval_shape(objective.views, pixels, jax.random.key(0))


@pytest.mark.parametrize(("recipe", "override", "message"), CASES, ids=lambda value: str(value).replace(" ", ""))
def test_values_out_of_their_range_are_told(recipe, override, message):
    with pytest.raises(InputError, match=message) as told:
        try_out(recipe, override)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("recipe", ["mae", "simclr", "mocov3", "dinov2", "dino:images"])
def test_an_empty_name_is_no_data(recipe):
    name, _, variant = recipe.partition(":")
    config = configuration.load(f"configs/{name}.py:{variant}", ["--config.data.data="])
    with pytest.raises(InputError, match="no images were named"):
        build.dataset(config)
    if variant:
        return
    config = configuration.load(f"configs/{name}.py:frames", ["--config.data.video="])
    with pytest.raises(InputError, match="no video was named"):
        build.dataset(config)
