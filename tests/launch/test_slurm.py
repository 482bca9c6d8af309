"""The scripts for Slurm: what they decide, and launch/test/slurm.sh, which submits them to a real one on this host."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in import executable

LAUNCH = Path(__file__).parents[2] / "launch"
PATH = f"{os.environ['PATH']}:/usr/sbin"
MISSING = [name for name in ("slurmctld", "slurmd", "munged") if shutil.which(name, path=PATH) is None]


@pytest.fixture
def slurm(tmp_path):
    """Stand-ins of Slurm: a step that says $SAID and ends with $CODE, a job in $STATE that a requeue ends."""
    executable(tmp_path / "srun", '#!/bin/sh\necho "$@" >"${0%srun}step"\necho "$SAID" >&2\nexit "$CODE"\n')
    text = '#!/bin/sh\n[ "$1" = requeue ] || exec echo "JobId=7 JobState=$STATE Reason=x"\n'
    executable(tmp_path / "scontrol", text + 'touch "${0%scontrol}requeued"\nkill -KILL "$PPID"\n')
    own = {"PATH": f"{tmp_path}:{PATH}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "here", "STATE": "RUNNING"}
    own |= {"SAID": "", "TMPDIR": str(tmp_path)}

    def run(script, *arguments, **variables):
        command = ["bash", LAUNCH / script, *arguments]
        told = subprocess.run(command, env=os.environ | own | variables, capture_output=True, text=True, check=False)
        step = (tmp_path / "step").read_text().strip() if (tmp_path / "step").exists() else ""
        return told.returncode, (tmp_path / "requeued").exists(), step

    return run


@pytest.mark.parametrize("code", [1, 75, 134, 137, 143])
def test_a_job_that_died_or_saved_is_queued_again(slurm, code):
    variables = dict(CODE=str(code), RESTARTS="3", SLURM_RESTART_COUNT="2")
    _, again, step = slurm("slurm.sbatch", "--config", "a b", **variables)
    assert again
    assert step == "--kill-on-bad-exit=1 --export=ALL ssljax train --distributed --config a b"


@pytest.mark.parametrize(
    ("code", "variables"),
    [
        (0, {}),
        (2, {}),
        (137, dict(RESTARTS="3", SLURM_RESTART_COUNT="3")),
        (75, dict(STATE="COMPLETING")),
        (137, dict(STATE="CANCELLED")),
        (75, dict(STATE="TIMEOUT")),
    ],
)
def test_a_job_that_is_over_is_not(slurm, code, variables):
    assert slurm("slurm.sbatch", **variables, CODE=str(code))[:2] == (code, False)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("srun: error: node7: task 1: Exited with exit code 2", (2, False)),
        ("50 %\\rsrun: error: node7: tasks 3-5: Exited with exit code 2", (2, False)),
        ("srun: error: node7: task 1: Exited with exit code 22", (-9, True)),
    ],
)
def test_a_task_that_refuses_ends_the_job_although_the_others_are_killed(tmp_path, slurm, said, expected):
    assert slurm("slurm.sbatch", CODE="143", SAID=said)[:2] == expected
    assert not list(tmp_path.glob("tmp.*"))


def test_steps_have_the_jobs_processors(slurm):
    assert "--cpus-per-task=4 ssljax" in slurm("slurm.sbatch", CODE="0", SLURM_CPUS_PER_TASK="4")[2]


def test_each_task_of_an_array_prepares_its_part(slurm):
    array = dict(SLURM_ARRAY_TASK_MIN="1", SLURM_ARRAY_TASK_ID="3", SLURM_ARRAY_TASK_COUNT="8", SLURM_CPUS_PER_TASK="4")
    given = ["video", "a.mp4", "--output", "there"]
    code, _, step = slurm("slurm_prepare.sbatch", *given, CODE="0", **array)
    assert code == 0
    assert step == f"--ntasks=1 --cpus-per-task=4 ssljax prepare {' '.join(given)} --shard 3/8 --threads 4"
    assert slurm("slurm_prepare.sbatch", *given, CODE="0", **array | {"SLURM_ARRAY_TASK_MIN": "0"})[0] == 2
    assert slurm("slurm_prepare.sbatch", *given, CODE="0")[0] == 2


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons start as root alone")
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian: slurm-wlm, munge)")
def test_jobs_on_a_real_slurm_end_as_they_should():
    told = subprocess.run(
        [LAUNCH / "test" / "slurm.sh"],
        env=os.environ | {"PYTHON": sys.executable, "PATH": PATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout
    assert " 0 failed" in told.stdout
