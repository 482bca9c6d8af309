"""Which mesh, micro-batches and recomputation fit a topology, and which of them is fastest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ml_collections import ConfigDict

from ssljax import mesh
from ssljax.errors import InputError
from ssljax.plan.compiled import OutOfMemory
from ssljax.plan.estimate import Plan, make_plan
from ssljax.plan.model import REMAT
from ssljax.plan.topology import Topology


class Candidate(NamedTuple):
    """One way to run a config.

    Attributes:
        overrides: What to add to the command line.
        config: With them.
        plan: Of it; None where it does not fit.
        why: Why it does not.
    """

    overrides: tuple[str, ...]
    config: ConfigDict
    plan: Plan | None
    why: str = ""


def search(
    name: str, config: ConfigDict, target: Topology, price: float | None, tell: Callable[[str], None]
) -> list[Candidate]:
    """Return the candidates, those that fit first, the fastest per sample at the head.

    Every recomputation is tried on a mesh that splits parameters over a host; on the other meshes the one that was
    fastest there. Each with the fewest micro-batches that fit. The batch is the config's where it divides over the
    devices, else the next one that does.

    Args:
        name: The config's.
        config: The config.
        target: The topology.
        price: See `make_plan`.
        tell: Called with a line on each candidate.

    Raises:
        InputError: Nothing fits.
    """
    tried: list[Candidate] = []
    remats = _remats(config)
    for layout in layouts(len(target.devices), target.chip.per_host):
        for remat in remats:
            for candidate in _attempts(name, config, target, price, layout, remat):
                tried.append(candidate)
                tell(line(candidate))
        fit = sorted((each for each in tried if each.plan), key=lambda each: _seconds_per_sample(each.plan))
        if fit:
            remats = (fit[0].config.models.encoder.get("remat"),)
    if not fit:
        raise InputError(f"Nothing fits {target.name}: {tried[-1].why if tried else 'no candidates'}")
    return fit + [each for each in tried if not each.plan]


def layouts(devices: int, per_host: int) -> list[str]:
    """Return meshes worth trying: parameters split over a host, some hosts or all, whole, or with a tensor axis."""
    host, root = math.gcd(per_host, devices), 2 ** round(math.log2(devices) / 2)
    sizes = dict.fromkeys(size for size in (host, root, devices, 1) if devices % size == 0)
    split = [f"fsdp={host // 2},tensor=2"] if host % 2 == 0 else []
    return [*(f"fsdp={size}" for size in sizes), *split]


def line(candidate: Candidate) -> str:
    """Return a line of the table of candidates."""
    settings = " ".join(override.removeprefix("--config.") for override in candidate.overrides)
    if candidate.plan is None:
        return f"{settings}: {candidate.why}"
    plan, memory = candidate.plan, candidate.plan.compiled.memory
    share = memory.total / plan.target.chip.memory
    return (
        f"{settings}: {1e6 * _seconds_per_sample(plan):.1f} us a sample, {1e3 * plan.times.expected:.1f} ms an update, "
        f"MFU at most {plan.mfu:.0%}, {memory.total / 2**30:.1f} GiB ({share:.0%})"
    )


def _attempts(
    name: str, config: ConfigDict, target: Topology, price: float | None, layout: str, remat: str | None
) -> Iterator[Candidate]:
    """Yield candidates with ever more micro-batches until one fits."""
    rows, parts = mesh.batch_parts(mesh.make_mesh(layout, target.devices)), 1
    batch = math.ceil(config.batch_size / rows) * rows
    while batch % (rows * parts) == 0:
        candidate = _variant(config, layout, parts, remat, batch)
        try:
            yield candidate._replace(plan=make_plan(name, candidate.config, target, price))
            return
        except OutOfMemory as error:
            yield candidate._replace(why=f"out of memory, {error.needed / 2**30:.1f} GiB")
            least = error.needed / target.chip.memory  # so many parts at the least, if all of it were activations
            parts = max(2 * parts, 2 ** math.floor(math.log2(max(1.0, parts * least))))
        except InputError as error:  # an objective that does not accumulate
            yield candidate._replace(why=str(error))
            return


def _variant(config: ConfigDict, layout: str, parts: int, remat: str | None, batch: int) -> Candidate:
    config = config.copy_and_resolve_references()
    config.unlock()
    overrides = [f"--config.mesh={layout}"]
    config.mesh, config.accumulate = layout, parts
    if config.batch_size != batch:
        config.batch_size = batch
        overrides.append(f"--config.batch_size={batch}")
    if parts > 1:
        overrides.append(f"--config.accumulate={parts}")
    for role, model in config.models.items():
        if remat in REMAT.get(model.name, ()):
            model.remat = remat
            overrides.append(f"--config.models.{role}.remat={remat}")
    return Candidate(tuple(overrides), config, None)


def _remats(config: ConfigDict) -> tuple[str | None, ...]:
    return REMAT.get(config.models.encoder.name, (None,))


def _seconds_per_sample(plan: Plan | None) -> float:
    assert plan is not None
    return plan.times.expected / plan.config.batch_size
