"""Measures without labels against NumPy's and SciPy's, and where the answer is known; one device and eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pictures import make_folder
from scipy.spatial.distance import pdist
from scipy.stats import entropy

from ssljax.cli import main
from ssljax.data.images import Ordered
from ssljax.errors import InputError
from ssljax.evaluate.encoders import Pixels
from ssljax.evaluate.health import Health, attention_entropy, rankme, singular_values, uniformity, variance_shares
from ssljax.mesh import make_mesh
from ssljax.models.pure import Pure, combine
from ssljax.models.resnet import resnet
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder
from ssljax.ops import keys as rng
from ssljax.ops.augment import crop_view, normalise

RANDOM = np.random.default_rng(0)
WIDE, TALL = (RANDOM.normal(size=shape).astype(np.float32) for shape in ((30, 50), (400, 24)))
FALLING = (TALL * 0.7 ** np.arange(24) + 3).astype(np.float32)
SOME = [pytest.param(features, id=name) for name, features in dict(wide=WIDE, tall=TALL, falling=FALLING).items()]


@pytest.mark.parametrize("features", SOME)
def test_rankme_is_the_papers(features):
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(singular_values(features), values, atol=1e-6 * values[0])
    shares = values / np.abs(values).sum() + 1e-7
    expected = np.exp(-np.sum(shares * np.log(shares)))
    assert rankme(singular_values(features)) == pytest.approx(expected, rel=1e-6)
    assert 1 < expected < min(features.shape)


@pytest.mark.parametrize(
    ("features", "rank"),
    [
        (np.ones((90, 64), np.float32) * 0.37, 1),
        (np.outer(np.arange(1.0, 9), np.ones(16)).astype(np.float32), 1),
        (np.eye(12, dtype=np.float32)[np.arange(60) % 12], 12),
        (np.eye(64, dtype=np.float32)[np.arange(60) % 6] * 100, 6),
        (np.zeros((5, 4), np.float32), 1),
    ],
    ids=["constant", "line", "one-hot", "few of many", "zero"],
)
def test_rank_where_it_is_known(features, rank):
    assert rankme(singular_values(features)) == pytest.approx(rank, rel=3e-4)  # 64 times 1e-7 log 1e-7 at most


@pytest.mark.parametrize("features", SOME)
def test_variance_is_that_of_principal_components(features):
    wide = features.astype(np.float64)
    expected = np.linalg.svd(wide - wide.mean(0), compute_uv=False) ** 2
    np.testing.assert_allclose(variance_shares(features), expected / expected.sum(), atol=1e-12)


def test_what_does_not_vary_has_no_variance():
    assert not variance_shares(np.full((40, 8), 0.3, np.float32)).any()


def pairs(features):
    """Wang and Isola's equation, over all pairs, in float64."""
    wide = features.astype(np.float64)
    return np.log(np.mean(np.exp(-2 * pdist(wide / np.linalg.norm(wide, axis=1, keepdims=True)) ** 2)))


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("features", SOME)
def test_uniformity_is_the_mean_over_pairs(features, devices):
    mesh = make_mesh("fsdp=2,tensor=2" if devices == 8 else "", jax.devices()[:devices])
    assert uniformity(features, mesh) == pytest.approx(pairs(features), abs=2e-6)


def test_uniformity_where_it_is_known():
    collapsed, opposite = np.full((70, 8), 0.3, np.float32), np.array([[1, 0], [-1, 0]], np.float32)
    assert uniformity(collapsed, make_mesh()) == pytest.approx(0, abs=1e-5)
    assert uniformity(opposite, make_mesh()) == pytest.approx(-8, abs=1e-5)


def test_entropy_of_attention():
    attention = RANDOM.gamma(0.2, size=(5, 3, 49)).astype(np.float32)
    attention[0, 0], attention[0, 1], attention[0, 2] = 0.01, 0, np.eye(49)[3] / 2
    found = np.asarray(attention_entropy(jnp.asarray(attention)))
    np.testing.assert_allclose(found[1:], entropy(attention[1:].astype(np.float64), axis=-1), rtol=1e-5)
    np.testing.assert_allclose(found[0], [np.log(49), 0, 0], atol=1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """37 images without labels; none and one image in other folders."""
    folder = tmp_path_factory.mktemp("data")
    make_folder(folder / "raw", {"a": 37, "one": 1})
    for source, name in (("a", "plain"), ("one", "one")):
        assert main(["prepare", "images", str(folder / "raw" / source), "--output", str(folder / name)]) == 0
    return folder


@pytest.fixture(scope="module")
def encoder():
    model = Pure(functools.partial(ViT, image_size=32, patch_size=8, width=24, depth=2, heads=3, registers=1))
    # Weights larger than at the start, so that attention is not even.
    params = jax.tree.map(lambda leaf: 5 * leaf if leaf.ndim > 1 else leaf, model.init(jax.random.key(0)))
    return Encoder(model, params)


def test_equals_each_image_by_itself(data, encoder):
    found = Health(data=str(data / "plain"), size=32, batch_size=16, seed=3)(encoder, make_mesh())
    images = np.concatenate(list(Ordered(data / "plain", size=32)))
    encode = jax.jit(lambda images: encoder(images, probe=1))
    outputs = encode(normalise(jnp.asarray(images, jnp.float32) / 255))
    features = np.asarray(outputs.cls)

    crop = jax.jit(functools.partial(crop_view, size=32, scale=(0.08, 1.0)))
    views = []
    for name in ("first", "second"):
        keys = rng.per_sample(rng.named(jax.random.key(3), f"health.{name}"), jnp.arange(37))
        crops = jnp.stack([crop(image, key) for image, key in zip(images, keys, strict=True)])
        view = np.asarray(encode(crops).cls, np.float64)
        views.append(view / np.linalg.norm(view, axis=1, keepdims=True))
    apart = [sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for x, y in zip(*views, strict=True)]
    heads = entropy(np.asarray(outputs.probe.cls_attention, np.float64), axis=-1).mean(0)
    values = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    assert found.metrics == pytest.approx(
        {
            "health_rankme": rankme(values),
            "health_alignment": np.mean(apart),
            "health_uniformity": pairs(features),
            "health_attention_entropy": heads.mean(),
            "health_attention_entropy_min": heads.min(),
        },
        rel=1e-4,
    )
    assert not found.shares and 0.01 < found.metrics["health_alignment"] < 2
    assert heads.min() < heads.max() - 0.01 < np.log(16)
    assert found.details["attention_entropy"]["heads"] == pytest.approx(heads, rel=1e-4)
    assert found.details["attention_entropy"]["at_most"] == pytest.approx(np.log(16))
    np.testing.assert_allclose(found.details["singular_values"], values / values.sum(), atol=1e-5)
    assert set(found.details["variance_in_dimensions"]) == {"1", "10"}


@pytest.mark.parametrize("pool", ["features", "mean"])
def test_eight_devices_and_other_batches_equal_one(data, encoder, pool):
    results = []
    for devices, batch_size in ((1, 37), (8, 5)):
        protocol = Health(data=str(data / "plain"), size=40, batch_size=batch_size, pool=pool)
        results.append(protocol(encoder, make_mesh("", jax.devices()[:devices])))
    assert results[0].metrics == pytest.approx(results[1].metrics, rel=1e-4)


def test_without_attention_its_measures_are_absent(data):
    model = Pure(functools.partial(resnet, 18, blocks=(1,), width_multiplier=0.125, stem="cifar"))
    net = Encoder(model, combine(model.init(jax.random.key(0)), model.init_statistics()))
    protocol = Health(data=str(data / "plain"), size=16)
    for encoder in (Encoder(Pixels(8), {}), net):
        metrics = protocol(encoder, make_mesh()).metrics
        assert set(metrics) == {"health_rankme", "health_alignment", "health_uniformity"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(data=""), "give a prepared folder"),
        (dict(data="{data}/nowhere"), "nowhere"),
        (dict(data="{data}/raw"), "holds no prepared images"),
        (dict(data="{data}/one"), "has 1 image, and features are compared; give at least 2"),
        (dict(pool="max"), "pool is 'max'"),
        (dict(size=0), "at least 1"),
        (dict(seed=-1), "seed is -1; give a whole number from 0"),
    ],
)
def test_bad_input(data, arguments, message):
    given = dict(data="{data}/plain", size=32) | arguments
    given["data"] = given["data"].format(data=data)
    with pytest.raises(InputError, match=message):
        Health(**given)


def test_features_that_are_no_numbers_are_told(data, encoder):
    broken = encoder._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, encoder.params))
    with pytest.raises(InputError, match="not finite"):
        Health(data=str(data / "plain"), size=32)(broken, make_mesh())
