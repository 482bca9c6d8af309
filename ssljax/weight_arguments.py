"""What `ssljax export` and `ssljax import` take."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

WRITTEN = ("dino", "timm", "transformers", "torchvision", "onnx", "safetensors", "npz")
READ = ("auto", "dino", "timm", "transformers", "torchvision", "safetensors", "npz")


def add_export(parser: ArgumentParser) -> None:
    """Add the arguments of `ssljax export` but for the run."""
    parser.add_argument(
        "--format",
        default="dino",
        choices=WRITTEN,
        help="whose names and files (default: %(default)s, the released ones of DINO, DoRA, DINOv2, MAE, MoCo v3; "
        "safetensors and npz are our own)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="PLACE",
        help="FILE.safetensors (or .onnx, .npz), FILE.pth where torch is installed, or else a folder, which gets a "
        "model card and what its ecosystem wants",
    )
    parser.add_argument("--with-head", action="store_true", help="also what pretraining puts on the encoder")
    copy = parser.add_mutually_exclusive_group()
    copy.add_argument("--teacher", dest="copy", action="store_const", const="teacher", help="the moving average")
    copy.add_argument("--student", dest="copy", action="store_const", const="student", help="what is trained")
    parser.set_defaults(copy="image")
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "float16", "bfloat16"], help="of the weights (%(default)s)"
    )
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="resample a ViT's positions for such images")
    parser.add_argument("--license", metavar="NAME", help="of the weights, for the model card")
    parser.add_argument(
        "--check",
        action="store_true",
        help="load it in PyTorch (dino, transformers) or onnxruntime and print the largest difference of features",
    )


def add_import(parser: ArgumentParser) -> None:
    """Add the arguments of `ssljax import`."""
    parser.add_argument(
        "--from",
        dest="place",
        type=Path,
        required=True,
        metavar="PLACE",
        help="a .safetensors, .npz or .pth file, or a folder with one and a config.json",
    )
    parser.add_argument("--format", default="auto", choices=READ, help="whose names (default: told from them)")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="RUN", help="folder to make, which is taken as a run's"
    )
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="resample a ViT's positions for such images")
    parser.add_argument(
        "--heads", type=int, metavar="N", help="attention heads, where the file does not say or is wrong"
    )
