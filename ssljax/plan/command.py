"""`ssljax plan`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ssljax.errors import InputError
from ssljax.plan import topology as topologies


def run(
    location: str,
    overrides: Sequence[str],
    *,
    topology: str,
    slices: int = 1,
    search: bool = False,
    price: float | None = None,
    output: Path | None = None,
) -> None:
    """Print the plan of a config, or of the best candidate of a search, and write it to a JSON file.

    Raises:
        InputError: Config or topology cannot be used, or the step does not fit.
    """
    topologies.prepare(topology)
    if slices < 1 or (price is not None and price < 0):
        raise InputError(f"--slices is {slices} and --price is {price}; give at least 1, and 0 or more dollars.")
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise InputError(f"--json is {output}; give a file in a folder that exists.")
    from ssljax import configuration
    from ssljax.plan import search as searching
    from ssljax.plan import table
    from ssljax.plan.estimate import make_plan

    config = configuration.load(location, overrides)
    target = topologies.topology(topology, slices)
    if not search:
        plan = make_plan(location, config, target, price)
        print(table.text(plan))
        written = table.values(plan)
    else:
        found = searching.search(location, config, target, price, lambda line: print(line, file=sys.stderr))
        best = found[0].plan
        assert best is not None  # else nothing was found, and said so
        print(table.text(best))
        print("\nWhat fits, the fastest first; the plan above is the first one's:")
        print("\n".join(f"  {searching.line(each)}" for each in found if each.plan))
        print(f"\nAdd: {' '.join(found[0].overrides)}")
        written = table.values(best) | {
            "candidates": [
                {"overrides": each.overrides, **({"why": each.why} if each.plan is None else table.values(each.plan))}
                for each in found
            ]
        }
    if output is not None:
        output.write_text(json.dumps(written, indent=2) + "\n")
        print(f"wrote {output}")
