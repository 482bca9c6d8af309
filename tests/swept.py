"""A sweep's folder as `ssljax sweep` leaves it, without a training."""

import json

from ssljax import configuration

BASE = configuration.plain(configuration.smoke(configuration.load("configs/simclr.py").unlock()).lock())


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_sweep_folder(folder, variants, *, metrics=("knn_20",), varies="", differs=None, seeds=(0, 1, 2), **more):
    """Write a sweep: `variants` has values of the first metric by seed, None for a run that was never started."""
    runs = []
    for variant, values in variants.items():
        own = (differs or {}).get(variant, {})
        for seed, value in zip(seeds, values, strict=False):
            name = f"{variant.replace('/', '_')}/seed-{seed}"
            runs.append(dict(variant=variant, seed=seed, folder=name, differs=own, config="configs/simclr.py:smoke"))
            if value is not None:
                write_run(folder / name, {metrics[0]: value}, own, seed)
    record = dict(file="configs/ablations/objects.py", budget="laptop", command="ssljax sweep objects --workdir s")
    record |= dict(metrics=list(metrics), varies=varies, reference=next(iter(variants)), runs=runs)
    write_json(folder / "sweep.json", record | more)
    return folder


def write_run(place, results, differs=None, seed=0, *, random=0.2, updates=2):
    """Write a finished run."""
    config = json.loads(json.dumps(BASE)) | {"seed": seed}
    for key, value in (differs or {}).items():
        there = config
        *parts, last = key.split(".")
        for part in parts:
            there = there.setdefault(part, {})
        there[last] = value
    write_json(place / "config.json", config)
    lines = [{"step": s, "loss": 3.0 / s + seed / 10, "samples_per_second": 9.0} for s in range(1, updates + 1)]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    encoders = {"trained": results, "random initialisation": dict.fromkeys(results, random + seed / 100)}
    encoders |= {"pixels": dict.fromkeys(results, 0.25)}
    record = {"protocol": "knn", "step": updates, "arguments": {"train": "a"}, "data": {}, "results": encoders}
    write_json(place / "evaluate" / "knn.json", record)
    write_json(place / "finished.json", {"updates": updates, "seconds": 61.0, "ended": 1.0})
    start = {"step": 0, "devices": 1, "kind": "cpu", "commit": "c0ffee", "dirty": None, "command": ["ssljax", "train"]}
    (place / "starts.jsonl").write_text(json.dumps(start) + "\n")
