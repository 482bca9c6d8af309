"""Jobs of a sweep whose commands are stand-ins that take no time, for the tests: `launching.py FOLDER NAME=MODE`."""

import functools
import json
import os
import sys
from pathlib import Path

from ssljax.sweep.executors import Local, Slot
from ssljax.sweep.job import Job
from ssljax.sweep.launch import Launcher
from ssljax.sweep.progress import Progress

PROGRAM = """
import json, os, pathlib, signal, sys, time
folder, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
def told(number, frame):
    with open(folder / "told", "a") as file:
        file.write("SIGTERM ")
    sys.exit(75)
signal.signal(signal.SIGTERM, told)
with open(folder / "starts.jsonl", "a") as file:
    file.write(json.dumps([os.getpid(), sorted(os.sched_getaffinity(0)), os.environ.get("GIVEN")]) + "\\n")
if mode == "bad":
    print("so far so good\\rssljax: the data are bad", file=sys.stderr)
    sys.exit(2)
if mode == "with its job":
    os.kill(os.getppid(), signal.SIGKILL)
if mode in ("killed", "with its job"):
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 2, "loss": 1.0}) + "\\n")
    print("29%|##9       | 2/3 [00:01<00:01]", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGKILL)
while mode == "long" and not (folder.parent.parent / "go").exists():
    time.sleep(0.05)
(folder / "checkpoints" / "3").mkdir(parents=True)
"""
JUDGE = """
import json, pathlib, sys
((name, arguments),) = json.loads(sys.argv[2]).items()
path = pathlib.Path(sys.argv[1]) / "evaluate" / f"{name}.json"
path.parent.mkdir()
path.write_text(json.dumps({"arguments": arguments, "step": 3, "results": {}}))
"""


ONE = (Slot((), {}),)


def job(folder, mode, slots, slot):
    python = (sys.executable, "-c")
    return Job(
        folder=folder,
        directory=folder.parent,
        train=(*python, PROGRAM, str(folder), mode),
        evaluate=(*python, JUDGE, str(folder)),
        protocols={"p": {"size": (1, 2)}},
        updates=3,
        slot=slot,
        cores=slots[slot].cores if slots else (),
        environment={"GIVEN": f"slot {slot}", "UNKNOWN": None},
    )


def launcher(folder, modes, slots=ONE, executor=None):
    """Return what launches runs of these modes, by name; those that are finished are left out, as the command does."""
    finished = [name for name in modes if (folder / name / "finished.json").exists()]
    jobs = {
        name: functools.partial(job, folder / name, mode, slots) for name, mode in modes.items() if name not in finished
    }
    return Launcher(folder, finished, jobs, executor or Local(folder / ".jobs", slots))


def launch(folder, modes, slots=ONE, executor=None):
    """Launch them to their ends; return how they stand and whether nobody asked to stop."""
    found = launcher(folder, modes, slots, executor)
    with Progress(folder, dict.fromkeys(modes, 3)) as progress:
        ended = found.run(progress)
    return found.states, ended


def starts(folder):
    path = folder / "starts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    modes = dict(argument.split("=") for argument in sys.argv[2:])
    states, ended = launch(Path(sys.argv[1]), modes, [Slot((), {})] * 2)
    sys.exit(0 if ended else os.EX_TEMPFAIL)
