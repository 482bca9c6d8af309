"""MAE's loss, masks and drawing; tests/objectives/test_mae_parity.py compares it with another implementation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssljax import build, configuration, mesh, optim, step
from ssljax.errors import InputError
from ssljax.models.mae import MAEDecoder
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT
from ssljax.objectives.mae import MAE

ENCODER = dict(image_size=16, patch_size=4, width=24, depth=2, heads=4, positions="sincos")
DECODER = dict(width=24, patch_size=4, hidden=16, depth=1, heads=4)


def views(pixels, key):
    """Return the middle of each image, with noise for the augmentation: quick to compile."""
    pixels = pixels / jnp.float32(255) - 0.5
    return (pixels + 0.1 * jax.random.normal(key, pixels.shape))[..., 2:18, 2:18, :]


def make(encoder=(), decoder=(), **changed):
    return MAE(
        encoder=Pure(functools.partial(ViT, **(ENCODER | dict(encoder)))),
        decoder=Pure(functools.partial(MAEDecoder, **(DECODER | dict(decoder)))),
        views=views,
        size=20,
        **changed,
    )


def sample(mae, b=4, first=0):
    spec = mae.batch_spec(b)
    name = next(name for name in spec if name != "position")
    pixels = np.random.default_rng(0).integers(0, 256, size=(first + b, *spec[name].shape[1:]), dtype=np.uint8)
    return {name: jnp.asarray(pixels[first:]), "position": jnp.arange(first, first + b, dtype=jnp.uint32)}


@pytest.mark.parametrize(("frames", "norm_pix_loss"), [(None, False), (3, True)])
def test_loss_is_the_mean_over_hidden_patches(frames, norm_pix_loss):
    mae, key = make(frames=frames, norm_pix_loss=norm_pix_loss), jax.random.key(1)
    batch = sample(mae)
    params, state = mae.init(jax.random.key(0))
    out = jax.jit(mae.loss)(params, state, batch, key, jnp.zeros((), jnp.int32))
    images, noise = mae.draw(batch, key)
    predicted = np.asarray(mae.reconstruct(params, images, noise).predicted, np.float64)
    errors, hidden_pixels, hidden_predictions = [], [], []
    for i in range(4):
        seen = np.argsort(noise[i])[:4]  # a quarter of 16
        for t in range(frames or 1):
            for patch in sorted(set(range(16)) - set(seen.tolist())):
                row, column = 4 * (patch // 4), 4 * (patch % 4)
                target = np.asarray(images[i, t, row : row + 4, column : column + 4], np.float64).reshape(-1)
                if norm_pix_loss:
                    target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
                errors.append((target - predicted[i, t, patch]) ** 2)
                hidden_pixels.append(target)
                hidden_predictions.append(predicted[i, t, patch])
    np.testing.assert_allclose(out.loss, np.mean(errors), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["target_variance"], np.var(hidden_pixels), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["predicted_variance"], np.var(hidden_predictions), rtol=1e-4)
    np.testing.assert_allclose(out.metrics["explained"], 1 - np.mean(errors) / np.var(hidden_pixels), atol=1e-5)


@pytest.mark.parametrize("frames", [None, 3])
def test_what_is_hidden_is_not_seen(frames):
    """Other pixels in the hidden patches change no prediction; the same patches are hidden in every frame."""
    mae, key = make(frames=frames), jax.random.key(1)
    params, _ = mae.init(jax.random.key(0))
    images, noise = mae.draw(sample(mae), key)
    out = mae.reconstruct(params, images, noise)
    assert (np.sum(np.asarray(out.hidden), axis=1) == 12).all()
    tube = np.kron(np.asarray(out.hidden).reshape(-1, 4, 4), np.ones((4, 4), np.float32))[:, None, :, :, None]
    again = mae.reconstruct(params, images + tube, noise)
    np.testing.assert_array_equal(again.predicted, out.predicted)
    visible = mae.reconstruct(params, images + (1 - tube) * jnp.square(images), noise)
    assert np.abs(visible.predicted - out.predicted).max() > 1e-3


@pytest.mark.long
def test_bfloat16_with_recomputation_is_float32_within_its_rounding():
    low = dict(dtype="bfloat16", remat="full")
    batch, key, step = sample(make()), jax.random.key(1), jnp.zeros((), jnp.int32)
    params, _ = make().init(jax.random.key(0))
    values = []
    for mae in (make(), make(encoder=low, decoder=low)):
        loss, gradients = jax.jit(jax.value_and_grad(lambda p, mae=mae: mae.loss(p, {}, batch, key, step).loss))(params)
        values.append((loss, jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(gradients)])))
    (loss, gradient), (rough_loss, rough) = values
    np.testing.assert_allclose(rough_loss, loss, rtol=0.01)
    assert jnp.dot(rough, gradient) > 0.99 * jnp.linalg.norm(rough) * jnp.linalg.norm(gradient)


def test_the_encoder_sees_each_frame_alone():
    """A window's CLS tokens are those of its frames as images: the encoder stays one of images."""
    video, image = make(frames=3), make()
    params, _ = video.init(jax.random.key(0))
    images, noise = video.draw(sample(video), jax.random.key(1))
    window = video.reconstruct(params, images, noise)
    for t in range(3):
        np.testing.assert_allclose(
            image.reconstruct(params, images[:, t : t + 1], noise).cls[:, 0], window.cls[:, t], atol=1e-6
        )
    encoder = video.encoders(params, {})["image"]
    assert encoder(images[:, 0]).patches.shape == (4, 16, 24)


def test_a_samples_mask_follows_its_position():
    mae, key = make(), jax.random.key(1)
    images, noise = mae.draw(sample(mae, 4), key)
    later_images, later_noise = mae.draw(sample(mae, 2, first=2), key)
    np.testing.assert_array_equal(later_noise, noise[2:])
    np.testing.assert_allclose(later_images, images[2:], atol=1e-6)
    assert np.abs(noise[0] - noise[1]).max() > 0.1
    assert np.abs(mae.draw(sample(mae, 4), jax.random.key(2))[1] - noise).max() > 0.1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (dict(mask_ratio=1.0), "mask_ratio is 1.0"),
        (dict(mask_ratio=0.0), "mask_ratio is 0.0"),
        (dict(mask_ratio=0.99), "leaves 0 to see"),
        (dict(encoder=dict(patch_size=16)), "the decoder's 4"),
        (dict(encoder=dict(patch_size=16), decoder=dict(patch_size=16)), "of 1 patches leaves 0"),
        (dict(encoder=dict(image_size=18)), "patch size 4 does not divide an image of 18x18"),
        (dict(frames=0), "frames is 0"),
    ],
)
def test_bad_values_are_told(arguments, told):
    with pytest.raises(InputError, match=told):
        make(**arguments)


@pytest.mark.long
def test_two_updates_on_a_mesh_in_micro_batches_are_one_devices():
    """Drop path, views and masks follow the sample, so that neither devices nor micro-batches change the losses."""
    mae = make(encoder=dict(drop_path=0.2), frames=2)
    optimizer = optim.adamw(learning_rate=optim.constant(value=1e-3), weight_decay=optim.constant(value=0.05))

    def losses(devices, accumulate):
        with jax.set_mesh(devices), jax.default_matmul_precision("highest"):
            state = step.initial_state(mae, optimizer, 0, devices)
            update = jax.jit(step.make_train_step(mae, optimizer, seed=0, accumulate=accumulate))
            values = []
            for number in range(2):
                batch = jax.device_get(sample(mae, 16, first=16 * number))
                state, metrics = update(state, mesh.to_mesh(devices, batch, 16))
                values.append(float(metrics["loss"]))
        return values

    one = losses(mesh.make_mesh("", jax.devices()[:1]), 1)
    np.testing.assert_allclose(losses(mesh.make_mesh("data=2,fsdp=4"), 2), one, rtol=1e-5)
    assert one[0] != one[1]


@pytest.mark.parametrize(
    ("variant", "patches", "width", "total"),
    [("", 196, 768, 111_907_840), (":vitl16", 196, 1024, 329_541_888), (":vith14", 256, 1280, 657_074_508)],
)
def test_recipes_have_the_released_models_parameters(variant, patches, width, total):
    """The released models count their fixed positions of CLS and patches too, the decoder's 512 wide."""
    mae = build.objective(configuration.load(f"configs/mae.py{variant}"))
    params, _ = jax.eval_shape(mae.init, jax.random.key(0))
    trained = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert trained + (1 + patches) * (width + 512) == total


def test_recipe_of_the_paper():
    """Table 8: batch 4096, base learning rate 1.5e-4 per 256, 40 of 800 epochs of warm-up, betas 0.9 and 0.95."""
    config = configuration.load("configs/mae.py")
    rate, steps = build.schedules(config)["learning_rate"], build.total_steps(config)
    warmup = round(40 * 1_281_167 / 4096)
    np.testing.assert_allclose(float(rate(warmup)), 16 * 1.5e-4, rtol=1e-3)
    np.testing.assert_allclose(float(rate(steps)), 0, atol=1e-9)
    assert (config.optimizer.b1, config.optimizer.b2) == (0.9, 0.95)
    assert steps == 800 * 1_281_167 // 4096
