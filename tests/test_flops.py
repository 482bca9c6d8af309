"""Operations of matrix products against formulas written out here, and against loops run by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.extend import core
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from ssljax import build, configuration, flops, mesh, step
from ssljax.models.pure import Pure
from ssljax.models.resnet import resnet
from ssljax.models.vit import vit


def total(function, *arguments):
    return flops.total(flops.count(function, *arguments))


def of(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def test_products():
    assert total(lambda a, b: a @ b, of(3, 5), of(5, 7)) == 2 * 3 * 5 * 7
    assert total(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), of(2, 3, 5), of(2, 5, 7)) == 2 * 2 * 3 * 5 * 7
    assert total(lambda a, b: a * b, of(3, 5), of(3, 5)) == 0


def test_gradients_are_two_more_products():
    def loss(w, x):
        return jnp.sum(jnp.sin(x @ w))

    assert total(jax.grad(loss), of(5, 7), of(3, 5)) == 2 * 2 * 3 * 5 * 7  # x is data: no product for its gradient
    assert total(jax.grad(loss, argnums=(0, 1)), of(5, 7), of(3, 5)) == 3 * 2 * 3 * 5 * 7


def test_what_nothing_depends_on_is_left_out():
    def function(a, b):
        unused = a @ b
        del unused
        return a @ b.T

    assert total(function, of(3, 3), of(3, 3)) == 2 * 27


def test_loops_branches_and_functions():
    w = of(4, 4)
    product = 2 * 4**3

    def scanned(w):
        return jax.lax.scan(lambda x, _: (x @ w, None), w, None, length=6)[0]

    assert total(scanned, w) == 6 * product
    assert total(lambda w: jax.lax.fori_loop(0, 5, lambda _, x: x @ w, w), w) == 5 * product
    assert total(lambda w: jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ w, w), w) == product
    assert total(lambda w: jax.lax.cond(w[0, 0] < 1, lambda: w @ w @ w, lambda: w @ w), w) == 2 * product
    assert total(jax.jit(lambda w: w @ w), w) == product

    @jax.custom_vjp
    def own(w):
        return w @ w

    own.defvjp(lambda w: (w @ w, w), lambda w, g: (g @ w @ w,))
    assert total(own, w) == product
    assert total(jax.grad(lambda w: jnp.sum(own(w))), w) == 2 * product  # the loss itself is not asked for


def test_recomputation_counts_again():
    def loss(w, x, wrap):
        return jnp.sum(wrap(lambda x: jnp.sin(jnp.sin(x @ w) @ w))(x))

    plain, remat = (
        total(jax.value_and_grad(functools.partial(loss, wrap=wrap)), of(4, 4), of(4, 4))
        for wrap in (lambda f: f, jax.checkpoint)
    )
    assert (plain, remat) == (5 * 2 * 4**3, 7 * 2 * 4**3)


def test_what_a_layers_own_gradient_recomputes_does_not_count():
    @jax.custom_vjp
    def own(x, w):
        return jnp.sin(x @ w)

    def backward(saved, g):
        x, w = saved
        with jax.named_scope(flops.RECOMPUTED):
            y = x @ w
        g = g * jnp.cos(y)
        return g @ w.T, x.T @ g

    own.defvjp(lambda x, w: (own(x, w), (x, w)), backward)
    update = jax.value_and_grad(lambda x, w: jnp.sum(own(x, w)), argnums=(0, 1))
    assert total(update, of(3, 4), of(4, 5)) == 3 * 120
    assert flops.total(flops.count(update, of(3, 4), of(4, 5), recomputed=True)) == 4 * 120


def test_shard_map_counts_all_devices():
    devices = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4], axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(lambda x, w: x @ w, mesh=devices, in_specs=(P("data"), P()), out_specs=P("data"))
    assert total(mapped, of(8, 3), of(3, 5)) == 2 * 8 * 3 * 5


def test_scopes():
    def function(a):
        with jax.named_scope("outer"):
            b = jnp.einsum("ij,jk->ik", a, a)
            with jax.named_scope("inner"):
                b = jax.lax.scan(lambda x, _: (x @ a, None), b, None, length=3)[0]
        return jnp.sum(b @ a)

    product = 2 * 4**3
    assert flops.count(function, of(4, 4)) == {"outer": product, "outer/inner": 3 * product, "other": product}
    assert set(flops.count(jax.grad(function), of(4, 4))) == {"outer", "outer/inner", "other"}


def test_fused_attention():
    """Primitives as jax.nn.dot_product_attention(implementation="cudnn") leaves them; binding its own needs a GPU."""
    q, k = of(2, 10, 3, 8), of(2, 12, 3, 8)
    product = 2 * 2 * 3 * 10 * 12 * 8
    for way, products in (("fwd", 2), ("bwd", 4)):
        primitive = core.Primitive(f"dot_product_attention_{way}_wrapper")
        primitive.def_abstract_eval(lambda q, k, v, layout: q)
        assert total(lambda q, k, p=primitive: p.bind(q, k, k, layout=0), q, k) == products * product


def forward(size, pixels):
    model = Pure(functools.partial(vit, size, patch_size=16, image_size=pixels))
    params = jax.eval_shape(model.init, jax.random.key(0))
    return flops.count(lambda p, x: model(p, x), params, of(1, pixels, pixels, 3)), model.abstract


@pytest.mark.parametrize(
    ("size", "width", "depth", "gflop"), [("s", 384, 12, 9.2), ("b", 768, 12, 35.1), ("l", 1024, 24, 123.1)]
)
def test_vit_forward(size, width, depth, gflop):
    counts, model = forward(size, 224)
    n, d = 197, width
    assert counts == {
        "patches": 2 * 196 * 768 * d,
        "attention": 2 * (4 * n * d * d + 2 * n * n * d) * depth,
        "mlp": 2 * 8 * n * d * d * depth,
    }
    assert flops.total(counts) == model.flops(196)
    assert flops.total(counts) == pytest.approx(gflop * 1e9, rel=5e-3)


def test_resnet_forward():
    """Torchvision's documentation says 4.09 billion multiplications and additions at 224 pixels."""
    model = Pure(functools.partial(resnet, 50))
    params = jax.eval_shape(model.init, jax.random.key(0))
    counts = flops.count(lambda p, x: model.train(p, x)[0], params, of(1, 224, 224, 3))
    assert counts["stem"] == 2 * 112 * 112 * 64 * 7 * 7 * 3
    assert set(counts) == {"stem", "layer1", "layer2", "layer3", "layer4"}
    assert flops.total(counts) == pytest.approx(2 * 4.09e9, rel=2e-3)


def test_the_gradient_of_a_strided_convolution_costs_as_much():
    def loss(x, w):
        return jnp.sum(
            jnp.sin(jax.lax.conv_general_dilated(x, w, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
        )

    x, w = of(2, 32, 32, 8), of(4, 4, 8, 16)
    once = total(loss, x, w)
    assert once == 2 * 2 * 16 * 16 * 16 * 4 * 4 * 8
    assert total(jax.grad(loss, argnums=1), x, w) == 2 * once
    assert total(jax.grad(loss, argnums=(0, 1)), x, w) == pytest.approx(3 * once, rel=0.01)


def test_dora_clip():
    """Student and teacher by hand: three times the forward pass of 24 masked frames and 48 crops, once of 8 frames."""
    config = configuration.load("configs/dora.py", ["--config.models.encoder.remat=none"])
    objective, optimizer = build.objective(config), build.optimizer(config)
    state, _ = step.abstract_state(objective, optimizer, mesh.make_mesh(devices=jax.devices()[:1]))
    counts = flops.count(step.make_train_step(objective, optimizer, seed=0), state, objective.batch_spec(1))

    def blocks(n, d=384):
        return 12 * 2 * (4 * n * d * d + 2 * n * n * d), 12 * 2 * 8 * n * d * d

    def blocks_of_cls(n, d=384):  # the last one: all keys and values, but one query, output and MLP
        last = 2 * (2 * n * d * d + 2 * d * d + 2 * n * d), 2 * 8 * d * d
        return tuple(11 * every // 12 + one for every, one in zip(blocks(n), last, strict=True))

    large, small = blocks_of_cls(197), blocks_of_cls(50)
    patches = 2 * 768 * 384
    for i, name in enumerate(("attention", "mlp")):
        assert counts[f"student/{name}"] == 3 * (24 * large[i] + 48 * small[i])
        assert counts[f"teacher/{name}"] == 8 * blocks(197)[i]
    assert counts["teacher/patches"] == 8 * 196 * patches
    assert counts["student/patches"] == 2 * (8 * 196 + 48 * 49) * patches  # pixels have no gradient
    assert flops.total(counts) == pytest.approx(0.996e12, rel=1e-3)
