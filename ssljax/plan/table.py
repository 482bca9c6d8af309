"""A plan as text, in 100 columns, and as plain values."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ssljax.chips import GIB, PRICES
from ssljax.plan.estimate import Plan

WIDTH = 100

Rows = list[tuple[str, ...]]


def text(plan: Plan) -> str:
    """Return what `ssljax plan` prints."""
    chip = plan.target.chip
    title = f"{plan.name} on {plan.target.name}: {len(plan.target.devices)} x {chip.name}"
    parts = f" in {plan.config.accumulate} micro-batches" if plan.config.accumulate > 1 else ""
    lines = [
        title,
        f"{plan.config.batch_size} samples an update{parts}; mesh {plan.config.mesh or 'data'}; compiled in "
        f"{plan.compiled.seconds:.0f} s",
        "",
        *_memory(plan),
        "",
        *_layers(plan),
        "",
        *_collectives(plan),
        "",
        *_times(plan),
        "",
        *_recipe(plan),
    ]
    notes = [line for note in plan.notes for line in textwrap.wrap(f"Note: {note}", WIDTH, subsequent_indent="  ")]
    return "\n".join([*lines, "", *notes] if notes else lines)


def values(plan: Plan) -> dict[str, Any]:
    """Return all that the text says, and what it rounds, for JSON."""
    spent = plan.times
    return {
        "topology": plan.target.name,
        "chip": plan.target.chip._asdict(),
        "devices": len(plan.target.devices),
        "hosts": plan.target.hosts,
        "mesh": plan.config.mesh,
        "batch_size": plan.config.batch_size,
        "accumulate": plan.config.accumulate,
        "compile_seconds": plan.compiled.seconds,
        "memory": plan.compiled.memory._asdict() | {"total": plan.compiled.memory.total},
        "layer_flops": plan.layers,
        "model_flops": plan.model_flops,
        "executed_flops": plan.executed_flops,
        "collectives": [each._asdict() | {"group": len(each.group)} for each in plan.collectives],
        "times": spent._asdict() | {"alone": spent.alone, "expected": spent.expected},
        "mfu_bound": plan.mfu,
        "scaling_efficiency": {str(count): value for count, value in plan.scaling.items()},
        "samples_per_second": plan.samples_per_second,
        "samples_per_second_per_host": plan.samples_per_second / plan.target.hosts,
        "frames_per_second_per_host": plan.frames * plan.samples_per_second / plan.target.hosts,
        "updates": plan.updates,
        "hours": plan.hours,
        "chip_hours": plan.chip_hours,
        "price_per_chip_hour": plan.price,
        "cost": plan.cost,
        "notes": list(plan.notes),
    }


def _memory(plan: Plan) -> list[str]:
    memory, there = plan.compiled.memory, plan.target.chip.memory
    names = {
        "parameters": "parameters",
        "optimizer": "optimiser",
        "untrained": "untrained state (teacher, centre, ...)",
        "batch": "batch",
        "temporaries": "temporaries (activations, gradients)",
        "program": "program",
    }
    rows: Rows = [("Memory of a device", "", "of it")]
    for key, name in names.items():
        size = getattr(memory, key)
        if size:
            rows.append((name, _size(size), f"{size / there:.1%}"))
    rows.append((f"together, of {there / GIB:.1f} GiB", _size(memory.total), f"{memory.total / there:.1%}"))
    return _columns(rows)


def _layers(plan: Plan) -> list[str]:
    total, size = plan.model_flops, plan.config.batch_size
    rows: Rows = [("FLOPs of the model by layer, forward and backward", "of a sample", "share")]
    small = [name for name, value in plan.layers.items() if value < 0.001 * total]
    for name, value in sorted(plan.layers.items(), key=lambda item: -item[1]):
        if name not in small:
            rows.append((name, _operations(value / size), f"{value / total:.1%}"))
    if small:
        rest = sum(plan.layers[name] for name in small)
        rows.append((f"{len(small)} more, less than 0.1 % each", _operations(rest / size), f"{rest / total:.1%}"))
    rows.append(("together", _operations(total / size), "100.0%"))
    extra = plan.executed_flops / total - 1
    return [*_columns(rows), f"Recomputing in the backward pass adds {extra:.0%}."]


def _collectives(plan: Plan) -> list[str]:
    if not plan.collectives:
        return ["Collectives: none, each device works alone."]
    groups: dict[tuple[str, str, int, bool], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for each in plan.collectives:
        entry = groups[each.kind, each.dtype, len(each.group), each.asynchronous]
        entry[0] += each.times
        entry[1] += each.times * each.bytes
    rows: Rows = [("Collectives of an update", "of type", "among", "times", "together", "device works on")]
    for (kind, dtype, size, hidden), (times, moved) in sorted(groups.items(), key=lambda item: -item[1][1]):
        rows.append((kind, dtype, str(size), f"{times:.0f}", _size(moved), "yes" if hidden else "no"))
    return _columns(rows)


def _times(plan: Plan) -> list[str]:
    spent = plan.times
    rows: Rows = [
        ("Time of an update, at the chip's peak rates", "ms"),
        ("matrix products, by arithmetic", f"{1e3 * spent.products:.2f}"),
        ("the same, by what they read and write", f"{1e3 * spent.product_memory:.2f}"),
        ("all else, by what it reads and writes", f"{1e3 * spent.other_memory:.2f}"),
        ("collectives while the device works", f"{1e3 * spent.network_hidden:.2f}"),
        ("collectives that it waits for", f"{1e3 * spent.network_exposed:.2f}"),
        ("expected (nothing is faster; real updates often take 1.3 to 2 times that)", f"{1e3 * spent.expected:.2f}"),
    ]
    scaling = ", ".join(f"{count}: {value:.0%}" for count, value in plan.scaling.items())
    return [*_columns(rows), f"MFU at most {plan.mfu:.1%}. Efficiency by number of devices: {scaling}."]


def _recipe(plan: Plan) -> list[str]:
    rate = plan.samples_per_second
    host = rate / plan.target.hosts
    frames = f", {host * plan.frames:,.0f} frames/s" if plan.frames > 1 else ""
    hosts = "the host" if plan.target.hosts == 1 else f"each of {plan.target.hosts} hosts"
    lines = [
        f"{rate:,.0f} samples/s: {hosts} has to read and decode {host:,.0f} samples/s{frames}.",
        f"The recipe: {plan.updates:,} updates, {plan.hours:,.2f} hours, {plan.chip_hours:,.1f} chip-hours.",
    ]
    if plan.cost is None:
        return [*lines, "No list price is known; --price gives the dollars of a chip-hour."]
    source = "as given" if plan.price_given else PRICES
    return [*lines, *textwrap.wrap(f"Cost: ${plan.cost:,.0f} at ${plan.price:.2f} a chip-hour ({source}).", WIDTH)]


def _size(count: float) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 2**power:
            return f"{count / 2**power:.2f} {unit}"
    return f"{count:.0f} B"


def _operations(count: float) -> str:
    for unit, power in (("TFLOP", 12), ("GFLOP", 9)):
        if count >= 10**power:
            return f"{count / 10**power:.2f} {unit}"
    return f"{count / 1e6:.2f} MFLOP"


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows with the first column to the left, the others to the right, and a line under the first row."""
    widths = [max(len(row[column]) for row in rows) for column in range(1, len(rows[0]))]
    first = WIDTH - sum(widths) - 2 * len(widths)
    first = min(first, max(max(len(row[0]) for row in rows), 44))
    lines = [
        row[0].ljust(first) + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths, strict=True))
        for row in rows
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]
