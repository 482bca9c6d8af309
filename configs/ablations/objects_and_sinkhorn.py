"""How many objects are tracked, and whether Sinkhorn-Knopp makes them distinct: 5 variants, 2 seeds.

    ssljax sweep configs/ablations/objects_and_sinkhorn.py --workdir runs/demo-sweep --config.data.video=venice/ ...

"..." names the data of the evaluations, see "Ready to run" in README.md.
With the budget "laptop" that is 10 runs of about 2.5 minutes of a CPU core each.
"""

from ssljax.sweep import Sweep, Variant, grid
from ssljax.sweep.budgets import METRICS, dora


def sweep(budget: str = "laptop") -> Sweep:
    config, overrides = dora(budget)
    variants = grid(**{"objective.objects": (3, 1, 2, 4)})
    variants.append(Variant("no-sinkhorn", {"objective.sinkhorn": False}))
    return Sweep(config, variants, overrides, seeds=(0, 1), metrics=METRICS)
