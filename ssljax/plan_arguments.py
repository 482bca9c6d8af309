"""What `ssljax plan` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssljax.number_arguments import finite


def add_plan(parser: Any) -> None:
    """Add the arguments to the parser, which has --config already."""
    parser.add_argument(
        "--topology",
        required=True,
        metavar="CHIP:SHAPE",
        help="v4, v5e, v5p, v6e or tpu7x and the torus (v5e:16x16); a100, h100, h200 or b200 and hosts x GPUs "
        "(h100:1x8x8 is one cluster of 8 hosts of 8); cpu:8",
    )
    parser.add_argument("--slices", type=int, default=1, help="TPU slices of that shape (default: %(default)s)")
    parser.add_argument(
        "--search",
        action="store_true",
        help="try meshes, micro-batches and recomputation; propose the fastest that fits",
    )
    parser.add_argument("--price", type=finite, metavar="DOLLARS", help="of a chip-hour (default: a list price)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, too")
