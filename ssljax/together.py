"""What every process of a run says with an update, heard by all of them, so that all decide the same."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P


class Heard(NamedTuple):
    """What the processes said with one update.

    Attributes:
        stop: Whether one of them was asked to stop.
        busy: Whether one of them cannot save now without waiting.
        waited: Seconds that each waited for its data, in the order of processes.
    """

    stop: bool
    busy: bool
    waited: tuple[float, ...]


class Together:
    """Gathers a few numbers of each process with every update, without making any of them wait for the others.

    They travel as updates do, behind them, and are looked at when their update is settled: by then they have arrived,
    and every process looks at the same ones at the same update.
    """

    def __init__(self, mesh: jax.sharding.Mesh) -> None:
        """Prepare for the devices of a mesh."""
        self._mesh = mesh
        self._rows = NamedSharding(mesh, P(mesh.axis_names))
        self._gather = jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))
        owners = [device.process_index for device in mesh.devices.flat]
        self._first = [owners.index(process) for process in range(jax.process_count())]
        self.alone = len(self._first) == 1

    def say(self, *, stop: bool, busy: bool, waited: float) -> Any:
        """Return what `hear` takes, some updates later."""
        mine = np.asarray([stop, busy, waited], np.float32)
        if self.alone:
            return mine[None]
        local = np.tile(mine, (len(self._mesh.local_devices), 1))
        shape = (self._mesh.size, len(mine))
        return self._gather(jax.make_array_from_process_local_data(self._rows, local, shape))

    def hear(self, said: Any) -> Heard:
        """Return what all processes said; waits until it has arrived."""
        numbers = said if self.alone else np.asarray(said.addressable_data(0))[self._first]
        return Heard(bool(numbers[:, 0].any()), bool(numbers[:, 1].any()), tuple(numbers[:, 2].tolist()))
