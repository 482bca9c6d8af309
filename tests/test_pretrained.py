"""A loaded encoder gives what the evaluations see."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from pictures import encode, smooth

import ssljax
from ssljax import pretrained
from ssljax.data.images import evaluation_view
from ssljax.errors import InputError
from ssljax.evaluate import encoders
from ssljax.export import export_encoder
from ssljax.models.pure import Pure, combine
from ssljax.models.resnet import ResNet
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder
from ssljax.ops.augment import normalise


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tiny ViT and its exported file."""
    sizes = dict(image_size=32, patch_size=8, width=48, depth=2, heads=3, registers=2)
    model = Pure(functools.partial(ViT, **sizes))
    encoder = Encoder(model, model.init(jax.random.key(0)))
    path = tmp_path_factory.mktemp("exported") / "encoder.safetensors"
    export_encoder(encoder, path, format="safetensors")
    return encoder, path


def pixels(count, height=32, width=32):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def test_features_are_those_of_evaluations(exported):
    ours, path = exported
    encoder = ssljax.load(path)
    assert (encoder.patch_size, encoder.width, encoder.image_size) == (8, 48, 32)
    for images in (pixels(2), pixels(1, 24, 40)):
        found = encoder(images)
        expected = encoders.encode(ours, images, probe=-1)
        assert {array.dtype for array in found} == {np.dtype("float32")}
        np.testing.assert_allclose(found.cls, expected.cls, atol=1e-6)
        np.testing.assert_allclose(found.patches, expected.patches, atol=1e-6)
        np.testing.assert_allclose(found.attention, expected.probe.cls_attention, atol=1e-6)
    first = encoders.encode(ours, pixels(2), probe=0)
    np.testing.assert_allclose(encoder(pixels(2), layer=0).attention, first.probe.cls_attention, atol=1e-6)


def test_one_image_and_normalised_floats_are_taken_too(exported):
    encoder = ssljax.load(exported[1])
    images = pixels(1)
    expected = encoder(images)
    np.testing.assert_array_equal(encoder(images[0]).cls, expected.cls)
    mean, std = np.asarray(encoder.mean), np.asarray(encoder.std)
    for floats in ((images / 255 - mean) / std, normalise(jnp.asarray(images / 255, jnp.float32))):
        np.testing.assert_allclose(encoder(floats).cls, expected.cls, atol=1e-5)


def test_one_program_a_shape(exported):
    encoder = ssljax.load(exported[1])
    pretrained._features.clear_cache()
    for _ in range(2):
        encoder(pixels(2))
        encoder(pixels(3))
    assert pretrained._features._cache_size() == 2


def test_images_are_cut_as_evaluations_cut_them(exported, tmp_path):
    encoder = ssljax.load(exported[1], size=40)
    image = smooth(0, 60, 90)
    (tmp_path / "image.png").write_bytes(encode(image, "PNG"))
    for source in (image, tmp_path / "image.png", str(tmp_path / "image.png")):
        np.testing.assert_array_equal(encoder.prepare(source), evaluation_view(image, 40))


def test_resnets_have_no_attention():
    model = Pure(functools.partial(ResNet, blocks=(1, 1), bottleneck=False, width_multiplier=0.125))
    params = combine(model.init(jax.random.key(0)), model.init_statistics())
    encoder = pretrained.of(Encoder(model, params), 32, {})
    found = encoder(pixels(2))
    assert found.attention is None and found.cls.shape == (2, 16) and found.patches.shape == (2, 16, 16)
    assert (encoder.patch_size, encoder.width) == (8, 16)
    with pytest.raises(InputError, match="layer is 0, but the encoder is no ViT"):
        encoder(pixels(2), layer=0)


def test_bad_requests_are_told(exported, tmp_path):
    _, path = exported
    encoder = ssljax.load(path)
    for images, message in (
        (pixels(1, 32, 30), "patch size 8 does not divide an image of 32x30"),
        (pixels(1)[0, 0], r"shape \[32, 3\]"),
        (pixels(1).transpose(0, 3, 1, 2), r"shape \[1, 3, 32, 32\]"),
        (pixels(1).astype(np.int32), "dtype int32"),
        (pixels(0), r"shape \[0, 32, 32, 3\]"),
        (None, r"shape \[\]"),
        ([np.zeros((32, 32, 3)), np.zeros((24, 24, 3))], "differ in shape"),
    ):
        with pytest.raises(InputError, match=message):
            encoder(images)
    with pytest.raises(InputError, match="block 2 does not exist"):
        encoder(pixels(1), layer=2)
    with pytest.raises(InputError, match="nowhere does not exist"):
        ssljax.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="leave it out"):
        ssljax.load(path, step=3)
    with pytest.raises(InputError, match="patch size 8 does not divide"):
        ssljax.load(path, size=33)


def test_values_of_another_type_are_told(exported, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users have it
    _, path = exported
    encoder = ssljax.load(path)
    with pytest.raises(InputError, match=r"layer is 1\.5; give a whole number"):
        encoder(pixels(1), layer=1.5)
    for image in (None, pixels(1)[0] / 255, pixels(1), pixels(1)[0, :, :, 0], pixels(1)[0, :0]):
        with pytest.raises(InputError, match=r"the image is .*; give uint8 \[h, w, 3\]"):
            encoder.prepare(image)
    for size, message in ((0, "size is 0"), (-8, "size is -8"), ("x", "size is 'x'"), (24.0, r"size is 24\.0")):
        with pytest.raises(InputError, match=f"{message}; give .*whole number"):
            ssljax.load(path, size=size)


def test_importing_the_package_is_light():
    code = "import ssljax, sys; assert not {'jax', 'numpy'} & sys.modules.keys(); ssljax.load"
    subprocess.run([sys.executable, "-c", code], check=True)
