"""Attention is drawn where it is, and read off the encoder in the right order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ssljax.errors import InputError
from ssljax.models.pure import Pure
from ssljax.models.resnet import resnet
from ssljax.models.vit import ViT
from ssljax.objectives.base import Encoder
from ssljax.ops.augment import normalise
from ssljax.report.attention import attention_maps, draw_attention, heated, kept_mass, show_attention
from ssljax.report.subject import Subject, read_subject


@pytest.fixture(scope="module")
def encoder():
    model = Pure(functools.partial(ViT, image_size=16, patch_size=4, width=24, depth=2, heads=3))
    return Encoder(model, model.init(jax.random.key(0)))


@pytest.fixture
def subject(encoder, tmp_path):
    return Subject(encoder, 16, "tiny", tmp_path)


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def test_heat_is_where_the_attention_is():
    values = np.full((3, 4), 0.01, np.float32)
    values[1, 2] = 0.9
    drawn = heated(np.full((60, 80, 3), 128, np.uint8), values).astype(int).sum(-1)
    assert np.unravel_index(drawn.argmax(), drawn.shape)[0] in range(20, 40)
    assert np.unravel_index(drawn.argmax(), drawn.shape)[1] in range(40, 60)
    assert drawn[30, 50] > 2 * drawn[5, 5]


def test_kept_is_the_least_that_holds_the_share():
    values = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    kept = kept_mass(values, 0.6)
    assert values[kept].sum() >= 0.6 * values.sum() > values[kept].sum() - values[kept].min()
    assert values[kept].min() > values[~kept].max()
    assert kept_mass(values, 1.0).all()
    np.testing.assert_array_equal(kept_mass(np.array([[0.5, 0.3], [0.1, 0.1]]), 0.8), [[True, True], [False, False]])
    grey = heated(np.full((50, 70, 3), 100, np.uint8), values, 0.6)[5::10, 5::10]
    np.testing.assert_array_equal((grey == 50).all(-1), ~kept)


def test_maps_are_the_encoders(encoder, picture):
    """A wide image at its own size: rows and columns as they are, heads apart."""
    (maps,) = attention_maps(encoder, [picture], size=16, layer=0)
    images = normalise(jnp.asarray(picture, jnp.float32)[None] / 255)
    expected = encoder.model(encoder.params, images, probe=0).probe.cls_attention[0]
    assert maps.shape == (3, 4, 6)
    np.testing.assert_allclose(maps.reshape(3, -1), expected, atol=1e-6)


def test_columns_are_image_mean_and_heads(subject, picture, tmp_path):
    def width(heads):
        show_attention(subject, tmp_path / "sheet.png", inputs=[tmp_path / "a.png"], heads=heads)
        with Image.open(tmp_path / "sheet.png") as sheet:
            return sheet.width

    Image.fromarray(picture).save(tmp_path / "a.png")
    assert width(None) - width([0, 2]) == 240 + 6  # one column of 160 by 240 pixels and a gap


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": [3]}, "heads are 0 to 2"),
        ({"layer": 2}, "block 2 does not exist"),
        ({"size": 2}, "less than one patch"),
        ({"threshold": 1.5}, "give a share"),
        ({"count": 0}, "at least 1"),
        ({"inputs": []}, "Weights come without data"),
    ],
)
def test_what_does_not_exist_is_told(subject, picture, tmp_path, options, message):
    Image.fromarray(picture).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=message):
        show_attention(subject, None, **({"inputs": [tmp_path / "a.png"]} | options))
    assert not (tmp_path / "attention.png").exists()


def test_other_files_and_other_encoders_are_refused(subject, tmp_path):
    with pytest.raises(InputError, match=r"ends in \.png"):
        show_attention(subject, tmp_path / "sheet.jpg")
    model = Pure(functools.partial(resnet, 18, blocks=(1, 1), width_multiplier=0.125, stem="cifar"))
    with pytest.raises(InputError, match="drawn of ViTs alone"):
        show_attention(subject._replace(encoder=Encoder(model, {})), None)


def test_one_subject_is_named(tmp_path):
    for named in ((None, None, None), (tmp_path, None, tmp_path)):
        with pytest.raises(InputError, match="one of them"):
            read_subject(*named)
    with pytest.raises(InputError, match="--step"):
        read_subject(None, 3, tmp_path)


def test_names_and_sizes_may_differ(tmp_path):
    images = [np.zeros((20, 20, 3), np.uint8), np.zeros((20, 40, 3), np.uint8)]
    maps = [np.full((2, 3, 3), 1 / 9, np.float32), np.full((2, 3, 6), 1 / 18, np.float32)]
    draw_attention(images, maps, tmp_path / "sheet.png", names=["square", "wide"], threshold=0.6)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 4 * 320
