"""`python -m ssljax.sweep.judge RUN ARGUMENTS PROTOCOL ...`: evaluations of a finished run of a sweep, with baselines.

What `ssljax evaluate PROTOCOL --workdir RUN --baselines` does, with the arguments that the run's config has, as JSON.
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

        for protocol in arguments[2:]:
            table, path = evaluate(protocol, given[protocol], workdir=workdir, baselines=True)
            print(f"{table}\nwrote {path}", flush=True)
    except InputError as error:
        print(f"ssljax: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
