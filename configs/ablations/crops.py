"""How large, how many and from how much of a frame the crops are, one choice changed at a time.

    ssljax sweep configs/ablations/crops.py --workdir runs/crops --config.data.video=venice/ ...

"..." names the data of the evaluations, see "Ready to run" in README.md.
The canvas that views are cut from is the recipe's.
"""

from ssljax.sweep import Sweep, Variant
from ssljax.sweep.budgets import METRICS, dora


def sweep(budget: str = "laptop") -> Sweep:
    config, overrides = dora(budget)
    variants = [
        Variant("recipe"),
        Variant("half-the-locals", {"views.locals": lambda number: number // 2}),
        Variant("twice-the-locals", {"views.locals": lambda number: 2 * number}),
        Variant("smaller-locals", {"views.local_size": 16 if budget == "laptop" else 64}),
        Variant("closer-locals", {"views.local_scale": (0.05, 0.2)}),
        Variant("wider-globals", {"views.global_scale": (0.8, 1.0)}),
        Variant("wider-clips", {"data.scale": (0.6, 1.0)}),
    ]
    return Sweep(config, variants, overrides, metrics=METRICS)
