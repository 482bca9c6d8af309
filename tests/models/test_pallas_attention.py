"""The kernel of TPUs, interpreted, against JAX's own attention; tests/plan/test_hardware.py compiles it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from ssljax import build, configuration, flops, mesh, step
from ssljax.errors import InputError
from ssljax.models.pallas_attention import pallas_attention

TPU = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")


def drawn(batch, tokens, dtype="float32"):
    """Queries, keys and values of 3 heads of 8 channels side by side, and what their outputs are weighted by."""
    random = np.random.default_rng(0)
    return [jnp.asarray(3.0 * random.normal(size=(batch, tokens, c)), dtype) for c in (72, 24)]


def jaxs(qkv):
    parts = (x.reshape(*x.shape[:2], 3, 8) for x in jnp.split(qkv, 3, axis=-1))
    return jax.nn.dot_product_attention(*parts).reshape(*qkv.shape[:2], -1)


def ours(qkv):
    return pallas_attention(qkv, heads=3, interpret=True)


@pytest.mark.parametrize(("batch", "tokens"), [(2, 13), (3, 260)])
def test_value_and_gradient_equal_jaxs(batch, tokens):
    """Of 13 tokens one step of the grid takes all sequences, of 260 one."""
    qkv, g = drawn(batch, tokens)
    wanted, wanted_back = jax.vjp(jaxs, qkv)
    found, found_back = jax.vjp(ours, qkv)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(*found_back(g), *wanted_back(g), rtol=1e-5, atol=1e-4)


def test_half_precision():
    qkv, g = drawn(2, 13, "bfloat16")
    wanted, wanted_back = jax.vjp(jaxs, qkv.astype(jnp.float32))
    found, found_back = jax.vjp(ours, qkv)
    (of_qkv,) = found_back(g)
    assert found.dtype == of_qkv.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(found), wanted, atol=5e-2)
    np.testing.assert_allclose(np.float32(of_qkv), *wanted_back(g.astype(jnp.float32)), rtol=2e-2, atol=0.3)


@pytest.mark.parametrize("layout", ["fsdp=8", "fsdp=2,tensor=2"])
def test_each_device_takes_its_part_of_the_batch(layout):
    @jax.jit
    def value_and_gradient(qkv, g):
        value, back = jax.vjp(ours, qkv)
        return value, *back(g)

    qkv, g = drawn(16, 13)
    alone = value_and_gradient(qkv, g)
    devices = mesh.make_mesh(layout)
    with jax.set_mesh(devices):
        sharded = value_and_gradient(*jax.device_put((qkv, g), jax.NamedSharding(devices, mesh.BATCH)))
    for one, many in zip(alone, sharded, strict=True):
        assert many.sharding.spec == P(("data", "fsdp"))
        np.testing.assert_allclose(many, one, rtol=1e-6, atol=1e-6)


def test_a_batch_that_the_devices_do_not_divide_is_done_by_each():
    qkv, _ = drawn(3, 13)
    with jax.set_mesh(mesh.make_mesh("fsdp=8")):
        found = jax.jit(ours)(qkv)
    np.testing.assert_allclose(found, jaxs(qkv), rtol=1e-5, atol=1e-5)


def test_other_devices_and_long_sequences_are_refused():
    qkv = jax.ShapeDtypeStruct((1, 4097, 1152), jnp.bfloat16)
    with pytest.raises(InputError, match="'pallas' is for TPUs: use 'xla'"):
        jax.eval_shape(lambda x: pallas_attention(x, heads=6), qkv)
    with (
        jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("data",), abstract_device=TPU)),
        pytest.raises(InputError, match="of 4097 tokens needs .* MiB of a TPU's VMEM, which has 128: use 'xla'"),
    ):
        jax.eval_shape(lambda x: pallas_attention(x, heads=6), qkv)


def test_an_update_counts_the_operations_of_xlas():
    def count(attention):
        config = configuration.load("configs/dora.py:smoke", [f"--config.models.encoder.attention={attention}"])
        objective, optimizer = build.objective(config), build.optimizer(config)
        devices = AbstractMesh((2, 2, 2), mesh.AXES, axis_types=(AxisType.Auto,) * 3, abstract_device=TPU)
        with jax.sharding.use_abstract_mesh(devices):
            state, _ = step.abstract_state(objective, optimizer, devices)
            update = step.make_train_step(objective, optimizer, seed=0)
            return flops.count(update, state, objective.batch_spec(8))

    assert count("pallas") == pytest.approx(count("xla"), rel=1e-9)
