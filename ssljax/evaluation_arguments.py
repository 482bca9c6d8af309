"""What each protocol of `ssljax evaluate` takes."""

from __future__ import annotations

import argparse
from typing import Any

from ssljax.number_arguments import finite, seed


def _knn(group: Any) -> None:
    _add_labelled(group, "find neighbours among", "classify")
    _add_pool(group)


def _linear(group: Any) -> None:
    _add_labelled(group, "learn from", "test with", batch_size=1024)
    group.add_argument(
        "--recipe", default="dino", choices=["dino", "mae"], help="whose features and optimiser (default: %(default)s)"
    )
    group.add_argument("--epochs", type=finite, help="passes over the images (default: the recipe's 100 or 90)")
    _add_rates(group, (), "at a batch of 256, all trained at once (default: the recipe's)")
    group.add_argument("--n-blocks", type=int, help="CLS tokens of so many last blocks (default: the recipe's 4 or 1)")
    group.add_argument("--average-patches", action="store_true", help="and the mean patch token of the last block")
    _add_training(group)


def _attentive(group: Any) -> None:
    _add_labelled(group, "learn from", "test with", batch_size=256)
    group.add_argument("--epochs", type=finite, default=20, help="passes over the images (default: %(default)s)")
    _add_rates(group, (1e-4, 3e-4, 1e-3, 3e-3, 5e-3), "all trained at once (default: %(default)s)")
    group.add_argument("--weight-decay", type=finite, default=0.01, help="of the probe (default: %(default)s)")
    group.add_argument("--heads", type=int, help="of the cross-attention (default: one for 64 channels)")
    _add_training(group)


def _finetune(group: Any) -> None:
    _add_labelled(group, "learn from", "test with", batch_size=1024)
    numbers = {
        "epochs": (100, "passes over the images, the first twentieth a warm-up"),
        "learning_rate": (5e-4, "of the classifier at a batch of 256"),
        "layer_decay": (0.65, "learning rate of a layer over that of the next"),
        "weight_decay": (0.05, "of kernels"),
        "drop_path": (0.1, "rate of the last block"),
        "mixup": (0.8, "alpha of mixup, 0 for none"),
        "cutmix": (1.0, "alpha of CutMix, 0 for none"),
        "smoothing": (0.1, "of the labels"),
        "erase": (0.25, "probability of random erasing"),
    }
    for name, (value, text) in numbers.items():
        group.add_argument(
            f"--{name.replace('_', '-')}", type=finite, default=value, help=f"{text} (default: %(default)s)"
        )
    group.add_argument("--seed", type=seed, default=0, help="of all that is random (default: %(default)s)")


def _add_rates(group: Any, default: tuple[float, ...], text: str) -> None:
    group.add_argument("--learning-rates", type=finite, nargs="+", default=default, metavar="RATE", help=text)


def _add_training(group: Any) -> None:
    group.add_argument(
        "--augment",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="encode new random crops each epoch, as the papers do; --no-augment encodes each image once, much quicker",
    )
    group.add_argument("--seed", type=seed, default=0, help="of start, order and crops (default: %(default)s)")


def _add_labelled(group: Any, train: str, test: str, *, batch_size: int = 256) -> None:
    group.add_argument("--train", required=True, metavar="DIR", help=f"prepared labelled images to {train}")
    group.add_argument("--test", required=True, metavar="DIR", help=f"prepared labelled images to {test}")
    _add_size(group, batch_size)


def _add_pool(group: Any) -> None:
    group.add_argument(
        "--pool",
        default="features",
        choices=["features", "mean"],
        help="the encoder's own vector, CLS for a ViT, or the mean of its patch tokens (default: %(default)s)",
    )


def _add_size(group: Any, batch_size: int) -> None:
    group.add_argument("--size", type=int, metavar="PIXELS", help="side of images (default: what was trained on)")
    group.add_argument("--batch-size", type=int, default=batch_size, help="images at once (default: %(default)s)")


def _davis(group: Any) -> None:
    group.add_argument("--data", required=True, metavar="DIR", help="what ssljax prepare davis made")
    group.add_argument("--sequences", nargs="+", default=(), metavar="NAME", help="only these (default: all)")
    group.add_argument("--masks", default="", metavar="DIR", help="new folder for the first encoder's masks, as PNGs")
    group.add_argument("--size", type=int, default=480, help="shorter side of frames in pixels (default: %(default)s)")
    group.add_argument(
        "--multiple", type=int, default=64, help="round the longer side down to multiples of (default: %(default)s)"
    )
    group.add_argument("--queue", type=int, default=7, help="frames before that are referred to (default: %(default)s)")
    group.add_argument("--top-k", type=int, default=5, help="patches averaged (default: %(default)s)")
    group.add_argument("--neighbourhood", type=int, default=12, help="by how many patches off (default: %(default)s)")
    group.add_argument("--temperature", type=finite, default=0.1, help="of their weights (default: %(default)s)")


def _segmentation(group: Any) -> None:
    _add_masks(group, batch_size=8)
    group.add_argument("--memory", type=int, default=1_024_000, help="patches kept (default: %(default)s)")
    group.add_argument("--neighbours", type=int, default=30, help="patches averaged (default: %(default)s)")
    group.add_argument("--temperature", type=finite, default=0.02, help="of their weights (default: %(default)s)")
    group.add_argument("--seed", type=seed, default=0, help="of the memory's choice (default: %(default)s)")


def _linear_segmentation(group: Any) -> None:
    _add_masks(group, batch_size=16)
    group.add_argument("--steps", type=int, default=40_000, help="updates of the head (default: %(default)s)")
    group.add_argument("--learning-rate", type=finite, default=1e-3, help="(default: %(default)s)")
    group.add_argument("--weight-decay", type=finite, default=1e-4, help="(default: %(default)s)")
    group.add_argument("--seed", type=seed, default=0, help="of start and order (default: %(default)s)")


def _add_masks(group: Any, *, batch_size: int) -> None:
    place = "folder of images beside one of masks, or a list of VOC"
    group.add_argument("--train", required=True, metavar="PLACE", help=f"{place}, to learn from")
    group.add_argument("--test", required=True, metavar="PLACE", help=f"{place}, to test with")
    group.add_argument("--classes", type=int, required=True, help="their number, without what is ignored")
    group.add_argument("--size", type=int, default=512, help="side of images in pixels (default: %(default)s)")
    group.add_argument(
        "--labels",
        default="index",
        choices=["index", "from_one", "binary"],
        help="masks hold classes from 0 (255 is ignored), from 1 (0 is ignored, as in ADE20K), or object or not",
    )
    group.add_argument("--batch-size", type=int, default=batch_size, help="images at once (default: %(default)s)")


def _discovery(group: Any) -> None:
    group.add_argument(
        "--data", required=True, metavar="PLACE", help="a list of VOC with boxes, or a folder of images with masks"
    )
    group.add_argument("--binary", action="store_true", help="all that is not 0 in a mask is the one object")
    group.add_argument(
        "--short-side", type=int, default=0, help="resize images to it, in pixels (default: as large as they are)"
    )
    group.add_argument("--neighbours", type=int, default=100, help="the paper's k (default: %(default)s)")
    group.add_argument("--batch-size", type=int, default=8, help="images at once (default: %(default)s)")


def _correspondence(group: Any) -> None:
    group.add_argument("--data", required=True, metavar="DIR", help="such as SPair-71k/PairAnnotation/test")
    _add_size(group, 16)


def _retrieval(group: Any) -> None:
    group.add_argument("--data", required=True, metavar="DIR", help="prepared labelled images")
    _add_size(group, 256)
    _add_pool(group)


def _revisited(group: Any) -> None:
    group.add_argument("--data", required=True, metavar="FILE.json", help="the ground truth, beside the folder jpg")
    _add_size(group, 64)
    _add_pool(group)


def _clips(group: Any) -> None:
    group.add_argument("--train", required=True, metavar="LIST", help="of UCF-101 (.txt) or Kinetics (.csv)")
    group.add_argument("--test", required=True, metavar="LIST", help="another, of videos to classify")
    group.add_argument("--videos", required=True, metavar="DIR", help="folder of the videos that the lists name")
    group.add_argument("--frames", type=int, default=8, help="of each video, evenly spread (default: %(default)s)")
    _add_size(group, 32)
    _add_pool(group)


def _health(group: Any) -> None:
    group.add_argument("--data", required=True, metavar="DIR", help="prepared images, labelled or not")
    _add_size(group, 256)
    _add_pool(group)
    group.add_argument("--seed", type=seed, default=0, help="of the two views of an image (default: %(default)s)")


def _tracks(group: Any) -> None:
    group.add_argument("--video", required=True, metavar="DIR", help="a prepared video")
    group.add_argument(
        "--seconds",
        type=finite,
        nargs=2,
        default=(-5.0, None),
        metavar=("FROM", "TO"),
        help="part of the video, negative ones from its end (default: the last 5)",
    )
    group.add_argument("--size", type=int, help="shorter side of frames in pixels (default: twice what was trained on)")
    numbers = {
        "frames": (48, "at most in all, evenly spaced"),
        "objects": (3, "followed at once"),
        "draws": (4, "parts that the frames are cut into, objects discovered anew in each; averaged"),
        "iterations": (30, "of Sinkhorn-Knopp"),
        "layer": (-1, "block whose attention, queries and keys are used"),
    }
    for name, (value, text) in numbers.items():
        group.add_argument(f"--{name}", type=int, default=value, help=f"{text} (default: %(default)s)")
    group.add_argument("--epsilon", type=finite, default=0.05, help="of Sinkhorn-Knopp (default: %(default)s)")


PROTOCOLS = {
    "knn": ("k nearest neighbours among labelled images", _knn),
    "linear": ("linear classifiers on frozen features, of many learning rates at once", _linear),
    "attentive": ("cross-attention and a linear classifier on frozen tokens", _attentive),
    "finetune": ("the whole ViT trained further, with a linear classifier", _finetune),
    "segmentation": ("dense labels of the nearest patches in a memory", _segmentation),
    "linear_segmentation": ("dense labels by a linear head on patches", _linear_segmentation),
    "discovery": ("one object an image without labels, by LOST: CorLoc", _discovery),
    "correspondence": ("keypoints found again by the nearest patch: PCK", _correspondence),
    "retrieval": ("images of the same class found among others: mean average precision", _retrieval),
    "revisited": ("landmarks of the revisited Oxford and Paris: mean average precision", _revisited),
    "clips": ("k nearest neighbours among labelled videos", _clips),
    "health": ("rank, spectrum, alignment and uniformity of features, entropy of attention; no labels", _health),
    "tracks": ("how well objects are found again along a video; no labels", _tracks),
    "davis": ("segment videos from the first frame's masks", _davis),
}
"""What `ssljax evaluate` offers; the arguments are those of the constructor in `constructors.CONSTRUCTORS`."""
