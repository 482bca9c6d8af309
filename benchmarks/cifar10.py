"""k-NN and linear accuracy on CIFAR-10 of every image objective after the same minutes, as a Markdown table.

    python -m data_prep.images cifar10 --output cifar10/
    python -m benchmarks.cifar10 --data cifar10/ --output runs/cifar10 [--minutes 4 | --updates 300]

Trains the `cifar10` variant of each config with each seed, one after the other, and sets it beside the same encoder at
random initialisation and bare pixels: mean and standard deviation over seeds, of k-NN with 20 neighbours and of DINO's
linear probe, for 30 epochs on features that are computed once. How many updates fit into the minutes is measured once
for each config. What is done is kept: the same command goes on where it was stopped. Without --data there is nothing to
do.
"""

import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path

from ml_collections import ConfigDict

from ssljax import build, configuration
from ssljax.evaluations import evaluate
from ssljax.train import train

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = [path.stem for path in sorted(CONFIGS.glob("*.py")) if "cifar10" in path.read_text()]
ENCODERS = ("pixels", "random initialisation", "trained")
PROTOCOLS: dict[str, tuple[str, dict]] = {  # the metric shown, and arguments
    "knn": ("knn_20", {}),
    "linear": ("linear", {"augment": False, "epochs": 30}),
}
PILOT = 20  # updates, of which the second half is timed


def config_of(name: str, data: Path, updates: int, seed: int) -> ConfigDict:
    config = configuration.load(str(CONFIGS / f"{name}.py:cifar10"), [f"--config.data.data={data / 'train'}"])
    config.seed = seed
    # Warm-ups keep their share of the run: an epoch is as many samples as make the run as long as asked for.
    config.samples_per_epoch = round(updates * config.batch_size / config.epochs)
    return config


def updates_in(minutes: float, name: str, data: Path, folder: Path) -> int:
    """How many updates of a config take so long, measured once and then remembered."""
    path = folder / "pilot.json"
    if not path.is_file():
        config = config_of(name, data, PILOT, seed=0)
        config.log.update(every=PILOT // 2, tensorboard=False)
        train(config, folder / "pilot")
        last = json.loads((folder / "pilot" / "metrics.jsonl").read_text().splitlines()[-1])
        shutil.rmtree(folder / "pilot")
        path.write_text(json.dumps({"updates_per_minute": 60 * last["samples_per_second"] / config.batch_size}))
    return max(PILOT, round(minutes * json.loads(path.read_text())["updates_per_minute"]))


def result(name: str, data: Path, folder: Path, updates: int, seed: int) -> dict[str, dict[str, float]]:
    """Train and evaluate, or read what was found before: metrics of each encoder, in per cent."""
    workdir = folder / f"{updates}-{seed}"
    if not any((workdir / "evaluate" / f"{protocol}.json").is_file() for protocol in PROTOCOLS):
        config = config_of(name, data, updates, seed)
        state = train(config, workdir)
        if int(state.step) < build.total_steps(config):
            sys.exit("stopped; the same command goes on")
    found: dict[str, dict[str, float]] = {encoder: {} for encoder in ENCODERS}
    for protocol, (metric, arguments) in PROTOCOLS.items():
        path = workdir / "evaluate" / f"{protocol}.json"
        if not path.is_file():
            sets = {"train": str(data / "train"), "test": str(data / "test"), "size": None}
            evaluate(protocol, sets | arguments, workdir=workdir, baselines=True)
        for encoder, metrics in json.loads(path.read_text())["results"].items():
            found[encoder][metric] = 100 * metrics[metric]
    return found


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="made by `python -m data_prep.images cifar10`")
    parser.add_argument("--output", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--configs", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=4.0, help="of training for each run (default: 4)")
    parser.add_argument("--updates", type=int, help="for each run, instead of minutes")
    args = parser.parse_args()
    if args.data is None:
        print("left out: name CIFAR-10 with --data (python -m data_prep.images cifar10 makes it)")
        return
    columns = [f"{metric}, {encoder}" for metric, _ in PROTOCOLS.values() for encoder in ENCODERS]
    print(f"| CIFAR-10, % | updates | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}")
    for name in args.configs:
        folder = args.output / name
        folder.mkdir(parents=True, exist_ok=True)
        updates = args.updates or updates_in(args.minutes, name, args.data, folder)
        results = [result(name, args.data, folder, updates, seed) for seed in args.seeds]
        cells = [
            spread([found[encoder][metric] for found in results])
            for metric, _ in PROTOCOLS.values()
            for encoder in ENCODERS
        ]
        print(f"| {name} | {updates} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
