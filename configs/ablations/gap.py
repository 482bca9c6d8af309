"""How many seconds lie between the frames of a clip.

    ssljax sweep configs/ablations/gap.py --workdir runs/gap --config.data.video=venice/ ...

"..." names the data of the evaluations, see "Ready to run" in README.md.
The first is the recipe's; the stored frames must lie as close together as the smallest.
"""

from ssljax.sweep import Sweep, grid
from ssljax.sweep.budgets import METRICS, dora


def sweep(budget: str = "laptop") -> Sweep:
    config, overrides = dora(budget)
    variants = grid(**{"data.gap": (0.2, 0.4, 0.8, 1.6) if budget == "laptop" else (1.0, 0.2, 0.5, 2.0, 4.0)})
    return Sweep(config, variants, overrides, metrics=METRICS, varies="data.gap")
