"""Where exports and imported runs go: whole or not at all, and never over another's folder."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ssljax.errors import InputError

WRITTEN = (
    "config.json",
    "preprocessor_config.json",
    "README.md",
    "model.safetensors",
    "model.npz",
    "model.onnx",
    "model.onnx.data",
)
"""What a folder of ours may hold; one that holds anything else is never replaced."""

MARK = '- "ssljax"'
"""The line of a model card that says whose export it is."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a hidden place beside `path` to write a file or a folder to, which takes its place when all went well.

    Raises:
        InputError: It can't be written, or `path` is a folder that is not one of our exports; other errors of that kind
            name `path` in the place of the hidden one.
    """
    path = Path(os.path.abspath(path))
    _check_replaceable(path)
    made = [folder for folder in path.parents if not folder.exists()]
    partial = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be written: no folder {path.parent} can be made ({error.strerror})") from error
    try:
        yield partial
        if path.is_dir():
            path.rename(old)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error
    except InputError as error:
        raise InputError(str(error).replace(str(partial), str(path))) from error
    finally:
        if old.exists() and not path.exists():  # whatever interrupted it
            old.rename(path)
        for left in (partial, old):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink(missing_ok=True)
        for folder in [] if path.exists() else made:
            with contextlib.suppress(OSError):  # it was never made, or somebody else uses it
                folder.rmdir()


def _check_replaceable(path: Path) -> None:
    held = sorted(child.name for child in path.iterdir()) if path.is_dir() else []
    others = [name for name in held if name not in WRITTEN]
    if others:
        raise InputError(f"{path} holds {others[0]}, which is none of an export's files; name another folder.")
    if held and not ("README.md" in held and MARK in (path / "README.md").read_text(errors="replace")):
        raise InputError(f"{path} holds {held[0]}, and no model card says that it is our export; name another folder.")
