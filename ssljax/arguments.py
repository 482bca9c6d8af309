"""What `ssljax VERB` takes: the parsers of all verbs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from ssljax.evaluation_arguments import PROTOCOLS
from ssljax.feature_arguments import add_features
from ssljax.number_arguments import finite
from ssljax.plan_arguments import add_plan
from ssljax.show_arguments import PICTURES
from ssljax.sweep_arguments import add_sweep
from ssljax.weight_arguments import add_export, add_import


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; `verb` in what it returns names the function that runs it."""
    parser = _Parser(prog="ssljax", description="Self-supervised pretraining from video and images, in JAX.")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for add in (_train, _plan, add_sweep, _prepare, _export, _import, _evaluate, add_features, _show, _report):
        add(verbs)
    return parser


def _train(verbs: Any) -> None:
    train = verbs.add_parser("train", help="train, or continue the run in --workdir", allow_abbrev=False)
    what = train.add_mutually_exclusive_group(required=True)
    _add_config(what, required=False)
    what.add_argument(
        "--reproduce",
        type=Path,
        metavar="RUN",
        help="instead of a config, the folder of a run to do again; only where data lie and how it runs may differ",
    )
    train.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    train.add_argument("--coordinator", help="HOST:PORT of process 0, for a run of several processes")
    train.add_argument("--processes", type=int, help="number of processes")
    train.add_argument("--process", type=int, help="number of this process, from 0")
    train.add_argument(
        "--distributed", action="store_true", help="several processes, found by jax.distributed (Slurm, TPU pods, MPI)"
    )
    train.add_argument(
        "--profile",
        metavar="START:STOP",
        help="write a trace of these updates into WORKDIR/profile, for TensorBoard, XProf and Perfetto",
    )
    train.set_defaults(verb="train")


def _plan(verbs: Any) -> None:
    description = "what a config needs, how fast it can be and what it costs on hardware that need not be there"
    plan = verbs.add_parser("plan", help=description, description=description, allow_abbrev=False)
    _add_config(plan)
    add_plan(plan)
    plan.set_defaults(verb="plan")


def _prepare(verbs: Any) -> None:
    prepare = verbs.add_parser("prepare", help="turn videos and images into training records", allow_abbrev=False)
    prepare.add_argument("kind", choices=["video", "images", "walking-tours", "davis"], help="what to prepare")
    prepare.add_argument("rest", nargs=argparse.REMAINDER)
    prepare.set_defaults(verb="prepare")


def _export(verbs: Any) -> None:
    export = verbs.add_parser("export", help="write a run's encoder for other libraries", allow_abbrev=False)
    _add_run(export)
    add_export(export)
    export.set_defaults(verb="export")


def _import(verbs: Any) -> None:
    description = "make a run's folder of pretrained weights, to evaluate, show, export or start from"
    parser = verbs.add_parser("import", help=description, description=description, allow_abbrev=False)
    add_import(parser)
    parser.set_defaults(verb="import")


def _evaluate(verbs: Any) -> None:
    evaluate = verbs.add_parser("evaluate", help="measure what an encoder has learnt", allow_abbrev=False)
    protocols = evaluate.add_subparsers(required=True, metavar="PROTOCOL", dest="protocol")
    for name, (description, add) in PROTOCOLS.items():
        protocol = protocols.add_parser(name, help=description, description=description, allow_abbrev=False)
        subject = protocol.add_argument_group("what is evaluated")
        subject.add_argument("--workdir", type=Path, help="folder of a run")
        subject.add_argument("--step", type=int, help="which checkpoint of it (default: the newest)")
        subject.add_argument(
            "--weights", type=Path, metavar="PLACE", help="instead of a run, a file or folder of weights"
        )
        subject.add_argument("--baselines", action="store_true", help="also at random initialisation, and bare pixels")
        subject.add_argument(
            "--output", type=Path, metavar="FILE.json", help="results (default: evaluate/PROTOCOL.json in the folder)"
        )
        add(protocol.add_argument_group("the protocol"))
        protocol.set_defaults(verb="evaluate")


def _show(verbs: Any) -> None:
    show = verbs.add_parser("show", help="draw what a config does, or what a run has learnt", allow_abbrev=False)
    pictures = show.add_subparsers(required=True, metavar="PICTURE", dest="picture")
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

    for name, (description, add) in PICTURES.items():
        picture = pictures.add_parser(name, help=description, description=description, allow_abbrev=False)
        picture.add_argument("--workdir", type=Path, help="folder of a run")
        picture.add_argument("--step", type=int, help="which checkpoint of it (default: the newest)")
        picture.add_argument(
            "--weights", type=Path, metavar="PLACE", help="instead of a run, a file or folder of weights"
        )
        add(picture)
        picture.set_defaults(verb="show_picture")


def _report(verbs: Any) -> None:
    report = verbs.add_parser("report", help="write a page about a run, several, or a sweep", allow_abbrev=False)
    report.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="folders of runs, or that of a sweep")
    report.add_argument("--workdir", type=Path, help="folder of a run, another way to name it")
    report.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
    report.add_argument(
        "--output", type=Path, metavar="PLACE", help="folder or FILE.html (default, of one: report/ in its folder)"
    )
    report.add_argument("--video", type=Path, help="prepared video to show (default: the run's first)")
    report.add_argument("--seconds", type=finite, nargs=2, metavar=("FROM", "TO"), help="part of the video to show")
    report.add_argument("--link", type=Path, nargs="*", default=[], help="files to link from the page")
    report.set_defaults(verb="report")


def _add_config(parser: Any, *, required: bool = True) -> None:
    parser.add_argument(
        "--config",
        required=required,
        metavar="FILE[:ARG]",
        help="config file, packaged recipe or import path; --config.KEY=VALUE overrides one value",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
