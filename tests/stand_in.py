"""A stand-in for `ssljax`, since what launches it needs to know only how it ends and when it gives a sign of life."""

import stat
from pathlib import Path

# What a process does is what its workdir's file plan-START-PROCESS holds; without one it finishes. "serve" goes on
# until SIGTERM, "stuck" and "stopped" give a sign of life that is due in a second, and no other, and "2 0" ends with 2
# once process 0 has given one.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path

arguments = sys.argv[1:]
value = lambda name: arguments[arguments.index(name) + 1]
workdir, process = Path(value("--workdir")), value("--process") if "--process" in arguments else "0"
with (workdir / f"started-{process}").open("a") as file:
    file.write(" ".join([str(os.getpid()), os.environ.get("CUDA_VISIBLE_DEVICES", "-"), *arguments]) + "\\n")
log = workdir / "logs" / f"process-{process}.log"
start = log.read_text().count("== start") if log.exists() else 1
plan = workdir / f"plan-{start}-{process}"
action = plan.read_text() if plan.exists() else "0"
beat = workdir / "heartbeats" / process

def alive(seconds):
    beat.parent.mkdir(exist_ok=True)
    temporary = beat.with_suffix(".tmp")
    temporary.write_text("update 3")
    os.utime(temporary, (time.time(), time.time() + seconds))
    temporary.replace(beat)

print("doing", action, flush=True)
if action == "serve":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    alive(60)
    time.sleep(60)
if action in ("stuck", "stopped"):
    alive(1)
    if action == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)
if action == "killed":
    alive(60)
    os.kill(os.getpid(), signal.SIGKILL)
code, *others = action.split()
while not all((beat.parent / other).exists() for other in others):
    time.sleep(0.02)
alive(60)
sys.exit(int(code))
"""


def executable(path: Path, text: str) -> Path:
    """Write a program."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path
