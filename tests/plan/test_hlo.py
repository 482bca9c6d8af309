"""Compiled programs: counts against XLA's own where it is right, and against what was written down where it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from ssljax.plan.collectives import collectives
from ssljax.plan.hlo import Program, bytes_of


def mesh(*sizes):
    names = ("data", "fsdp")[: len(sizes)]
    return jax.make_mesh(
        sizes, names, devices=jax.devices()[: np.prod(sizes)], axis_types=(AxisType.Auto,) * len(sizes)
    )


def placed(devices, shape, spec, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(devices, spec))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("f32[2,3]{1,0}", 24),
        ("bf16[128]", 256),
        ("pred[]", 1),
        ("(f32[2]{0}, (s8[4], /*index=2*/u32[]))", 16),
        ("f8e4m3fn[10]{0}", 10),
        ("s4[10]", 5),
        ("token[]", 0),
    ],
)
def test_bytes_of_types(text, size):
    assert bytes_of(text) == size


def test_on_chip_memory_is_left_out():
    assert bytes_of("(f32[8]{0:T(128)S(1)}, f32[2]{0:T(128)})", in_memory=True) == 8


def test_traffic_is_xlas_own_where_nothing_loops():
    def function(a, b):
        return jnp.sin(a @ b), jnp.cos(a) * 2

    compiled = jax.jit(function).trace(jnp.ones((256, 384)), jnp.ones((384, 512))).lower().compile()
    assert sum(Program(compiled.as_text()).traffic()) == pytest.approx(
        compiled.cost_analysis()["bytes accessed"], rel=0.02
    )


def test_a_loop_moves_its_slices_not_the_whole_stack():
    def function(stack, x):
        return jax.lax.scan(lambda x, w: (jnp.sin(x * w), jnp.cos(x)), x, stack)

    layers, size = 50, 4 * 1000
    compiled = jax.jit(function).trace(jnp.ones((layers, 1000)), jnp.ones(1000)).lower().compile()
    moved = sum(Program(compiled.as_text()).traffic())
    assert 4 * layers * size < moved < 12 * layers * size  # the whole stack in every turn would be 2 * 50 * 50


def test_collectives_in_a_loop_count_as_often_as_it_runs():
    devices = mesh(8)

    def function(stack, x):
        def body(x, w):
            w = jax.lax.with_sharding_constraint(w, P())
            return jnp.tanh(x @ w), None

        return jax.lax.scan(body, x, stack)[0]

    with jax.set_mesh(devices):
        arguments = placed(devices, (5, 64, 64), P(None, "data")), placed(devices, (16, 64), P("data"))
        compiled = (
            jax.jit(function, out_shardings=NamedSharding(devices, P("data"))).trace(*arguments).lower().compile()
        )
    (gather,) = collectives(Program(compiled.as_text()), 8)
    assert (gather.kind, gather.dtype, gather.times) == ("all-gather", "f32", 5)
    assert gather.bytes == 64 * 64 * 4
    assert sorted(gather.group) == list(range(8))


def test_reductions_and_their_groups():
    devices = mesh(4, 2)

    def function(x):
        return jnp.sum(x, axis=0)

    with jax.set_mesh(devices):
        x = placed(devices, (8, 6), P("data", "fsdp"), jnp.bfloat16)
        compiled = jax.jit(function, out_shardings=NamedSharding(devices, P("fsdp"))).trace(x).lower().compile()
    (reduction,) = collectives(Program(compiled.as_text()), 8)
    assert (reduction.kind, reduction.times) == ("all-reduce", 1)
    assert sorted(reduction.group) == [0, 2, 4, 6]


TPU = """HloModule jit_step, is_scheduled=true

%fused_computation.1 (param_0.1: f32[4,8]) -> f32[4,8] {
  %param_0.1 = f32[4,8]{1,0:T(8,128)} parameter(0)
  %all-gather.2 = f32[4,8]{1,0:T(8,128)} all-gather(%param_0.1), channel_id=3, \
replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}, dimensions={0}, frontend_attributes={chain_id="1"}
  ROOT %sin.1 = f32[4,8]{1,0:T(8,128)} sine(%all-gather.2)
}

%fused_computation.2 (param_0.2: f32[4,8]) -> f32[4,8] {
  %param_0.2 = f32[4,8]{1,0:T(8,128)S(1)} parameter(0)
  ROOT %all-gather.3 = f32[4,8]{1,0:T(8,128)S(1)} all-gather(%param_0.2), channel_id=3, \
replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}, dimensions={0}, frontend_attributes={chain_id="1"}
}

%condition (c: (s32[], f32[4,8])) -> pred[] {
  %c = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %limit = s32[]{:T(128)} constant(12)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (b: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %b = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%b), index=0
  %x = f32[4,8]{1,0:T(8,128)} get-tuple-element(%b), index=1
  %f1 = f32[4,8]{1,0:T(8,128)} fusion(%x), kind=kLoop, calls=%fused_computation.1
  %f2 = f32[4,8]{1,0:T(8,128)S(1)} fusion(%f1), kind=kLoop, calls=%fused_computation.2
  %r = bf16[4,8]{1,0:T(8,128)(2,1)} all-reduce(%f1), channel_id=4, replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add
  ROOT %t = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) tuple(%j, %f1)
}

ENTRY %main (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  ROOT %w = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) while(%p), condition=%condition, body=%body
}
"""


def test_a_program_as_tpus_write_it():
    """One gather over two fusions, groups as meshes and as permuted numbers, a loop without a noted length."""
    program = Program(TPU)
    gather, reduction = sorted(collectives(program, 8), key=lambda each: each.kind)
    assert (gather.kind, gather.times, gather.bytes, gather.asynchronous) == ("all-gather", 12, 128, True)
    assert gather.group == (0, 2, 4, 6)
    assert (reduction.kind, reduction.times, reduction.asynchronous) == ("all-reduce", 12, False)
    assert reduction.group == (0, 4)
    products, others = program.traffic()
    assert products == 0
    assert others == 12 * ((128 + 128) + 128 + (128 + 64) + 9)  # the second fusion writes on-chip memory
