"""Resampling equals Pillow's (mode "F", which does not round) and torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ssljax.errors import InputError
from ssljax.ops.resample import resample, resample_matrix

PILLOW = {"linear": Image.Resampling.BILINEAR, "cubic": Image.Resampling.BICUBIC}
SIZES = [(9, 9), (5, 13), (13, 5), (1, 7), (7, 1), (20, 61)]


def image(height, width, seed=0):
    return np.random.default_rng(seed).uniform(0, 1, (height, width)).astype(np.float32)


def pillow(array, height, width, method, box=None):
    return np.asarray(Image.fromarray(array).resize((width, height), PILLOW[method], box=box))


def ours(array, rows, columns):
    return np.asarray(resample(jnp.asarray(array)[..., None], rows, columns))[..., 0]


@pytest.mark.parametrize("method", ["linear", "cubic"])
@pytest.mark.parametrize(("out", "size"), SIZES)
def test_equals_pillow(method, out, size):
    array = image(size, size + 3)
    rows, columns = (resample_matrix(out, n, method=method) for n in array.shape)
    np.testing.assert_allclose(ours(array, rows, columns), pillow(array, out, out, method), atol=2e-6)


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_window_is_cropped_first(method):
    array = image(23, 31)
    top, left, height, width = 4, 7, 13, 22

    @jax.jit
    def matrices(top, left, height, width):
        return (
            resample_matrix(8, 23, start=top, extent=height, method=method),
            resample_matrix(30, 31, start=left, extent=width, method=method),
        )

    rows, columns = matrices(float(top), float(left), float(height), float(width))
    cropped = np.ascontiguousarray(array[top : top + height, left : left + width])
    np.testing.assert_allclose(ours(array, rows, columns), pillow(cropped, 8, 30, method), atol=2e-6)
    outside = np.r_[0:top, top + height : 23]
    assert not np.asarray(rows)[:, outside].any()


@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_uncropped_fractional_window_equals_pillow_box(method):
    array = image(23, 31)
    rows = resample_matrix(8, 23, start=3.3, extent=14.5, method=method, crop=False)
    columns = resample_matrix(30, 31, start=6.25, extent=20.0, method=method, crop=False)
    expected = pillow(array, 8, 30, method, box=(6.25, 3.3, 26.25, 17.8))
    np.testing.assert_allclose(ours(array, rows, columns), expected, atol=5e-6)


@pytest.mark.parametrize(("height", "width"), [(17, 60), (40, 80)])
def test_eight_bit_images_equal_pillow(height, width):
    """One axis at a time, since Pillow rounds and clips after each; then the bytes are the same but for ties."""
    array = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC), np.float32)
    result = resample(jnp.asarray(array, jnp.float32), resample_matrix(height, 40), resample_matrix(width, 60))
    difference = np.abs(np.clip(np.round(np.asarray(result)), 0, 255) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", ["linear", "cubic"])
def test_rows_sum_to_one_and_same_size_is_identity(method, antialias):
    start, extent = jnp.asarray([0.0, 1.7, 12.9, 3.0]), jnp.asarray([16.0, 0.4, 3.1, 1.0])
    matrix = jax.vmap(lambda s, e: resample_matrix(11, 16, start=s, extent=e, method=method, antialias=antialias))(
        start, extent
    )
    np.testing.assert_allclose(np.asarray(matrix).sum(-1), 1.0, atol=1e-5)
    assert np.abs(np.asarray(matrix)).max() < 2
    identity = resample_matrix(6, 6, method=method, antialias=antialias)
    np.testing.assert_allclose(np.asarray(identity), np.eye(6), atol=1e-6)


def test_unknown_method():
    with pytest.raises(InputError, match="'lanczos' is unknown"):
        resample_matrix(4, 4, method="lanczos")


@pytest.mark.long
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("method", ["linear", "cubic"])
@pytest.mark.parametrize(("out", "size"), SIZES)
def test_equals_torch(method, antialias, out, size):
    torch = pytest.importorskip("torch")
    array = image(size, size + 3)
    mode = {"linear": "bilinear", "cubic": "bicubic"}[method]
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(array)[None, None], (out, out), mode=mode, antialias=antialias
    )
    rows, columns = (resample_matrix(out, n, method=method, antialias=antialias) for n in array.shape)
    np.testing.assert_allclose(ours(array, rows, columns), expected[0, 0].numpy(), atol=5e-6)
    if not antialias and out != size:  # the same size is copied by torch, whatever the factor
        factor = (out + 0.1) / size
        expected = torch.nn.functional.interpolate(torch.from_numpy(array)[None, None], scale_factor=factor, mode=mode)
        rows, columns = (
            resample_matrix(m, n, extent=m / factor, method=method, antialias=False, crop=False)
            for m, n in zip(expected.shape[2:], array.shape, strict=True)
        )
        np.testing.assert_allclose(ours(array, rows, columns), expected[0, 0].numpy(), atol=5e-6)
