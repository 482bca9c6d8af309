"""What accelerators can do, and what an hour of one costs: numbers of their makers' data sheets."""

from __future__ import annotations

import re
from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """One device as JAX counts them: a whole chip, but half of a TPU7x, whose two halves are devices of their own.

    Attributes:
        name: As `ssljax plan --topology NAME:...` has it.
        flops: Dense bfloat16 matrix products, FLOP/s at the peak.
        memory: Bytes that it has.
        memory_bandwidth: Bytes/s between it and them.
        ici: Bytes/s that it can send to chips of the same slice (TPU) or host (NVLink), all links together.
        dcn: Bytes/s that it can send through the data centre's network: its share of what its host can.
        per_host: Devices at one host of a large machine.
        links: Axes of the torus that its links form; 1 where a switch connects all chips of a host.
        price: US dollars an hour as of `PRICES`; None where no list says one.
    """

    name: str
    flops: float
    memory: float
    memory_bandwidth: float
    ici: float
    dcn: float
    per_host: int
    links: int
    price: float | None


PRICES = "on demand, cheapest US region: Google Cloud's list (TPU, 2025) and Amazon EC2's (GPU, since June 2025)"
"""Where the prices are from; `--price` gives others."""

# Sources: the system architecture pages of Cloud TPU (v4, v5e, v5p, v6e, TPU7x; ICI is half of the "bidirectional"
# figure) and NVIDIA's data sheets of the SXM modules, dense and without sparsity; networks as in DGX and EC2's P
# instances: 400 Gbit/s a GPU, for A100 200.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, 32 * GIB, 1228e9, 300e9, 6.25e9, 4, 3, 3.22),
        Chip("v5e", 197e12, 16 * GIB, 819e9, 200e9, 3.125e9, 4, 2, 1.20),
        Chip("v5p", 459e12, 95 * GIB, 2765e9, 600e9, 6.25e9, 4, 3, 4.20),
        Chip("v6e", 918e12, 32 * GIB, 1640e9, 400e9, 12.5e9, 4, 2, 2.70),
        Chip("tpu7x", 1153.5e12, 96 * GIB, 3690e9, 300e9, 6.25e9, 8, 3, None),
        Chip("a100", 312e12, 80e9, 2039e9, 300e9, 25e9, 8, 1, 3.43),
        Chip("h100", 989.4e12, 80e9, 3352e9, 450e9, 50e9, 8, 1, 6.88),
        Chip("h200", 989.4e12, 141e9, 4800e9, 450e9, 50e9, 8, 1, 7.91),
        Chip("b200", 2250e12, 180e9, 7672e9, 900e9, 50e9, 8, 1, 14.24),
        # Something to divide by, about one core of a server; nobody plans with it.
        Chip("cpu", 1e11, 4 * GIB, 1e10, 1e10, 1e9, 8, 1, None),
    )
}

_KINDS = (
    (r"TPU v4", "v4"),
    (r"TPU v5 ?(lite|e)", "v5e"),
    (r"TPU v5p?", "v5p"),
    (r"TPU v6 ?(lite|e)", "v6e"),
    (r"TPU ?(v?7x?)", "tpu7x"),
    (r"NVIDIA A100.*80GB.*", "a100"),
    (r"NVIDIA H100 80GB HBM3.*", "h100"),
    (r"NVIDIA H200.*", "h200"),
    (r"NVIDIA B200.*", "b200"),
)


def chip_of(device_kind: str) -> Chip | None:
    """Return the chip that JAX calls `device_kind`; None where its numbers are not known, as of a CPU.

    Variants of other speed, such as the H100 on a PCIe card or a part of a GPU ("MIG"), are not known.
    """
    if "MIG" in device_kind:
        return None
    for pattern, name in _KINDS:
        if re.fullmatch(pattern, device_kind):
            return CHIPS[name]
    return None
