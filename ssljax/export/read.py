"""Reading pretrained networks, ours and others'."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssljax.errors import InputError
from ssljax.export import files
from ssljax.export.colours import with_our_colours
from ssljax.export.formats import FORMATS, READABLE, format_of
from ssljax.export.network import Network, check_shapes, with_arguments
from ssljax.export.source import is_source
from ssljax.export.vits import HEADS_ASSUMED

SURPLUS, OTHERS = ("The classifier", "The pooler"), "weights alone are read."
"""What notes say of arrays that others keep beside a network, and that an export of ours never holds."""

_PARAMETER = re.compile(
    r"(?:.*[._])?(?:weight(?:_[gv])?|bias|kernel|scale|gamma|gain|lambda1|mean|var|cls|position|register|tokens?|embed"
    r"|embeddings)"
)
"""Names of what a network computes with, in any format; counters and indices beside it may be integers."""


def read_network(path: Path, format: str = "auto", *, heads: int | None = None) -> Network:
    """Return the network in a file or folder of weights, every array of it checked.

    What the arrays don't say, such as the number of attention heads, is said by a file that `ssljax export` wrote, or
    by a config.json beside the weights; else it is assumed, which the network's `notes` tell.

    Args:
        path: See `files.read`.
        format: A name of `READABLE`, or "auto", which tells them apart.
        heads: Of the attention, where the file does not say or says wrongly.

    Raises:
        InputError: The file cannot be read, is of another format, or holds no such network: an array is missing,
            surplus, of the wrong shape, no floating-point numbers, beyond float32 or not finite.
    """
    if format != "auto" and format not in READABLE:
        raise InputError(f"format {format!r} is none that can be read: use auto or one of {', '.join(READABLE)}")
    contents = files.read(path)
    _check_values(contents.state, path)
    found = contents.record.get("format", format)
    if found == "auto":
        found = format_of(contents.state, contents.config, path)
    if found not in READABLE:
        raise InputError(f"{path} says that its format is {found!r}, which cannot be read; take another file.")
    if format not in ("auto", found):
        raise InputError(f"{path} is of the format {found!r}, not {format!r}; leave --format out, and it is found.")
    module = FORMATS[found].module
    assert module is not None
    try:
        network: Network = module.from_state(contents.state, contents.config)
    except InputError as error:
        raise InputError(f"{path} holds no network in the format {found!r}: {error}") from error
    if contents.record:
        network = _recorded(network, contents.record, path)
    if heads is not None:
        encoder = network.arguments.get("encoder", {}) | {"heads": heads}
        assumed = network.assumed - {"encoder"}
        notes = tuple(note for note in network.notes if HEADS_ASSUMED not in note)
        network = network._replace(arguments=network.arguments | {"encoder": encoder}, assumed=assumed, notes=notes)
    check_shapes(network, path)
    if not contents.record:
        try:
            network = with_our_colours(network, contents.config, contents.preprocessor)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    if contents.record and heads is None:
        _check_config(contents.config, module.config_files(network), path)
    return network._replace(notes=(*contents.notes, *network.notes, *_conversions(contents)))


def summary(network: Network) -> list[str]:
    """Return what was read, and what was left out or assumed in reading, a line each."""
    lines = []
    copies = {"": network.params, "student's " if network.averaged else "moving average's ": network.twin}
    for whose, params in copies.items():
        for role, part in params.items():
            arrays = jax.tree.leaves(part)
            count = sum(array.size for array in arrays)
            lines.append(f"matched    {whose}{role}: {len(arrays)} arrays, {count:,} parameters")
    arguments = network.arguments["encoder"]
    lines.append("encoder    " + ", ".join(f"{name} {value}" for name, value in arguments.items()))
    return [*lines, *(f"noted      {note}" for note in network.notes)]


def read_and_tell(path: Path) -> Network:
    """Return the network in a file or folder of weights; its notes go to standard error, a line each.

    Raises:
        InputError: See `read_network`.
    """
    network = read_network(path)
    for note in network.notes:
        print(f"{path}: {note}", file=sys.stderr)
    if "encoder" in network.assumed:
        print(f"{path}: if that is wrong, import it with ssljax import --heads N, and use that run.", file=sys.stderr)
    return network


def _check_values(state: Mapping[str, np.ndarray], path: Path) -> None:
    """Raise InputError where a parameter's array holds integers, or an array values that float32 cannot."""
    for name, array in state.items():
        if array.dtype.kind in "iub" and _PARAMETER.fullmatch(name):
            raise InputError(
                f"{path} holds {name} in {array.dtype}, and parameters are floating-point numbers; "
                "give weights that are not quantised."
            )
        if array.dtype.kind == "f" and array.dtype.itemsize > np.dtype(np.float32).itemsize:
            with np.errstate(over="ignore"):
                beyond = np.isinf(array.astype(np.float32)) & np.isfinite(array)
            if beyond.any():
                raise InputError(f"{path} holds {name} with values beyond float32; give weights that fit into it.")


def _recorded(network: Network, record: dict[str, object], path: Path) -> Network:
    """Return the network with what its file says of it in the place of what was inferred."""
    arguments, source, averaged = (record.get(name) for name in ("arguments", "source", "averaged"))
    if (
        not isinstance(arguments, dict)
        or not isinstance(averaged, bool)
        or not all(isinstance(section, dict) for section in arguments.values())
        or not is_source(source)
    ):
        raise InputError(f"{path} does not say in its metadata what it holds; export it again.")
    surplus = [note for note in network.notes if note.startswith(SURPLUS) or note.endswith(OTHERS)]
    if surplus:
        raise InputError(f"{path} holds what its metadata does not tell of: {surplus[0]}")
    return with_arguments(network, arguments)._replace(source=source, averaged=averaged, notes=(), assumed=frozenset())


def _check_config(config: Mapping[str, Any], ours: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Compare the config.json beside the weights with what their own metadata says, as others go by it alone.

    Raises:
        InputError: They disagree.
    """
    expected = json.loads(json.dumps(ours.get("config.json", {})))
    for key in sorted(expected.keys() & config.keys() - {"architectures", "pretrained_cfg"}):
        if config[key] != expected[key]:
            raise InputError(
                f"{path}: the config.json has {key} {config[key]!r}, and the weights' own metadata {expected[key]!r}; "
                "export them again."
            )


def _conversions(contents: files.Contents) -> tuple[str, ...]:
    counts = Counter(str(array.dtype) for array in contents.state.values() if array.dtype in files.HALVES)
    return tuple(f"{count} arrays were {dtype} and are float32 now" for dtype, count in sorted(counts.items()))
