"""What each picture of an encoder takes in `ssljax show`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssljax.number_arguments import finite, positive, seed

_INPUT = "image files, a folder of images, a prepared folder, or a video (default: the run's own data)"
_DATA = "prepared set of images (default: the run's own)"


def _attention(parser: Any) -> None:
    _add_inputs(parser, 4)
    _add_output(parser, "attention.png")
    _add_size(parser, "short side in pixels at which images are encoded (default: twice the training's)")
    parser.add_argument("--layer", type=int, default=-1, help="block, from 0; negative ones from the end (default: -1)")
    parser.add_argument("--heads", type=int, nargs="+", help="heads drawn (default: all)")
    parser.add_argument(
        "--threshold", type=finite, metavar="SHARE", help="keep the patches that hold this share, such as 0.6"
    )


def _tracks(parser: Any) -> None:
    _add_inputs(parser, 48)
    _add_output(parser, "tracks.mp4", "FILE.mp4, FILE.gif, or FILE.png of some frames")
    _add_size(parser, "short side in pixels at which frames are encoded (default: twice the training's)")
    parser.add_argument("--layer", type=int, help="block, from 0 (default: the run's tracker_layer, or the last)")
    parser.add_argument("--heads", type=int, nargs="+", help="heads that objects start from (default: the first ones)")


def _features(parser: Any) -> None:
    _add_inputs(parser, 8)
    _add_output(parser, "features.png")
    _add_size(parser, "short side in pixels at which images are encoded (default: twice the training's)")
    parser.add_argument("--foreground", action="store_true", help="black where the first component says background")


def _neighbours(parser: Any) -> None:
    _add_inputs(parser, 8, "images to find neighbours of, as above (default: some of the set)", video=False)
    parser.add_argument("--data", type=Path, metavar="SET", help=f"{_DATA}, searched")
    _add_output(parser, "neighbours.png")
    parser.add_argument("--neighbours", type=positive, default=8, help="of each image (default: %(default)s)")
    parser.add_argument(
        "--most", type=positive, default=10_000, help="images searched, evenly spaced (default: %(default)s)"
    )
    _add_size(parser, "side in pixels at which images are encoded (default: the training's)")
    _add_pool(parser)


def _embedding(parser: Any) -> None:
    parser.add_argument("--data", type=Path, metavar="SET", help=_DATA)
    _add_output(parser, "embedding.png")
    parser.add_argument(
        "--most", type=positive, default=2000, help="images drawn, evenly spaced (default: %(default)s)"
    )
    parser.add_argument(
        "--method", default="tsne", choices=["tsne", "umap"], help="umap needs umap-learn (default: %(default)s)"
    )
    parser.add_argument("--perplexity", type=finite, help="neighbours that count (default: 30, of few images fewer)")
    parser.add_argument("--seed", type=seed, default=0, help="of the method (default: %(default)s)")
    _add_size(parser, "side in pixels at which images are encoded (default: the training's)")
    _add_pool(parser)


def _add_inputs(parser: Any, count: int, text: str = _INPUT, *, video: bool = True) -> None:
    parser.add_argument("inputs", type=Path, nargs="*", metavar="INPUT", help=text)
    parser.add_argument("--count", type=positive, default=count, help="the most of them drawn (default: %(default)s)")
    if video:
        parser.add_argument(
            "--seconds",
            type=finite,
            nargs=2,
            metavar=("FROM", "TO"),
            help="part of a video (default: what training left out, or else the last 5 seconds)",
        )


def _add_output(parser: Any, name: str, kinds: str = "PNG file") -> None:
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"{kinds} (default: {name} in the run's folder)")


def _add_size(parser: Any, text: str) -> None:
    parser.add_argument("--size", type=positive, help=text)


def _add_pool(parser: Any) -> None:
    parser.add_argument(
        "--pool",
        default="features",
        choices=["features", "mean"],
        help="what stands for an image: CLS token or the like, or the mean patch token (default: %(default)s)",
    )


PICTURES = {
    "attention": ("where the CLS token of a ViT looks, head by head", _attention),
    "tracks": ("what a ViT discovers and tracks in a video, as a video", _tracks),
    "features": ("patch features as colours, alike where they are alike", _features),
    "neighbours": ("images and those of a set whose features are nearest", _neighbours),
    "embedding": ("the features of a set as points, by t-SNE or UMAP", _embedding),
}
"""What each picture shows, and what adds its arguments, which are those of `show_NAME` in ssljax/report/NAME.py."""
