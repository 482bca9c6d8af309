"""Compare the newest checkpoints of two runs, bit for bit: `python launch/test/same_bits.py RUN OTHER`."""

import sys
from pathlib import Path

import jax
import numpy as np

from ssljax import build

one, other = (build.restore(Path(run)).state for run in sys.argv[1:])
leaves, others = jax.tree.leaves_with_path(one), jax.tree.leaves(other)
different = [
    jax.tree_util.keystr(path)
    for (path, leaf), its in zip(leaves, others, strict=True)
    if not np.array_equal(np.asarray(leaf), np.asarray(its))
]
print(f"        update {int(one.step)}, {len(leaves)} arrays, {sum(leaf.size for _, leaf in leaves)} numbers")
sys.exit(f"different: {', '.join(different)}" if different or int(one.step) != int(other.step) else 0)
