"""How many frames a clip has; the number of clips an update stays, so that more frames are also more work.

    ssljax sweep configs/ablations/frames.py --workdir runs/frames --config.data.video=venice/ ...

"..." names the data of the evaluations, see "Ready to run" in README.md.
The first is the recipe's.
"""

from ssljax.sweep import Sweep, grid
from ssljax.sweep.budgets import METRICS, dora


def sweep(budget: str = "laptop") -> Sweep:
    config, overrides = dora(budget)
    variants = grid(**{"data.frames": (4, 1, 2, 8) if budget == "laptop" else (8, 1, 2, 4)})
    return Sweep(config, variants, overrides, metrics=METRICS, varies="data.frames")
