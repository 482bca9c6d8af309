"""Runs of several processes on this machine, for tests."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parent
PROGRAM = "import sys; from ssljax.cli import main; sys.exit(main(sys.argv[1:]))"


def start(workdir, *overrides, processes=1, devices=1, config="toy"):
    """Start the processes of a run, each with so many devices; their standard error goes to WORKDIR.PROCESS.log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    started = []
    for process in range(processes):
        arguments = ["train", "--config", config, "--workdir", str(workdir), *overrides]
        if processes > 1:
            arguments += ["--coordinator", address, "--processes", str(processes), "--process", str(process)]
        with open(f"{workdir}.{process}.log", "a") as log:
            command = [sys.executable, "-c", PROGRAM, *arguments]
            started.append(subprocess.Popen(command, env=environment, stderr=log, stdout=log))
    return started


def metrics(workdir):
    """Return the lines of metrics.jsonl by update; one that is being written is left out."""
    path = Path(workdir) / "metrics.jsonl"
    texts = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(text) for text in texts if text.endswith("\n")]
    return {row["step"]: row for row in rows}


def wait_for_update(started, workdir, update, seconds=300):
    """Wait until an update is logged; the processes must go on so long."""
    for _ in range(10 * seconds):
        if max(metrics(workdir), default=0) >= update:
            return
        for process, one in enumerate(started):
            assert one.poll() is None, Path(f"{workdir}.{process}.log").read_text()
        time.sleep(0.1)
    raise AssertionError(f"update {update} was never logged")
