"""What `ssljax features` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssljax.number_arguments import finite, positive


def add_features(verbs: Any) -> None:
    """Add the verb; its arguments are those of `extract` in ssljax/extract.py."""
    features = verbs.add_parser("features", help="write the features of images and videos", allow_abbrev=False)
    features.add_argument(
        "inputs",
        type=Path,
        nargs="+",
        metavar="INPUT",
        help="image files, folders of images (searched to the bottom), prepared folders, or videos",
    )
    features.add_argument("--workdir", type=Path, help="folder of a run")
    features.add_argument("--step", type=int, help="which checkpoint of it (default: the newest)")
    features.add_argument("--weights", type=Path, metavar="PLACE", help="instead of a run, weights")
    features.add_argument("--output", type=Path, required=True, metavar="FILE", help="FILE.npz or FILE.parquet")
    features.add_argument("--size", type=positive, help="side of the images in pixels (default: the training's)")
    features.add_argument(
        "--batch-size", type=positive, default=64, help="images encoded at once (default: %(default)s)"
    )
    features.add_argument("--every", type=finite, metavar="SECONDS", help="between the frames of a video (default: 1)")
    features.add_argument("--patches", action="store_true", help="also the patch tokens")
    features.add_argument("--attention", action="store_true", help="also a ViT's attention of CLS in the last block")
    features.add_argument(
        "--pool",
        default="features",
        choices=["features", "mean"],
        help="what stands for an image: CLS token or the like, or the mean patch token (default: %(default)s)",
    )
    features.add_argument(
        "--dtype", default="float32", choices=["float32", "float16"], help="of what is written (default: %(default)s)"
    )
    features.add_argument("--skip-damaged", action="store_true", help="leave out and list what cannot be read")
    features.set_defaults(verb="features")
