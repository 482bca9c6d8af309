"""Parts of the loop that see and say nothing, for tests of other parts."""

from ssljax.spike_log import SpikeLog


def no_spikes(workdir):
    """Return a log of spikes that writes none."""
    rule = {"policy": "stop", "factor": 1e9, "window": 100, "patience": 1}
    return SpikeLog(workdir / "spikes.jsonl", start=0, batch_size=4, where=str, writes=False, **rule)
