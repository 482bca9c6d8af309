"""`python -m ssljax.sweep.judge RUN PROTOCOLS`: evaluations of a finished run of a sweep, with baselines.

What `ssljax evaluate PROTOCOL --workdir RUN --baselines` does, for each of the protocols; these are JSON, their
arguments by name as the run's config has them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ssljax import configuration
from ssljax.errors import InputError


def main(arguments: Sequence[str]) -> int:
    """Evaluate with each protocol, and return the exit code as the command line does."""
    workdir, given = Path(arguments[0]), configuration.with_tuples(json.loads(arguments[1]))
    try:
        from ssljax.evaluations import evaluate

        for protocol, its in given.items():
            table, path = evaluate(protocol, its, workdir=workdir, baselines=True)
            print(f"{table}\nwrote {path}", flush=True)
    except InputError as error:
        print(f"ssljax: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
