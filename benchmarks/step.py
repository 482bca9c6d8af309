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
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import small
from benchmarks.workers import Worker, WorkerEnded, alternate, started
from ssljax import configuration
from ssljax.errors import InputError
from ssljax.plan import topology as topologies

OURS, GIVEN, PEAKS = "ssljax", "ssljax, views given", ("peak", "peak of PyTorch")
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
GIB = 2**30


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
    except (InputError, WorkerEnded) as error:
        sys.exit(f"benchmarks.step: {error}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
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
        "flops": plan.model_flops,
        "mfu": plan.mfu,
    }
    text = f"{location} on {name}, compiled in {plan.compiled.seconds:.1f} s and not run: "
    text += (
        f"{plan.compiled.memory.total / GIB:.1f} GiB of each device, expected {plan.times.expected:.3f} s an update, "
    )
    return result | {"text": text + f"{plan.samples_per_second:.1f} samples/s, MFU {plan.mfu:.0%}"}


def table(location: str, result: dict[str, Any]) -> str:
    """Return the measured rows as a table, what the MFU is measured with, and the ratios."""
    problem, device = result["problem"], f"{result['devices']} x {result['device']}"
    sample = "samples" if problem["frames"] is None else f"clips of {problem['frames']} frames"
    lines = [
        f"{location}: {problem['batch']} {sample}, {problem['dtype']}, on {device} with {os.cpu_count()} CPU cores"
    ]
    heads = ("s/step", "CPU s", "samples/s", "MFU", "GiB", "compile s", "first step s", "warm", "wait s")
    wide = max(len(row["name"]) for row in result["rows"])
    lines.append(f"{'':>{wide}} " + " ".join(f"{head:>12}" for head in heads))
    for row in result["rows"]:
        mfu, bytes_ = row["mfu"], row["peak_bytes"]
        cells = [f"{row['seconds']:.3f}", f"{row['cpu_seconds']:.2f}", f"{row['samples_per_second']:.2f}"]
        cells += ["" if mfu is None else f"{mfu:.1%}", f"{bytes_ / GIB:.2f}"]
        names = ("compile_seconds", "first_step_seconds", "warm_first_step_seconds")
        cells += ["" if row.get(name) is None else f"{row[name]:.1f}" for name in names]
        cells += [f"{row['input_wait']:.3f}" if "input_wait" in row else ""]
        lines.append(f"{row['name']:>{wide}} " + " ".join(f"{cell:>12}" for cell in cells))
    lines += _told(result)
    for ratio in result["ratios"]:
        words = f"{ratio['cpu_seconds']:.2f} of the CPU time and {ratio['seconds']:.2f} of the time of {ratio['than']}"
        lines.append(f"{ratio['name']}: {words}")
    return "\n".join(lines)


def _told(result: dict[str, Any]) -> list[str]:
    peaks = ", ".join(f"{rate / 1e9:.1f} by {name}" for name, rate in result["peaks"].items())
    peaks = peaks.replace(PEAKS[1], "PyTorch").replace(PEAKS[0], "JAX")
    lines = [f"peak of matrix products in this run, GFLOP/s: {peaks}"]
    counted = f"{result['traced_flops'] / 1e9:.2f} GFLOP an update as traced"
    if result["flops"] is None:
        return [*lines, f"{counted}; no formula is written for it, hence no MFU"]
    ratio = result["traced_flops"] / result["flops"]
    lines.append(f"{result['flops'] / 1e9:.2f} GFLOP an update by hand, {counted} ({ratio:.3f})")
    if result["datasheet_flops"]:
        shares = (f"{row['name']} {row['datasheet_mfu']:.1%}" for row in result["rows"])
        lines.append(f"of the data sheet's {result['datasheet_flops'] / 1e12:.0f} TFLOP/s: {', '.join(shares)}")
    if "input_wait" not in result["rows"][0]:
        lines.append("in memory: no input wait measured")
    return lines


def _row(worker: Worker, said: list[dict[str, Any]]) -> dict[str, Any]:
    medians = {key: statistics.median(each[key] for each in said) for key in said[0] if key != "peak_bytes"}
    row = {"name": worker.name, **medians, "peak_bytes": said[-1]["peak_bytes"], "rounds": said}
    return row | {key: worker.hello.get(key) for key in ("first_step_seconds", "versions")}


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
    args.rounds = args.rounds or (5 if args.config else 3)
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
    args.torch = args.torch or sys.executable
    return args, overrides


if __name__ == "__main__":
    main()
