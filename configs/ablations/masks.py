"""What the student sees of a frame: tracked objects, the first frame's attention, random patches, or all of it.

    ssljax sweep configs/ablations/masks.py --workdir runs/masks --config.data.video=venice/ ...

"..." names the data of the evaluations, see "Ready to run" in README.md.
All but the first and the last are controls: what tracking adds, what the shape of objects adds, and what masking does
at all. The last gets the better half of each tracked map's patches and no blank ones, in two thirds of the time.
"""

from ssljax.sweep import Sweep, Variant, grid
from ssljax.sweep.budgets import METRICS, dora


def sweep(budget: str = "laptop") -> Sweep:
    config, overrides = dora(budget)
    variants = grid(**{"objective.masks": ("tracked", "attention", "random", "none")})
    variants.append(Variant("dropped", {"objective.mask_mode": "drop"}))
    return Sweep(config, variants, overrides, metrics=METRICS)
