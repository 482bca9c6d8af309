"""The arithmetic of an update, against a count by hand, and what happens where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ssljax import build, configuration, flops, mesh, step
from ssljax.meter import Work
from ssljax.utilisation import work_of

NETWORK = ConfigDict(dict(models=dict(encoder=dict(name="vit", attention="xla", remat="none"))))


def update(state, batch):
    return state - jax.grad(lambda state: (batch @ state).sum())(state), {}


@pytest.fixture
def shapes():
    return jax.ShapeDtypeStruct((16, 4), jnp.float32), jax.ShapeDtypeStruct((8, 16), jnp.float32)


def test_operations_are_those_of_the_update_and_peaks_those_of_all_devices(shapes, monkeypatch):
    devices = mesh.make_mesh()
    assert work_of(NETWORK, update, *shapes, devices) == Work(2.0 * 8 * 16 * 4, 0.0)  # a CPU's peak is not known
    monkeypatch.setattr("ssljax.utilisation.chip_of", lambda kind: Chip())
    np.testing.assert_allclose(work_of(NETWORK, update, *shapes, devices).peak, 8 * 197e12)


class Chip:
    flops = 197e12


def test_what_cannot_be_counted_is_told_and_ends_nothing(shapes, monkeypatch, capsys):
    def count(*_):
        raise KeyError("an operation of my own")

    monkeypatch.setattr("ssljax.utilisation.flops.count", count)
    assert work_of(NETWORK, update, *shapes, mesh.make_mesh()).flops == 0.0
    assert "No operations are counted, and no mfu (KeyError: 'an operation of my own')." in capsys.readouterr().err


def test_what_is_recomputed_is_no_work():
    """Recomputing all blocks of a small MAE adds a forward pass of them to what is done, and nothing to the work."""
    config = configuration.load("configs/mae.py:smoke")
    config.unlock()
    plain, _ = counted(config)
    config.models.encoder.remat = config.models.decoder.remat = "full"
    work, done = counted(config)
    assert work == plain
    assert done > 1.1 * plain


def counted(config):
    """Return the work of a config, and all that its update does."""
    objective, optimizer, devices = build.objective(config), build.optimizer(config), mesh.make_mesh()
    update = step.make_train_step(objective, optimizer, seed=0)
    state, _ = step.abstract_state(objective, optimizer, devices)
    batch = objective.batch_spec(config.batch_size)
    with jax.set_mesh(devices):
        return work_of(config, update, state, batch, devices).flops, flops.total(flops.count(update, state, batch))
