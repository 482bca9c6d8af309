"""Files of weights: read and written whole, or told in one sentence why not."""

from __future__ import annotations

import importlib.util
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ssljax.errors import InputError

State = dict[str, np.ndarray]

RECORD = "ssljax"
"""Where a file says, as JSON, what the arrays don't: see `write.record_of`."""

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
HALVES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))

INDEX = ".index.json"
"""How the name of a file ends that says which of several holds which arrays."""

FOLDER_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "model.npz",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What the weights in a folder are called, the first that is there being read."""


class Contents(NamedTuple):
    """What a file or folder of weights holds.

    Attributes:
        state: Arrays by name, as they are stored.
        config: The config.json beside them, {} without one.
        record: What `ssljax export` wrote of them, {} in another's file.
        notes: What was left out in reading, a sentence each.
        preprocessor: The preprocessor_config.json beside them, {} without one.
    """

    state: State
    config: dict[str, Any]
    record: dict[str, Any]
    notes: tuple[str, ...] = ()
    preprocessor: Mapping[str, Any] = MappingProxyType({})


def read(path: Path) -> Contents:
    """Return what a .safetensors, .npz or .pth file, or a folder with one and perhaps a config.json, holds.

    Raises:
        InputError: Nothing is there, it is cut short or of another kind, or it is a pickle that wants to run code.
    """
    if path.is_dir():
        for name in FOLDER_WEIGHTS:
            if (path / name).is_file():
                return read(path / name)
        raise InputError(f"{path} holds no weights; a folder of weights has one of {', '.join(FOLDER_WEIGHTS)} in it.")
    if not path.is_file():
        raise InputError(f"{path} does not exist; name a file of weights, or a folder with one.")
    beside = {name: path.with_name(f"{name}.json") for name in ("config", "preprocessor_config")}
    found = {name: file for name, file in beside.items() if path.name in FOLDER_WEIGHTS and file.is_file()}
    config, preprocessor = (_json(found[name]) if name in found else {} for name in beside)
    contents = _read_shards(path) if path.name.endswith(INDEX) else _read_file(path)
    for name, array in contents.state.items():
        if array.dtype.kind not in "fiub" and array.dtype not in HALVES:
            raise InputError(f"{path} holds {name} in {array.dtype}, which no weights are in; give another file.")
    return contents._replace(config=config, preprocessor=preprocessor)


def _read_file(path: Path) -> Contents:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix in (".pth", ".pt", ".bin", ".tar"):
        from ssljax.export.pickles import read_pth

        state, notes = read_pth(path)
        return Contents(state, {}, {}, notes)
    raise InputError(f"{path} ends in none of .safetensors, .npz, .pth, .pt, .bin and .tar; give such a file.")


def _read_safetensors(path: Path) -> Contents:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            halves = [name for name in names if file.get_slice(name).get_dtype() == "BF16"]
            state = {name: file.get_tensor(name) for name in names if name not in halves}
        state |= _bfloat16(path, halves) if halves else {}
    except (OSError, SafetensorError, KeyError, AttributeError, TypeError) as error:  # also types that NumPy has not
        raise InputError(
            f"{path} is no .safetensors file that can be read ({error}); fetch or write it again."
        ) from error
    return Contents({name: state[name] for name in names}, {}, _record(path, metadata.get(RECORD)))


def _bfloat16(path: Path, names: list[str]) -> State:
    """Return arrays that NumPy has no type for, which the library therefore refuses; it has checked the header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    arrays = {}
    for name in names:
        offset, shape = 8 + length + header[name]["data_offsets"][0], tuple(header[name]["shape"])
        bits = np.fromfile(path, np.uint16, math.prod(shape), offset=offset)
        arrays[name] = bits.view(ml_dtypes.bfloat16).reshape(shape)
    return arrays


def _read_shards(path: Path) -> Contents:
    index = _json(path).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
        raise InputError(f"{path} has no weight_map, which says where each array is; fetch it again.")
    state: State = {}
    notes: dict[str, None] = {}
    for name in sorted(set(index.values())):
        if Path(name).name != name or not (path.parent / name).is_file():
            raise InputError(f"{path} names {name!r}, which is no file of its folder; fetch both again.")
        shard = _read_file(path.parent / name)
        if twice := sorted(state.keys() & shard.state.keys()):
            raise InputError(f"{path} names {name!r}, which holds {twice[0]} a second time; fetch all files again.")
        state |= shard.state
        notes |= dict.fromkeys(shard.notes)
    missing = sorted(index.keys() - state.keys())
    if missing:
        raise InputError(f"{path} names the array {missing[0]}, which {index[missing[0]]} lacks; fetch both again.")
    return Contents(state, {}, {}, tuple(notes))


def _read_npz(path: Path) -> Contents:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            state = {name: np.asarray(file[name]) for name in file.files}
    except Exception as error:  # whatever a file that is none makes NumPy and zipfile stumble over
        raise InputError(f"{path} is no .npz file of arrays that can be read ({error}); write it again.") from error
    record = state.pop(RECORD, None)
    return Contents(state, {}, _record(path, None if record is None else str(record)))


def _record(path: Path, text: str | None) -> dict[str, Any]:
    try:
        record = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} says in its metadata what is no JSON ({error}); write it again.") from error
    if not isinstance(record, dict):
        raise InputError(f"{path} has no JSON object in its metadata; write it again.")
    return record


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON that can be read ({error}); fetch or write it again.") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object; fetch or write it again.")
    return value


def cast(state: Mapping[str, np.ndarray], dtype: str) -> State:
    """Return the arrays with the floating ones in `dtype`, laid out in memory as they are written.

    Raises:
        InputError: The type is unknown, or too small for a value.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; use one of {', '.join(DTYPES)}.")
    changed: State = {}
    for name, array in state.items():
        if np.issubdtype(array.dtype, np.floating) or array.dtype == ml_dtypes.bfloat16:
            with np.errstate(over="ignore"):
                new = array.astype(DTYPES[dtype], copy=False)
            if new is not array and _overflows(array, new):
                raise InputError(f"{name} has values beyond {dtype}; write bfloat16 or float32.")
            array = new
        changed[name] = np.ascontiguousarray(array).reshape(array.shape)
    return changed


def _overflowed(array: np.ndarray, new: np.ndarray) -> bool:
    finite = [np.isfinite(some.astype(np.float32)).all() for some in (array, new)]
    return bool(finite[0] and not finite[1])


def _overflows(array: np.ndarray, new: np.ndarray) -> bool:
    before, after = (bool(np.isfinite(some.astype(np.float32)).all()) for some in (array, new))
    return before and not after


def write(state: Mapping[str, np.ndarray], path: Path, record: Mapping[str, Any]) -> None:
    """Write arrays to a .safetensors, .npz or .pth file of this very name, with the record where it can hold one.

    Raises:
        InputError: .pth is asked for without PyTorch, or bfloat16 of .npz.
        OSError: It cannot be written.
    """
    text = json.dumps(record)
    if path.suffix == ".npz":
        if any(array.dtype == ml_dtypes.bfloat16 for array in state.values()):
            raise InputError(f"{path}: NumPy's files have no bfloat16; write float16 or float32, or another format.")
        np.savez(path, **{**state, RECORD: np.asarray(text)})  # type: ignore[arg-type]
    elif path.suffix == ".safetensors":
        path.touch()
        mode = path.stat().st_mode  # as any file here; those of the library are their owner's alone
        try:
            save_file(dict(state), path, metadata={"format": "pt", RECORD: text})
        except SafetensorError as error:
            raise OSError(str(error)) from error
        _sort_metadata(path)
        path.chmod(mode)
    else:
        _write_pth(state, path)


def _sort_metadata(path: Path) -> None:
    """Put a file's metadata in order, which the library writes in a random one: the same weights are the same bytes."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        new = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(new) > length:
            raise RuntimeError(f"its header of {length} bytes has become one of {len(new)}")
        file.seek(8)
        file.write(new.ljust(length))


def _write_pth(state: Mapping[str, np.ndarray], path: Path) -> None:
    need_torch(".pth")
    import torch

    def tensor(array: np.ndarray) -> Any:
        if array.dtype == ml_dtypes.bfloat16:
            return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
        return torch.tensor(array)

    buffer = io.BytesIO()  # a file's own name would be among its bytes
    torch.save({name: tensor(array) for name, array in state.items()}, buffer)
    path.write_bytes(buffer.getbuffer())


def need_torch(what: str) -> None:
    """Raise an InputError that says what to install, where PyTorch is missing."""
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            f"{what} needs PyTorch, which is not installed: pip install 'ssljax[torch]', or use .safetensors"
        )
