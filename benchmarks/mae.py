"""What encoding only the visible patches saves: MAE's step at mask ratio 0.75 against an encoder that sees all patches.

    python -m benchmarks.mae [--rounds N]

The baseline is the same encoder and decoder, given every patch; the loss is over the same hidden patches. Printed are
the ratios of floating-point operations, counted by hand, and of measured times, both ways alternated in one run: of the
encoder's forward and backward pass, and of the whole step (crop, encoder, decoder, backward pass, AdamW).
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np

from ssljax import optim
from ssljax.models.mae import MAEDecoder
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT
from ssljax.objectives.mae import MAE, masked_error
from ssljax.ops.augment import crop_view
from ssljax.ops.masking import mask_by_noise, visible_patches

IMAGE, PATCH, BATCH = 128, 8, 8
RATIO = 0.75


def build() -> MAE:
    encoder = dict(image_size=IMAGE, patch_size=PATCH, width=192, depth=6, heads=3, positions="sincos")
    decoder = dict(width=192, patch_size=PATCH, hidden=96, depth=2, heads=3)
    return MAE(
        encoder=Pure(functools.partial(ViT, **encoder)),
        decoder=Pure(functools.partial(MAEDecoder, **decoder)),
        views=functools.partial(crop_view, size=IMAGE),
        size=IMAGE,
        mask_ratio=RATIO,
    )


def encode(mae: MAE, params, images, noise, visible: int):
    """The encoder's tokens [b, 1, 1 + visible, d]."""
    keep = mask_by_noise(noise, visible=visible).keep
    out = mae.encoder(params["encoder"], images, keep=keep)
    return jnp.concatenate([out.cls[:, None], out.patches], axis=1)[:, None]


def step(mae: MAE, optimizer, visible: int, state, batch, key):
    """One update; the loss is over the patches that RATIO hides, whatever the encoder sees."""
    params, moments = state

    def loss(params):
        images, noise = mae.draw(batch, key)
        order = mask_by_noise(noise, visible=visible).order
        tokens = encode(mae, params, images[:, 0], noise, visible)
        predicted = mae.decoder(params["decoder"], tokens, order, (IMAGE // PATCH,) * 2)
        return masked_error(predicted, mae.targets(images), order >= visible_patches(noise.shape[1], RATIO))

    updates, moments = optimizer.update(jax.grad(loss)(params), moments, params)
    return jax.tree.map(jnp.add, params, updates), moments


def encoder_flops(mae: MAE, patches: int, visible: int) -> int:
    """Forward operations of one image: every patch is projected, the visible ones go through the blocks."""
    model = mae.encoder.abstract
    return model.flops(visible) + 2 * (patches - visible) * 3 * PATCH**2 * model.width


def seconds(function, *arguments) -> float:
    began = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - began


def compare(name: str, counted: float, functions: list, arguments: list, rounds: int) -> None:
    for function in functions:
        seconds(function, *arguments)  # compiles
    times = np.array([[seconds(function, *arguments) for function in functions] for _ in range(rounds)])
    few, many = np.median(times, axis=0)
    print(f"{name}: {counted:.2f} of the operations, {few / many:.2f} of the time ({few:.3f} s and {many:.3f} s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    mae, key = build(), jax.random.key(0)
    params, _ = mae.init(key)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (BATCH, IMAGE, IMAGE, 3), np.uint8)
    batch = {"image": jnp.asarray(pixels), "position": jnp.arange(BATCH, dtype=jnp.uint32)}
    patches = (IMAGE // PATCH) ** 2
    visible = visible_patches(patches, RATIO)
    images, noise = mae.draw(batch, key)

    def pull(seen: int):
        return jax.jit(jax.grad(lambda params: jnp.sum(encode(mae, params, images[:, 0], noise, seen))))

    counts = [encoder_flops(mae, patches, seen) for seen in (visible, patches)]
    print(f"{visible} of {patches} patches visible")
    compare("encoder", counts[0] / counts[1], [pull(visible), pull(patches)], [params], args.rounds)

    schedules = dict(learning_rate=optim.constant(value=1e-4), weight_decay=optim.constant(value=0.05))
    optimizer = optim.adamw(**schedules)
    decoder = mae.decoder.abstract
    counts = [count + decoder.flops(patches, seen) for count, seen in zip(counts, (visible, patches), strict=True)]
    steps = [jax.jit(functools.partial(step, mae, optimizer, seen)) for seen in (visible, patches)]
    compare("step", counts[0] / counts[1], steps, [(params, optimizer.init(params)), batch, key], args.rounds)


if __name__ == "__main__":
    main()
