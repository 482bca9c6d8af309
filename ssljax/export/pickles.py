"""Reading .pth files without running what they hold."""

from __future__ import annotations

import argparse
import mmap
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ssljax.errors import InputError
from ssljax.export.files import need_torch

_DEPTH = 16
_SAFE = (2, 6)  # before it, weights_only could be got around (CVE-2025-32434)
_CALLS = {"GLOBAL", "STACK_GLOBAL", "INST", "REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
_PATHS = [
    type(name, (), {"__module__": module, "__init__": lambda self, *parts: None})
    for module in ("pathlib", "pathlib._local")  # as Python 3.13 has it
    for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
]
"""What stands for a path of any system and Python, and does nothing."""


def read_pth(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the tensors of a file of `torch.save`, and a sentence on what else it holds.

    Tensors in dicts, lists and tuples have their keys and numbers joined by dots as names; dtypes stay. Only
    weights are unpickled, and `argparse.Namespace` and paths, which released training checkpoints hold: their
    values are not looked at.

    Raises:
        InputError: PyTorch is missing or too old; the file is none of PyTorch's, is damaged, or wants to run code.
    """
    need_torch(".pth")
    import torch

    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < _SAFE:
        raise InputError(f"PyTorch {torch.__version__} does not read pickles safely: install 2.6 or newer")
    try:
        with torch.serialization.safe_globals([argparse.Namespace, *_PATHS]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file that is refused in one sentence
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError as error:
        raise InputError(f"{path} is no file of torch.save that can be read: {_first_line(error)}") from error
    except Exception as error:  # whatever a file that is none makes PyTorch stumble over
        raise InputError(_refusal(path, error)) from error
    state: dict[str, np.ndarray] = {}
    others: dict[str, None] = {}
    for name, leaf in _leaves(content, (), path):
        if not isinstance(leaf, torch.Tensor):
            others[name.split(".")[0]] = None
        elif name in state:
            raise InputError(f"{path} holds two tensors of the name {name!r}")
        else:
            state[name] = _array(leaf, name, path)
    if not state:
        raise InputError(f"{path} holds no tensors; give a file of weights")
    return state, (f"What is no tensor ({', '.join(others)}): weights alone are read.",) if others else ()


def _leaves(content: Any, at: tuple[str, ...], path: Path) -> Iterator[tuple[str, Any]]:
    """Yield what is in nested dicts and lists, with its name."""
    if len(at) > _DEPTH:
        raise InputError(f"{path} nests more than {_DEPTH} dicts and lists; give a file of weights")
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from _leaves(value, (*at, str(key)), path)
    elif isinstance(content, list | tuple):
        for i, value in enumerate(content):
            yield from _leaves(value, (*at, str(i)), path)
    else:
        yield ".".join(at), content


def _array(tensor: Any, name: str, path: Path) -> np.ndarray:
    import torch

    try:
        if tensor.dtype == torch.bfloat16:
            return tensor.detach().contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
        return tensor.detach().numpy()
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{path} holds {name}, a tensor that NumPy has not: {_first_line(error)}") from error


def _refusal(path: Path, error: Exception) -> str:
    """Return the sentence on a file that was not unpickled; PyTorch's own, which may advise to run it, is not used."""
    message = str(error)
    match = re.search(r"(?:GLOBAL|function|class) [`'\"]?([\w.]+)", message)
    if match and isinstance(error, pickle.UnpicklingError):
        return f"{path} wants to run {match[1]}, which is no weights: it is refused; give a file of weights alone."
    if "TorchScript" in message:
        return f"{path} holds a program of TorchScript, which is refused; give a file of weights alone."
    operations = _operations(path)
    if operations & _CALLS:
        return f"{path} is a pickle that wants to run something: it is refused; give a file of weights alone."
    kind = "it is a pickle of another kind" if operations else "it is cut short, damaged or of another kind"
    return f"{path} is no file of torch.save that can be read: {kind}; fetch or write it again."


def _operations(path: Path) -> set[str]:
    """Return the names of a pickle's operations, none of them run; none where the file is no pickle."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return {operation.name for operation, _, _ in pickletools.genops(content)}  # type: ignore[arg-type]
    except ValueError:
        return set()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
