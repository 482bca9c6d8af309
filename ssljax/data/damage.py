"""Records that cannot be read at training time: named, counted, and too many of them an error."""

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ssljax.data.listing import Listing
from ssljax.errors import InputError

LEAST = 10  # so many replaced windows say nothing yet about a share


class DamagedFrame(InputError):
    """A stored frame whose bytes are not what was written."""


class Damage:
    """The count of one process: of windows asked for, and of those that were replaced because a frame was damaged.

    share: how many of the windows may be replaced; from the first one on if it is 0, else never fewer than 10 in all.
    sample, fault: what one is called, and what is said of one that is replaced.
    listing: where the replaced ones are listed, with what took their place; nowhere without.
    Safe to use from several threads; a copy that is sent to another process counts anew, and lists in the same place.
    """

    def __init__(self, share: float, *, sample: str = "window", fault: str = "had a damaged frame"):
        if not 0 <= share <= 1:
            raise InputError(
                f"bad_share ({share}) must lie between 0 and 1: the part of the {sample}s that may be damaged"
            )
        self.share, self._sample, self._fault = share, sample, fault
        self.listing: Listing | None = None
        self._lock, self._asked, self._replaced, self._named = threading.Lock(), 0, 0, set[str]()

    def __reduce__(self) -> tuple[Callable[..., "Damage"], tuple[float], dict[str, Any]]:
        make = functools.partial(Damage, sample=self._sample, fault=self._fault)
        return make, (self.share,), {"listing": self.listing}

    def ask(self) -> None:
        """Count a window that was asked for."""
        with self._lock:
            self._asked += 1

    def replace(self, error: DamagedFrame) -> None:
        """Count a window that must be replaced, and name its frame once; InputError if there are too many by now."""
        with self._lock:
            self._replaced += 1
            replaced, asked = self._replaced, self._asked
            new = str(error) not in self._named
            self._named.add(str(error))
        if replaced > max(LEAST if self.share else 0, self.share * asked):
            raise InputError(
                f"of the tries for {asked} {self._sample}(s) {replaced} {self._fault}, "
                f"more than bad_share ({self.share:g}) allows; the last: {error}"
            ) from error
        if new:
            print(
                f"ssljax: {error}; another {self._sample} takes its place ({replaced} replaced for {asked} so far)",
                file=sys.stderr,
            )

    def note(self, positions: Sequence[int], faults: Sequence[str], instead: str) -> None:
        """List the samples at `positions`, what was wrong with each try for them, and where the one lies that did."""
        if self.listing is not None:
            for position in positions:
                self.listing.add({"position": int(position), "damaged": list(faults), "instead": instead})
