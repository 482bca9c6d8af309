"""Fine-tuning: MAE's layer-wise learning rates, the whole protocol, what it refuses."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pictures import make_folder

from ssljax.cli import main
from ssljax.errors import InputError
from ssljax.evaluate.encoders import pixels_like
from ssljax.evaluate.finetune import Classifier, FineTune, initial_state, layer_rates, scale_by_layer
from ssljax.mesh import make_mesh
from ssljax.models.pure import Pure
from ssljax.models.vit import vit
from ssljax.objectives.base import Encoder
from ssljax.ops.augment import normalise

SIZE, DEPTH = 32, 3
VIT = Pure(
    functools.partial(
        vit, "ti", image_size=SIZE, patch_size=8, width=32, depth=DEPTH, heads=2, registers=2, mask_token=True
    )
)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name, count in (("train", 16), ("test", 5)):
        make_folder(folder / "raw" / name, dict.fromkeys("abc", count))
        assert main(["prepare", "images", str(folder / "raw" / name), "--output", str(folder / name)]) == 0
    return folder


@pytest.fixture(scope="module")
def encoder():
    return Encoder(VIT, VIT.init(jax.random.key(0)))


def maes_layer(name, layers):
    """BEiT's and MAE's rule for timm's parameter names, `layers` being the number of blocks and one."""
    if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks") else layers


def test_layer_rates_are_maes(encoder):
    """0.65^(layers - id), a parameter by its name in timm; a stack of blocks has one factor a block."""
    names = {"cls": "cls_token", "position": "pos_embed", "patch": "patch_embed", "norm": "norm"}
    names |= {"register": "cls_token", "mask": "cls_token"}  # they make tokens as well
    params = {
        "encoder": encoder.params,
        "head": {"norm": {"scale": jnp.ones(3)}, "linear": {"kernel": jnp.ones((3, 2))}},
    }
    rates = layer_rates(params, DEPTH, 0.65)
    seen = 0
    for path, rate in jax.tree_util.tree_leaves_with_path(rates):
        first, second = (key.key for key in path[:2])
        if second == "blocks":
            expected = [0.65 ** (DEPTH + 1 - maes_layer(f"blocks.{i}.attn", DEPTH + 1)) for i in range(DEPTH)]
            seen += 1
        else:
            name = "head.weight" if first == "head" else names[second]
            expected = 0.65 ** (DEPTH + 1 - maes_layer(name, DEPTH + 1))
        np.testing.assert_allclose(np.squeeze(rate), expected, rtol=1e-6)
    assert seen > 5


def test_updates_are_scaled(encoder):
    params = {"encoder": encoder.params, "head": {"kernel": jnp.ones((3, 2))}}
    optimizer = optax.chain(optax.sgd(1.0), scale_by_layer(DEPTH, 0.5))
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(ones, optimizer.init(params), params)
    kernel = updates["encoder"]["blocks"]["attention"]["qkv"]["kernel"]
    np.testing.assert_array_equal(kernel, np.broadcast_to(-np.array([0.125, 0.25, 0.5])[:, None, None], kernel.shape))
    np.testing.assert_array_equal(updates["encoder"]["cls"], np.full(32, -0.0625))
    np.testing.assert_array_equal(updates["head"]["kernel"], -np.ones((3, 2)))


def test_logits_are_of_the_normalised_mean_patch(encoder):
    """MAE's global pool: the mean of the last block's patches, before the final norm, then a new norm and a layer."""
    network = Classifier.of(encoder, 3, 0.1)
    params, _, _ = initial_state(network, optax.identity(), encoder.params, jax.random.key(1))
    images = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8))
    pixels = normalise(images.astype(jnp.float32) / 255.0)
    tokens = encoder(pixels, layers=(2,)).layers[0]
    mean = np.asarray(tokens, np.float64)[:, 3:].mean(1)
    mean = (mean - mean.mean(1, keepdims=True)) / np.sqrt(mean.var(1, keepdims=True) + 1e-6)
    expected = mean @ np.asarray(params["head"]["linear"]["kernel"])
    np.testing.assert_allclose(network.logits(params, images), expected, atol=1e-8, rtol=1e-3)
    keys = jax.random.split(jax.random.key(0), 2)
    assert not np.allclose(network(params, pixels, keys), network(params, pixels), rtol=1e-3, atol=0)  # drop path


def arguments(sets, **changes):
    return dict(train=str(sets / "train"), test=str(sets / "test"), size=SIZE, batch_size=16) | changes


@pytest.mark.long
def test_one_device_and_eight(sets, encoder):
    """It learns, the same on a mesh that shards the parameters, and leaves the encoder as it was."""
    before = jax.tree.map(np.array, encoder.params)
    protocol = FineTune(**arguments(sets), epochs=8, learning_rate=0.05, layer_decay=0.8)
    one, eight = (protocol(encoder, make_mesh(*mesh)) for mesh in (("", jax.devices()[:1]), ("fsdp=2,tensor=2",)))
    assert one.details["steps"] == 24 and one.metrics["finetune"] > 0.6  # chance is a third
    assert one.details["loss"] == pytest.approx(eight.details["loss"], rel=1e-3)
    assert one.metrics["finetune"] == pytest.approx(eight.metrics["finetune"], abs=1.01 / 15)
    jax.tree.map(np.testing.assert_array_equal, before, encoder.params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(learning_rate=0.0), "learning_rate is 0.0; give numbers above 0"),
        (dict(layer_decay=1.5), "layer_decay is 1.5"),
        (dict(layer_decay=0.0), "layer_decay is 0.0"),
        (dict(layer_decay=math.nan), "layer_decay is nan"),
        (dict(weight_decay=math.inf), "weight_decay is inf"),
        (dict(epochs=math.inf), "epochs is inf"),
        (dict(seed=-1), "seed is -1"),
        (dict(mixup=-0.1), "mixup is -0.1"),
        (dict(drop_path=1.0), "drop_path is 1.0"),
        (dict(batch_size=64), "there are 48 training images"),
    ],
    ids=str,
)
def test_bad_input(sets, encoder, change, message):
    with pytest.raises(InputError, match=message):
        FineTune(**arguments(sets, **change))(encoder, make_mesh())


def test_a_diverged_loss_and_no_vit(sets, encoder):
    with pytest.raises(InputError, match="Fine-tuning takes a ViT, not a Pixels"):
        FineTune(**arguments(sets))(pixels_like(encoder, SIZE), make_mesh())
    with pytest.raises(InputError, match="lower learning_rate"):
        FineTune(**arguments(sets), epochs=3, learning_rate=1e38)(encoder, make_mesh())
