"""A plan: what an update of a config needs on a topology, and what its recipe costs there."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from ssljax import build, flops, limits, mesh
from ssljax.plan import roofline
from ssljax.plan.collectives import Collective, collectives
from ssljax.plan.compiled import Compiled, compile_step
from ssljax.plan.model import layer_flops, plain
from ssljax.plan.topology import Topology


class Plan(NamedTuple):
    """What `ssljax plan` finds.

    Attributes:
        name: The config's.
        config: With its overrides.
        target: The devices.
        compiled: The step.
        layers: FLOPs of an update of all devices by layer, without recomputation.
        executed_flops: The same together, with recomputation and what devices along `tensor` repeat.
        collectives: Of an update.
        times: Of an update, seconds.
        scaling: Efficiency by number of devices.
        frames: In a sample.
        price: Dollars of a chip-hour; None where nobody said.
        price_given: Whether it is not the list's.
        notes: What the numbers leave out.
    """

    name: str
    config: ConfigDict
    target: Topology
    compiled: Compiled
    layers: dict[str, float]
    executed_flops: float
    collectives: list[Collective]
    times: roofline.Times
    scaling: dict[int, float]
    frames: int
    price: float | None
    price_given: bool
    notes: tuple[str, ...]

    @property
    def model_flops(self) -> float:
        """FLOPs of an update of all devices without recomputation."""
        return flops.total(self.layers)

    @property
    def mfu(self) -> float:
        """Model FLOPs over what all chips could do in the expected time."""
        return self.model_flops / (self.times.expected * self.target.chip.flops * len(self.target.devices))

    @property
    def samples_per_second(self) -> float:
        """Of all devices together."""
        return float(self.config.batch_size) / self.times.expected

    @property
    def updates(self) -> int:
        """Of the whole recipe."""
        return build.total_steps(self.config)

    @property
    def hours(self) -> float:
        """Of the whole recipe, without start, evaluation and what the input makes it wait."""
        return self.updates * self.times.expected / 3600

    @property
    def chip_hours(self) -> float:
        """Hours of all devices together."""
        return self.hours * len(self.target.devices)

    @property
    def cost(self) -> float | None:
        """Dollars."""
        return None if self.price is None else self.price * self.chip_hours


def make_plan(name: str, config: ConfigDict, target: Topology, price: float | None = None) -> Plan:
    """Compile a config's step for a topology and return its plan; the data need not be there.

    Raises:
        InputError: The config cannot be used, or does not fit the devices, see `compile_step`.
    """
    limits.check_numbers(config)
    compiled = compile_step(config, target)
    layout = mesh.make_mesh(config.mesh, target.devices)
    devices = list(layout.devices.flat)
    executed = _repeated(layer_flops(plain(config, remat=False), recomputed=True), layout.shape["tensor"])
    passed = collectives(compiled.program, len(devices))
    of_update = (target.chip, devices, executed / len(devices), compiled.program.traffic(), passed)
    return Plan(
        name=name,
        config=config,
        target=target,
        compiled=compiled,
        layers=layer_flops(plain(config)),
        executed_flops=executed,
        collectives=passed,
        times=roofline.times(*of_update),
        scaling=roofline.scaling(*of_update),
        frames=_frames(config),
        price=target.chip.price if price is None else price,
        price_given=price is not None,
        notes=tuple(_notes(config, target)),
    )


def _repeated(layers: Mapping[str, float], tensor: int) -> float:
    """Return the FLOPs of all devices together; along `tensor` these repeat what that axis does not split."""
    split = {"mlp", "prototypes"}
    return sum(number * (1 if split & set(name.split("/")) else tensor) for name, number in layers.items())


def _frames(config: ConfigDict) -> int:
    """Return the frames of a sample: of a window as many as it has, of an image one."""
    spec: Any = build.objective(config).batch_spec(1)
    pixels = [leaf.shape for leaf in jax.tree.leaves(spec) if len(leaf.shape) == 5]
    return functools.reduce(max, [shape[1] for shape in pixels], 1)


def _notes(config: ConfigDict, target: Topology) -> list[str]:
    chip, notes = target.chip, []
    automatic = [role for role, model in config.models.items() if model.get("attention", "auto") == "auto"]
    if chip.name == "cpu":
        notes.append("a CPU's rates are a placeholder; what is true of it are the shapes, bytes and collectives.")
    elif chip.links == 1:
        notes.append("XLA says a GPU's memory only roughly where there is none: leave a tenth of it free.")
        if automatic:
            notes.append("attention is compiled as XLA's; on the GPU the fused kernel needs less memory and time.")
    return notes
