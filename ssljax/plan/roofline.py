"""How fast an update can be: by arithmetic, by memory, and by what has to pass between devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ssljax.chips import Chip
from ssljax.plan.collectives import Collective


class Times(NamedTuple):
    """Seconds of one update.

    Attributes:
        products: Of matrix products, by arithmetic alone at the chip's peak, recomputed ones too.
        product_memory: Of what these read and write.
        other_memory: Of what all else reads and writes.
        network_hidden: Of collectives during which the device computes.
        network_exposed: Of those that it waits for.
    """

    products: float
    product_memory: float
    other_memory: float
    network_hidden: float
    network_exposed: float

    @property
    def alone(self) -> float:
        """Seconds without the network: products at the slower of arithmetic and memory, then all else."""
        return max(self.products, self.product_memory) + self.other_memory

    @property
    def expected(self) -> float:
        """Seconds of the update: hidden collectives cost what exceeds the work that hides them."""
        return max(self.alone, self.network_hidden) + self.network_exposed


def times(
    chip: Chip,
    devices: Sequence[Any],
    operations: float,
    traffic: tuple[float, float],
    collectives: Sequence[Collective],
    *,
    share: float = 1.0,
) -> Times:
    """Return the times of one update.

    Args:
        chip: What each device is.
        devices: In the mesh's order.
        operations: FLOPs of one device.
        traffic: Bytes of one device, by products and by all else; see `Program.traffic`.
        collectives: Of the program.
        share: The same collectives in groups of so much of their size: what a smaller machine would need.
    """
    spent = {True: 0.0, False: 0.0}
    for each in collectives:
        spent[each.asynchronous] += each.times * seconds(each, chip, devices, share=share)
    return Times(
        products=operations / chip.flops,
        product_memory=traffic[0] / chip.memory_bandwidth,
        other_memory=traffic[1] / chip.memory_bandwidth,
        network_hidden=spent[True],
        network_exposed=spent[False],
    )


def seconds(each: Collective, chip: Chip, devices: Sequence[Any], *, share: float = 1.0) -> float:
    """Return the seconds of one collective on rings in which every link carries as much.

    Within a slice or host a group has the links of the torus's axes that it spans; between slices or hosts, what its
    members there can send through the data centre's network together.
    """
    size = max(1.0, len(each.group) * share)
    members = [devices[number] for number in each.group if number < len(devices)]
    islands = {island(device, chip) for device in members}
    spanned = max(1.0, len(islands) * share)
    local = len(members) / max(1, len(islands))
    sent = 2.0 if each.kind == "all-reduce" else 1.0
    if each.kind == "collective-permute":
        sends = share * len(devices) > 1  # the group is a pair, whatever the size of the machine
        near, far = (each.bytes if sends and there > 1 else 0.0 for there in (len(members), len(islands)))
    else:
        inside = min(size, local)
        near = sent * each.bytes * (inside - 1) / inside
        far = sent * each.bytes * (spanned - 1) / spanned
    return max(near / _links(members, chip, each.kind), far / (chip.dcn * local))


def island(device: Any, chip: Chip) -> int:
    """Return the number of the slice (TPU) or host (GPU) within which the fast links are."""
    if chip.links > 1:
        return int(getattr(device, "slice_index", 0) or 0)
    return int(device.id) // chip.per_host


def _links(members: Sequence[Any], chip: Chip, kind: str) -> float:
    """Return the bytes/s of the links between the members of a group."""
    if chip.links == 1 or not hasattr(members[0], "coords"):
        return chip.ici
    axes = [len({device.coords[axis] for device in members}) > 1 for axis in range(chip.links)]
    if kind == "collective-permute":
        return chip.ici / (2 * chip.links)
    return chip.ici * max(1, sum(axes)) / chip.links


def scaling(
    chip: Chip,
    devices: Sequence[Any],
    operations: float,
    traffic: tuple[float, float],
    collectives: Sequence[Collective],
) -> dict[int, float]:
    """Return the efficiency of 1, 4, 16, ... and all devices, each with as many samples: 1 is no time lost."""
    counts = sorted({4**power for power in range(int(math.log(len(devices), 4)) + 1)} | {1, len(devices)})
    result = {}
    for count in counts:
        each = times(chip, devices, operations, traffic, collectives, share=count / len(devices))
        result[count] = each.alone / each.expected
    return result
