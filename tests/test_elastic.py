"""A run that goes on with other numbers of processes and other meshes, and one in which a process ends."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest
from processes import metrics, start, wait_for_update

from ssljax import build

UPDATES = 90
LEGS = [(1, 1, ""), (2, 1, "fsdp=2"), (4, 1, "data=2,fsdp=2"), (1, 2, "tensor=2")]  # processes, devices each, mesh


@pytest.mark.long
def test_a_run_goes_on_with_other_processes_and_meshes(tmp_path):
    settings = f"--config.epochs={UPDATES // 2}", "--config.checkpoint.every=1000", "--config.log.tensorboard=False"
    (whole,) = start(tmp_path / "whole", *settings, config="toy:counted")
    workdir, changes = tmp_path / "parts", []
    for leg, (processes, devices, layout) in enumerate(LEGS):
        mesh = f"--config.mesh={layout}"
        run = start(workdir, *settings, mesh, processes=processes, devices=devices, config="toy:counted")
        if leg < len(LEGS) - 1:
            wait_for_update(run, workdir, 20 * (leg + 1))
            run[leg % processes].send_signal(signal.SIGTERM)  # one of them is enough
        codes = [process.wait(300) for process in run]
        assert codes == [75 if leg < len(LEGS) - 1 else 0] * processes, Path(f"{workdir}.0.log").read_text()
        changes.append(max(metrics(workdir)))
    assert whole.wait(300) == 0
    one, other = metrics(tmp_path / "whole"), metrics(workdir)
    assert sorted(one) == sorted(other) == list(range(1, UPDATES + 1)) and changes[-1] == UPDATES
    for change in changes[:-1]:
        for update in range(change + 1, change + 21):
            np.testing.assert_allclose(other[update]["loss"], one[update]["loss"], rtol=1e-5)
    for update, row in other.items():  # each position once, in order
        positions = np.arange(8 * (update - 1), 8 * update)
        assert (row["positions"], row["squares"]) == (positions.sum(), np.square(positions - 8.0 * (update - 1)).sum())
    assert int(build.restore(workdir).state.step) == UPDATES


@pytest.mark.long
def test_a_process_that_dies_or_hangs_ends_the_others_with_the_reason(tmp_path):
    for number, victim in ((signal.SIGKILL, 1), (signal.SIGKILL, 0), (signal.SIGSTOP, 1), (signal.SIGSTOP, 0)):
        workdir = tmp_path / f"{number}{victim}"
        run = start(workdir, "--config.epochs=100000", "--config.log.tensorboard=False", processes=2)
        wait_for_update(run, workdir, 3)
        began = time.monotonic()
        run[victim].send_signal(number)
        code = run[1 - victim].wait(90)  # heartbeats are missed after 30 s; a death is seen at once
        print(f"{signal.Signals(number).name} of process {victim}: {time.monotonic() - began:.1f} s")
        assert code not in (0, 2, 75)
        told = Path(f"{workdir}.{1 - victim}.log").read_text()
        reasons = ("another process of the run", "another task died", "heartbeat")  # the latter two are JAX's words
        assert any(reason in told for reason in reasons), told
        run[victim].kill()
        run[victim].wait()
