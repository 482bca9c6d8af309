"""How many objects are tracked: the paper's 3 against 1, 2 and 4.

    ssljax sweep configs/ablations/objects.py --workdir runs/objects --config.data.video=venice/ ...

"..." names the data of the evaluations, see "Ready to run" in README.md.
The others are set beside the first, the paper's 3.
"""

from ssljax.sweep import Sweep, grid
from ssljax.sweep.budgets import METRICS, dora


def sweep(budget: str = "laptop") -> Sweep:
    config, overrides = dora(budget)
    variants = grid(**{"objective.objects": (3, 1, 2, 4)})
    return Sweep(config, variants, overrides, metrics=METRICS, varies="objective.objects")
