"""Positions against a NumPy version of MAE's, and against torch's bicubic interpolation."""

import jax.numpy as jnp
import numpy as np
import pytest

from ssljax.errors import InputError
from ssljax.ops.positions import resample_positions, sincos_positions


def test_sincos_is_mae_s_layout():
    """The first half of the channels encodes the column, the second the row; each sines, then cosines."""
    width, rows, columns = 24, 3, 5
    expected = np.zeros((rows, columns, width))
    for r in range(rows):
        for c in range(columns):
            for i in range(width // 4):
                frequency = 10000.0 ** (-i / (width / 4))
                for half, position in enumerate((c, r)):
                    expected[r, c, half * width // 2 + i] = np.sin(position * frequency)
                    expected[r, c, half * width // 2 + width // 4 + i] = np.cos(position * frequency)
    positions = np.asarray(sincos_positions(width, (rows, columns)))
    np.testing.assert_allclose(positions, expected.reshape(-1, width), atol=1e-6)
    with pytest.raises(InputError, match="width 22 is no multiple of 4"):
        sincos_positions(22, (2, 2))


def test_same_grid_is_untouched_even_with_an_offset():
    positions = jnp.asarray(np.random.default_rng(0).normal(size=(16, 3)), jnp.float32)
    np.testing.assert_array_equal(resample_positions(positions, (4, 4), (4, 4), offset=0.1), positions)


def test_a_constant_stays_constant():
    for antialias in (False, True):
        out = resample_positions(jnp.full((16, 2), 3.0), (4, 4), (7, 2), offset=0.1, antialias=antialias)
        np.testing.assert_allclose(np.asarray(out), 3.0, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (20, 31), (37, 16), (3, 40)])
def test_equals_torch(grid, offset, antialias):
    torch = pytest.importorskip("torch")
    positions = np.random.default_rng(0).normal(size=(16, 16, 5)).astype(np.float32)
    target = {"scale_factor": tuple((n + offset) / 16 for n in grid)} if offset else {"size": grid}
    x = torch.from_numpy(positions).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(x, **target, mode="bicubic", antialias=antialias)
    expected = expected[0].permute(1, 2, 0).numpy().reshape(-1, 5)
    out = resample_positions(jnp.asarray(positions.reshape(256, 5)), (16, 16), grid, offset=offset, antialias=antialias)
    np.testing.assert_allclose(np.asarray(out), expected, atol=2e-5)
