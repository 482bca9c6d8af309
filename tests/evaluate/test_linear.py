"""The linear and the attentive probe: features by hand, the whole protocol on small sets, what they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from pictures import make_folder
from scipy.special import erf, softmax

from ssljax.cli import main
from ssljax.errors import InputError
from ssljax.evaluate.attentive import Attentive, AttentiveHead, frozen_tokens
from ssljax.evaluate.encoders import pixels_like
from ssljax.evaluate.linear import Linear, frozen_features
from ssljax.mesh import make_mesh
from ssljax.models.pure import Pure, combine
from ssljax.models.resnet import resnet
from ssljax.models.vit import vit
from ssljax.objectives.base import Encoder
from ssljax.ops.augment import normalise

SIZE = 32
VIT = Pure(functools.partial(vit, "ti", image_size=SIZE, patch_size=8, width=32, depth=3, heads=2, registers=2))
RESNET = Pure(functools.partial(resnet, 18, blocks=(1, 1), width_multiplier=0.125, stem="cifar"))
COUNTS = {"a": 16, "b": 14, "c": 18}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Prepared: train and test with the same classes, other with others, plain without."""
    folder = tmp_path_factory.mktemp("data")
    for name, counts in (("train", COUNTS), ("test", dict.fromkeys("abc", 5)), ("other", {"a": 3, "x": 3})):
        make_folder(folder / "raw" / name, counts)
        assert main(["prepare", "images", str(folder / "raw" / name), "--output", str(folder / name)]) == 0
    assert main(["prepare", "images", str(folder / "raw" / "train" / "a"), "--output", str(folder / "plain")]) == 0
    return folder


@pytest.fixture(scope="module")
def encoders():
    statistics = jax.tree.map(lambda leaf: leaf + 0.1, RESNET.init_statistics())
    vit = Encoder(VIT, VIT.init(jax.random.key(0)))
    return {
        "vit": vit,
        "resnet": Encoder(RESNET, combine(RESNET.init(jax.random.key(1)), statistics)),
        "pixels": pixels_like(vit, SIZE),
    }


IMAGES = np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8)


def layer_norm(x, scale, bias, eps):
    x = np.asarray(x, np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * np.asarray(scale) + np.asarray(
        bias
    )


@pytest.mark.parametrize("average", [False, True])
def test_features_of_a_vit_are_dinos(encoders, average):
    """The final norm of the CLS tokens of the last blocks, oldest first, then the mean patch of the last."""
    encoder = encoders["vit"]
    pixels = normalise(jnp.asarray(IMAGES, jnp.float32) / 255.0)
    layers = encoder(pixels, layers=(1, 2)).layers
    norm = functools.partial(layer_norm, **encoder.params["norm"], eps=1e-6)
    normed = [norm(layer) for layer in layers]
    expected = [normed[0][:, 0], normed[1][:, 0], *([normed[1][:, 3:].mean(1)] if average else [])]
    found = frozen_features(encoder, IMAGES, blocks=2, average_patches=average)
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), atol=1e-5)


def test_features_of_others_are_their_own(encoders):
    pixels = normalise(jnp.asarray(IMAGES, jnp.float32) / 255.0)
    for name in ("resnet", "pixels"):
        output = encoders[name](pixels)
        found = frozen_features(encoders[name], IMAGES, blocks=0, average_patches=True)
        expected = np.concatenate([output.features, np.mean(output.patches, axis=1)], axis=1)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    tokens = frozen_tokens(encoders["vit"], IMAGES)
    assert tokens.shape == (4, 17, 32) and frozen_tokens(encoders["pixels"], IMAGES).shape == (4, 16, 192)
    np.testing.assert_allclose(tokens[:, 0], frozen_features(encoders["vit"], IMAGES, blocks=1, average_patches=False))


def test_the_attentive_head_is_v_jepas():
    """CrossAttentionBlock in float64 NumPy, head by head."""
    module = AttentiveHead(width=12, heads=3, classes=5, rngs=nnx.Rngs(0))
    head = Pure(functools.partial(AttentiveHead, width=12, heads=3, classes=5))
    params = jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), head.init(jax.random.key(0))
    )
    tokens = np.random.default_rng(0).normal(size=(2, 7, 12)).astype(np.float32)
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    x = layer_norm(tokens, **p["norm1"], eps=1e-5)
    key, value = np.split(x @ p["kv"]["kernel"] + p["kv"]["bias"], 2, axis=2)
    query = p["query"] @ p["q"]["kernel"] + p["q"]["bias"]
    out = np.zeros((2, 12))
    for image in range(2):
        for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
            out[image, part] = softmax(key[image, :, part] @ query[part] / 2.0) @ value[image, :, part]
    out = out + p["query"]
    hidden = layer_norm(out, **p["norm2"], eps=1e-5) @ p["mlp"]["fc1"]["kernel"] + p["mlp"]["fc1"]["bias"]
    hidden = hidden * 0.5 * (1 + erf(hidden / np.sqrt(2)))
    out = out + hidden @ p["mlp"]["fc2"]["kernel"] + p["mlp"]["fc2"]["bias"]
    np.testing.assert_allclose(
        head(params, jnp.asarray(tokens)), out @ p["linear"]["kernel"] + p["linear"]["bias"], atol=1e-4, rtol=1e-4
    )
    assert np.std(module.mlp.fc2.kernel[...]) == pytest.approx(0.02 / np.sqrt(2), rel=0.1)


def arguments(sets, **changes):
    return dict(train=str(sets / "train"), test=str(sets / "test"), size=SIZE, batch_size=16) | changes


SHORT = {
    "dino": (Linear, dict(epochs=10, n_blocks=2, learning_rates=(0.01, 0.1, 1.0))),
    "mae": (Linear, dict(recipe="mae", epochs=10, learning_rates=(200.0, 800.0))),
    "attentive": (Attentive, dict(epochs=6, learning_rates=(1e-3, 5e-3))),
}


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("name", ["dino", "mae", pytest.param("attentive", marks=pytest.mark.long)])
def test_one_device_and_eight(sets, encoders, name, augment):
    """Classes that differ in colour are told apart by a random network's features, and equally on both meshes."""
    constructor, options = SHORT[name]
    protocol = constructor(**arguments(sets), **options, augment=augment)
    encoder = encoders["vit"]
    one, eight = (protocol(encoder, make_mesh(*mesh)) for mesh in (("", jax.devices()[:1]), ("fsdp=4",)))
    metric = "attentive" if name == "attentive" else "linear"
    assert list(one.metrics) == [metric]
    assert one.metrics[metric] == max(row["accuracy"] for row in one.details["grid"])
    assert one.metrics[metric] > 0.6  # chance is a third
    assert one.details["steps"] == (18 if name == "attentive" else 30)
    scale = 1.0 if name == "attentive" else 16 / 256
    assert [row["learning_rate"] for row in one.details["grid"]] == [rate * scale for rate in options["learning_rates"]]
    for a, b in zip(one.details["grid"], eight.details["grid"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3, abs=1e-5)
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=1.01 / 15)  # a tie may fall to either side
    assert protocol(encoder, make_mesh("", jax.devices()[:1])) == one  # the same again


@pytest.mark.parametrize("name", ["resnet", "pixels"])
def test_other_encoders(sets, encoders, name):
    linear = Linear(**arguments(sets), epochs=5, learning_rates=(0.1, 1.0), augment=False)
    assert 0 <= linear(encoders[name], make_mesh()).metrics["linear"] <= 1
    attentive = Attentive(**arguments(sets), epochs=1, learning_rates=(1e-3,), augment=False)
    assert 0 <= attentive(encoders[name], make_mesh()).metrics["attentive"] <= 1


def test_a_learning_rate_that_diverges_is_told(sets, encoders):
    found = Linear(**arguments(sets), epochs=20, n_blocks=1, learning_rates=(0.1, 1e38), augment=False)
    grid = found(encoders["vit"], make_mesh()).details["grid"]
    assert grid[0]["loss"] is not None and grid[1]["loss"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(train=""), "No train set"),
        (dict(train="plain"), "no labels"),
        (dict(train="other"), "only .*other has x, only .*test has b, c;"),
        (dict(learning_rates=(0.1, 0.0)), "learning_rates is"),
        (dict(recipe="simclr"), "recipe is 'simclr'; give one of dino, mae"),
        (dict(n_blocks=0), "n_blocks is 0"),
        (dict(n_blocks=4), "n_blocks is 4, but the encoder has 3 blocks"),
        (dict(), "n_blocks is 4, but the encoder has 3 blocks"),
        (dict(n_blocks=1, epochs=0), "epochs is 0"),
        (dict(n_blocks=1, seed=-1), "seed is -1"),
        (dict(n_blocks=1, batch_size=12), "12 does not divide"),
        (dict(n_blocks=1, batch_size=56), "there are 48 training images"),
        (dict(n_blocks=1, size=30), "patch size 8"),
    ],
    ids=str,
)
def test_bad_input(sets, encoders, change, message):
    if change.get("train"):
        change = change | {"train": str(sets / change["train"])}
    with pytest.raises(InputError, match=message):
        Linear(**arguments(sets, **change))(encoders["vit"], make_mesh())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(heads=5), "heads is 5; give a divisor of the encoder's width 32"),
        (dict(learning_rates=()), "learning_rates is"),
        (dict(weight_decay=-1.0), "weight_decay is"),
        (dict(seed=2**32), "seed is 4294967296"),
    ],
    ids=str,
)
def test_bad_input_of_the_attentive_probe(sets, encoders, change, message):
    with pytest.raises(InputError, match=message):
        Attentive(**arguments(sets, **change))(encoders["vit"], make_mesh())
