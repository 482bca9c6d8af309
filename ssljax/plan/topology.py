"""Devices that are not there: what a step can be compiled for."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
from typing import Any, NamedTuple

from ssljax.chips import CHIPS, Chip, chip_of
from ssljax.errors import InputError
from ssljax.plan.gpus import target_config

EXAMPLES = "v5e:16x16, v5p:4x4x16, h100:1x8x8 (slices x hosts x GPUs) or cpu:8"


class Topology(NamedTuple):
    """Devices to compile for.

    Attributes:
        name: As given.
        chip: What each device is.
        devices: In the order in which a mesh takes them.
        hosts: How many hosts they hang on.
    """

    name: str
    chip: Chip
    devices: list[Any]
    hosts: int


def prepare(name: str) -> None:
    """Set what JAX and the compilers read when they start: to be called before anything touches a device.

    Raises:
        InputError: The name is no topology.
    """
    chip, shape = parse(name)
    flags = os.environ.get("XLA_FLAGS", "")
    if chip.name == "cpu" and "host_platform_device_count" not in flags:
        flags += f" --xla_force_host_platform_device_count={math.prod(shape)}"
    elif chip.name in ("a100", "h100", "h200", "b200"):
        flags += " --xla_gpu_enable_triton_gemm=false"  # tuning needs the GPU itself
    os.environ["XLA_FLAGS"] = flags.strip()
    quiet = dict(TPU_MIN_LOG_LEVEL="3", TPU_STDERR_LOG_LEVEL="3", TF_CPP_MIN_LOG_LEVEL="3")
    alone = dict(
        TPU_SKIP_MDS_QUERY="1",
        TPU_WORKER_HOSTNAMES="localhost",
        TPU_ACCELERATOR_TYPE="v5litepod-4",
        ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    )
    for key, value in (quiet | alone).items():
        os.environ.setdefault(key, value)
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")
    os.environ["JAX_PLATFORMS"] = "cpu"


def parse(name: str) -> tuple[Chip, tuple[int, ...]]:
    """Return the chip and the shape that a topology's name says.

    Raises:
        InputError: It says none.
    """
    kind, _, sizes = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
        raise InputError(f"--topology is {name!r}; give one of {', '.join(CHIPS)} and its shape, as in {EXAMPLES}.")
    return CHIPS[kind], tuple(int(size) for size in sizes.split("x"))


def topology(name: str, slices: int = 1) -> Topology:
    """Return the devices of a topology, after `prepare`.

    Args:
        name: Such as "v5e:16x16".
        slices: TPU slices of that shape, which the data centre's network connects.

    Raises:
        InputError: There is no such topology, or its compiler is not installed.
    """
    chip, shape = parse(name)
    if slices > 1 and (chip.name == "cpu" or chip.links == 1):
        raise InputError("--slices is for TPUs; say the number of GPU hosts in the topology, as in h100:1x8x8.")
    if chip.name == "cpu":
        devices = _cpu(math.prod(shape))
    elif chip.links == 1:
        devices = _gpu(chip, shape)
    else:
        devices = _tpu(chip, name, slices)
    if chip.links > 1:
        hosts = len({device.process_index for device in devices})
    else:
        hosts = math.ceil(len(devices) / chip.per_host)
    return Topology(name, chip, devices, hosts)


def _cpu(count: int) -> list[Any]:
    import jax

    devices = jax.devices("cpu")
    if len(devices) < count:
        raise InputError(
            f"--topology asks for {count} CPU devices, but this process has {len(devices)}; ask for fewer."
        )
    return devices[:count]


def _tpu(chip: Chip, name: str, slices: int) -> list[Any]:
    from jax.experimental.topologies import get_topology_desc

    _need(name, "libtpu")
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if chip.name == "v4":
        options["chip_config_name"] = "megacore"  # a chip is one device
    try:
        devices: list[Any] = list(get_topology_desc(platform="tpu", topology_name=name, **options).devices)
    except Exception as error:  # libtpu raises many types, each with a reason
        raise _refused(name, error) from error
    assert chip_of(devices[0].device_kind) is chip, devices[0].device_kind
    return devices


def _gpu(chip: Chip, shape: tuple[int, ...]) -> list[Any]:
    from jax.experimental.topologies import get_topology_desc

    if len(shape) > 3 or shape[-1] > chip.per_host:
        raise InputError(
            f"{chip.name}:{'x'.join(map(str, shape))} is no cluster; give hosts and at most {chip.per_host} GPUs of "
            "each, as in h100:1x8x8."
        )
    _need(f"{chip.name}:{'x'.join(map(str, shape))}", "jax_cuda12_plugin", "jax_cuda13_plugin")
    full = "x".join(map(str, (1,) * (3 - len(shape)) + shape))
    try:
        topology = get_topology_desc(
            platform="cuda", topology_name=chip.name, topology=full, target_config=target_config(chip)
        )
        return list(topology.devices)
    except Exception as error:  # as above
        raise _refused(f"{chip.name}:{full}", error) from error


def _need(name: str, *packages: str) -> None:
    if not any(importlib.util.find_spec(package) for package in packages):
        raise InputError(f"--topology {name} needs the package {packages[0]}; pip install 'ssljax[plan]' brings it.")


def _refused(name: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(f"--topology {name} is refused by its compiler ({reason}); give another, as in {EXAMPLES}.")
