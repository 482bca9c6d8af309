"""Jobs on Slurm: what submitit hands to sbatch, and a queue that is a stand-in; launch/test/slurm.sh has a real one."""

import json
import os
import sys
import time
from pathlib import Path

import pytest
from stand_in import executable
from sweep import launching

from ssljax.errors import InputError
from ssljax.sweep.executors import Refused, Slurm
from ssljax.sweep.progress import Progress

TESTS = Path(__file__).parents[1]
SBATCH = """#!/bin/bash
number=$(($(ls "$QUEUE" | wc -l) + 7))
cp "${@: -1}" "$QUEUE/$number.sh"
SLURM_JOB_ID=$number setsid bash "${@: -1}" >/dev/null 2>&1 &
echo $! >"$QUEUE/$number.pid"
mv "$QUEUE/$number.pid" "$QUEUE/$number"
echo "Submitted batch job $number"
"""
SRUN = '#!/bin/bash\nwhile [[ $1 != *python* ]]; do shift; done\nexec "$@"\n'
SQUEUE = """#!/bin/bash
for file in "$QUEUE"/*; do
    [[ $file == *.sh ]] || ! kill -0 "$(cat "$file")" 2>/dev/null || basename "$file"
done
"""
SCONTROL = """#!/bin/bash
[[ $1 == requeue ]] || exec echo "JobId=7 JobState=RUNNING"
touch "$QUEUE.requeued"
kill -KILL $PPID
"""
SCANCEL = '#!/bin/bash\n[[ $* == *PENDING* ]] || kill -TERM "$(ps -o pid= --ppid "$(cat "$QUEUE/${@: -1}")")"\n'


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Stand-ins of Slurm's programs; jobs run at once, and a requeue only ends them."""
    for name, text in dict(sbatch=SBATCH, srun=SRUN, squeue=SQUEUE, scontrol=SCONTROL, scancel=SCANCEL).items():
        executable(tmp_path / "bin" / name, text)
    (tmp_path / "queue").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("QUEUE", str(tmp_path / "queue"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
    monkeypatch.setattr(Slurm, "pause", 0.2)
    monkeypatch.setattr("ssljax.sweep.launch.LOST", 0.5)
    return tmp_path / "queue"


GIVEN = [
    "time=1-00:00:00",
    "partition=long",
    "gpus-per-node=1",
    "--mem=16GB",
    "reservation=paper",
    "setup=module load x",
]


def test_sbatch_gets_what_was_said_and_jobs_are_waited_for(queue, tmp_path):
    modes = {"a/seed-0": "good", "b/seed-0": "bad"}
    folder = tmp_path / "all"
    states, ended = launching.launch(folder, modes, (), Slurm(folder / ".jobs", GIVEN))
    assert ended and states == {"a/seed-0": "finished", "b/seed-0": "failed"}
    script = (queue / "7.sh").read_text()
    told = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert {"time=1-00:00:00", "partition=long", "gpus-per-node=1", "mem=16GB", "reservation=paper"} <= told
    assert {"requeue", "open-mode=append", "signal=USR2@300", "job-name=ssljax"} <= told
    assert "\nmodule load x\n" in script and sys.executable in script
    assert json.loads((folder / "a/seed-0/job.json").read_text()) == {"slurm": "7"}
    assert len(launching.starts(folder / "a/seed-0")) == 1


def test_a_preempted_job_saves_and_queues_itself_again(queue, tmp_path):
    folder = tmp_path / "all"
    executor = Slurm(folder / ".jobs", GIVEN)
    launcher = launching.launcher(folder, {"a/seed-0": "long"}, (), executor)
    launcher._start(Progress(folder, {}))
    deadline = time.monotonic() + 60
    while not launching.starts(folder / "a/seed-0") and time.monotonic() < deadline:
        time.sleep(0.1)
    assert executor.known(folder / "a/seed-0") == "7"
    again = launching.launcher(folder, {"a/seed-0": "long"}, (), executor)  # as after a SIGKILL of the sweep
    again._look(False, Progress(folder, {}))
    assert not again._waiting
    os.system(f"{tmp_path}/bin/scancel 7")
    while not (tmp_path / "queue.requeued").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (tmp_path / "queue.requeued").exists()
    assert (folder / "a/seed-0/told").read_text() == "SIGTERM "
    assert not (folder / "a/seed-0/failed.json").exists()


def test_what_slurm_says_is_quoted(queue, tmp_path, capfd):
    executor = Slurm(tmp_path / ".jobs", GIVEN)
    executable(tmp_path / "bin/sbatch", "#!/bin/bash\necho 'sbatch: error: Job violates QOS policy' >&2\nexit 1\n")
    executable(tmp_path / "bin/squeue", "#!/bin/bash\necho 'squeue: error: no controller' >&2\nexit 1\n")
    with pytest.raises(Refused, match=r"refuses the job of .*/run \(Job violates QOS policy\)$"):
        executor.submit(launching.job(tmp_path / "run", "good", (), 0))
    with pytest.raises(Refused, match=r"in its queue \(no controller\)$"):
        executor.alive(["7"])
    assert capfd.readouterr() == ("", "")
    with pytest.raises(InputError, match=r"Job violates QOS policy\); mend --slurm\.$"):
        launching.launch(tmp_path / "all", {"a/seed-0": "good"}, (), executor)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["partition=x"], "how long a job may take"),
        (["time"], "--slurm time: give KEY=VALUE"),
        (["time=5", "nodes=2"], "nodes=2: a run of a sweep is one process"),
    ],
)
def test_what_slurm_is_not_told(queue, tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        Slurm(tmp_path, given)


def test_without_slurm_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="sbatch is not found"):
        Slurm(tmp_path, ["time=5"])
