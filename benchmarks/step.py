"""Time, memory and arithmetic of a train step, against plain PyTorch versions of the same objective in the same run.

    python -m benchmarks.step [--config configs/dora.py] [--config.KEY=VALUE ...] [--variants "KEY=VALUE ..." ...]
        [--baselines NAME ...] [--torch PYTHON] [--rounds 5] [--topology v5e:4x4] [--json FILE]

Ours is the very step of `ssljax train`, its last layer not frozen. Its batches are noise in memory, or what the
config's data gives (`--config.data.video=...`), which it may then have to wait for. Baselines, with the interpreter
that --torch names: `eager` and `compiled`, batched as well as the shapes allow (`autotuned`: compiled with
"max-autotune-no-cudagraphs"), and for DoRA `released`, in the order of the released algorithm; `all`, and `uncompiled`.
They are set beside "ssljax, views given": all of these get views that cost next to nothing. The baselines compute all
rows of the last block, as is usual; ours, of which a loss asks for CLS alone, no others.

Variants are our own step with other values, as in `--variants "objective.mask_mode=drop objective.kept_share=0.4"`, set
beside ours; baselines are of the config without them.

Each is a process of its own, and they take turns, round by round; so do the matrix products whose best rate is the
peak that the MFU is measured with. Medians are printed, and of ratios the median over the rounds. With --topology
nothing runs: the step is compiled ahead for devices that need not be there. Without arguments small models of four
objectives are timed; the DoRA step of ViT-S/16 is

    python -m benchmarks.step --config configs/dora.py --config.batch_size=2 --config.models.encoder.dtype=float32
        --config.models.head.dtype=float32 --config.models.encoder.remat=none --config.objective.chunks=8
        --baselines eager compiled --torch PYTHON

and takes 17 GiB of memory, PyTorch's processes included; with `released` among the baselines 9 more.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import small
from benchmarks.step_table import GIB, PEAKS, table
from benchmarks.workers import Worker, WorkerEnded, alternate, started
from ssljax import configuration
from ssljax.errors import InputError
from ssljax.plan import topology as topologies

OURS, GIVEN = "ssljax", "ssljax, views given"
BASELINES = {"dora": ("released", "eager", "compiled")} | dict.fromkeys(
    ("dino", "mae", "simclr"), ("eager", "compiled")
)
ASSUMED = {
    "": {"accumulate": 1},
    "encoder": {"name": "vit", "registers": 0, "layer_scale": None, "mlp": "gelu"},
    "optimizer": {"name": "adamw", "clip_by": "parameter"},
    "objective": {"masks": "tracked", "sinkhorn": True, "threshold": "frame", "tracker_layer": -1, "mask_mode": "zero"},
}
"""What the baselines take for granted, by section, where a config says it."""


def main() -> None:
    args, overrides = _arguments()
    results, load = [], os.getloadavg()[0]
    if load > 0.25 * (os.cpu_count() or 1):
        print(f"a load of {load:.1f}: believe no times, PyTorch's least, whose threads wait for each other\n")
    try:
        for location in [args.config] if args.config else [f"benchmarks/small.py:{name}" for name in small.NAMES]:
            if args.topology:
                result = compiled_ahead(location, overrides, args.topology)
            else:
                result = measure(location, overrides, args.variants, args.baselines, args.torch, args.rounds)
            print(result.pop("text"), end="\n\n", flush=True)
            results.append({"config": location, "overrides": overrides, "load_before": load} | result)
            if args.json:
                args.json.write_text(json.dumps(results, indent=2) + "\n")
    except (InputError, WorkerEnded) as error:
        sys.exit(f"benchmarks.step: {error}")
    if args.json:
        print(f"wrote {args.json}")


def measure(
    location: str, overrides: list[str], variants: list[str], names: list[str], torch: str, rounds: int
) -> dict[str, Any]:
    """Return what was measured of a config, its variants and baselines, with a table of it as `text`.

    Raises:
        InputError: The config cannot be used, or a baseline is not written for it.
        WorkerEnded: One of the processes failed.
    """
    names = _baselines(configuration.load(location, overrides), names)
    configs = {OURS: overrides} | {
        name: [*overrides, *(f"--config.{value}" for value in name.split())] for name in variants
    }
    for each in configs.values():
        configuration.load(location, each)  # an unknown key is refused here, and not by a worker
    with tempfile.TemporaryDirectory() as cache, started() as workers:
        cold = _start_ours(workers, location, configs, cache, views=bool(names))
        hello = workers[0].hello
        if hello["platform"] not in ("cpu", "gpu"):
            names = []  # the baselines know CUDA and CPUs
        problem, device = json.dumps(hello["problem"]), "cuda" if hello["platform"] == "gpu" else "cpu"
        for name, kind in [*((name, name) for name in names), *([(PEAKS[1], "peak")] if names else [])]:
            workers.append(Worker(name, [torch, "-m", "benchmarks.step_torch", kind, problem, device]))
        said = alternate(workers, rounds)
        rows = [_row(worker, said[worker.name]) for worker in workers if worker.name not in PEAKS]
    first = {"compile_seconds": cold["compile_seconds"], "warm_first_step_seconds": rows[0]["first_step_seconds"]}
    first |= {"first_step_seconds": cold["first_step_seconds"]}
    rows[0] |= first | {"peak_bytes": max(cold["peak_bytes"], rows[0]["peak_bytes"])}
    peaks = {name: max(each["flops_per_second"] for each in said[name]) for name in PEAKS if name in said}
    own = {worker.name: worker.hello for worker in workers if "flops" in worker.hello}
    for row in rows:
        _add_rates(row, own.get(row["name"], hello), max(peaks.values()))
    ratios = [_ratio(said, GIVEN, name) for name in names] + [_ratio(said, name, OURS) for name in variants]
    told = ("problem", "platform", "device", "devices", "flops", "traced_flops", "datasheet_flops")
    result = {"rows": rows, "peaks": peaks, "ratios": ratios} | {key: hello[key] for key in told}
    return result | {"text": table(location, result)}


def _start_ours(
    workers: list[Worker], location: str, configs: dict[str, list[str]], cache: str, *, views: bool
) -> dict[str, Any]:
    """Start our workers: each config's, the peak's and, if asked for, the one that is given its views.

    Returns:
        What an earlier worker of the first config said, before anything was in the compilation cache.
    """
    environment = {"JAX_COMPILATION_CACHE_DIR": cache, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

    def start(name: str, kind: str) -> Worker:
        values = json.dumps(configs.get(name, configs[OURS]))
        command = [sys.executable, "-m", "benchmarks.step_ssljax", kind, location, values]
        workers.append(Worker(name, command, environment))
        return workers[-1]

    start(OURS, "step").stop()
    cold = workers.pop()
    for name in configs:
        start(name, "step")
    start(PEAKS[0], "peak")
    if views:
        start(GIVEN, "views")
    return cold.hello


def compiled_ahead(location: str, overrides: list[str], name: str) -> dict[str, Any]:
    """Return what the step needs on devices that need not be there, with lines about it as `text`.

    Raises:
        InputError: Config or topology cannot be used, or the step does not fit.
    """
    topologies.prepare(name)
    from ssljax.plan.estimate import make_plan

    plan = make_plan(location, configuration.load(location, overrides), topologies.topology(name))
    result = {
        "topology": name,
        "compile_seconds": plan.compiled.seconds,
        "bytes_per_device": plan.compiled.memory.total,
        "expected_seconds": plan.times.expected,
        "samples_per_second": plan.samples_per_second,
        "traced_flops": plan.model_flops,
        "mfu": plan.mfu,
    }
    text = f"{location} on {name}, compiled in {plan.compiled.seconds:.1f} s and not run: "
    text += f"{plan.compiled.memory.total / GIB:.2f} GiB of each device; by a roofline an update takes at least "
    text += (
        f"{plan.times.expected:.3f} s, which is {plan.samples_per_second:.1f} samples/s and an MFU of {plan.mfu:.0%} "
    )
    return result | {"text": text + "of the data sheet's peak (see `ssljax plan`; a CPU's is a placeholder)"}


def _row(worker: Worker, said: list[dict[str, Any]]) -> dict[str, Any]:
    medians = {key: statistics.median(each[key] for each in said) for key in said[0] if key != "peak_bytes"}
    row = {"name": worker.name, **medians, "peak_bytes": said[-1]["peak_bytes"], "rounds": said}
    keys = ("first_step_seconds", "versions", "flops", "traced_flops")
    return row | {key: worker.hello[key] for key in keys if key in worker.hello}


def _add_rates(row: dict[str, Any], hello: dict[str, Any], peak: float) -> None:
    """Add samples a second, and the shares of the measured peak and of the data sheet's."""
    row["samples_per_second"] = hello["problem"]["batch"] / row["seconds"]
    for name, rate in (("mfu", peak), ("datasheet_mfu", hello["datasheet_flops"])):
        known = hello["flops"] is not None and rate
        row[name] = hello["flops"] / (row["seconds"] * rate * hello["devices"]) if known else None


def _ratio(said: dict[str, list[dict[str, Any]]], name: str, than: str) -> dict[str, Any]:
    """Return what one worker takes over what another takes, the median over the rounds."""

    def median(key: str) -> float:
        return statistics.median(a[key] / b[key] for a, b in zip(said[name], said[than], strict=True))

    return {"name": name, "than": than} | {key: median(key) for key in ("seconds", "cpu_seconds")}


def _baselines(config: Any, names: list[str]) -> list[str]:
    """Return the names of the baselines, `all` and `uncompiled` spelt out.

    Raises:
        InputError: One is not written for the config.
    """
    clips_of_mae = config.objective.name == "mae" and config.objective.frames is not None
    known = () if clips_of_mae else BASELINES.get(config.objective.name, ())
    if names and not known:
        raise InputError(f"--baselines are written for {', '.join(BASELINES)}, of MAE for images; leave them out.")
    plain = config.copy_and_resolve_references().to_dict()
    sections = {"": plain, "encoder": plain["models"]["encoder"]} | plain
    for section, expected in ASSUMED.items() if names else ():
        for key, value in expected.items():
            if sections[section].get(key, value) != value:
                raise InputError(f"--baselines take {section} {key}={value!r} for granted; leave them out.")
    if names in (["all"], ["uncompiled"]):
        return [name for name in known if names == ["all"] or name != "compiled"]
    for name in names:
        if name not in (*known, "autotuned"):
            some = ", ".join((*known, "autotuned"))
            raise InputError(f"--baselines names {name!r}; give some of {some}, or all, or uncompiled.")
    return names


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="a recipe, as for `ssljax train`; default: small ones of four objectives")
    parser.add_argument("--rounds", type=int, help="default: 5, of the small ones 3")
    parser.add_argument("--variants", nargs="+", default=[], metavar="'KEY=VALUE ...'", help="ours otherwise")
    parser.add_argument("--baselines", nargs="+", metavar="NAME", help="default: none, of the small ones `uncompiled`")
    parser.add_argument("--torch", metavar="PYTHON", help="an interpreter with PyTorch; default: this one")
    parser.add_argument("--topology", help="compile for these devices, as `ssljax plan` does, and run nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all numbers")
    args, overrides = parser.parse_known_args()
    if any(not override.startswith("--config.") for override in overrides):
        parser.error(f"not understood: {' '.join(overrides)}")
    args.rounds = (5 if args.config else 3) if args.rounds is None else args.rounds
    if args.rounds < 1:
        parser.error(f"--rounds is {args.rounds}: give at least 1")
    if args.json and not args.json.parent.is_dir():
        parser.error(f"--json {args.json}: there is no folder {args.json.parent}; make it")
    if args.baselines is None:
        args.baselines = [] if args.config or args.topology else ["uncompiled"]  # compiling four would take minutes
    if args.variants and not args.config:
        parser.error("--variants are of one config: name it with --config")
    if args.topology and (args.variants or args.baselines):
        parser.error("--topology runs nothing: leave out --variants and --baselines")
    names = [*args.variants, *args.baselines]
    if len(set(names)) < len(names):
        parser.error("--variants or --baselines names one twice")
    for value in " ".join(args.variants).split():
        if "=" not in value:
            parser.error(f"--variants has {value!r}: give KEY=VALUE")
    if args.baselines and not args.torch and importlib.util.find_spec("torch") is None:
        print("baselines are left out: this interpreter has no PyTorch; name one that has with --torch\n")
        args.baselines = []
    if args.baselines and args.torch and not _has_torch(args.torch):
        parser.error(f"--torch {args.torch} is no interpreter with PyTorch: name one that has it")
    args.torch = args.torch or sys.executable
    return args, overrides


def _has_torch(interpreter: str) -> bool:
    try:
        return subprocess.run([interpreter, "-c", "import torch"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    main()
