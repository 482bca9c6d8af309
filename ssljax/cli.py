"""`ssljax VERB`: the command line.

Exit code 0 when all went well, 2 with one line on standard error on bad input, 75 when a run was asked to stop and has
saved, 1 when it died otherwise: of data that do not come, too.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ssljax.arguments import parser as arguments_of_verbs
from ssljax.errors import STOPPED, InputError, Stalled, is_lasting


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    parser = arguments_of_verbs()
    options, overrides = parser.parse_known_args(arguments)
    for argument in overrides:
        if not (argument.startswith("--config.") and ("config" in options or options.verb == "sweep")):
            parser.error(f"unrecognized argument {argument}")
    try:
        VERBS[options.verb](options, overrides)
    except InputError as error:
        print(f"ssljax: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a file where a folder should be: the message names it
        if not is_lasting(error):
            raise
        print(f"ssljax: {error}; mend that and run the same command again.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ssljax: interrupted.", file=sys.stderr)
        return 130
    return 0


def _check_folder(workdir: Path) -> None:
    """Raise InputError where a folder cannot be made, since a file is in its place or in that of one above it."""
    there = next((path for path in (workdir, *workdir.parents) if path.exists()), workdir)
    if there.exists() and not there.is_dir():
        raise InputError(f"--workdir {workdir}: {there} is a file; name a folder.")


def _train(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from ssljax.stop import Start

    _check_folder(options.workdir)
    with Start() as start:
        from ssljax import configuration, reproduce

        again = options.reproduce
        config = (
            configuration.load(options.config, overrides) if again is None else reproduce.read_config(again, overrides)
        )
        if config.deterministic:
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
        if config.loader.workers:
            from absl import flags

            flags.FLAGS(["ssljax"])  # Grain's worker processes ask for parsed flags
        from ssljax import build, processes
        from ssljax.profile import parse_range

        profile = parse_range(options.profile) if options.profile is not None else None
        several = processes.join(options.coordinator, options.processes, options.process, detect=options.distributed)
        start.listen()
        try:
            from ssljax.train import train

            if int(train(config, options.workdir, profile=profile, reproduces=again).step) < build.total_steps(config):
                raise SystemExit(STOPPED)
        except BaseException as error:
            stopped = isinstance(error, SystemExit) and error.code == STOPPED
            if (several and not stopped) or isinstance(error, Stalled):
                processes.end_at_once(error)
            raise


def _plan(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from ssljax.plan.command import run

    run(
        options.config,
        overrides,
        **{name: getattr(options, name) for name in ("topology", "slices", "search", "price")},
        output=options.json,
    )


def _sweep(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    _check_folder(options.workdir)
    from ssljax.record import without_secrets
    from ssljax.sweep.command import run

    command = shlex.join(without_secrets(["ssljax", *sys.argv[1:]]))
    given = {name: value for name, value in vars(options).items() if name != "verb"}
    run(given.pop("file"), given.pop("workdir"), overrides, command=command, **given)


def _prepare(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    program = importlib.import_module(f"data_prep.{options.kind.replace('-', '_')}")
    code = program.main(options.rest)
    if code:
        raise SystemExit(code)


def _export(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from ssljax.export.runs import network_of_run
    from ssljax.export.write import write_network

    network = network_of_run(
        options.workdir, options.step, copy=options.copy, heads=options.with_head, license=options.license
    )
    if options.with_head and len(network.params) == 1:
        raise InputError(f"{options.workdir} has no head on its encoder; leave --with-head out.")
    write_network(
        network,
        options.output,
        format=options.format,
        dtype=options.dtype,
        image_size=options.image_size,
        check=options.check,
    )
    print(f"wrote {options.output}")


def _import(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from ssljax.export.network import with_image_size
    from ssljax.export.read import read_network, summary
    from ssljax.export.runs import check_new, write_run

    check_new(options.output)
    network = read_network(options.place, options.format, heads=options.heads)
    lines = summary(network)
    if options.image_size is not None:
        before = network.arguments["encoder"].get("image_size")
        network = with_image_size(network, options.image_size)
        lines.append(f"resized    encoder/position: from images of {before} pixels to {options.image_size}, bicubic")
    write_run(network, options.output, str(options.place))
    print("\n".join(lines))
    print(f"wrote {options.output}")


def _evaluate(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from ssljax.evaluations import evaluate

    given = vars(options)
    subject = {name: given.pop(name) for name in ("workdir", "step", "weights", "baselines", "output")}
    protocol, _ = given.pop("protocol"), given.pop("verb")
    table, path = evaluate(protocol, given, **subject)
    print(table)
    print(f"wrote {path}")


def _features(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from ssljax.extract import extract

    given = {name: value for name, value in vars(options).items() if name != "verb"}
    done = extract(given.pop("inputs"), given.pop("output"), **given)
    for sentence in done.damaged:
        print(f"left out: {sentence}")
    shapes = ", ".join(f"{name} {[done.rows, *shape]}" for name, shape in done.shapes.items())
    left_out = f"; {len(done.damaged)} left out" if done.damaged else ""
    print(f"wrote {options.output}: {shapes}{left_out}")


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


def _show_picture(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from ssljax.report.subject import read_subject

    given = vars(options)
    picture, _ = given.pop("picture"), given.pop("verb")
    draw = getattr(importlib.import_module(f"ssljax.report.{picture}"), f"show_{picture}")
    subject = read_subject(given.pop("workdir"), given.pop("step"), given.pop("weights"))
    print(f"wrote {draw(subject, given.pop('output'), **given)}")


def _report(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    from ssljax.report.run import write_report
    from ssljax.report.runs import write_comparison
    from ssljax.report.sweep import check_alone, write_sweep
    from ssljax.report.sweep_folder import is_sweep

    runs = [*([options.workdir] if options.workdir else []), *options.runs]
    given = dict(step=options.step, video=options.video, seconds=options.seconds, links=options.link)
    if not runs:
        raise InputError("Name a run: ssljax report RUN, or several to set side by side, or the folder of a sweep.")
    if any(map(is_sweep, runs)):
        check_alone(runs, given)
        page = write_sweep(runs[0], output=options.output, links=options.link)
    elif len(runs) == 1:
        page = write_report(runs[0], output=options.output, **given)
    else:
        page = write_comparison(runs, options.output, **given)
    print(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB)")


VERBS = {
    "train": _train,
    "plan": _plan,
    "sweep": _sweep,
    "prepare": _prepare,
    "export": _export,
    "import": _import,
    "evaluate": _evaluate,
    "features": _features,
    "show_views": _show_views,
    "show_reconstructions": _show_reconstructions,
    "show_picture": _show_picture,
    "report": _report,
}


if __name__ == "__main__":
    sys.exit(main())
