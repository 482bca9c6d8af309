"""Whether more videos teach more in the same number of updates: all that are given against the first alone.

    ssljax sweep configs/ablations/videos.py --workdir runs/videos --config.data.video="('venice/', 'amsterdam/')" ...

"..." names the data of the evaluations, see "Ready to run" in README.md.
A folder of several prepared videos will do as well.
"""

from collections.abc import Sequence

from ssljax.data.index import find_videos
from ssljax.errors import InputError
from ssljax.sweep import Sweep, Variant
from ssljax.sweep.budgets import METRICS, dora


def sweep(budget: str = "laptop") -> Sweep:
    config, overrides = dora(budget)
    return Sweep(config, [Variant("all"), Variant("first", {"data.video": first})], overrides, metrics=METRICS)


def first(places: str | Sequence[str]) -> tuple[str]:
    """Return the folder of the first of some prepared videos, in the order of training.

    Raises:
        InputError: It is the only one.
    """
    found = find_videos(places)
    if len(found) < 2:
        raise InputError(f"config.data.video is {places}, one video; give two or more, or folders of them.")
    return (str(found[0].folder),)
