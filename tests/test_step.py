"""The train step: micro-batches and meshes change where the work is done, not what comes out."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ssljax import build, configuration, mesh, step
from ssljax.errors import InputError


def losses(config, layout="", devices=None, steps=4, samples=None):
    """Return the losses of the first updates and the parameters after them."""
    devices = mesh.make_mesh(layout, devices)
    objective, optimizer, data = build.objective(config), build.optimizer(config), build.dataset(config)
    with jax.set_mesh(devices):
        state = step.initial_state(objective, optimizer, config.seed, devices)
        update = jax.jit(
            step.make_train_step(objective, optimizer, seed=config.seed, accumulate=config.accumulate),
            donate_argnums=0,
            out_shardings=(step.abstract_state(objective, optimizer, devices)[1], None),
        )
        values = []
        for number in range(steps):
            rows = [data[number * config.batch_size + row] for row in range(config.batch_size)]
            batch = jax.tree.map(lambda *x: np.stack(x), *rows)
            state, metrics = update(state, mesh.to_mesh(devices, batch, config.batch_size))
            values.append(float(metrics["loss"]))
    return np.array(values), state


def toy_config():
    return configuration.load("toy")


def assert_close(one, other, tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), one, other)


def large_config():
    """MLPs and prototypes that are large enough to be split."""
    config = toy_config()
    config.models.encoder.width, config.models.head.prototypes = 64, 2048
    return config


@pytest.mark.long
@pytest.mark.parametrize("layout", ["data=2,fsdp=2,tensor=2", "data=2,fsdp=4"])
def test_meshes_give_one_devices_losses(layout):
    with jax.default_matmul_precision("highest"):
        one, state = losses(large_config(), devices=jax.devices()[:1])
        many, sharded = losses(large_config(), layout)
    np.testing.assert_allclose(many, one, rtol=1e-5)
    assert_close(sharded.params, state.params, 2e-5)
    if "tensor" not in layout:
        return
    specs = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.sharding.spec
        for path, leaf in jax.tree_util.tree_leaves_with_path(sharded.params)
        if leaf.sharding.spec
    }
    assert specs == {
        "encoder/blocks/attention/qkv/kernel": P(None, None, "fsdp"),
        "encoder/blocks/mlp/fc1/kernel": P(None, "fsdp", "tensor"),
        "encoder/blocks/mlp/fc2/kernel": P(None, "tensor", "fsdp"),
        "head/last/kernel": P("fsdp", "tensor"),
    }


@pytest.mark.long
@pytest.mark.parametrize("layout", ["data=2,fsdp=2,tensor=2", "data=2,fsdp=4"])
def test_chunks_on_a_mesh_give_one_devices_losses(layout):
    config = large_config()
    with jax.default_matmul_precision("highest"):
        one, state = losses(config, devices=jax.devices()[:1], steps=3)
        config.objective.chunks, config.accumulate = config.objective.frames, 2
        many, sharded = losses(config, layout, steps=3)
    np.testing.assert_allclose(many, one, rtol=1e-5)
    assert_close(sharded.params, state.params, 2e-5)


@pytest.mark.long
@pytest.mark.parametrize("layout", ["", "fsdp=8", "data=2,fsdp=4"])
def test_meshes_give_one_devices_losses_at_the_demos_size(layout):
    config = configuration.load("configs/dora.py:demo")
    config.unlock()
    config.data = {"name": "toy.Clips", "frames": 4, "size": config.data.size}
    with jax.default_matmul_precision("highest"):
        one, _ = losses(config, devices=jax.devices()[:1], steps=20)
        many, _ = losses(config, layout, steps=20)
    np.testing.assert_allclose(many, one, rtol=1e-5)


def test_large_matrices_of_teacher_and_moments_are_sharded():
    config = configuration.load("configs/dora.py:demo")
    objective, optimizer = build.objective(config), build.optimizer(config)
    _, shardings = step.abstract_state(objective, optimizer, mesh.make_mesh("fsdp=8"))
    specs = {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(sharding.spec)
        for path, sharding in jax.tree_util.tree_leaves_with_path(shardings)
    }
    last = {name: spec for name, spec in specs.items() if name.endswith("last/kernel")}
    assert len(last) == 4  # student, teacher, two moments
    assert set(last.values()) == {(None, "fsdp")}
    assert {spec for name, spec in specs.items() if name.endswith("center")} == {()}


@pytest.mark.long
def test_micro_batches_give_the_whole_batchs_update():
    config = toy_config()
    with jax.default_matmul_precision("highest"):
        whole, state = losses(config, devices=jax.devices()[:2], steps=3)
        config.accumulate = 4
        parts, accumulated = losses(config, devices=jax.devices()[:2], steps=3)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    assert_close(accumulated.params, state.params, 2e-5)
    assert_close(accumulated.state["center"], state.state["center"], 1e-6)
    assert int(accumulated.step) == 3  # schedules count updates, not micro-batches


def test_an_objective_that_micro_batches_would_change_refuses_them():
    config = toy_config()
    config.objective.threshold = "batch"
    with pytest.raises(InputError, match="accumulate is 2"):
        step.make_train_step(build.objective(config), build.optimizer(config), seed=0, accumulate=2)


def test_nothing_full_size_is_made_on_one_device():
    config = toy_config()
    config.models.head.prototypes = 4096
    devices = mesh.make_mesh("fsdp=8")
    state = step.initial_state(build.objective(config), build.optimizer(config), 0, devices)
    kernel = state.params["head"]["last"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(16, 512)}
