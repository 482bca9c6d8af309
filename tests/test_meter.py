"""Times of updates, against numbers that were laid out by hand."""

import numpy as np
import pytest

from ssljax.meter import Meter, Work


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("ssljax.meter.time.monotonic", lambda: now[0])
    return now


def test_percentiles_are_of_the_updates_since_the_last_line(clock):
    meter = Meter(samples=4)
    steps = [1.0, 2.0, 4.0, 3.0, 5.0]
    for seconds in steps:
        clock[0] += seconds
        meter.update(meter.now(), (0.0,))
    found = meter.metrics()
    for q in (50, 90, 99):
        np.testing.assert_allclose(found[f"step_time_p{q}"], np.percentile(steps, q))
    np.testing.assert_allclose(found["samples_per_second"], 4 * 5 / 15.0)
    clock[0] += 7.0
    meter.update(meter.now(), (0.0,))
    assert meter.metrics()["step_time_p50"] == 7.0


def test_an_update_counts_from_the_end_of_the_one_before_and_without_pauses(clock):
    meter = Meter(samples=1)
    with meter.paused():
        clock[0] += 50.0
    ends = [meter.now() + 2.0, meter.now() + 5.0]
    clock[0] += 9.0  # they were looked at only now
    for ended in ends:
        meter.update(ended, (0.0,))
    found = meter.metrics()
    np.testing.assert_allclose([found["step_time_p50"], found["samples_per_second"]], [2.5, 2 / 5])
    np.testing.assert_allclose(found["goodput"], 5 / 59)


def test_waiting_is_told_by_process_where_there_are_several(clock):
    meter = Meter(samples=1)
    for waited in [(0.0, 1.0, 2.0), (0.0, 4.0, 1.0)]:
        clock[0] += 10.0
        meter.update(meter.now(), waited)
    found = meter.metrics()
    shares = [found[f"data_wait_share_{process}"] for process in range(3)]
    np.testing.assert_allclose(shares, [0.0, 0.25, 0.15])
    assert found["data_wait_share"] == max(shares)
    np.testing.assert_allclose(meter.spent()["waiting"], 2.0 + 4.0)  # each update waits for the slowest
    clock[0] += 1.0
    meter.update(meter.now(), (0.5,))
    assert "data_wait_share_0" not in meter.metrics()


@pytest.mark.parametrize(("flops", "peak", "named"), [(0.0, 0.0, ()), (6e12, 0.0, ("tflops",)), (6e12, 8e12, "all")])
def test_operations_are_told_where_they_are_known(clock, flops, peak, named):
    meter = Meter(samples=1, work=Work(flops, peak))
    clock[0] += 3.0
    meter.update(meter.now(), (0.0,))
    found = meter.metrics()
    assert found.get("model_tflops_per_second") == (2.0 if named else None)
    assert found.get("mfu") == (0.25 if named == "all" else None)


class Device:
    def __init__(self, held):
        self._held = held

    def memory_stats(self):
        return self._held and {"peak_bytes_in_use": self._held}


@pytest.mark.parametrize(("held", "told"), [((None, None), None), ((3e9, 7.5e9), 7.5)])
def test_memory_is_that_of_the_fullest_device_that_tells(clock, monkeypatch, held, told):
    monkeypatch.setattr("ssljax.meter.jax.local_devices", lambda: [Device(bytes_) for bytes_ in held])
    meter = Meter(samples=1)
    meter.update(meter.now() + 1.0, (0.0,))
    assert meter.metrics().get("device_memory_gb") == told


def test_saving_is_a_share_of_the_time_since_the_start(clock):
    meter = Meter(samples=1, before=1000.0, spent={"saving": 500.0})
    clock[0] += 15.0
    meter.update(meter.now(), (0.0,))
    with meter.paused("saving"):
        clock[0] += 5.0
    np.testing.assert_allclose(meter.metrics()["save_share"], 5 / 20)
    np.testing.assert_allclose(meter.spent()["saving"], 505.0)
    np.testing.assert_allclose(meter.wall(), 1020.0)
