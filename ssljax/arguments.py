"""What `ssljax VERB` takes: the parsers of all verbs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; `verb` in what it returns names the function that runs it."""
    parser = _Parser(prog="ssljax", description="Self-supervised pretraining from video and images, in JAX.")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for add in (_train, _prepare, _export, _evaluate, _show, _report):
        add(verbs)
    return parser


def _train(verbs: Any) -> None:
    train = verbs.add_parser("train", help="train, or continue the run in --workdir", allow_abbrev=False)
    _add_config(train)
    train.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    train.add_argument("--coordinator", help="HOST:PORT of process 0, for a run of several processes")
    train.add_argument("--processes", type=int, help="number of processes")
    train.add_argument("--process", type=int, help="number of this process, from 0")
    train.add_argument(
        "--distributed", action="store_true", help="several processes, found by jax.distributed (Slurm, TPU pods, MPI)"
    )
    train.set_defaults(verb="train")


def _prepare(verbs: Any) -> None:
    prepare = verbs.add_parser("prepare", help="turn videos and images into training records", allow_abbrev=False)
    prepare.add_argument("kind", choices=["video", "images", "walking-tours", "davis"], help="what to prepare")
    prepare.add_argument("rest", nargs=argparse.REMAINDER)
    prepare.set_defaults(verb="prepare")


def _export(verbs: Any) -> None:
    export = verbs.add_parser("export", help="write a run's encoder for PyTorch", allow_abbrev=False)
    _add_run(export)
    export.add_argument("--format", default="dino", choices=["dino"], help="whose parameter names")
    export.add_argument(
        "--output", type=Path, required=True, help="FILE.safetensors, or FILE.pth where torch is installed"
    )
    export.add_argument("--check", action="store_true", help="reload in PyTorch and print the largest difference")
    export.set_defaults(verb="export")


def _evaluate(verbs: Any) -> None:
    evaluate = verbs.add_parser("evaluate", help="measure what an encoder has learnt", allow_abbrev=False)
    protocols = evaluate.add_subparsers(required=True, metavar="PROTOCOL", dest="protocol")
    for name, (description, add) in PROTOCOLS.items():
        protocol = protocols.add_parser(name, help=description, description=description, allow_abbrev=False)
        subject = protocol.add_argument_group("what is evaluated")
        subject.add_argument("--workdir", type=Path, help="folder of a run")
        subject.add_argument("--step", type=int, help="which checkpoint of it (default: the newest)")
        subject.add_argument("--weights", type=Path, metavar="FILE", help="instead of a run, a file of ssljax export")
        subject.add_argument("--baselines", action="store_true", help="also at random initialisation, and bare pixels")
        subject.add_argument(
            "--output", type=Path, metavar="FILE.json", help="results (default: evaluate/PROTOCOL.json in the folder)"
        )
        add(protocol.add_argument_group("the protocol"))
        protocol.set_defaults(verb="evaluate")


def _knn(group: Any) -> None:
    _add_labelled(group, "find neighbours among", "classify")
    group.add_argument(
        "--pool",
        default="features",
        choices=["features", "mean"],
        help="the encoder's own vector, CLS for a ViT, or the mean of its patch tokens (default: %(default)s)",
    )


def _linear(group: Any) -> None:
    _add_labelled(group, "learn from", "test with", batch_size=1024)
    group.add_argument(
        "--recipe", default="dino", choices=["dino", "mae"], help="whose features and optimiser (default: %(default)s)"
    )
    group.add_argument("--epochs", type=float, help="passes over the images (default: the recipe's 100 or 90)")
    _add_rates(group, (), "at a batch of 256, all trained at once (default: the recipe's)")
    group.add_argument("--n-blocks", type=int, help="CLS tokens of so many last blocks (default: the recipe's 4 or 1)")
    group.add_argument("--average-patches", action="store_true", help="and the mean patch token of the last block")
    _add_training(group)


def _attentive(group: Any) -> None:
    _add_labelled(group, "learn from", "test with", batch_size=256)
    group.add_argument("--epochs", type=float, default=20, help="passes over the images (default: %(default)s)")
    _add_rates(group, (1e-4, 3e-4, 1e-3, 3e-3, 5e-3), "all trained at once (default: %(default)s)")
    group.add_argument("--weight-decay", type=float, default=0.01, help="of the probe (default: %(default)s)")
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
            f"--{name.replace('_', '-')}", type=float, default=value, help=f"{text} (default: %(default)s)"
        )
    group.add_argument("--seed", type=int, default=0, help="of all that is random (default: %(default)s)")


def _add_rates(group: Any, default: tuple[float, ...], text: str) -> None:
    group.add_argument("--learning-rates", type=float, nargs="+", default=default, metavar="RATE", help=text)


def _add_training(group: Any) -> None:
    group.add_argument(
        "--augment",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="encode new random crops each epoch, as the papers do; --no-augment encodes each image once, much quicker",
    )
    group.add_argument("--seed", type=int, default=0, help="of start, order and crops (default: %(default)s)")


def _add_labelled(group: Any, train: str, test: str, *, batch_size: int = 256) -> None:
    group.add_argument("--train", required=True, metavar="DIR", help=f"prepared labelled images to {train}")
    group.add_argument("--test", required=True, metavar="DIR", help=f"prepared labelled images to {test}")
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
    group.add_argument("--temperature", type=float, default=0.1, help="of their weights (default: %(default)s)")


PROTOCOLS = {
    "knn": ("k nearest neighbours among labelled images", _knn),
    "linear": ("linear classifiers on frozen features, of many learning rates at once", _linear),
    "attentive": ("cross-attention and a linear classifier on frozen tokens", _attentive),
    "finetune": ("the whole ViT trained further, with a linear classifier", _finetune),
    "davis": ("segment videos from the first frame's masks", _davis),
}
"""What `ssljax evaluate` offers; the arguments are those of the constructor in `build.CONSTRUCTORS["evaluate"]`."""


def _show(verbs: Any) -> None:
    show = verbs.add_parser("show", help="draw what a config does, or what a run has learnt", allow_abbrev=False)
    pictures = show.add_subparsers(required=True, metavar="PICTURE")
    views = pictures.add_parser("views", help="what the student and the teacher see", allow_abbrev=False)
    _add_config(views)
    views.add_argument("--output", type=Path, default=Path("views.png"), help="PNG file (default: %(default)s)")
    views.add_argument("--samples", type=int, default=2, help="clips or images drawn (default: %(default)s)")
    views.set_defaults(verb="show_views")

    reconstructions = pictures.add_parser(
        "reconstructions", help="what a masked autoencoder predicts of hidden patches", allow_abbrev=False
    )
    _add_run(reconstructions)
    reconstructions.add_argument(
        "--output", type=Path, help="PNG file (default: reconstructions.png in the run's folder)"
    )
    reconstructions.add_argument("--count", type=int, default=9, help="samples drawn (default: %(default)s)")
    reconstructions.set_defaults(verb="show_reconstructions")


def _report(verbs: Any) -> None:
    report = verbs.add_parser("report", help="write a run's page: curves, tracks, numbers", allow_abbrev=False)
    _add_run(report)
    report.add_argument("--video", type=Path, help="prepared video to show (default: the run's first)")
    report.add_argument("--seconds", type=float, nargs=2, metavar=("FROM", "TO"), help="part of the video to show")
    report.add_argument("--link", type=Path, nargs="*", default=[], help="files to link from the page")
    report.set_defaults(verb="report")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:ARG]",
        help="config file, packaged recipe or import path; --config.KEY=VALUE overrides one value",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
