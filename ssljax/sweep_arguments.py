"""What `ssljax sweep` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssljax.number_arguments import positive


def add_sweep(verbs: Any) -> None:
    """Add the verb."""
    description = "train and evaluate the variants that a file names, on this machine or on Slurm"
    sweep = verbs.add_parser(
        "sweep",
        help=description,
        description=f"{description}; --config.KEY=VALUE changes a value of all of them",
        allow_abbrev=False,
    )
    sweep.add_argument("file", metavar="FILE", help="a path, a packaged ablation (objects) or an import path")
    sweep.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="folder of all runs")
    sweep.add_argument(
        "--budget", default="laptop", metavar="NAME", help="how large the runs are (default: %(default)s)"
    )
    sweep.add_argument("--only", nargs="+", action="extend", default=[], metavar="NAME", help="only these variants")
    sweep.add_argument("--seeds", type=positive, metavar="N", help="seeds of each variant (default: the file's)")
    sweep.add_argument("--executor", default="local", choices=["local", "slurm"], help="(default: %(default)s)")
    sweep.add_argument(
        "--slurm", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="of sbatch: partition=gpu time=240"
    )
    sweep.add_argument(
        "--jobs",
        type=positive,
        metavar="N",
        help="runs at once here (default: one a GPU; on a CPU as cores and memory allow)",
    )
    sweep.add_argument("--dry-run", action="store_true", help="check all and say what would run; launch nothing")
    sweep.add_argument(
        "--topology", metavar="CHIP:SHAPE", help="with --dry-run: what each variant needs there, as ssljax plan says"
    )
    sweep.set_defaults(verb="sweep")
