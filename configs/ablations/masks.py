"""What the student sees of a frame: tracked objects, the first frame's attention, random patches, or all of it.

    ssljax sweep configs/ablations/masks.py --workdir runs/masks --config.data.video=venice/ ...

"..." names the data of the evaluations, see "Ready to run" in README.md.
All but the first are controls: what tracking adds, what the shape of objects adds, and what masking does at all.
"""

from ssljax.sweep import Sweep, grid
from ssljax.sweep.budgets import METRICS, dora


def sweep(budget: str = "laptop") -> Sweep:
    config, overrides = dora(budget)
    variants = grid(**{"objective.masks": ("tracked", "attention", "random", "none")})
    return Sweep(config, variants, overrides, metrics=METRICS)
