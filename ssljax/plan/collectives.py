"""What chips say to each other in one update: read from the compiled program."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ssljax.plan.hlo import Instruction, Program, bytes_of, shapes

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


class Collective(NamedTuple):
    """One collective operation.

    Attributes:
        kind: One of `KINDS`.
        dtype: Element type of what it carries, such as "bf16".
        bytes: Of the whole: what an all-gather gives each device, what a reduction takes from each.
        times: How often it runs in one update.
        asynchronous: Whether the device computes meanwhile.
        group: Numbers of the devices, in the mesh's order, of one of its groups.
        scope: Where in the model, as JAX names it.
    """

    kind: str
    dtype: str
    bytes: float
    times: float
    asynchronous: bool
    group: tuple[int, ...]
    scope: str


def collectives(program: Program, devices: int) -> list[Collective]:
    """Return the collectives of a program for so many devices.

    On TPU one collective that is spread over several fusions is written in each of them, under one channel: it counts
    once.
    """
    found: dict[tuple[str, ...], list[Collective]] = {}
    for name, times in program.times.items():
        types = {each.name: each.type for each in program.computations[name]}
        for each in program.computations[name]:
            kind = each.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            channel = re.search(r"channel_id=(\d+)", each.attributes)
            key = (kind, channel.group(1)) if channel else (kind, name, each.name)
            if key not in found or found[key][0].times < times:
                found[key] = _read(each, kind, types, times, devices, scattered="reduce-scatter" in name)
    return [each for parts in found.values() for each in parts if len(each.group) > 1]


def _read(
    each: Instruction, kind: str, types: dict[str, str], times: float, devices: int, *, scattered: bool
) -> list[Collective]:
    """Return what an instruction says, a collective of several arrays once for each of their types."""
    taken = _by_type(types.get(operand, "") for operand in each.operands)
    given = _by_type([each.type])
    if each.opcode == "all-gather-start":  # its type names what it takes, too
        given = {element: size - taken.get(element, 0.0) for element, size in given.items()}
    moved = given if kind == "all-gather" or not taken else taken
    scope = re.search(r'op_name="([^"]*)"', each.attributes)
    started = each.opcode.endswith("-start") and '"is_sync":true' not in each.attributes
    hidden = "chain_id=" in each.attributes or "async_collective_name=" in each.attributes
    return [
        Collective(
            kind="reduce-scatter" if kind == "all-reduce" and scattered else kind,
            dtype=element,
            bytes=size,
            times=times,
            asynchronous=started or hidden,
            group=_group(each.attributes, devices),
            scope=scope.group(1) if scope else "",
        )
        for element, size in moved.items()
    ]


def _by_type(texts: Iterable[str]) -> dict[str, float]:
    """Return the bytes of each element type in types."""
    sizes: dict[str, float] = {}
    for text in texts:
        for shape in shapes(text):
            element = shape.partition("[")[0]
            sizes[element] = sizes.get(element, 0.0) + bytes_of(shape)
    return {element: size for element, size in sizes.items() if size}


def _group(attributes: str, devices: int) -> tuple[int, ...]:
    """Return the first of the groups of devices, in any of the ways that HLO writes them; all devices otherwise."""
    pairs = re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes)
    if pairs:
        return tuple({int(pairs.group(1)), int(pairs.group(2))})
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    if listed:
        return tuple(int(number) for number in listed.group(1).split(","))
    counted = re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", attributes)
    if counted:
        return tuple(_numbers(counted.group(2)).reshape(_integers(counted.group(1)))[0].tolist())
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^)]*\)?)\))?\s*\{([^}]*)\}", attributes)
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh.group(1)))
        asked = re.findall(r"'(\w+)'", mesh.group(3))
        shape = [int(size) for size in sizes.values()]
        numbers = _numbers(mesh.group(2)) if mesh.group(2) else np.arange(math.prod(shape))
        if math.prod(shape) == numbers.size and set(asked) <= set(sizes):
            place = tuple(slice(None) if name in asked else 0 for name in sizes)
            return tuple(numbers.reshape(shape)[place].ravel().tolist())
    return tuple(range(devices))


def _numbers(text: str) -> np.ndarray:
    """Return the numbers that "[16,16]T(1,0)" stands for: 0, 1, ... in that shape, its axes permuted."""
    shape = _integers(text[1 : text.index("]")])
    order = re.search(r"T\(([\d,]+)\)", text)
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return (numbers.transpose(_integers(order.group(1))) if order else numbers).ravel()


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))
