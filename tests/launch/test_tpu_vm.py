"""The script for Cloud TPU VMs against a stand-in of gcloud, whose hosts are folders of this machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stand_in import PROGRAM, executable

SCRIPT = Path(__file__).parents[2] / "launch" / "tpu_vm.sh"
# Hosts are $CLOUD/host-N; $CLOUD/state is the slice's, each line of $CLOUD/failures why asking for it fails once.
# Installing puts the stand-in of ssljax where uv would.
GCLOUD = """#!/usr/bin/env bash
set -euo pipefail
echo "$*" >>"$CLOUD/asked"
case $4 in
	describe)
		if [[ -s $CLOUD/failures ]]; then
			head -n 1 "$CLOUD/failures" >&2
			sed -i 1d "$CLOUD/failures"
			exit 1
		fi
		cat "$CLOUD/state"
		;;
	create)
		[[ $* == "compute tpus queued-resources create slice --zone=here --quiet --node-id=slice --spot \
--accelerator-type=v5litepod-8 --runtime-version=v2-alpha" ]]
		mkdir "$CLOUD/host-0" "$CLOUD/host-1"
		echo READY >"$CLOUD/state"
		;;
	scp) for host in "$CLOUD"/host-*; do cp "$5" "$host/${6#*:}"; done ;;
	ssh)
		[[ $(cat "$CLOUD/state") == READY ]]
		for argument; do [[ $argument != --command=* ]] || command=${argument#--command=}; done
		for host in "$CLOUD"/host-*; do
			mkdir -p "$host/.local/bin" "$host/environment/bin"
			ln -sf "$CLOUD/nothing" "$host/.local/bin/uv"
			ln -sf "$CLOUD/ssljax" "$host/environment/bin/ssljax"
			HOME=$host HOST=${host##*-} PATH=$CLOUD/bin:$PATH bash -c "cd && $command"
		done
		;;
esac
"""


@pytest.fixture
def cloud(tmp_path):
    """A slice of two hosts that is ready."""
    for number in range(2):
        (tmp_path / f"host-{number}").mkdir()
    (tmp_path / "state").write_text("READY\n")
    executable(tmp_path / "bin" / "gcloud", GCLOUD)
    executable(tmp_path / "bin" / "python3", "#!/bin/sh\n")
    executable(tmp_path / "nothing", "#!/bin/sh\n")
    executable(tmp_path / "bin" / "curl", '#!/bin/sh\necho "$HOST"\n')
    # A process in itself knows its number from the engine; here it is the host's.
    program = PROGRAM.replace('value("--process") if "--process" in arguments else "0"', 'os.environ["PROCESS"]')
    executable(tmp_path / "ssljax", f"#!{sys.executable} -SE\n{program}")
    yield tmp_path
    for host in tmp_path.glob("host-*/ssljax.pid"):
        if Path(f"/proc/{host.read_text().strip()}").exists():
            os.kill(int(host.read_text()), signal.SIGKILL)


def launch(cloud, *arguments, **variables):
    more = dict(CLOUD=str(cloud), TPU="slice", ZONE="here", PERIOD="0.2", RESTARTS="1", CUDA_VISIBLE_DEVICES="")
    environment = os.environ | {"PATH": f"{cloud / 'bin'}:{os.environ['PATH']}"} | more | variables
    command = ["bash", SCRIPT, *(arguments or ["--workdir", str(cloud / "run"), "--config", "a b"])]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(script):
    told = script.communicate(timeout=60)[1]
    return script.returncode, told


def wait_for(happens):
    deadline = time.monotonic() + 30
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def plan(cloud, start, process, action):
    (cloud / "run").mkdir(exist_ok=True)
    (cloud / "run" / f"plan-{start}-{process}").write_text(action)


def test_a_run_on_all_hosts(cloud):
    plan(cloud, 1, 1, "3")  # restarted by its host
    code, told = finish(launch(cloud))
    assert code == 0, told
    for number, starts in ((0, 1), (1, 2)):
        lines = (cloud / "run" / f"started-{number}").read_text().splitlines()
        assert [line.split(" ", 2)[2] for line in lines] == [
            f"train --distributed --workdir {cloud / 'run'} --config a b"
        ] * starts


@pytest.mark.parametrize("code", [2, 3])
def test_a_host_that_gives_up_ends_the_others(cloud, code):
    for start in (1, 2):
        plan(cloud, start, 0, "serve")
        plan(cloud, start, 1, f"{code} 0")
    assert finish(launch(cloud))[0] == code
    pid = int((cloud / "host-0" / "ssljax.pid").read_text())
    code = cloud / "host-0" / "ssljax.code"
    wait_for(lambda: code.exists() and code.read_text())
    assert code.read_text() == "75\n"  # it saved
    assert not Path(f"/proc/{pid}").exists()


def test_watching_is_taken_up_again_and_stop_lets_it_save(cloud):
    for process in range(2):
        plan(cloud, 1, process, "serve")
    script = launch(cloud)
    wait_for(lambda: all((cloud / "run" / "heartbeats" / str(process)).exists() for process in range(2)))
    script.kill()
    script.communicate()
    (cloud / "asked").unlink()
    again = launch(cloud)
    wait_for(lambda: (cloud / "asked").exists() and "look" in (cloud / "asked").read_text())
    assert finish(launch(cloud, "--stop"))[0] == 0
    assert finish(again)[0] == 75
    assert "scp" not in (cloud / "asked").read_text()  # nothing is installed under a run
    assert all(len((cloud / "run" / f"started-{process}").read_text().splitlines()) == 1 for process in range(2))


def test_a_preempted_slice_is_made_again(cloud):
    (cloud / "state").write_text("PREEMPTED\n")
    for number in range(2):
        (cloud / f"host-{number}").rmdir()
    code, told = finish(launch(cloud, ACCELERATOR="v5litepod-8", VERSION="v2-alpha", SPOT="yes"))
    assert code == 0, told
    assert "slice is PREEMPTED" in told


MISSING = (
    "ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource 'projects/p/locations/here/nodes/slice' was not "
    "found. This command is authenticated as a@b.c\n"
)
OFFLINE = "ERROR: gcloud crashed (TransportError): Failed to resolve 'oauth2.googleapis.com'\n"
NO_PROJECT = "ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource 'projects/p' was not found\n"


def test_a_missing_slice_is_made(cloud):
    (cloud / "failures").write_text(MISSING)
    for number in range(2):
        (cloud / f"host-{number}").rmdir()
    code, told = finish(launch(cloud, ACCELERATOR="v5litepod-8", VERSION="v2-alpha", SPOT="yes"))
    assert code == 0, told
    assert "slice is MISSING" in told and "unknown" not in told


@pytest.mark.parametrize("failure", [OFFLINE, NO_PROJECT])
def test_a_slice_of_which_nothing_is_known_is_asked_for_again_and_kept(cloud, failure):
    (cloud / "failures").write_text(2 * failure)
    code, told = finish(launch(cloud, ACCELERATOR="v5litepod-8", VERSION="v2-alpha"))
    assert code == 0, told
    assert f"unknown (2 of at most 60 in a row): {failure}" in told
    assert not {"delete", "create"} & set((cloud / "asked").read_text().split())


def test_asking_ends(cloud):
    (cloud / "failures").write_text(5 * OFFLINE)
    code, told = finish(launch(cloud, ASKS="3", ACCELERATOR="v5litepod-8", VERSION="v2-alpha"))
    assert code == 1, told
    assert "unknown (3 of at most 3 in a row)" in told and "the same command watches again" in told
    assert not {"delete", "create"} & set((cloud / "asked").read_text().split())


def test_a_host_that_was_started_anew_joins_again(cloud):
    plan(cloud, 1, 0, "serve")
    script = launch(cloud)
    code = cloud / "host-1" / "ssljax.code"
    wait_for(code.exists)
    code.unlink()  # as if its script had been killed
    wait_for(code.exists)
    assert len((cloud / "run" / "started-1").read_text().splitlines()) == 2
    assert finish(launch(cloud, "--stop"))[0] == 0
    assert finish(script)[0] == 75
    assert len((cloud / "run" / "started-0").read_text().splitlines()) == 1


def test_what_is_missing_is_told(cloud):
    (cloud / "state").write_text("STOPPED\n")
    code, told = finish(launch(cloud))
    assert code == 1 and "slice is STOPPED" in told and "ACCELERATOR" in told
    assert "ZONE: is the zone" in finish(launch(cloud, ZONE=""))[1]
