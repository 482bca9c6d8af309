"""A real Slurm on this host: launch/test/slurm.sh says what is asked of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "test" / "slurm.sh"
MISSING = [
    name
    for name in ("slurmctld", "slurmd", "munged")
    if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None
]


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="Slurm's daemons start as root alone")
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian: slurm-wlm, munge)")
def test_jobs_on_a_real_slurm_end_as_they_should():
    told = subprocess.run(
        [SCRIPT],
        env=os.environ | {"PYTHON": sys.executable, "PATH": f"{os.environ['PATH']}:/usr/sbin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stdout
    assert "0 failed" in told.stdout
