"""The decoder and the initial weights; tests/objectives/test_mae_parity.py compares the decoder with PyTorch's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from ssljax.errors import InputError
from ssljax.models.mae import MAEDecoder, xavier_uniform
from ssljax.models.pure import Pure
from ssljax.models.vit import ViT
from ssljax.ops.masking import mask_by_noise
from ssljax.ops.positions import sincos_positions, sincos_times

TINY = dict(width=12, patch_size=4, hidden=16, depth=2, heads=4)


def decoder(**changed):
    return Pure(functools.partial(MAEDecoder, **(TINY | changed)))


def tokens(b=2, t=1, visible=3):
    return np.random.default_rng(0).normal(size=(b, t, 1 + visible, 12)).astype(np.float32)


def order(b=2, patches=8):
    return mask_by_noise(np.random.default_rng(1).random((b, patches), np.float32), visible=3).order


def test_positions_are_no_parameters():
    params = decoder().init(jax.random.key(0))
    assert set(params) == {"embed", "mask", "blocks", "norm", "pixels"}
    encoder = Pure(functools.partial(ViT, image_size=16, patch_size=4, width=12, depth=1, heads=2, positions="sincos"))
    assert "position" not in encoder.init(jax.random.key(0))


def test_the_frames_of_a_window_are_decoded_together_and_told_apart():
    model, given = decoder(), tokens(t=2)
    params, places = xavier_uniform(model.init(jax.random.key(0)), jax.random.key(1)), order()
    out = model(params, given, places, (2, 4))
    assert out.shape == (2, 2, 8, 48)
    changed = given.copy()
    changed[0, 1, 2] += 1.0
    other = model(params, changed, places, (2, 4))
    assert np.abs(other - out)[0, 0].max() > 1e-4  # a frame's tokens reach the other frame
    np.testing.assert_allclose(other[1], out[1], atol=1e-6)  # and no other window
    same = np.repeat(tokens(), 2, axis=1)
    apart = model(params, same, places, (2, 4))
    assert np.abs(apart[:, 0] - apart[:, 1]).max() > 1e-4


def test_hidden_patches_know_nothing_but_their_position():
    """With as many tokens as patches, the hidden ones' places are free: their order must not matter."""
    model, given = decoder(), tokens(visible=3)
    params = model.init(jax.random.key(0))
    first = np.array([[0, 1, 2, 3, 4, 5, 6, 7]] * 2)
    second = np.array([[0, 1, 2, 7, 6, 5, 4, 3]] * 2)
    np.testing.assert_array_equal(model(params, given, first, (2, 4)), model(params, given, second, (2, 4)))


def test_positions_of_time_are_the_transformers():
    """Vaswani et al. 2017, section 3.5, sines first."""
    expected = [[f(t / 10000 ** (2 * i / 6)) for f in (np.sin, np.cos) for i in range(3)] for t in range(4)]
    np.testing.assert_allclose(sincos_times(6, 4), expected, atol=1e-6)
    places = (sincos_positions(16, (4, 4))[None] + sincos_times(16, 4)[:, None]).reshape(64, 16)
    distances = np.linalg.norm(np.asarray(places)[:, None] - np.asarray(places)[None], axis=-1)
    assert (distances + 10 * np.eye(64)).min() > 0.1  # no two of them coincide


def test_kernels_start_as_glorot_and_bengio_have_it():
    model = Pure(functools.partial(ViT, image_size=16, patch_size=4, width=32, depth=3, heads=2))
    params = model.init(jax.random.key(0))
    drawn = traverse_util.flatten_dict(xavier_uniform(params, jax.random.key(1)), sep="/")
    seen = set()
    for path, before in traverse_util.flatten_dict(params, sep="/").items():
        after = drawn[path]
        if not path.endswith("kernel"):
            np.testing.assert_array_equal(after, before)
            continue
        bound = np.sqrt(6 / sum(before.shape[-2:]))
        assert np.abs(after).max() <= bound
        np.testing.assert_allclose(np.std(after), bound / np.sqrt(3), rtol=0.06)  # of a uniform distribution
        seen.add(path)
    assert {"patch/kernel", "blocks/attention/qkv/kernel", "blocks/mlp/fc2/kernel"} <= seen
    layers = drawn["blocks/mlp/fc1/kernel"]
    assert np.abs(layers[0] - layers[1]).max() > 0.01


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (dict(hidden=18, heads=2), "no multiple of 4"),
        (dict(heads=3), "not divisible by heads 3"),
        (dict(depth=0), "depth is 0"),
        (dict(dtype="float16"), "float16"),
        (dict(remat="some"), "remat"),
    ],
)
def test_bad_arguments_are_told(changed, told):
    with pytest.raises(InputError, match=told):
        _ = decoder(**changed).abstract


def test_flops_are_those_of_xla():
    """Of matrix products; XLA counts the rest too, which is little at this width, and a scanned block once."""
    model = decoder(hidden=256, depth=1, heads=4)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    given = jax.ShapeDtypeStruct((1, 1, 9, 12), jnp.float32), jax.ShapeDtypeStruct((1, 36), jnp.int32)
    compiled = jax.jit(lambda p, x, o: model(p, x, o, (6, 6))).lower(shapes, *given).compile()
    analysis = compiled.cost_analysis()
    np.testing.assert_allclose(analysis["flops"], model.abstract.flops(36, 8), rtol=0.05)
