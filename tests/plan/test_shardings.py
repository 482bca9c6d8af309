"""Where the parameters of large models live on large machines, against tables that somebody looked at."""

import json

import pytest
import sharding_tables


@pytest.mark.parametrize("name", sharding_tables.CASES)
def test_golden_tables(name):
    assert sharding_tables.table(name) == json.loads(sharding_tables.path(name).read_text())


@pytest.mark.parametrize("name", sharding_tables.CASES)
def test_large_leaves_are_split(name):
    sizes, _ = sharding_tables.CASES[name]
    golden = json.loads(sharding_tables.path(name).read_text())
    whole = [
        leaf for leaf, (shape, axes) in golden.items() if len(shape) >= 2 and "kernel" in leaf and "fsdp" not in axes
    ]
    assert whole == []
    for shape, axes in golden.values():
        assert all(size % sizes["fsdp"] == 0 for size, axis in zip(shape, axes, strict=True) if axis == "fsdp")


def test_teacher_and_moments_live_where_their_parameters_do():
    golden = json.loads(sharding_tables.path("dora_vitl16_v5p_4x4x16").read_text())
    params = {leaf.removeprefix("params/"): where for leaf, where in golden.items() if leaf.startswith("params/")}
    for leaf, where in golden.items():
        for prefix in ("encoder/", "head/"):
            _, found, rest = leaf.partition(f"/{prefix}")
            if found:
                assert where == params[prefix + rest], leaf
