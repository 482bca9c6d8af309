"""`ssljax sweep --dry-run`: what there is to do, and what a plan says of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssljax import configuration
from ssljax.errors import InputError
from ssljax.sweep import folder as folders
from ssljax.sweep.read import Run


def tell(
    location: str, budget: str, runs: Sequence[Run], workdir: Path, topology: str | None, metrics: Sequence[str]
) -> None:
    """Check all, and print the runs and how they stand, with a topology what each variant needs there; write nothing.

    Raises:
        InputError: What could not be launched; with a topology, after what could be planned nevertheless.
    """
    if topology is not None:
        from ssljax.plan import topology as topologies

        topologies.prepare(topology)
    import jax

    jax.config.update("jax_platforms", "cpu")
    from ssljax import build
    from ssljax.sweep.check import check_variants, one_each, protocols
    from ssljax.sweep.command import is_complete

    variants, wrong = list(one_each(runs)), None
    try:
        for run in runs:
            folders.check_config(workdir / run.name, configuration.plain(run.config))
        check_variants(location, runs, metrics)
    except InputError as error:
        if topology is None:
            raise
        wrong = error
    print(f"{location} ({budget}): {len(variants)} variants, {len(runs)} runs")
    left = {run.variant: 0 for run in variants}
    for run in runs:
        state = folders.state(workdir / run.name) if (workdir / run.name).exists() else folders.WAITING
        if state == folders.FINISHED and not is_complete(
            workdir / run.name, protocols(run.config), build.total_steps(run.config)
        ):
            state = folders.WAITING  # more is asked of it now
        left[run.variant] += state != folders.FINISHED
        differs = ", ".join(f"{key}={json.dumps(value)}" for key, value in run.differs.items())
        if wrong is None:  # else the list would hide it
            print(f"  {state:9}{run.name}: {run.location}{f' with {differs}' if differs else ''}")
    if topology is not None:
        _plan(variants, left, topology)
    if wrong is not None:
        raise wrong
    print("All configs and their data can be used.")


def _plan(variants: Sequence[Run], left: dict[str, int], topology: str) -> None:
    """Print what an update of each variant needs, and how long all runs that are left take one after another."""
    from ssljax.plan import topology as topologies

    target, hours, cost, unfit = topologies.topology(topology), 0.0, 0.0, 0
    print(f"\nOn {topology}, a run alone (nothing is faster; real updates often take 1.3 to 2 times that):")
    for run in variants:
        plan = _planned(run, target)
        if isinstance(plan, InputError):
            print(f"  {run.variant}: does not fit: {plan}", flush=True)
            unfit += 1
            continue
        hours += plan.hours * left[run.variant]
        cost += (plan.cost or 0.0) * left[run.variant]
        memory = plan.compiled.memory.total / 2**30
        print(
            f"  {run.variant}: {memory:.2f} of {target.chip.memory / 2**30:.1f} GiB of a device, "
            f"{1e3 * plan.times.expected:.1f} ms an update, {plan.updates:,} updates, {plan.hours:.2f} hours; "
            f"{left[run.variant]} runs left",
            flush=True,
        )
    price = f", ${cost:,.0f}" if cost else ""
    without = f", without {unfit} variants that do not fit" if unfit else ""
    print(f"Together {hours:.2f} hours one run after another{price}{without}; starts and evaluations come on top.\n")


def _planned(run: Run, target: Any) -> Any:
    from ssljax.plan.estimate import make_plan

    try:
        return make_plan(run.variant, run.config, target)
    except InputError as error:
        return error
