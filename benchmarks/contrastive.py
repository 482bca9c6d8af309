"""Memory of the contrastive losses and their gradients: similarities in blocks against all at once.

    python -m benchmarks.contrastive [--width 128] [--block 1024]

Compiles NT-Xent and InfoNCE for growing batches on one device and on 8 simulated ones, and prints the temporaries that
the compiled program allocates on each device. Nothing is run.
"""

import argparse
import os

os.environ["XLA_FLAGS"] = (os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8").strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from ssljax import mesh
from ssljax.ops import losses


def temporaries(loss, n, width, block, devices) -> float:
    """MiB on each device."""

    def gradient(one, other):
        one, other = mesh.shard_batch((one, other))
        return jax.value_and_grad(loss, (0, 1))(one, other, temperature=0.1, block_size=block)

    rows = jax.ShapeDtypeStruct((n, width), np.float32, sharding=jax.NamedSharding(devices, mesh.BATCH))
    with jax.set_mesh(devices):
        compiled = jax.jit(gradient).lower(rows, rows).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--block", type=int, default=1024)
    args = parser.parse_args()
    for loss in (losses.nt_xent, losses.info_nce):
        for count in (1, 8):
            devices = mesh.make_mesh("", jax.devices()[:count])
            print(f"{loss.__name__}, {count} device(s): MiB on each")
            print(f"{'batch':>8} {'whole':>9} {'blocks':>9} {'ratio':>7}")
            for n in (2048, 4096, 8192, 16384):
                whole, blocks = (temporaries(loss, n, args.width, block, devices) for block in (None, args.block))
                print(f"{n:>8} {whole:>9.1f} {blocks:>9.1f} {whole / blocks:>7.1f}")


if __name__ == "__main__":
    main()
