"""Signals while a run starts, when there is nothing to save."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal
from ssljax.stop import Start, Stop
before = signal.getsignal(signal.SIGINT)
with Start():
    with Stop() as stop:  # what comes once there is something to save
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked
    print("goes on", flush=True)
    os.kill(os.getpid(), {number})
    print("never", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_start_ends_at_once_and_asks_to_be_started_again(number):
    program = PROGRAM.format(number=int(number))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 75 and done.stdout == "goes on\n"
    assert done.stderr.startswith("ssljax: stopped while nothing was to be saved")


def test_handlers_are_put_back():
    from ssljax.stop import Start

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with Start():
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_second_sigterm_asks_no_more_and_ctrl_c_interrupts():
    from ssljax.stop import Stop

    with Stop() as stop:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
