"""Writing a network to the files of an ecosystem."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from ssljax.errors import InputError
from ssljax.export import check as checking
from ssljax.export import files, onnx_graph, places
from ssljax.export.card import card
from ssljax.export.formats import FORMATS, Format
from ssljax.export.network import Network, check_shapes, network_of, with_arguments, with_image_size
from ssljax.objectives.base import Encoder

WHAT = "what is to be written"
"""What errors call it."""

UNSAID = ("heads", "norm_eps", "position_offset", "position_antialias")
"""What arrays don't say of an encoder."""

FOREIGN = (".bin", ".ckpt", ".h5", ".msgpack", ".pt", ".tar")
"""Endings of weights that are not written."""

TOLERANCE = 1e-4
"""Of `--check`: the largest difference of features between float32 here and there."""


def export_encoder(
    encoder: Encoder,
    output: Path,
    *,
    format: str = "dino",
    heads: bool = False,
    dtype: str = "float32",
    image_size: int | None = None,
    check: bool = False,
    source: dict[str, Any] | None = None,
) -> None:
    """Write an encoder's weights; see `write_network`.

    Args:
        encoder: A ViT or a ResNet with its parameters.
        output: See `write_network`.
        format: See `write_network`.
        heads: Whether to write with it what pretraining puts on it.
        dtype: See `write_network`.
        image_size: Side in pixels of the images that a ViT's positions are resampled for.
        check: See `write_network`.
        source: See `Network`.

    Raises:
        InputError: See `write_network`.
        RuntimeError: See `write_network`.
    """
    network = network_of(encoder, heads=heads, source=source or {})
    write_network(network, output, format=format, dtype=dtype, image_size=image_size, check=check)


def write_network(
    network: Network,
    output: Path,
    *,
    format: str = "dino",
    dtype: str = "float32",
    image_size: int | None = None,
    check: bool = False,
) -> None:
    """Write a network in a format: one file where `output` has a suffix that the format knows, else a folder.

    A folder holds the weights, what its ecosystem wants beside them, and a model card.

    Args:
        network: What to write.
        output: File or folder; a file is replaced, a folder if it is an earlier export.
        format: One of `FORMATS`.
        dtype: Of the weights: "float32", "float16" or "bfloat16".
        image_size: Side in pixels of the images that a ViT's positions are resampled for; its own by default.
        check: Whether the file is loaded elsewhere, as `check.largest_difference` says; the result is printed.

    Raises:
        InputError: The format can't hold the network, the output can't be written, or a package is not installed.
        RuntimeError: The features from the file differ by more than `TOLERANCE`.
    """
    if format not in FORMATS:
        raise InputError(f"format {format!r} is unknown: use one of {', '.join(FORMATS)}")
    chosen = FORMATS[format]
    _check_place(format, chosen, output)
    if check:
        checking.need(format, dtype, network)
    network = network if image_size is None else with_image_size(network, image_size)
    with places.replacing(output) as partial:
        if output.suffix in chosen.suffixes:
            _write_weights(network, format, partial, dtype)
        else:
            _write_folder(network, format, partial, dtype)
        if check:
            difference = checking.largest_difference(partial, network, format)
            print(f"largest difference between the features from {output} and ours: {difference:.1e}")
            if not difference <= TOLERANCE:
                raise RuntimeError(f"{output} would not give our features: the largest difference is {difference:.1e}")


def record_of(network: Network, format: str) -> dict[str, Any]:
    """Return what a file says of its network, for its metadata: JSON values, in the same order for the same network."""
    arguments = {role: dict(sorted(section.items())) for role, section in sorted(network.arguments.items())}
    record = {"format": format, "arguments": arguments, "averaged": network.averaged}
    record["source"] = dict(network.source)
    return json.loads(json.dumps(record))


def _write_folder(network: Network, format: str, folder: Path, dtype: str) -> None:
    chosen = FORMATS[format]
    folder.mkdir()
    network = _write_weights(network, format, folder / chosen.weights, dtype)
    for name, values in (chosen.module.config_files(network) if chosen.module else {}).items():
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")
    (folder / "README.md").write_text(card(network, format, dtype))


def _write_weights(network: Network, format: str, path: Path, dtype: str) -> Network:
    """Write them and return the network as the file has it."""
    module = FORMATS[format].module
    if module is None:
        if len(network.params) > 1:
            raise InputError("an ONNX graph is of the encoder alone: leave --with-head out")
        check_shapes(network, WHAT)
        model = onnx_graph.to_model(network, dtype, metadata={files.RECORD: json.dumps(record_of(network, format))})
        onnx_graph.write(model, path)
        return network
    state = dict(sorted(module.to_state(network).items()))
    read = module.from_state(state, _config(module, network))
    written = _as_written(network, read)
    _tell(network, written, read, path)
    files.write(files.cast(state, dtype), path, record_of(written, format))
    return written


def _config(module: ModuleType, network: Network) -> dict[str, Any]:
    return module.config_files(network).get("config.json", {})


def _as_written(network: Network, read: Network) -> Network:
    """Return the network with the arguments of what a format made of it, which may lack a token or have it added.

    Args:
        network: What was to be written.
        read: What is read back.

    Raises:
        InputError: What is read back is no whole network: nothing may be written that cannot be read.
    """
    own, found = network.arguments["encoder"], read.arguments.get("encoder", {})
    if "mask_token" in found:
        own = own | {"mask_token": found["mask_token"]}
        if (own.get("layer_scale") is None) != (found["layer_scale"] is None):
            own = own | {"layer_scale": found["layer_scale"]}
    written = network._replace(arguments=network.arguments | {"encoder": own})
    check_shapes(with_arguments(read, written.arguments), WHAT)
    return written


def _tell(network: Network, written: Network, read: Network, path: Path) -> None:
    """Print what the format has no place for: a token that nothing uses after pretraining, what a .pth cannot say."""
    own = network.arguments["encoder"]
    if own.get("mask_token") and not written.arguments["encoder"]["mask_token"]:
        print("left out: the mask token, of which the format has none")
    unsaid = []
    for role, ours in network.arguments.items() if path.suffix == ".pth" else ():
        theirs = read.arguments.get(role, {})
        differ = [name for name in UNSAID if name in ours and ours[name] != theirs.get(name, ours[name])]
        unsaid += [f"the {role}'s {name} {ours[name]}" for name in differ]
    if unsaid:
        print(f"a .pth holds arrays alone; who reads this one must know: {', '.join(unsaid)}")


def _check_place(format: str, chosen: Format, output: Path) -> None:
    """Raise InputError where a suffix is another format's, or a file is where a folder should go."""
    others = {suffix for other in FORMATS.values() for suffix in other.suffixes} - set(chosen.suffixes)
    ending = output.suffix.lower()
    if ending in {*others, *FOREIGN} or (ending in chosen.suffixes and ending != output.suffix):
        kinds = f"a file ending in {' or '.join(chosen.suffixes)}, or a folder" if chosen.suffixes else "a folder"
        raise InputError(f"{output}: the format {format!r} is {kinds}; give such an --output")
    if output.suffix not in chosen.suffixes and output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file where a folder should go; name another place.")
    if output.suffix in chosen.suffixes and output.is_dir():
        raise InputError(f"{output} is a folder where a file should go; name another place.")
    if output.suffix == ".pth":
        files.need_torch(".pth")
