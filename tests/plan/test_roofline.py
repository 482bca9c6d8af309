"""Times of an update by rates and bytes written out here."""

from typing import NamedTuple

import pytest

from ssljax.chips import CHIPS
from ssljax.plan import roofline
from ssljax.plan.collectives import Collective


class Device(NamedTuple):
    id: int
    coords: tuple[int, ...]
    slice_index: int = 0


def collective(kind, size, group, times=1, asynchronous=False):
    return Collective(kind, "f32", size, times, asynchronous, tuple(group), "")


V5E = CHIPS["v5e"]
TORUS = [Device(16 * x + y, (x, y, 0)) for x in range(16) for y in range(16)]
H100 = CHIPS["h100"]
CLUSTER = [Device(number, ()) for number in range(64)]


def test_a_gather_along_one_axis_of_a_torus_has_half_of_the_links():
    row, everything = collective("all-gather", 1.6e9, range(16)), collective("all-gather", 1.6e9, range(256))
    assert roofline.seconds(row, V5E, TORUS) == pytest.approx(1.6e9 * 15 / 16 / 100e9)
    assert roofline.seconds(everything, V5E, TORUS) == pytest.approx(1.6e9 * 255 / 256 / 200e9)


def test_a_reduction_for_all_is_a_scatter_and_a_gather():
    once = roofline.seconds(collective("reduce-scatter", 1e9, range(256)), V5E, TORUS)
    assert roofline.seconds(collective("all-reduce", 1e9, range(256)), V5E, TORUS) == pytest.approx(2 * once)


def test_hosts_of_gpus_send_through_the_network():
    inside, across = collective("all-gather", 1e9, range(8)), collective("all-gather", 1e9, range(0, 64, 8))
    assert roofline.seconds(inside, H100, CLUSTER) == pytest.approx(1e9 * 7 / 8 / 450e9)
    assert roofline.seconds(across, H100, CLUSTER) == pytest.approx(1e9 * 7 / 8 / 50e9)
    everything = collective("all-gather", 1e9, range(64))  # eight network cards a host, each takes a part
    assert roofline.seconds(everything, H100, CLUSTER) == pytest.approx(1e9 * 7 / 8 / 400e9)


def test_slices_send_through_the_network():
    two = [device._replace(slice_index=number) for number in range(2) for device in TORUS]
    across = collective("all-reduce", 1e9, (0, 256))
    assert roofline.seconds(across, V5E, two) == pytest.approx(2 * 1e9 / 2 / 3.125e9)


def test_what_overlaps_and_what_does_not():
    gather = collective("all-gather", 0.01 * 100e9 * 16 / 15, range(16), times=10)  # 10 x 10 ms
    given = dict(chip=V5E, devices=TORUS, operations=197e12 * 0.05, traffic=(819e9 * 0.02, 819e9 * 0.04))
    exposed = roofline.times(**given, collectives=[gather])
    assert exposed.alone == pytest.approx(0.05 + 0.04)
    assert exposed.network_exposed == pytest.approx(0.1, rel=0.01)
    assert exposed.expected == pytest.approx(0.19, rel=0.01)
    hidden = roofline.times(**given, collectives=[gather._replace(asynchronous=True)])
    assert hidden.expected == pytest.approx(0.1, rel=0.01)  # the network is the slower of the two
    by_memory = roofline.times(V5E, TORUS, 197e12 * 0.01, (819e9 * 0.02, 0.0), [])
    assert by_memory.expected == pytest.approx(0.02)


def test_scaling_falls_from_one_device_on():
    gather = collective("all-gather", 1e9, range(256))
    efficiency = roofline.scaling(V5E, TORUS, 1e12, (0.0, 0.0), [gather])
    assert list(efficiency) == [1, 4, 16, 64, 256]
    assert efficiency[1] == 1
    assert list(efficiency.values()) == sorted(efficiency.values(), reverse=True)
    assert efficiency[256] == pytest.approx((1 / 197) / (1 / 197 + 255 / 256 / 200))


def test_a_device_alone_sends_nothing_to_a_neighbour():
    efficiency = roofline.scaling(V5E, TORUS, 1e12, (0.0, 0.0), [collective("collective-permute", 1e8, (0, 1))])
    assert efficiency[1] == 1
    assert efficiency[4] == efficiency[256] < 1
