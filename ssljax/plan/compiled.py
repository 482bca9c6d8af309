"""The very train step of a config, compiled for devices that need not be there."""

from __future__ import annotations

import math
import re
import time
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from ssljax import build, mesh, step
from ssljax.chips import GIB
from ssljax.errors import InputError
from ssljax.plan.hlo import Program
from ssljax.plan.topology import Topology


class OutOfMemory(InputError):
    """The step does not fit into a device; `needed` is its bytes where the compiler says them, else 0."""

    def __init__(self, message: str, needed: float) -> None:
        """Take the sentence and the bytes."""
        super().__init__(message)
        self.needed = needed


class Memory(NamedTuple):
    """Bytes on the fullest device.

    Attributes:
        parameters: The trained ones.
        optimizer: Moments and counters.
        untrained: What the objective keeps: teacher, centre, statistics.
        batch: The samples of one update, and of two that wait for theirs.
        temporaries: What an update needs while it runs: activations, gradients, gathered weights.
        program: The compiled code, which lies in a TPU's memory too.
    """

    parameters: float
    optimizer: float
    untrained: float
    batch: float
    temporaries: float
    program: float

    @property
    def total(self) -> float:
        """The sum."""
        return sum(self)


class Compiled(NamedTuple):
    """A compiled train step.

    Attributes:
        memory: What it needs.
        program: What it does.
        seconds: How long it took to compile.
    """

    memory: Memory
    program: Program
    seconds: float


def compile_step(config: ConfigDict, target: Topology) -> Compiled:
    """Compile the train step of a config as `ssljax train` would on the devices of a topology.

    Raises:
        InputError: The config cannot be used, or its mesh or batch does not fit the number of devices.
        OutOfMemory: The step does not fit into the memory of a device.
    """
    devices = mesh.make_mesh(config.mesh, target.devices)
    mesh.check_batch(devices, config.batch_size, config.accumulate)
    objective, optimizer = build.objective(config), build.optimizer(config)
    update = step.make_train_step(objective, optimizer, seed=config.seed, accumulate=config.accumulate)
    state, shardings = step.abstract_state(objective, optimizer, devices)
    placed = NamedSharding(devices, mesh.BATCH)
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
        objective.batch_spec(config.batch_size),
    )
    start = time.monotonic()
    with jax.set_mesh(devices):
        lowered = jax.jit(update, donate_argnums=0, out_shardings=(shardings, None)).trace(state, batch).lower()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise _out_of_memory(target, str(error), _bytes((state, batch))) from error
    told: Any = compiled.memory_analysis()
    memory = Memory(
        parameters=_bytes(state.params),
        optimizer=_bytes(state.opt_state),
        untrained=_bytes(state.state),
        batch=3 * _bytes(batch),  # see `Ahead`
        temporaries=told.temp_size_in_bytes + max(0, told.output_size_in_bytes - told.alias_size_in_bytes),
        program=told.generated_code_size_in_bytes if target.chip.links > 1 else 0,
    )
    if memory.total > target.chip.memory and target.chip.name != "cpu":
        raise _out_of_memory(target, "", memory.total)
    return Compiled(memory, Program(compiled.as_text()), time.monotonic() - start)


def _bytes(tree: Any) -> float:
    """Return the bytes of a tree on one device: its leaves' shardings say how much of each that is."""
    leaves = jax.tree.leaves(tree)
    return float(sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves))


_SIZE = r"\(?([\d.]+)([KMGT]?)"
_SAID = (
    (re.compile(rf"Used {_SIZE} of {_SIZE}"), False),
    (re.compile(rf"required for HLO temporaries {_SIZE}\) exceeds available HBM {_SIZE}\)"), True),
)
"""How compilers say what is needed and what is there, and whether the arguments come on top."""


def _out_of_memory(target: Topology, message: str, known: float) -> OutOfMemory:
    """Say what is missing in one sentence, with what to change; `known` is the bytes of the arguments."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    needed, there, least = known, target.chip.memory, "at least " if message else ""
    for pattern, more in _SAID:
        said = pattern.search(message)
        if said:
            needed, there = (float(said.group(i)) * units[said.group(i + 1)] for i in (1, 3))
            needed, least = needed + (known if more else 0.0), ""
    return OutOfMemory(
        f"Out of memory on {target.name}: an update needs {least}{needed / GIB:.1f} GiB of "
        f"each device's {there / GIB:.1f}; split parameters (--config.mesh=fsdp=N) and batch (--config.accumulate=N), "
        "recompute more (--config.models.encoder.remat=full), lower --config.batch_size, or let --search find it.",
        needed,
    )
