"""The train steps of large runs, compiled for the machines they are for: they fit, and no layout explodes.

A layout that the partitioner got wrong costs up to twenty times the memory of temporaries, so these are bounded.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GIB = 2**30
RUNS = {
    "v5e:16x16": (["--config.mesh=fsdp=16", "--config.batch_size=2048"], "libtpu", 2.5),
    "v5p:4x4x16": (
        ["--config.models.encoder.size=l", "--config.mesh=fsdp=16", "--config.batch_size=1024"],
        "libtpu",
        5.0,
    ),
    "h100:1x8x8": (
        ["--config.models.encoder.size=l", "--config.mesh=fsdp=8", "--config.batch_size=512"],
        "jax_cuda12_plugin",
        8.0,
    ),
}
"""By topology: what is given besides configs/dora.py, the compiler, and the GiB that temporaries may take."""


def plan(topology, *options):
    command = [
        sys.executable,
        "-m",
        "ssljax.cli",
        "plan",
        "--config",
        "configs/dora.py",
        "--topology",
        topology,
        *options,
    ]
    # The cache holds programs of devices that are there.
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "0"}
    return subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, env=environment, check=False
    )


def need(package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (the extra `plan` brings it)")


@pytest.mark.long
@pytest.mark.parametrize("topology", RUNS)
def test_large_runs_fit(topology, tmp_path):
    options, package, bound = RUNS[topology]
    need(package)
    done = plan(topology, *options, "--json", str(tmp_path / "plan.json"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert max(len(line) for line in done.stdout.splitlines()[:-1]) <= 100
    values = json.loads((tmp_path / "plan.json").read_text())
    memory = values["memory"]
    print(json.dumps({key: values[key] for key in ("compile_seconds", "memory", "times", "mfu_bound")}, indent=2))
    assert memory["temporaries"] < bound * GIB
    assert memory["total"] < 0.5 * values["chip"]["memory"]
    kinds = {each["kind"] for each in values["collectives"]}
    assert "all-gather" in kinds and kinds & {"all-reduce", "reduce-scatter"}
    large = [
        each
        for each in values["collectives"]
        if each["kind"] in ("all-reduce", "reduce-scatter") and each["bytes"] > 2**20 and "bf16" in each["dtype"]
    ]
    assert large == []  # gradients are summed in float32
    assert 0.1 < values["mfu_bound"] < 1
    assert 0.3 < values["scaling_efficiency"]["1"] == 1 and values["scaling_efficiency"][str(values["devices"])] > 0.3


@pytest.mark.long
def test_the_kernel_of_tpus_needs_less_memory(tmp_path):
    """Of 197 and 37 tokens, three heads of 64 channels."""
    need("libtpu")
    small = ["data.size=128", "views.global_size=112", "views.local_size=48", "batch_size=16"]
    small += [f"models.encoder.{each}" for each in ("image_size=112", "width=192", "heads=3", "dtype=bfloat16")]
    options = ["--config", "configs/dora.py:smoke", *(f"--config.{each}" for each in small)]
    temporaries = {}
    for name in ("xla", "pallas"):
        path = tmp_path / f"{name}.json"
        choice = f"--config.models.encoder.attention={name}"
        done = plan("v5e:2x2", *options, choice, "--json", str(path))
        assert done.returncode == 0, done.stderr[-2000:]
        temporaries[name] = json.loads(path.read_text())["memory"]["temporaries"]
    print(temporaries)
    assert temporaries["pallas"] < 0.9 * temporaries["xla"]


@pytest.mark.long
def test_too_large_for_a_tpu_is_said():
    need("libtpu")
    done = plan("v5e:2x2", "--config.models.encoder.remat=none", "--config.batch_size=128")
    assert done.returncode == 2
    (sentence,) = re.findall(r"^ssljax: (.*)$", done.stderr, re.MULTILINE)
    assert re.match(r"Out of memory on v5e:2x2: an update needs [\d.]+ GiB of each device's 15\.[\d]+; ", sentence)
