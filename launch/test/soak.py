"""A run of two processes under random faults, compared with one that had none.

    python launch/test/soak.py --faults 50 --output /tmp/soak    # half an hour on 2 cores; root for full disks

A small DoRA run under launch/local.sh meets, in random order and at random updates: SIGKILL, SIGSTOP and SIGTERM of any
of its processes, a newest checkpoint that is cut short, a full disk, and records of its video with flipped bits (these
from the start). Each time it must go on by itself, within the stated time, from a checkpoint no older than the newest
sound one. In the end every update's loss and every parameter must equal, bit for bit, those of the run without faults,
whose video has the same flipped bits: so no window was skipped, repeated or replaced by another one, in any restart.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import jax
import numpy as np

from data_prep.demo import video_path
from ssljax import build

ROOT = Path(__file__).parents[2]
LIMIT = 180.0  # seconds from a fault to the next update: beyond it the run counts as hung
PROCESSES = 2
APART = 30  # updates between two faults, at least
FAULTS = ("kill", "stop", "terminate", "truncate", "fill")


def main() -> int:
    """Run it; 0 if everything held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=50, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="new folder")
    options = parser.parse_args()
    options.output.mkdir(parents=True)
    soak = Soak(options.output.absolute(), options.faults, random.Random(options.seed))
    try:
        return soak.run()
    finally:
        soak.clean_up()


class Soak:
    """The two runs, and what was done to one of them."""

    def __init__(self, folder: Path, faults: int, choose: random.Random) -> None:
        self.folder, self.choose = folder, choose
        self.flips = max(1, faults // 10)
        self.kinds = [FAULTS[number % len(FAULTS)] for number in range(faults - self.flips)]
        choose.shuffle(self.kinds)
        self.updates = (len(self.kinds) + 2) * 2 * APART
        self.disk = folder / "disk"  # where checkpoints go; small, if this may be mounted
        self.run_folder, self.supervisor = self.disk / "run", None
        self.log = (folder / "supervisor.log").open("a")
        self.times: dict[str, list[float]] = defaultdict(list)

    def run(self) -> int:
        """Prepare, inject the faults, compare; the exit code."""
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(self.disk)]
        self.small = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
        if not self.small:
            print("not root: without full disks")
            self.kinds = ["kill" if kind == "fill" else kind for kind in self.kinds]
        self._prepare()
        whole = self._start(self.folder / "whole")
        if self._wait(whole) != 0:
            print("the run without faults failed")
            return 1
        self.supervisor, began = self._start(self.run_folder), time.monotonic()
        for number, kind in enumerate(self.kinds, 1):
            self._wait_for_update(self._update() + self.choose.randint(APART, 2 * APART))
            print(f"{number + self.flips}/{len(self.kinds) + self.flips} {kind} at update {self._update()}", flush=True)
            self._fault(kind)
        code = self._wait(self.supervisor)
        return self._judge(code, time.monotonic() - began)

    def clean_up(self) -> None:
        """Leave no process and no mount."""
        if self.supervisor is not None and self.supervisor.poll() is None:
            self.supervisor.terminate()  # twice: its processes need not save
            self.supervisor.terminate()
            self.supervisor.wait(LIMIT)
        self.log.close()
        if self.disk.is_mount():
            if self.run_folder.exists():
                shutil.copytree(self.run_folder, self.folder / "run", ignore=shutil.ignore_patterns("filler"))
            subprocess.run(["umount", str(self.disk)], check=True)

    def _prepare(self) -> None:
        """Prepare the video and flip a bit of some of its records, in the first half of its frames."""
        data = self.folder / "data"
        arguments = [str(video_path()), "--output", str(data), "--every", "1", "--short-side", "96"]
        subprocess.run([sys.executable, "-m", "data_prep.video", *arguments], check=True, cwd=ROOT)
        files = sorted(path for path in data.rglob("*.array_record*"))
        for _ in range(self.flips):
            path = self.choose.choice(files)
            place = self.choose.randrange(path.stat().st_size // 8, path.stat().st_size // 2)
            content = bytearray(path.read_bytes())
            content[place] ^= 1 << self.choose.randrange(8)
            path.write_bytes(content)
            print(f"flipped a bit of byte {place} of {path.name}")

    def _start(self, workdir: Path) -> subprocess.Popen:
        overrides = {
            "data.video": self.folder / "data",
            "epochs": self.updates // 2,
            "batch_size": 8,
            "samples_per_epoch": 16,
            "mesh": "fsdp=2",
            "checkpoint.every": 10,
            "checkpoint.keep": 3,
            "data.bad_share": 0.5,
            "loader.timeout": 30,
            "watch.step": 45,
            "watch.other": LIMIT,
        }
        command = [str(ROOT / "launch/local.sh"), str(PROCESSES), "--config", "configs/dora.py:smoke"]
        command += ["--workdir", str(workdir), *(f"--config.{name}={value}" for name, value in overrides.items())]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
            "RESTARTS": "1000",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "cache"),
        }
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=self.log, stderr=self.log)

    def _wait(self, supervisor: subprocess.Popen) -> int:
        return supervisor.wait(600 + self.updates)

    def _update(self) -> int:
        """The newest update that is logged."""
        path = self.run_folder / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return next((json.loads(line)["step"] for line in reversed(lines) if line.endswith(b"\n")), 0)

    def _wait_for_update(self, update: int) -> None:
        began, newest = time.monotonic(), self._update()
        while newest < update:
            time.sleep(0.05)
            now = self._update()
            began, newest = (time.monotonic(), now) if now != newest else (began, newest)
            if self.supervisor.poll() is not None:
                raise SystemExit(f"the run ended by itself with {self.supervisor.poll()}: see {self.log.name}")
            if time.monotonic() - began > LIMIT:
                raise SystemExit(f"hung: no update for {LIMIT:.0f} s after update {newest}")

    def _checkpoints(self) -> list[int]:
        folder = self.run_folder / "checkpoints"
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.exists() else []

    def _starts(self) -> list[int]:
        path = self.run_folder / "starts.jsonl"
        return [json.loads(line)["step"] for line in path.read_text().splitlines()]

    def _fault(self, kind: str) -> None:
        """Do it, wait for the next update, and check where the run went on."""
        starts, kept, process = len(self._starts()), self._checkpoints(), self.choose.randrange(PROCESSES)
        began = time.monotonic()
        if kind == "truncate":
            files = [path for path in (self.run_folder / "checkpoints" / str(kept[-1])).rglob("*") if path.is_file()]
            largest = max(files, key=lambda path: path.stat().st_size)
            os.truncate(largest, largest.stat().st_size // 2)
            kept = kept[:-1]
        if kind == "fill":
            self._fill()
        else:
            number = {"stop": signal.SIGSTOP, "terminate": signal.SIGTERM}.get(kind, signal.SIGKILL)
            os.kill(self._processes()[process], number)
        while len(self._starts()) == starts:
            self._wait_a_little(began)
        while self._update() > self._starts()[-1]:  # lines of updates that are done again are cut first
            self._wait_a_little(began)
        self._wait_for_update(self._starts()[-1] + 1)
        self.times[kind].append(time.monotonic() - began)
        if self._starts()[-1] < kept[-1]:
            raise SystemExit(f"a checkpoint was lost: {kept[-1]} was there, the run went on from {self._starts()[-1]}")

    def _fill(self) -> None:
        """Leave no space until the run has ended for it; then make space and start it again, as a person would."""
        filler, began = self.run_folder / "filler", time.monotonic()
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()
            except OSError:
                pass
        while self.supervisor.poll() is None:
            self._wait_a_little(began)
        if self.supervisor.poll() != 2:
            raise SystemExit(f"a full disk ended the run with {self.supervisor.poll()}, not with 2 and a sentence")
        filler.unlink()
        self.supervisor = self._start(self.run_folder)

    def _wait_a_little(self, began: float) -> None:
        time.sleep(0.05)
        if time.monotonic() - began > LIMIT:
            raise SystemExit(f"hung: not started again {LIMIT:.0f} s after the fault")

    def _processes(self) -> list[int]:
        found = subprocess.run(["pgrep", "-f", f"ssljax train .*{self.run_folder}"], capture_output=True, text=True)
        pids = [int(pid) for pid in found.stdout.split()]
        return [pid for pid in pids if "local.sh" not in Path(f"/proc/{pid}/cmdline").read_text()]

    def _judge(self, code: int, seconds: float) -> int:
        """Compare with the run without faults, and print the figures."""
        whole, run = self.folder / "whole", self.run_folder
        losses = [logged_losses(at) for at in (whole, run)]
        one, other = build.restore(whole).state, build.restore(run).state
        equal = jax.tree.map(lambda a, b: np.array_equal(a, b), one, other)
        lists = [damaged(at) for at in (whole, run)]
        checks = {
            "the run finished": code == 0,
            f"{self.updates} losses are equal, bit for bit": losses[0] == losses[1] and len(losses[0]) == self.updates,
            "all parameters are equal, bit for bit": all(jax.tree.leaves(equal)),
            f"{len(lists[0])} replaced windows are listed alike": lists[0] == lists[1],
        }
        faults = Counter(self.kinds) | Counter(flip=self.flips)
        print(f"\n{sum(faults.values())} faults, {self.updates} updates, {seconds / 60:.0f} minutes")
        for kind, count in sorted(faults.items()):
            took = self.times.get(kind)
            print(
                f"{kind:10} {count:3}  " + (f"mean {np.mean(took):5.1f} s, longest {max(took):5.1f} s" if took else "")
            )
        for check, held in checks.items():
            print(f"{'yes' if held else 'NO ':3} {check}")
        return 0 if all(checks.values()) else 1


def logged_losses(workdir: Path) -> list[float]:
    """Return the losses of all updates."""
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def damaged(workdir: Path) -> list[str]:
    """Return what a run lists of records that it could not read."""
    lines = [line for path in sorted(workdir.glob("damaged*.jsonl")) for line in path.read_text().splitlines()]
    return sorted(lines)


if __name__ == "__main__":
    sys.exit(main())
