"""Chips under the names that JAX gives them."""

import pytest

from ssljax.chips import CHIPS, chip_of


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU v6e", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H200 141GB HBM3e", "h200"),
        ("NVIDIA B200", "b200"),
    ],
)
def test_device_kinds(kind, name):
    assert chip_of(kind) is CHIPS[name]


@pytest.mark.parametrize(
    "kind",
    ["cpu", "TPU v3", "NVIDIA H100 PCIe", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA A100-SXM4-40GB", "", "v5e"],
)
def test_other_devices_are_unknown(kind):
    assert chip_of(kind) is None


def test_numbers_are_plausible():
    for name, chip in CHIPS.items():
        assert chip.name == name
        if name != "cpu":  # a matrix product of some hundred rows keeps each of them busy, one of 16 rows none
            assert 16 < chip.flops / chip.memory_bandwidth < 700
            assert chip.dcn < chip.ici < chip.memory_bandwidth
            assert 1e10 < chip.memory < 1e12
