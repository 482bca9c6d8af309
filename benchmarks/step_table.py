"""The table that `benchmarks.step` prints."""

import os
from typing import Any

PEAKS = ("peak", "peak of PyTorch")
"""The workers that multiply matrices, of JAX and of PyTorch."""
GIB = 2**30


def table(location: str, result: dict[str, Any]) -> str:
    """Return the measured rows as a table, what the MFU is measured with, and the ratios."""
    problem, device = result["problem"], f"{result['devices']} x {result['device']}"
    sample = "samples" if problem["frames"] is None else f"clips of {problem['frames']} frames"
    cores = f"{len(os.sched_getaffinity(0))} CPU cores"
    lines = [f"{location}: {problem['batch']} {sample}, {problem['dtype']}, on {device} with {cores}"]
    heads = ("s/step", "CPU s", "samples/s", "MFU", "GiB", "compile s", "first step s", "warm", "wait s")
    wide = max(len(row["name"]) for row in result["rows"])
    lines.append(f"{'':>{wide}} " + " ".join(f"{head:>12}" for head in heads))
    for row in result["rows"]:
        mfu, bytes_ = row["mfu"], row["peak_bytes"]
        cells = [f"{row['seconds']:.3f}", f"{row['cpu_seconds']:.2f}", f"{row['samples_per_second']:.2f}"]
        cells += ["" if mfu is None else f"{mfu:.1%}", f"{bytes_ / GIB:.2f}"]
        names = ("compile_seconds", "first_step_seconds", "warm_first_step_seconds")
        cells += ["" if row.get(name) is None else f"{row[name]:.1f}" for name in names]
        cells += [f"{row['input_wait']:.3f}" if "input_wait" in row else ""]
        lines.append(f"{row['name']:>{wide}} " + " ".join(f"{cell:>12}" for cell in cells))
    lines += _told(result)
    for ratio in result["ratios"]:
        words = f"{ratio['cpu_seconds']:.2f} of the CPU time and {ratio['seconds']:.2f} of the time of {ratio['than']}"
        lines.append(f"{ratio['name']}: {words}")
    return "\n".join(lines)


def _told(result: dict[str, Any]) -> list[str]:
    peaks = ", ".join(f"{rate / 1e9:.1f} by {name}" for name, rate in result["peaks"].items())
    peaks = peaks.replace(PEAKS[1], "PyTorch").replace(PEAKS[0], "JAX")
    lines = [f"peak of matrix products in this run, GFLOP/s: {peaks}"]
    counted = f"{result['traced_flops'] / 1e9:.2f} GFLOP an update as traced"
    if result["flops"] is None:
        return [*lines, f"{counted}; no formula is written for it, hence no MFU"]
    ratio = result["traced_flops"] / result["flops"]
    lines.append(f"{result['flops'] / 1e9:.2f} GFLOP an update by hand, {counted} ({ratio:.3f})")
    if result["datasheet_flops"]:
        shares = (f"{row['name']} {row['datasheet_mfu']:.1%}" for row in result["rows"])
        lines.append(f"of the data sheet's {result['datasheet_flops'] / 1e12:.0f} TFLOP/s: {', '.join(shares)}")
    if "input_wait" not in result["rows"][0]:
        lines.append("in memory: no input wait measured")
    return lines
