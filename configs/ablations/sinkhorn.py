"""Whether, for how long and how sharply Sinkhorn-Knopp makes objects distinct.

    ssljax sweep configs/ablations/sinkhorn.py --workdir runs/sinkhorn --config.data.video=venice/ ...

"..." names the data of the evaluations, see "Ready to run" in README.md.
The reference is the recipe's 30 iterations (as the released code does) with epsilon 0.05.
"""

from ssljax.sweep import Sweep, Variant, grid
from ssljax.sweep.budgets import METRICS, dora


def sweep(budget: str = "laptop") -> Sweep:
    config, overrides = dora(budget)
    variants = [
        Variant("sinkhorn"),
        Variant("none", {"objective.sinkhorn": False}),
        *grid(**{"objective.iterations": (1, 3, 10)}),
        *grid(**{"objective.epsilon": (0.01, 0.2)}),
    ]
    return Sweep(config, variants, overrides, metrics=METRICS)
