"""How many objects are tracked, and whether Sinkhorn-Knopp makes them distinct: 5 variants, 2 seeds.

    ssljax sweep configs/ablations/objects_and_sinkhorn.py --workdir sweeps/demo --config.data.video=venice/

With the budget "laptop" all of it takes half an hour at most on 2 CPU cores.
"""

from ssljax.sweep import Sweep, Variant, grid
from ssljax.sweep.budgets import METRICS, dora


def sweep(budget: str = "laptop") -> Sweep:
    config, overrides = dora(budget)
    variants = grid(**{"objective.objects": (3, 1, 2, 4)})
    variants.append(Variant("no-sinkhorn", {"objective.sinkhorn": False}))
    return Sweep(config, variants, overrides, seeds=(0, 1), metrics=METRICS)
