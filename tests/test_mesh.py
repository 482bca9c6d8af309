"""The mesh and the sharding rule."""

import dataclasses
import functools
import itertools
import re
import time

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from ssljax import mesh
from ssljax.ahead import Ahead
from ssljax.errors import InputError
from ssljax.models.pure import Pure
from ssljax.models.vit import vit


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("", (8, 1, 1)),
        ("fsdp=8", (1, 8, 1)),
        ("fsdp=4", (2, 4, 1)),
        ("data=4,fsdp=2", (4, 2, 1)),
        ("tensor=2", (4, 1, 2)),
        ("data=2,fsdp=2,tensor=2", (2, 2, 2)),
    ],
)
def test_layouts(layout, shape):
    assert tuple(mesh.make_mesh(layout).shape.values()) == shape


@pytest.mark.parametrize(
    "layout", ["fsdp=3", "data=2", "tensor=3", "fsdp=8,tensor=2", "model=8", "fsdp", "fsdp=0", "fsdp=2,fsdp=4"]
)
def test_bad_layouts_are_told(layout):
    with pytest.raises(InputError, match="mesh"):
        mesh.make_mesh(layout)


def test_batch_must_divide():
    mesh.check_batch(mesh.make_mesh(), 16, 2)
    with pytest.raises(InputError, match="multiple of 16"):
        mesh.check_batch(mesh.make_mesh(), 24, 2)


def test_rule():
    shape = jax.ShapeDtypeStruct
    tree = {
        "params": {
            "blocks": {"fc": {"kernel": shape((8, 128, 512), np.float32), "bias": shape((8, 4096), np.float32)}},
            "head": {"last": {"kernel": shape((256, 4096), np.float32)}},
            "odd": {"kernel": shape((256, 4095), np.float32)},
            "small": {"kernel": shape((16, 16), np.float32)},
        },
        "center": shape((65536,), np.float32),
    }
    specs = jax.tree.map(lambda s: s.spec, mesh.shardings(tree, mesh.make_mesh("fsdp=8")))
    assert specs == {
        "params": {
            "blocks": {"fc": {"kernel": P(None, None, "fsdp"), "bias": P()}},  # never along the layers
            "head": {"last": {"kernel": P(None, "fsdp")}},
            "odd": {"kernel": P("fsdp", None)},  # the largest axis does not divide
            "small": {"kernel": P()},
        },
        "center": P(),
    }


def test_batch_goes_to_the_mesh_row_by_row():
    devices = mesh.make_mesh("fsdp=4")
    rows = mesh.local_rows(devices, 16)
    assert rows == list(range(16))  # one process holds all
    batch = mesh.to_mesh(devices, {"x": np.arange(32).reshape(16, 2)}, 16)
    np.testing.assert_array_equal(batch["x"], np.arange(32).reshape(16, 2))
    assert {s.data.shape for s in batch["x"].addressable_shards} == {(2, 2)}


def counted(taken, bad=None):
    """Batches of 8 numbers; `taken` holds how many were asked for."""
    for number in itertools.count():
        taken.append(number)
        if number == bad:
            raise InputError(f"batch {number} is bad")
        yield {"x": np.full(8, number)}


def test_batches_wait_on_the_mesh_two_at_most():
    devices, taken = mesh.make_mesh(), []
    with Ahead(devices, counted(taken), 8) as ahead:
        for number in range(5):
            for _ in range(100):  # time to read ahead as far as it ever will
                if len(taken) == number + 2:
                    break
                time.sleep(0.01)
            time.sleep(0.05)
            assert len(taken) == number + 2 and ahead.ready
            with jax.transfer_guard("disallow"):
                batch = next(ahead)
            assert batch["x"].sharding.spec == mesh.BATCH
            np.testing.assert_array_equal(batch["x"], np.full(8, number))
    assert not ahead._thread.is_alive() and len(taken) <= 8
    with pytest.raises(ValueError, match="closed"):
        next(ahead)


def test_an_error_comes_in_its_place_and_stays():
    with Ahead(mesh.make_mesh(), counted([], bad=2), 8) as ahead:
        assert [int(next(ahead)["x"][0]) for _ in range(2)] == [0, 1]
        for _ in range(2):
            with pytest.raises(InputError, match="batch 2 is bad"):
                next(ahead)


def test_the_tensor_axis_splits_the_products_of_mlps():
    """By the compiled program: each of two devices computes half of the hidden units."""
    encoder = Pure(functools.partial(vit, size="ti", width=64, depth=2, heads=2, patch_size=8, image_size=32))
    devices = mesh.make_mesh("tensor=2", jax.devices()[:2])
    shapes = jax.eval_shape(encoder.init, jax.random.key(0))
    params = jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, mesh.shardings(shapes, devices)
    )
    with jax.set_mesh(devices):
        images = jax.ShapeDtypeStruct((4, 32, 32, 3), np.float32, sharding=jax.NamedSharding(devices, mesh.BATCH))
        program = jax.jit(lambda params, images: encoder(params, images).cls).lower(params, images).compile().as_text()
    products = re.findall(r"= f32\[([\d,]+)\]\S* (?:dot|custom-call)\(", program)
    assert any(shape.endswith(",128") for shape in products) and not any(shape.endswith(",256") for shape in products)


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as a mesh looks at."""

    id: int
    slice_index: int
    platform: str = "gpu"
    device_kind: str = "some accelerator"
    process_index: int = 0


@pytest.mark.parametrize(
    ("slices", "layout", "along"),
    [
        (2, "fsdp=4", {"data"}),
        (2, "fsdp=8", {"fsdp"}),
        (4, "data=2,fsdp=2,tensor=2", {"data", "fsdp"}),
        (4, "fsdp=2", {"data"}),
    ],
)
def test_slices_lie_along_the_axes_that_send_least(slices, layout, along):
    devices = [Device(id=number, slice_index=number * slices // 8) for number in range(8)]
    made = mesh.make_mesh(layout, devices)
    of = np.vectorize(lambda device: device.slice_index, otypes=[int])(made.devices)
    changing = {axis for i, axis in enumerate(made.axis_names) if (of != of.take([0], axis=i)).any()}
    assert changing == along


def test_slices_that_do_not_fit_are_told():
    devices = [Device(id=number, slice_index=number // 2) for number in range(8)]
    with pytest.raises(InputError, match="form 4 slices"):
        mesh.make_mesh("tensor=4", devices)


def test_gradients_of_gathered_weights_are_split_as_these_are():
    devices = mesh.make_mesh("fsdp=8")
    random = np.random.default_rng(0)
    w, x = (random.normal(size=(256, 128)).astype(np.float32) for _ in range(2))

    def loss(w, x):
        return jax.numpy.sum(jax.numpy.sin(mesh.gather(w) * x))

    (sharding,) = jax.tree.leaves(mesh.shardings([w], devices))
    with jax.set_mesh(devices):
        gradient = jax.jit(jax.grad(loss))(jax.device_put(w, sharding), x)
    assert gradient.sharding.spec == sharding.spec == P("fsdp", None)
    np.testing.assert_allclose(gradient, x * np.cos(w * x), rtol=1e-5, atol=1e-5)
