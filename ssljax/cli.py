"""`ssljax VERB`: the command line. Exit code 0 when all went well, 2 with one line on standard error on bad input."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ssljax.errors import InputError


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    parser = _parser()
    options, overrides = parser.parse_known_args(arguments)
    for argument in overrides:
        if not (argument.startswith("--config.") and "config" in options):
            parser.error(f"unrecognized argument {argument}")
    try:
        options.run(options, overrides)
    except InputError as error:
        print(f"ssljax: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a file where a folder should be: the message names it
        print(f"ssljax: {error}; mend that and run the same command again.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ssljax: interrupted.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ssljax", description="Self-supervised pretraining from video and images, in JAX.")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    train = verbs.add_parser("train", help="train, or continue the run in --workdir", allow_abbrev=False)
    _add_config(train)
    train.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    train.add_argument("--coordinator", help="HOST:PORT of process 0, for a run of several processes")
    train.add_argument("--processes", type=int, help="number of processes")
    train.add_argument("--process", type=int, help="number of this process, from 0")
    train.add_argument(
        "--distributed", action="store_true", help="several processes, found by jax.distributed (Slurm, TPU pods, MPI)"
    )
    train.set_defaults(run=_train)

    prepare = verbs.add_parser("prepare", help="turn videos and images into training records", allow_abbrev=False)
    prepare.add_argument("kind", choices=["video", "images", "walking-tours"], help="what to prepare")
    prepare.add_argument("rest", nargs=argparse.REMAINDER)
    prepare.set_defaults(run=_prepare)

    export = verbs.add_parser("export", help="write a run's encoder for PyTorch", allow_abbrev=False)
    _add_run(export)
    export.add_argument("--format", default="dino", choices=["dino"], help="whose parameter names")
    export.add_argument(
        "--output", type=Path, required=True, help="FILE.safetensors, or FILE.pth where torch is installed"
    )
    export.add_argument("--check", action="store_true", help="reload in PyTorch and print the largest difference")
    export.set_defaults(run=_export)

    evaluate = verbs.add_parser("evaluate", help="measure what a run's encoder has learnt", allow_abbrev=False)
    protocols = evaluate.add_subparsers(required=True, metavar="PROTOCOL")
    knn = protocols.add_parser("knn", help="k nearest neighbours among labelled images", allow_abbrev=False)
    _add_run(knn)
    knn.add_argument("--train", required=True, metavar="DIR", help="labelled images to find neighbours among")
    knn.add_argument("--test", required=True, metavar="DIR", help="labelled images to classify")
    knn.add_argument("--size", type=int, metavar="PIXELS", help="side of the images (default: what the run trained on)")
    knn.add_argument("--batch-size", type=int, default=256, help="images encoded at once (default: %(default)s)")
    knn.add_argument("--baselines", action="store_true", help="also at random initialisation, and bare pixels")
    knn.set_defaults(run=_evaluate_knn)

    show = verbs.add_parser("show", help="draw what a config does", allow_abbrev=False)
    pictures = show.add_subparsers(required=True, metavar="PICTURE")
    views = pictures.add_parser("views", help="what the student and the teacher see", allow_abbrev=False)
    _add_config(views)
    views.add_argument("--output", type=Path, default=Path("views.png"), help="PNG file (default: %(default)s)")
    views.add_argument("--samples", type=int, default=2, help="clips or images drawn (default: %(default)s)")
    views.set_defaults(run=_show_views)

    reconstructions = pictures.add_parser(
        "reconstructions", help="what a masked autoencoder predicts of hidden patches", allow_abbrev=False
    )
    _add_run(reconstructions)
    reconstructions.add_argument(
        "--output", type=Path, help="PNG file (default: reconstructions.png in the run's folder)"
    )
    reconstructions.add_argument("--count", type=int, default=9, help="samples drawn (default: %(default)s)")
    reconstructions.set_defaults(run=_show_reconstructions)

    report = verbs.add_parser("report", help="write a run's page: curves, tracks, numbers", allow_abbrev=False)
    _add_run(report)
    report.add_argument("--video", type=Path, help="prepared video to show (default: the run's first)")
    report.add_argument("--seconds", type=float, nargs=2, metavar=("FROM", "TO"), help="part of the video to show")
    report.add_argument("--link", type=Path, nargs="*", default=[], help="files to link from the page")
    report.set_defaults(run=_report)
    return parser


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


def _train(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from ssljax import configuration

    config = configuration.load(options.config, overrides)
    if config.deterministic:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
    if config.loader.workers:
        from absl import flags

        flags.FLAGS(["ssljax"])  # Grain's worker processes ask for parsed flags
    _distribute(options)
    from ssljax.train import train

    train(config, options.workdir)


def _distribute(options: argparse.Namespace) -> None:
    """Join the other processes of the run, before anything touches a device."""
    given = [options.coordinator, options.processes, options.process]
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise InputError("--coordinator, --processes and --process go together; give all three, or --distributed.")
        import jax

        jax.distributed.initialize(
            options.coordinator, options.processes, options.process, cluster_detection_method="deactivate"
        )
    elif options.distributed:
        import jax

        jax.distributed.initialize()


def _prepare(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    program = importlib.import_module(f"data_prep.{options.kind.replace('-', '_')}")
    code = program.main(options.rest)
    if code:
        raise SystemExit(code)


def _export(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from ssljax import build
    from ssljax.export import export_encoder
    from ssljax.objectives.base import image_encoder

    run = build.restore(options.workdir, options.step)
    encoder = image_encoder(run.objective, run.state.params, run.state.state)
    export_encoder(encoder, options.output, format=options.format, check=options.check)
    print(f"wrote {options.output}")


def _evaluate_knn(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from ssljax.evaluations import evaluate_knn

    names = ("workdir", "step", "train", "test", "size", "batch_size", "baselines")
    print(evaluate_knn(**{name: getattr(options, name) for name in names}))
    print(f"wrote {options.workdir / 'evaluate' / 'knn.json'}")


def _show_views(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from ssljax import configuration
    from ssljax.report.sheet import show_views

    if options.output.suffix != ".png" or options.samples < 1:
        raise InputError(
            f"--output is {options.output} and --samples {options.samples}; give a .png file and at least 1."
        )
    show_views(configuration.load(options.config, overrides), options.output, samples=options.samples)
    print(f"wrote {options.output}")


def _show_reconstructions(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from ssljax.report.reconstructions import show_reconstructions

    output = options.output or options.workdir / "reconstructions.png"
    if output.suffix != ".png" or options.count < 1:
        raise InputError(f"--output is {output} and --count {options.count}; give a .png file and at least 1.")
    unseen = show_reconstructions(options.workdir, output, step=options.step, count=options.count)
    print(f"wrote {output}, of {'what training left out' if unseen else 'the training data'}")


def _report(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from ssljax.report.run import write_report

    page = write_report(
        options.workdir, step=options.step, video=options.video, seconds=options.seconds, links=options.link
    )
    print(f"wrote {page}")


if __name__ == "__main__":
    sys.exit(main())
