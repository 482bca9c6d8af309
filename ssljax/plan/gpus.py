"""GPUs as XLA wants to be told about them where there is none: numbers of NVIDIA's architecture papers."""

from __future__ import annotations

from typing import NamedTuple

from ssljax.chips import Chip


class _GPU(NamedTuple):
    name: str
    capability: int
    cores: int
    units: int
    clock: float
    cache: int
    shared: int


_GPUS = {
    "a100": _GPU("NVIDIA A100-SXM4-80GB", 8, 108, 64, 1.41, 40 * 2**20, 164),
    "h100": _GPU("NVIDIA H100 80GB HBM3", 9, 132, 128, 1.98, 50 * 2**20, 228),
    "h200": _GPU("NVIDIA H200", 9, 132, 128, 1.98, 50 * 2**20, 228),
    "b200": _GPU("NVIDIA B200", 10, 148, 128, 1.965, 126 * 2**20, 228),
}


def target_config(chip: Chip) -> str:
    """Return the description of a GPU that XLA compiles for without it, a `GpuTargetConfigProto` as text."""
    gpu = _GPUS[chip.name]
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {gpu.capability} minor: 0 }}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.units}
  clock_rate_ghz: {gpu.clock}
  memory_bandwidth: {chip.memory_bandwidth:.0f}
  device_memory_size: {chip.memory:.0f}
  l2_cache_size: {gpu.cache}
  shared_memory_per_core: {gpu.shared * 1024}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {(gpu.shared - 1) * 1024}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{gpu.name}"
"""
